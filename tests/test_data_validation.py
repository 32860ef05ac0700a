"""Data that `fit` and the predictions reject or warn of, and what they say."""

import copy
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from missing_data import remove_entries
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
)
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import scale

from skvade._data.scaling import DataSummary, uniform_weights
from skvade._data_validation import (
    warn_feature_scales,
    warn_placeholders,
    warn_sample_numbers,
)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("customers.csv", "X must hold samples. Got 'customers.csv' of type str inst"),
        (
            Path("a.csv"),
            r"Got \w+\('a.csv'\) of .* file, read that first, for instan",
        ),
        (b"a,b", "Got b'a,b' of type bytes instead"),
        (["a text", "another"], "Got a sequence of strings instead, 'a text' the fir"),
        (np.array(["a", "b"]), "strings instead, 'a' the .* by TfidfVectorizer. Read"),
        (pd.Series(["a", "b"]), "strings instead, 'a' the first"),
        ([Path("a.csv")], "strings instead, 'a.csv' the first. .* by pandas.read_csv"),
    ],
)
def test_texts_and_paths_are_no_samples(
    make_estimator, fitted, likelihood, given, message
):
    for method in (make_estimator(likelihood=likelihood).fit, fitted.predict):
        with pytest.raises(TypeError, match=message):
            method(given)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_a_frame_without_columns(make_estimator, likelihood):
    frame = pd.DataFrame({"price": ["1,5", "2,5"]}).select_dtypes("number")
    message = r"frame without columns, of shape \(2, 0\)\. Select .* options 'sep' and"
    with pytest.raises(ValueError, match=message):
        make_estimator(likelihood=likelihood).fit(frame)


def test_fewer_samples_than_clusters(make_estimator, X):
    with pytest.raises(ValueError, match=r"n_samples=2 should be >= n_clusters=3"):
        make_estimator().fit(X[:2])


def test_fewer_training_samples_than_clusters_with_early_stopping(make_estimator, X):
    message = (
        r"n_samples=4 with 2 of them held out should be >= n_clusters=3\. "
        r"Lower n_clusters or validation_fraction=0\.4"
    )
    with pytest.raises(ValueError, match=message):
        make_estimator(early_stopping=True, validation_fraction=0.4).fit(X[:4])


@pytest.mark.parametrize("scale, low, high", [(1, "-0.25", "0.75"), (1.5, "0", "1.5")])
def test_bernoulli_samples_outside_the_unit_interval(
    make_estimator, X_unit, scale, low, high
):
    X = scale * X_unit - 0.25 * (scale == 1)
    message = (
        r"likelihood='bernoulli' needs X in \[0, 1\]. "
        f"Got values from {low} to {high} instead. "
        "Scale X, for instance with MinMaxScaler, or use likelihood='gaussian'"
    )
    with pytest.raises(ValueError, match=message):
        make_estimator(likelihood="bernoulli").fit(X)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "transform", "score_samples", "score"]
)
def test_wrong_number_of_features(fitted, X, method):
    message = "X has 4 features, but VaDEClusterer is expecting 5 features as input"
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(X[:, :4])


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_infinite_values(fitted, X, infinity, method):
    X = np.where(np.arange(5) == 2, infinity, X)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(copy.deepcopy(fitted), method)(X)


@pytest.mark.parametrize("factor", [1e38, 1e40, 1e200, 1e-40])
def test_scale_that_float32_cannot_express(make_estimator, X, factor):
    with pytest.raises(ValueError, match=r"X has averages up to .* or rescale it"):
        make_estimator().fit(factor * X)


@pytest.mark.filterwarnings("error")
def test_scale_that_float64_can_express(make_estimator, X):
    model = make_estimator(precision="float64").fit(1e40 * X)
    assert_array_equal(
        model.labels_, make_estimator(precision="float64").fit(X).labels_
    )


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "transform", "score_samples", "score"]
)
def test_predictions_for_values_beyond_the_range_of_float32(fitted, X, method):
    message = r"X has values up to .* Look for extreme values"
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(1e40 * X)


def test_samples_of_zero_weight_beyond_the_range_of_float32(make_estimator, X):
    """They would get a label, and none can be computed."""
    X = np.vstack([X, np.full((1, 5), 1e30)])
    with pytest.raises(ValueError, match=r"X has values up to 1e\+30"):
        make_estimator().fit(X, sample_weight=np.r_[np.ones(150), 0])


def test_columns_without_numbers_are_named(make_estimator, X):
    frame = pd.DataFrame(X).rename(columns=str)
    frame["3"] = np.where(X[:, 0] > 0, "high", "low")
    frame["4"] = pd.Timestamp("2020-01-01")
    message = "X has columns that do not hold numbers: 3, 4. Give them a likelih"
    with pytest.raises(ValueError, match=message):
        make_estimator().fit(frame)
    polars = pytest.importorskip("polars")
    columns = {name: column.to_list() for name, column in frame.items()}
    with pytest.raises(ValueError, match=message):
        make_estimator().fit(polars.DataFrame(columns))


def test_columns_of_numbers_in_other_dtypes_are_accepted(make_estimator, X):
    frame = pd.DataFrame(X).rename(columns=str)
    frame["0"] = frame["0"].astype(object).where(frame["0"] > 0, None)
    frame["1"] = pd.Categorical(np.round(X[:, 1]))
    frame["2"] = (X[:, 2] > 0).astype(object)
    assert len(make_estimator().fit(frame).labels_) == len(X)
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(X.round(), schema=[*"abcde"]).with_columns(
        polars.col("a").cast(polars.Int8),
        polars.when(polars.col("b") > 0).then("b"),
        polars.col("c") > 0,
        polars.col("d").cast(str),
    )
    assert len(make_estimator().fit(frame).labels_) == len(X)


# --- Missing entries ----------------------------------------------------------------


def with_missing(X, samples=(), feature=None):
    """Copy X with all entries of some samples or of a feature missing."""
    X = X.copy()
    X[list(samples)] = np.nan
    if feature is not None:
        X[:, feature] = np.nan
    return X


@pytest.mark.parametrize(
    "method", ["fit", "partial_fit", "predict", "transform", "score_samples", "impute"]
)
def test_samples_without_observed_entries(fitted, X, method):
    model = copy.deepcopy(fitted)
    before = dict(vars(model))
    message = r"All entries of X are missing in row 7, 9\. Drop such rows"
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(with_missing(X, [7, 9]))
    assert vars(model) == before


def test_many_samples_without_observed_entries(fitted, X):
    with pytest.raises(ValueError, match=r"in row 0, 1, 2, 3, 4 and 145 more\. Drop"):
        fitted.predict(with_missing(X, range(150)))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_feature_without_observed_entries(make_estimator, X, method):
    """In samples of positive weight, that is."""
    message = r"All entries of X are missing in column 3\. A feature of which nothing"
    with pytest.raises(ValueError, match=message):
        getattr(make_estimator(), method)(with_missing(X, feature=3))
    X = np.where(np.arange(150)[:, None] < 9, X, with_missing(X, feature=3))
    with pytest.raises(ValueError, match=message):
        getattr(make_estimator(), method)(X, sample_weight=np.arange(150) >= 9)


def test_columns_of_a_frame_are_named(make_estimator, fitted, X):
    names = list("abcde")
    for changed, message in [
        (with_missing(X, feature=3), "missing in column 'd'. A feature of which"),
        (np.where(np.arange(5) == 2, np.inf, X), "in row 0, column 'c'. Replace it"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_estimator().fit(pd.DataFrame(changed, columns=names))
    model = make_estimator(max_iter=1).fit(pd.DataFrame(X, columns=names))
    with pytest.raises(ValueError, match=r"up to 1e\+50, in column 'b', but the data"):
        model.predict(pd.DataFrame(X, columns=names).assign(b=1e50))
    with pytest.raises(ValueError, match=r"up to 1e\+50, in column 1, but the data"):
        fitted.predict(np.where(np.arange(5) == 1, 1e50, X))
    outside = pd.DataFrame(X / 100, columns=names).assign(b=0.5, d=0.5, e=0.5)
    with pytest.raises(ValueError, match="instead, those outside in column 'a', 'c'"):
        make_estimator(likelihood="bernoulli").fit(outside)


def test_feature_that_is_missing_in_a_prediction_is_imputed(fitted, X):
    assert not np.isnan(fitted.impute(with_missing(X, feature=3))).any()


def test_infinity_beside_missing_entries(make_estimator, fitted, X_missing):
    X = np.where(np.isnan(X_missing), np.inf, X_missing)
    X[0, 0] = np.nan
    for call in (
        make_estimator().fit,
        make_estimator().partial_fit,
        fitted.predict,
        fitted.impute,
    ):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            call(X)


def test_incomplete_bernoulli_samples_outside_the_unit_interval(make_estimator, X_unit):
    X_missing = remove_entries(X_unit)
    X_missing[0] = [np.nan, 1.5, np.nan, np.nan, np.nan]
    with pytest.raises(ValueError, match=r"Got values from 0 to 1\.5 instead"):
        make_estimator(likelihood="bernoulli").fit(X_missing)


def test_missing_entries_in_sparse_data(make_estimator, fitted, X_missing):
    message = "Sparse X contains NaN. Missing entries are understood in dense X only"
    for call in (
        make_estimator().fit,
        make_estimator().partial_fit,
        fitted.predict,
        fitted.impute,
    ):
        with pytest.raises(ValueError, match=message):
            call(sparse.csr_array(X_missing))


# --- Scales of the features, and numbers of the samples ------------------------------


def caught_warnings(check, X, *arguments):
    """Give the texts of the warnings of a check of X, which may be a frame."""
    names = getattr(X, "columns", None)
    X = X if sparse.issparse(X) else np.asarray(X, float)
    summary = DataSummary.from_array(X, uniform_weights(X.shape[0]), names=names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(*arguments, X, summary)
    return [str(warning.message) for warning in caught]


def salaries(n_samples=200):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.uniform(20, 60, n_samples),
            "member": rng.integers(2, size=n_samples),
            "salary": rng.uniform(20_000, 40_000, n_samples),
        }
    )


@pytest.mark.parametrize(
    ("X", "columns"),
    [
        (load_wine(as_frame=True).data, "'proline' spans up to 484,"),
        (load_breast_cancer().data, "23, 3, 22, 2, 13 spans up to 569,"),
        (salaries(), "'salary' spans .* have a range of at most 39.8"),
        (salaries()[["salary", "age"]], "'salary' spans"),
        (remove_entries(salaries().to_numpy()), "2 spans"),
        (sparse.csr_array(salaries()), "2 spans"),
    ],
    ids=["wine", "breast cancer", "salaries", "two", "missing", "sparse"],
)
def test_a_feature_beside_which_others_do_not_count_warns(X, columns):
    (message,) = caught_warnings(partial(warn_feature_scales, "gaussian"), X)
    assert re.search(f"the middle half of the values in column {columns}", message)
    assert message.endswith("scale X, for instance with StandardScaler.")


def documents():
    """Tf-idf of words whose frequencies fall as in a language, 1 / rank."""
    rng = np.random.default_rng(0)
    rates = 300 / np.arange(1, 2001)
    counts = rng.poisson(rates * rng.gamma(0.3, 1 / 0.3, (400, 2000)))
    return counts, TfidfTransformer().fit_transform(counts)


def healthy_data():
    counts, tfidf = documents()
    rng = np.random.default_rng(0)
    outliers = rng.normal(size=(200, 4))
    outliers[7, 1], outliers[9, 2] = 1e6, -1e9
    yield "digits", load_digits().data
    yield "principal components of digits", PCA().fit_transform(load_digits().data)
    yield "iris", load_iris().data
    yield "diabetes", load_diabetes().data
    yield "diabetes in its units", load_diabetes(scaled=False).data
    yield "linnerud", load_linnerud().data
    yield "standardized wine", scale(load_wine().data)
    yield "standardized breast cancer", scale(load_breast_cancer().data)
    yield "log1p of counts", np.log1p(counts)
    yield "tf-idf", tfidf
    yield "outliers", outliers
    yield "rare indicators", np.eye(500)[:, :20]
    yield "age and membership", salaries()[["age", "member"]]
    yield "a single feature", salaries()[["salary"]]
    yield "and constant ones", salaries()[["salary"]].assign(a=1.0, b=2.0)
    yield "nothing but constants", np.ones((30, 3))


@pytest.mark.parametrize("X", [pytest.param(X, id=name) for name, X in healthy_data()])
def test_other_scales_do_not_warn(X):
    assert caught_warnings(partial(warn_feature_scales, "gaussian"), X) == []


@pytest.mark.parametrize("likelihood", ["poisson", [("gaussian", slice(None))]])
def test_features_that_have_scales_of_their_own_do_not_warn(likelihood):
    check = partial(warn_feature_scales, likelihood)
    assert caught_warnings(check, salaries().round()) == []


@pytest.mark.parametrize("value", [-99, -999, 99999])
@pytest.mark.parametrize("has_gaps", [False, True])
def test_a_value_that_stands_for_a_gap_warns(value, has_gaps):
    X = salaries(200)
    X.loc[X.index[::20], "age"] = value
    if has_gaps:
        X.loc[X.index[1::20], "age"] = np.nan
    (message,) = caught_warnings(warn_placeholders, X)
    assert message.startswith(f"Column 'age' of X holds {value:.6g} several times")


@pytest.mark.parametrize("X", [pytest.param(X, id=name) for name, X in healthy_data()])
def test_other_values_do_not_warn(X):
    assert caught_warnings(warn_placeholders, X) == []


def test_repeated_values_that_are_no_gaps_do_not_warn():
    rng = np.random.default_rng(0)
    incomes = rng.lognormal(10, 0.5, 300)
    counts = rng.poisson(2, 300)
    is_few = np.arange(300) < 60
    for column in (
        np.where(is_few, 0, incomes),
        np.where(is_few, 99, 10 * counts),
        np.where(is_few, 99999, incomes),
        np.where(np.arange(300) < 4, -999999, incomes),
        99 * rng.integers(2, size=300),
    ):
        assert caught_warnings(warn_placeholders, column[:, None].astype(float)) == []


def numbered(n_samples=50, start=1):
    return salaries(n_samples).assign(id=np.arange(start, start + n_samples))


def test_a_column_that_numbers_the_samples_warns():
    (message,) = caught_warnings(warn_sample_numbers, numbered(start=1001))
    assert message.startswith("Column 'id' of X numbers the samples: each value is")
    years = np.repeat(np.arange(25), 2)
    for X in (
        numbered()[::-1],
        numbered().sample(frac=1, random_state=0),
        numbered()[::2],
        numbered(19),
        numbered().to_numpy(),
        numbered().assign(id=years),
        numbered().assign(id=np.r_[1:50, 0]),
        numbered().assign(id=np.r_[np.linspace(0, 49, 50)[:-1] ** 1.01, 49]),
    ):
        assert caught_warnings(warn_sample_numbers, X) == []


def test_fit_warns_of_scales_and_numbers_once(make_estimator):
    model = make_estimator(n_clusters=2, max_iter=1)
    with pytest.warns(UserWarning) as caught:
        model.fit(numbered(60))
    messages = [str(warning.message) for warning in caught]
    assert messages[0].startswith("X has features of very unequal scale")
    assert messages[1].startswith("Column 'id' of X numbers the samples")
    pairs = [("gaussian", ["age", "salary", "id"]), ("categorical", ["member"])]
    with pytest.warns(UserWarning, match="Column 'id' of X numbers the samples"):
        make_estimator(likelihood=pairs, n_clusters=1).fit(numbered(60))
