"""Tables of numbers, categories and counts: their encoding and their likelihoods."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Normal, Poisson

from skvade._data.scaling import TARGET_STD, DataSummary, Scaling, uniform_weights
from skvade._data.table import MAX_CATEGORIES, Part, TableEncoder
from skvade._data_validation import validate_X
from skvade._model.likelihoods import (
    CATEGORY_DISTANCE,
    Categorical,
    Gaussian,
    Mixed,
)
from skvade.callbacks import Checkpoint
from skvade.plotting import ClusterSamplesDisplay, ReconstructionDisplay

PARTS = [
    ("gaussian", ["age", "income"]),
    ("categorical", ["city", "member"]),
    ("poisson", ["visits"]),
]
SHORT = {"max_iter": 2, "batch_size": 30}


def make_table(n_samples=120, seed=0):
    """Two groups by the numbers times two by the categories, a few entries missing."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % 4
    old, urban = y % 2, y // 2
    table = pd.DataFrame(
        {
            "age": rng.normal(30 + 30 * old, 3),
            "city": np.where(rng.random(n_samples) < 0.9, "Bonn", "Ulm"),
            "income": 1000 * rng.normal(20 + 20 * old, 2),
            "member": urban == 1,
            "visits": rng.poisson(4, n_samples),
        }
    )
    table["city"] = table["city"].mask(urban == 1, "Aachen").astype("category")
    table.loc[[3, 50], "age"] = np.nan
    table.loc[[4, 50], "city"] = None
    table.loc[50, "visits"] = np.nan
    return table, y


@pytest.fixture(scope="module")
def table():
    return make_table()[0]


@pytest.fixture(scope="module")
def model(make_estimator, table):
    """Shared: read it, or change a copy."""
    return make_estimator(n_clusters=4, likelihood=PARTS, **SHORT).fit(table)


def fit_encoder(X, *pairs):
    return TableEncoder.fit(X, [*pairs])


# --- The columns --------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers, categories",
    [
        (["age", "income", "visits"], ["city", "member"]),
        ([0, 2, -1], (1, 3)),
        (np.array([True, False, True, False, True]), [False, True, False, True, False]),
        (
            make_column_selector(dtype_include=["int64", "float64"]),
            make_column_selector(dtype_include=["category", "bool"]),
        ),
        (lambda X: ["visits", "age", "income"], "city"),
    ],
)
def test_columns_are_chosen_as_in_a_column_transformer(table, numbers, categories):
    if categories == "city":
        table = table.drop(columns="member")
    encoder = fit_encoder(table, ("gaussian", numbers), ("categorical", categories))
    names = [[table.columns[c] for c in part.columns] for part in encoder.parts]
    assert sorted(names[0]) == ["age", "income", "visits"]
    assert names[1] == [c for c in ("city", "member") if c in table]


def test_names_of_columns_after_a_scaler(make_estimator, table):
    """An array has none; the message says that the scaler is not needed."""
    numbers = table[["age", "income"]]
    pairs = [("gaussian", ["age"]), ("gaussian", ["income"])]
    model = make_estimator(likelihood=pairs, max_iter=1)
    message = (
        r"columns \['age'\] for 'gaussian'.* array, whose columns have no names\. If a "
        r"scaler .* leave the scaler out: .* set_output\(transform='pandas'\)"
    )
    with pytest.raises(ValueError, match=message):
        make_pipeline(StandardScaler(), model).fit(numbers)
    for columns in ("age", slice("age", None), make_column_selector("age")):
        with pytest.raises(ValueError, match="array, whose columns have no names"):
            fit_encoder(numbers.to_numpy(), ("gaussian", columns))
    for columns in (7, [7], np.array([7])):
        with pytest.raises(ValueError, match=r"not those of X: .*\. Give a list"):
            fit_encoder(numbers.to_numpy(), ("gaussian", columns))
    pipeline = make_pipeline(StandardScaler(), model).set_output(transform="pandas")
    assert len(pipeline.fit_predict(numbers.drop(index=50))) == 119


def test_an_error_of_a_selector_is_one_about_likelihood(table):
    selector = make_column_selector(dtype_include="number")
    message = "likelihood has the columns <.*make_column_selector .* only be applied to"
    with pytest.raises(ValueError, match=message):
        fit_encoder(table.to_numpy(dtype=object), ("gaussian", selector))


def test_slices_are_of_names_or_positions(table):
    X = table[["city", "member", "age", "income", "visits"]]
    by_name = fit_encoder(
        X, ("categorical", slice("city", "member")), ("gaussian", slice("age", None))
    )
    by_position = fit_encoder(
        X, ("categorical", slice(2)), ("gaussian", slice(2, None))
    )
    assert by_name.parts == by_position.parts
    assert by_name.parts[1].columns == (2, 3, 4)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([("gaussian", ["age"])], "no part for the columns 'city', 'income', 'member'"),
        (
            [("gaussian", [0, 2, 4]), ("categorical", [1, 3, 4])],
            "more than one part for the columns 'visits' of X",
        ),
        ([("gaussian", ["height"])], r"columns \['height'\] for 'gaussian'"),
        (
            [("gaussian", [7])],
            r"columns \[7\] for 'gaussian', which are not those of X",
        ),
        (
            [("gaussian", slice("age", "income", 2))],
            r"which are not those of X: key.step must be 1 or None\. Give a list",
        ),
        (
            [("gaussian", slice(None))],
            "'city' of X, of likelihood 'gaussian', does not",
        ),
        (
            [("gamma", slice(None))],
            r"begin with a name among \['bernoulli'.*\. Got 'gamma' instead\.$",
        ),
        (
            [("gaussian", [0, 2, 4]), ("Categoricals", [1, 3])],
            r"The pair \('Categoricals', \[1, 3\]\) .* Did you mean 'categorical'\?",
        ),
        (
            [(["age"], "gaussian")],
            r"Got \['age'\] instead\. Did you mean \('gaussian', \['age'\]\)\?$",
        ),
        ([(np.arange(5), "gaussian")], "begin with a name .* Got array"),
        (["gaussian"], r"must be a list of pairs .* It has 'gaussian' in the place of"),
        (
            ("gaussian", ["age"]),
            r"It has 'gaussian' in .* Did you mean \[\('gaussian', \['age'\]\)\]\?$",
        ),
        (["gaussian", "poisson"], r"'gaussian' in the place of a pair\.$"),
        ([("gaussian", [0], [1])], "must be a list of pairs"),
        ([], "is an empty list"),
        (
            [
                ("gaussian", [0, 2]),
                ("categorical", [1, 3]),
                ("multinomial", ["visits"]),
            ],
            "'multinomial' has 'visits' as its only column",
        ),
    ],
)
def test_parts_that_do_not_fit_the_table(make_estimator, table, pairs, message):
    estimator = make_estimator(likelihood=pairs)
    with pytest.raises(ValueError, match=message):
        estimator.fit(table)
    assert not hasattr(estimator, "n_features_in_")


@pytest.mark.parametrize(
    "values, likelihood, message",
    [
        ([0.5, 1.0, 2.0], "categorical", "'x' .* holds fractions such as 0.5"),
        (["a", 1, "b"], "categorical", "'x' of X can not be sorted"),
        ([None, np.nan, pd.NA], "categorical", "missing in column 'x'"),
        (
            [1.0, np.inf, 2.0],
            "gaussian",
            "infinity in column 'x'. The first is in row 1",
        ),
        ([1.0, 1e300, 2.0], "gaussian", "X has averages up to 3.33e\\+299 and a"),
        ([1, -2, 3], "poisson", "a negative value, -2 in row 1, column 'x' of X"),
        (pd.date_range("2020", periods=3), "gaussian", "'x' .*: it holds dates"),
        (
            [0, 1, 2],
            "bernoulli",
            r"in \[0, 1\]. Got .* to 2 instead, those outside in column 'x'\.",
        ),
    ],
)
def test_columns_that_their_likelihood_can_not_take(
    make_estimator, values, likelihood, message
):
    X = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": values})
    pairs = [("gaussian", ["y"]), (likelihood, ["x"])]
    estimator = make_estimator(n_clusters=1, likelihood=pairs)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


@pytest.mark.parametrize(
    ("n_categories", "n_samples"),
    [(MAX_CATEGORIES + 1, 3 * MAX_CATEGORIES), (30, 30), (31, 60)],
)
def test_a_column_of_names_of_the_samples_is_rejected(n_categories, n_samples):
    X = (np.arange(n_samples) % n_categories)[:, None]
    message = f"Column 0 of X has {n_categories:,} categories in {n_samples:,} entries"
    with pytest.raises(ValueError, match=message):
        fit_encoder(X, ("categorical", [0]))


@pytest.mark.parametrize(("n_categories", "n_samples"), [(20, 20), (30, 60)])
def test_a_column_of_many_categories_is_accepted(n_categories, n_samples):
    X = (np.arange(n_samples) % n_categories)[:, None]
    assert len(fit_encoder(X, ("categorical", [0])).categories[0]) == n_categories


def test_errors_about_rows_and_columns_that_hold_nothing(make_estimator):
    X = pd.DataFrame({"age": [np.nan] * 3, "plan": ["a", "b", "a"]})
    pairs = [("gaussian", ["age"]), ("categorical", ["plan"])]
    estimator = make_estimator(n_clusters=1, likelihood=pairs)
    with pytest.raises(ValueError, match=r"All entries .* missing in column 'age'"):
        estimator.fit(X)
    with pytest.raises(ValueError, match=r"0 sample\(s\) \(shape=\(0, 2\)\)"):
        estimator.fit(X[:0])


def test_a_column_that_only_samples_of_weight_zero_have_is_named(make_estimator):
    X = pd.DataFrame({"plan": [*"ababa"], "age": [1.0, 2.0, *[np.nan] * 3]})
    pairs = [("categorical", ["plan"]), ("gaussian", ["age"])]
    estimator = make_estimator(n_clusters=1, likelihood=pairs)
    with pytest.raises(ValueError, match="X are missing in column 'age'"):
        estimator.fit(X, sample_weight=[0, 0, 1, 1, 1])


def test_columns_of_the_same_name_are_rejected(make_estimator, table):
    X = pd.concat([table, table[["age"]]], axis=1)
    with pytest.raises(ValueError, match="several columns of the name age"):
        make_estimator(likelihood=PARTS).fit(X)


def test_columns_can_not_be_chosen_by_a_dtype_itself(table):
    polars = pytest.importorskip("polars")
    message = "To choose by dtype, give make_column_selector.dtype_include=float.\\."
    with pytest.raises(ValueError, match=message):
        fit_encoder(table, ("gaussian", np.float64))
    message = r"To choose by dtype, give lambda X: X.select\(polars.selectors.float"
    with pytest.raises(ValueError, match=message):
        fit_encoder(polars.DataFrame({"a": [1.0]}), ("gaussian", polars.Float64))


def test_sparse_and_shared_tables_are_rejected(make_estimator):
    X = np.eye(4)
    estimator = make_estimator(n_clusters=2, likelihood="categorical")
    with pytest.raises(ValueError, match="needs a dense table"):
        estimator.fit(csr_array(X))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        estimator.fit(X[0])
    with pytest.raises(ValueError, match="distributed=True can not fit"):
        validate_X(estimator.set_params(distributed=True), X, reset=True)


def test_frames_of_other_libraries_are_named(make_estimator, table):
    class Lazy:
        columns = table.columns

        def collect(self):
            return table

    class Arrow:
        columns = [*table.to_numpy().T]
        column_names = [*table.columns]
        shape = table.shape

    estimator = make_estimator(likelihood=PARTS)
    with pytest.raises(TypeError, match=r"X is a Lazy, .* Give X\.collect\(\)"):
        estimator.fit(Lazy())
    with pytest.raises(TypeError, match=r"X is a Lazy, .* Give X\.collect\(\)"):
        make_estimator().fit(Lazy())
    with pytest.raises(TypeError, match=r"Got a Arrow of test_tables .*to_pandas\(\)"):
        estimator.fit(Arrow())


# --- The encoding -------------------------------------------------------------------


def test_a_table_is_its_numbers_and_the_indicators_of_its_categories(table):
    encoder = fit_encoder(table, *PARTS)
    features = encoder.encode(table)
    assert_array_equal(features[:, :2], table[["age", "income"]])
    assert_array_equal(features[:, 7], table["visits"])
    for column, start in [("city", 2), ("member", 5)]:
        expected = np.array(pd.get_dummies(table[column]), float)
        expected[table[column].isna()] = np.nan
        assert_array_equal(features[:, start : start + expected.shape[1]], expected)
    assert_array_equal(encoder.feature_columns, [0, 2, 1, 1, 1, 3, 3, 4])
    assert encoder.slices == [slice(0, 2), slice(2, 7), slice(7, 8)]


def test_a_table_comes_back_from_its_features(table):
    encoder = fit_encoder(table, *PARTS)
    complete = table.dropna()
    decoded = encoder.decode(encoder.encode(complete), complete.index)
    pd.testing.assert_frame_equal(decoded, complete, check_dtype=False)
    assert decoded["city"].dtype == "category"
    assert decoded["member"].dtype == bool
    as_array = table.dropna().to_numpy(dtype=object)
    encoder = fit_encoder(as_array, ("gaussian", [0, 2, 4]), ("categorical", [1, 3]))
    assert_array_equal(encoder.decode(encoder.encode(as_array)), as_array)


def test_a_dtype_of_categories_comes_back():
    """With its order, and the categories that no sample has."""
    levels = ["low", "high", "unused"]
    X = pd.DataFrame({"x": pd.Categorical(["high", "low"], levels, ordered=True)})
    encoder = fit_encoder(X, ("categorical", ["x"]))
    assert encoder.categories[0].tolist() == ["high", "low"]
    decoded = encoder.decode(encoder.encode(X))
    pd.testing.assert_frame_equal(decoded, X)
    polars = pytest.importorskip("polars")
    X = polars.DataFrame(
        {"x": polars.Series(["high", "low"], dtype=polars.Enum(levels))}
    )
    encoder = fit_encoder(X, ("categorical", ["x"]))
    decoded = encoder.decode(encoder.encode(X))
    assert decoded.equals(X)
    assert decoded.schema == X.schema


@pytest.mark.parametrize(
    ("values", "others"),
    [([1, 2, 1], ["1", None, "2"]), (["1", "2", "1"], [1, None, 2])],
)
def test_categories_of_another_type_than_in_fit_warn(values, others):
    X = np.array(values)[:, None]
    encoder = fit_encoder(X, ("categorical", [0]))
    message = f"Column 0 of X holds none of the categories of fit.*: {others[0]!r} is"
    with pytest.warns(UserWarning, match=message):
        features = encoder.encode(np.array(others, dtype=object)[:, None])
    assert np.isnan(features).all()


def test_a_column_without_any_known_category_warns():
    X = np.array([["a", 1], ["b", 2], ["a", 1]], dtype=object)
    encoder = fit_encoder(X, ("categorical", [0, 1]))
    message = (
        "Column {} of X holds none of the categories of fit.*: {} is none of {}\\."
    )
    for others, column, entry, categories in [
        ([["c", 1], [None, 2]], 0, "'c'", "'a', 'b'"),
        ([["a", None], ["b", 3]], 1, "3", "1, 2"),
    ]:
        with pytest.warns(UserWarning) as caught:
            features = encoder.encode(np.array(others, dtype=object))
        assert len(caught) == 1
        expected = message.format(column, entry, categories)
        assert re.match(expected, str(caught[0].message))
        assert np.isnan(features[:, 2 * column : 2 * column + 2]).all()
    # Nothing is said of a column that is missing, or has one known category.
    encoder.encode(np.array([["a", None], ["c", None]], dtype=object))


def test_integer_codes_come_back_as_numbers():
    X = np.array([[3, 10], [1, 20], [3, 10]])
    encoder = fit_encoder(X, ("categorical", slice(None)))
    assert [values.tolist() for values in encoder.categories.values()] == [
        [1, 3],
        [10, 20],
    ]
    decoded = encoder.decode(encoder.encode(X))
    assert_array_equal(decoded, X)
    assert decoded.dtype.kind == "i"
    # Where an entry is missing, NumPy has floats.
    with_gap = np.where(X == 20, np.nan, X)
    assert_array_equal(
        np.isnan(encoder.encode(with_gap)[1]), [False, False, True, True]
    )


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "seen by nobody"])
def test_what_is_missing_or_unseen_is_nan_over_its_block(missing):
    X = np.array([["a", 1.0], ["b", 2.0]], dtype=object)
    encoder = fit_encoder(X, ("gaussian", [1]), ("categorical", [0]))
    X = np.array([[missing, 3.0], ["b", None]], dtype=object)
    expected = [[3, np.nan, np.nan], [np.nan, 0, 1]]
    assert_array_equal(encoder.encode(X), expected)


def test_columns_of_pandas_and_their_extension_types():
    X = pd.DataFrame(
        {
            "count": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, False, None], dtype="boolean"),
            "text": pd.array(["u", None, "v"], dtype="string"),
        }
    )
    encoder = fit_encoder(X, ("gaussian", ["count"]), ("categorical", [1, 2]))
    expected = [
        [1, 0, 1, 1, 0],
        [np.nan, 1, 0, *[np.nan] * 2],
        [3, *[np.nan] * 2, 0, 1],
    ]
    assert_array_equal(encoder.encode(X), expected)


def test_tables_of_polars():
    polars = pytest.importorskip("polars")
    X = polars.DataFrame(
        {"x": [1, None, 3], "kind": ["u", None, "v"], "level": ["low", "high", "low"]}
    ).with_columns(polars.col("level").cast(polars.Categorical))
    encoder = fit_encoder(X, ("gaussian", ["x"]), ("categorical", ["kind", "level"]))
    features = encoder.encode(X)
    expected = [[1, 1, 0, 0, 1], [np.nan, np.nan, np.nan, 1, 0], [3, 0, 1, 0, 1]]
    assert_array_equal(features, expected)
    decoded = encoder.decode(features[[0, 2]])
    assert decoded.equals(X[[0, 2]].with_columns(polars.col("x").cast(float)))
    assert decoded.schema["level"] == polars.Categorical


# --- The likelihoods ----------------------------------------------------------------

MIXED = (
    Part("gaussian", (0, 3)),
    Part("categorical", (1, 2), (3, 2)),
    Part("poisson", (4,)),
)


def make_mixed(generator, noise="scalar", parts=MIXED):
    """Make a likelihood in float64 with the scaling of random samples, and these."""
    n = 50
    categories = torch.randint(6, (n, 2), generator=generator) % torch.tensor([3, 2])
    blocks = [
        nn.functional.one_hot(categories[:, 0], 3),
        nn.functional.one_hot(categories[:, 1], 2),
    ]
    numbers = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    numbers = numbers * torch.tensor([1000.0, 0.01]) + 5
    counts = torch.poisson(torch.full((n, 1), 3.0).double(), generator)
    x = torch.cat([numbers, *blocks, counts], 1).double()
    mixed = Mixed(parts, {"noise": noise, "size_factor": None}).double()
    X, weight = x.numpy(), uniform_weights(n)
    scaling = mixed.make_scaling(X, weight, DataSummary.from_array(X, weight))
    mixed.set_scaling(scaling)
    for parameter in mixed.parameters():
        parameter.detach().fill_(-1.0)
    return mixed, x, categories, scaling


def target_of(mixed, x):
    """Give standardized samples, but the counts themselves, as a batch has them."""
    target = mixed.standardize(x)
    target[:, -1] = x[:, -1]
    return target


def expected_log_probs(mixed, x, categories, output):
    """Compute log p of each column by torch.distributions, in the units of the data."""
    mean = mixed.location[:2] + mixed.scale[:2] * output[..., :2]
    noise = mixed.fitted_attributes()["noise_variance_"][[0, 3]]
    each = Normal(mean, torch.tensor(noise).sqrt()).log_prob(x[:, :2])
    columns = [each[..., 0], each[..., 1]]
    for column, block in enumerate([slice(2, 5), slice(5, 7)]):
        categorical = CategoricalDistribution(logits=output[..., block])
        columns.append(categorical.log_prob(categories[:, column]))
    columns.append(Poisson(output[..., 7].exp()).log_prob(x[:, 7]))
    return torch.stack(columns, -1)


@pytest.mark.parametrize("noise", ["scalar", "feature"])
def test_log_prob_is_that_of_the_data_in_their_own_units(generator, normal, noise):
    mixed, x, categories, _ = make_mixed(generator, noise)
    output = normal(3, 50, 8)
    actual = mixed.log_prob(target_of(mixed, x), output)
    each = expected_log_probs(mixed, x, categories, output)
    torch.testing.assert_close(actual, each.sum(-1))


def test_log_prob_of_what_is_observed(generator, normal):
    """Any columns may be missing, those of a part included."""
    mixed, x, categories, _ = make_mixed(generator)
    output = normal(3, 50, 8)
    observed = normal(50, 5) > 0  # by column, in the order of the parts
    width = torch.tensor([1, 1, 3, 2, 1])
    mask = observed.repeat_interleave(width, dim=1).double()
    each = expected_log_probs(mixed, x, categories, output)
    target = target_of(mixed, x).masked_fill(mask == 0, 0.7)
    actual = mixed.log_prob(target, output, mask)
    torch.testing.assert_close(actual, (each * observed).sum(-1))


@pytest.mark.parametrize("size_factor", [None, "total"])
@pytest.mark.parametrize("missing", [False, True])
def test_gradients(generator, normal, size_factor, missing):
    parts = (Part("gaussian", (0,)), Part("categorical", (1,), (3,)))
    parts += (Part("negative_binomial", (2, 3)),)
    mixed = Mixed(parts, {"noise": "feature", "size_factor": size_factor}).double()
    target = torch.tensor([[0.3, 0, 1, 0, 4, 2], [0.1, 1, 0, 0, 0, 1]]).double()
    mask = None
    if missing:  # all counts of the first sample
        mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]).double()
    inputs = (normal(2, 2, 6).requires_grad_(), *mixed.parameters())
    assert gradcheck(lambda output, *_: mixed.log_prob(target, output, mask), inputs)


def test_numbers_have_one_variance_and_categories_one_distance(generator):
    mixed, x, _, scaling = make_mixed(generator)
    transformed = torch.cat([x[:, :7], x[:, 7:].log1p()], 1)
    standardized = mixed.standardize(x)
    expected = (transformed - transformed.mean(0)) / mixed.scale
    torch.testing.assert_close(standardized, expected)
    variance = standardized.var(0, correction=0)
    assert_allclose(variance[[0, 1, 7]], variance[0])
    assert_allclose(variance.mean(), TARGET_STD**2)
    blocks = torch.eye(8, dtype=torch.float64)[[2, 3]] / mixed.scale
    distance = (blocks[0] - blocks[1]).square().sum() / variance[0]
    assert_allclose(distance, CATEGORY_DISTANCE)
    assert_array_equal(scaling.edges, [0, 2, 7, 8])
    assert mixed.location[7] == pytest.approx(transformed[:, 7].mean())


def test_scalings_of_parts_are_joined_and_split():
    ones, two = np.ones(1), np.full(2, 2.0)
    parts = [Scaling(ones, 3.0, 4 * ones), Scaling(two, 5.0, two, two, 6 * two)]
    parts.append(Scaling(ones, 7.0, ones, ones))
    joined = Scaling.join(parts)
    assert_array_equal(joined.scale, [3, 5, 5, 7])
    for (features, part), expected in zip(joined.split(), parts, strict=True):
        assert features.stop - features.start == len(expected.location)
        for one, other in zip(part, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_array_equal(one, np.broadcast_to(other, part.location.shape))
    assert Scaling.join(parts[:1]).mean_count is None


def test_mean_and_draws_agree(generator, normal):
    mixed, *_ = make_mixed(generator)
    output = normal(8)
    mean = mixed.mean(output)
    torch.testing.assert_close(mean[2:5], output[2:5].softmax(-1))
    torch.testing.assert_close(mean[5:7], output[5:7].softmax(-1))
    torch.testing.assert_close(mean[7], output[7].exp())
    draws = mixed.sample(output.expand(20_000, 8), generator)
    for block in (slice(2, 5), slice(5, 7)):
        assert (draws[:, block].sum(1) == 1).all()
    error = (draws.mean(0) - mean).abs() / draws.std(0) * 20_000**0.5
    assert error.max() < 4.5


def test_a_likelihood_alone_is_a_table_of_one_part(normal):
    """Where every feature has the same variance, so that the scaling is the same."""
    x, output = normal(40, 3), normal(40, 3)
    x = (x - x.mean(0)) / x.std(0, correction=0) * 7 + 2
    X, weight = x.numpy(), uniform_weights(40)
    summary = DataSummary.from_array(X, weight)
    plain = Gaussian(3).double()
    mixed = Mixed((Part("gaussian", (0, 1, 2)),), {"noise": "scalar"}).double()
    for likelihood in (plain, mixed):
        likelihood.set_scaling(likelihood.make_scaling(X, weight, summary))
    expected = plain.log_prob(plain.standardize(x), output)
    torch.testing.assert_close(mixed.log_prob(mixed.standardize(x), output), expected)
    assert_allclose(
        mixed.fitted_attributes()["noise_variance_"],
        plain.fitted_attributes()["noise_variance_"],
    )
    torch.testing.assert_close(mixed.mean(output), plain.mean(output))


@pytest.mark.parametrize("noise", ["scalar", "feature"])
def test_fitted_attributes_have_a_number_for_each_column(generator, noise):
    parts = (Part("negative_binomial", (3, 0)), Part("gaussian", (1,)))
    parts += (Part("categorical", (2,), (2,)),)
    mixed = Mixed(parts, {"noise": noise, "size_factor": None}).double()
    for parameter in mixed.parameters():
        parameter.detach().normal_(generator=generator)
    attributes = mixed.fitted_attributes()
    missing = {name: np.isnan(values).tolist() for name, values in attributes.items()}
    assert missing == {
        "dispersion_": [False, True, True, False],
        "noise_variance_": [True, False, True, True],
    }
    loaded = Mixed(parts, {"noise": noise, "size_factor": None}).double()
    loaded.load_fitted_attributes(attributes)
    for one, other in zip(loaded.parameters(), mixed.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_log_shares_start_as_the_reconstruction_of_the_indicators(normal):
    likelihood = Categorical(5, (3, 2)).double()
    frequency = np.array([0.5, 0.2, 0.3, 0.9, 0.1])
    likelihood.set_scaling(Scaling(frequency, 1.5, frequency))
    layer = nn.Linear(3, 5).double()
    hidden = normal(4, 3)
    reconstruction = likelihood.unstandardize(layer(hidden)).detach()
    likelihood.initialize_output(layer, 0.03)
    expected = np.log(frequency) + 2 * (reconstruction.numpy() - frequency)
    assert_allclose(layer(hidden).detach(), expected)


# --- The estimator ------------------------------------------------------------------


def test_it_reads_the_table_as_it_is(model, table):
    assert model.n_features_in_ == 5
    assert_array_equal(model.feature_names_in_, table.columns)
    assert [values.tolist() for values in model.categories_] == [
        ["Aachen", "Bonn", "Ulm"],
        [False, True],
    ]
    assert_array_equal(np.isfinite(model.noise_variance_), [1, 0, 1, 0, 0])
    assert_array_equal(model.predict(table), model.labels_)
    assert model.score(table) == pytest.approx(model.lower_bound_)
    bounds = model.score_samples(table, n_draws=8)
    assert bounds.mean() > model.lower_bound_ - 1
    assert model.transform(table).shape == (120, 2)


def test_categories_come_back(model, table):
    samples, _ = model.sample(30, random_state=0)
    reconstructed = model.reconstruct(table)
    for frame in (samples, model.cluster_centers_, reconstructed):
        assert frame.columns.tolist() == table.columns.tolist()
        assert set(frame["city"]) <= {"Aachen", "Bonn", "Ulm"}
        assert frame["member"].dtype == bool
        assert np.isfinite(frame[["age", "income", "visits"]]).all(axis=None)
    assert_array_equal(samples["visits"] % 1, 0)
    assert 10 < samples["age"].mean() < 90 and 5e3 < samples["income"].mean() < 6e4


def test_impute_fills_the_gaps_alone(model, table):
    shuffled = table.iloc[::-1]
    imputed, expected = model.impute(shuffled), model.reconstruct(shuffled)
    assert not imputed.isna().any(axis=None)
    filled = shuffled.astype({"city": object}).fillna(expected.astype({"city": object}))
    pd.testing.assert_frame_equal(
        imputed.astype({"city": object}), filled, check_dtype=False
    )
    assert_array_equal(imputed.index, shuffled.index)


def test_an_unseen_category_is_missing(model, table):
    unseen, missing = table.copy(), table.copy()
    unseen["city"] = unseen["city"].astype(object)
    unseen.loc[:9, "city"] = "Paris"
    missing.loc[:9, "city"] = None
    assert_array_equal(model.predict_proba(unseen), model.predict_proba(missing))
    assert_array_equal(model.score_samples(unseen), model.score_samples(missing))
    assert set(model.impute(unseen)["city"]) <= {"Aachen", "Bonn", "Ulm"}


def test_an_array_of_objects_gives_the_same_model(make_estimator, model, table):
    X = table.to_numpy(dtype=object)
    parts = [("gaussian", [0, 2]), ("categorical", [1, 3]), ("poisson", [4])]
    other = make_estimator(n_clusters=4, likelihood=parts, **SHORT).fit(X)
    assert other.lower_bound_ == model.lower_bound_
    assert_array_equal(other.predict_proba(X.tolist()), model.predict_proba(table))
    assert_array_equal(other.impute(X)[:, 1], model.impute(table)["city"])


def test_units_of_the_numbers_do_not_matter(make_estimator, model, table):
    """But for the density, which is in nats of the data."""
    scaled = table.assign(income=table["income"] / 1024)
    other = make_estimator(n_clusters=4, likelihood=PARTS, **SHORT).fit(scaled)
    difference = other.score_samples(scaled) - model.score_samples(table)
    assert_allclose(difference, np.log(1024), atol=1e-3)


def test_weights_are_repetitions(make_estimator, table):
    weight = np.arange(120) % 3 + 1.0
    one = make_estimator(n_clusters=4, likelihood=PARTS, **SHORT)
    one.fit(table, sample_weight=weight)
    expected = np.repeat(table["member"], weight.astype(int)).mean()
    scaling = one._scaling
    assert scaling["feature_mean"][6] == pytest.approx(expected)
    other = clone(one).fit(table, sample_weight=7 * weight)
    assert other.lower_bound_ == pytest.approx(one.lower_bound_)


def test_copies_streams_and_warm_starts(make_estimator, model, table):
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict_proba(table), model.predict_proba(table))
    pd.testing.assert_frame_equal(restored.cluster_centers_, model.cluster_centers_)
    streamed = copy.deepcopy(model).partial_fit(table[:60])
    assert len(streamed.lower_bounds_) == len(model.lower_bounds_) + 1
    resumed = copy.deepcopy(model).set_params(warm_start=True).fit(table)
    assert resumed.lower_bound_ > model.lower_bound_ - 1
    resumed.set_params(likelihood=PARTS[::-1])
    with pytest.raises(ValueError, match="continues a model with likelihood="):
        resumed.fit(table)
    assert not hasattr(make_estimator().fit(np.eye(20)), "categories_")


def test_a_fit_to_numbers_forgets_the_table(model, X):
    refitted = copy.deepcopy(model).set_params(likelihood="gaussian").fit(X)
    assert refitted.cluster_centers_.shape == (4, 5)
    assert refitted.inverse_transform(refitted.means_).dtype == float
    with pytest.raises(AttributeError, match="without categorical columns"):
        _ = refitted.categories_


def test_a_fit_resumes_from_a_checkpoint(make_estimator, model, table, tmp_path):
    path = tmp_path / "fit.ckpt"
    estimator = make_estimator(n_clusters=4, likelihood=PARTS, **SHORT)
    estimator.set_callbacks(Checkpoint(path)).fit(table)
    resumed = make_estimator().set_params(**estimator.get_params()).resume(path, table)
    assert resumed.lower_bound_ == model.lower_bound_
    pd.testing.assert_frame_equal(resumed.cluster_centers_, model.cluster_centers_)


def test_a_selector_is_not_in_a_checkpoint(make_estimator, table, tmp_path):
    path = tmp_path / "fit.ckpt"
    selector = make_column_selector(dtype_include=["category", "bool"])
    parts = [("categorical", selector), ("gaussian", ["age", "income", "visits"])]
    estimator = make_estimator(n_clusters=2, likelihood=parts, **SHORT)
    estimator.set_callbacks(Checkpoint(path)).fit(table)
    with pytest.raises(ValueError, match="Set it on the estimator"):
        clone(estimator).set_params(likelihood="gaussian").resume(path, table)
    resumed = estimator.resume(path, table)
    assert resumed.n_features_in_ == 5


def test_in_a_search_and_a_pipeline(make_estimator, table):
    estimator = make_estimator(n_clusters=2, likelihood=PARTS, **SHORT)
    search = GridSearchCV(
        estimator, {"noise": ["scalar", "feature"]}, cv=KFold(2), error_score="raise"
    )
    assert np.isfinite(search.fit(table).best_score_)
    pipeline = make_pipeline("passthrough", estimator)
    assert pipeline.fit_predict(table).shape == (120,)


def test_a_table_of_categories_alone(make_estimator, table):
    X = table[["city", "member"]]
    estimator = make_estimator(n_clusters=2, likelihood="categorical", **SHORT)
    model = estimator.fit(X)
    bound = model.score_samples(X, n_draws=64)
    assert (bound < 1e-6).all()  # log-probabilities
    assert model.cluster_centers_.columns.tolist() == ["city", "member"]
    by_pairs = clone(estimator).set_params(likelihood=[("categorical", slice(None))])
    assert by_pairs.fit(X).lower_bound_ == model.lower_bound_


def test_a_transformer_gets_the_features_on_one_scale(make_estimator, table):
    seen = []

    class Recorder(KNeighborsTransformer):
        def fit_transform(self, X, y=None):
            seen.append(X)
            return super().fit_transform(X, y)

    make_estimator(
        n_clusters=2,
        likelihood=PARTS,
        pretraining="neighbors",
        neighbors=Recorder(n_neighbors=3),
        **SHORT,
    ).fit(table)
    assert_allclose(seen[0].mean(0), 0, atol=0.1)
    assert seen[0].std(0).max() < 1


@pytest.mark.parametrize("display", [ClusterSamplesDisplay, ReconstructionDisplay])
def test_categories_are_not_drawn_as_numbers(model, table, display):
    with pytest.raises(ValueError, match=f"{display.__name__} draws numbers"):
        display.from_estimator(model, X=table)


@pytest.mark.parametrize("method", ["to_torch", "to_onnx"])
def test_a_table_is_not_exported(model, tmp_path, method):
    arguments = [tmp_path / "model.onnx"] if method == "to_onnx" else []
    with pytest.raises(ValueError, match=f"{method} can not export"):
        getattr(model, method)(*arguments)


def test_custom_networks_get_the_features(make_estimator, table):
    widths = []

    def encoder(n_features_in, latent_dim):
        widths.append(n_features_in)
        return nn.Linear(n_features_in, 4)

    def decoder(latent_dim, n_features_in):
        return nn.Linear(latent_dim, n_features_in)

    networks = {"encoder": encoder, "decoder": decoder, "hidden_layer_sizes": (128, 64)}
    model = make_estimator(n_clusters=2, likelihood=PARTS, **networks, **SHORT)
    model.fit(table)
    assert set(widths) == {8}
    assert np.isfinite(model.score(table))


@pytest.mark.filterwarnings("ignore")
def test_recovery_of_groups_that_numbers_and_categories_tell_together(make_estimator):
    table, y = make_table(300, seed=1)
    model = make_estimator(
        n_clusters=4, likelihood=PARTS, pretraining="neighbors", pretrain_max_iter=6
    )
    model.set_params(init="communities", max_iter=15)
    labels = model.fit_predict(table)
    assert adjusted_rand_score(y, labels) > 0.9
    centers = model.cluster_centers_
    assert sorted(zip(centers["age"] > 45, centers["member"], strict=True)) == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
