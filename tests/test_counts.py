"""Samples of counts: their check, their scaling, and models that are fitted to them."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from skvade._data import scaling as scaling_module
from skvade._data.counts import (
    check_counts,
    count_scaling,
    log1p_normalized,
    network_input,
    size_factors,
)
from skvade._data.dataset import Dataset
from skvade._data.device import resolve_device
from skvade._data.scaling import Scaling, uniform_weights
from skvade.plotting import ClusterSamplesDisplay, ReconstructionDisplay

OF_COUNTS = ["multinomial", "negative_binomial", "poisson"]
ABSOLUTE = {"likelihood": "poisson", "size_factor": None}


def make_counts(n_samples, n_features, seed, dispersion=0.2):
    """Three groups of overdispersed counts whose depth differs 30-fold."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(n_features), size=3)
    y = rng.integers(3, size=n_samples)
    depth = np.exp(rng.uniform(np.log(20), np.log(600), n_samples))
    noise = rng.gamma(1 / dispersion, dispersion, size=(n_samples, n_features))
    X = rng.poisson(depth[:, None] * shares[y] * noise).astype(float)
    X.setflags(write=False)
    return X, y


@pytest.fixture(scope="module")
def counts():
    return make_counts(150, 12, seed=0)[0]


@pytest.fixture(scope="module")
def missing(counts):
    """The same counts, a tenth of them missing."""
    X = np.where(np.random.default_rng(0).random(counts.shape) < 0.1, np.nan, counts)
    X.setflags(write=False)
    return X


@pytest.fixture(scope="module", params=[*OF_COUNTS, "absolute"])
def parameters(request):
    return ABSOLUTE if request.param == "absolute" else {"likelihood": request.param}


@pytest.fixture(scope="module")
def model(make_estimator, counts, parameters):
    """Shared: read it, or change a copy."""
    return make_estimator(**parameters).fit(counts)


def make_dataset(X, size_factor="total", weight=None):
    weight = uniform_weights(len(X)) if weight is None else weight
    feature_mean = np.nanmean(X, 0)
    scaling = count_scaling(X, weight, feature_mean, size_factor)
    config = resolve_device("cpu", "float64")
    return Dataset.from_array(X, scaling, config, weight, np.isnan(X).any())


# --- The data -----------------------------------------------------------------------


@pytest.mark.parametrize("as_given", [np.asarray, csr_array])
@pytest.mark.parametrize(
    "values, named",
    [
        ({(7, 2): -1, (8, 0): 0.5}, "a negative value, -1 in row 7, column 2"),
        ({(7, 2): 2.5}, "a fractional value, 2.5 in row 7, column 2"),
    ],
)
def test_the_first_value_that_is_no_count_is_named(counts, values, named, as_given):
    X = counts.copy()
    for place, value in values.items():
        X[place] = value
    with pytest.raises(ValueError, match=f"'poisson' needs counts: .* Got {named}"):
        check_counts(as_given(X), "poisson")


def test_a_missing_count_is_none_to_reject(missing):
    assert not len(check_counts(missing, "poisson"))


@pytest.mark.parametrize("as_given", [np.asarray, csr_array])
def test_samples_without_any_count_are_found(counts, as_given, monkeypatch):
    X = np.tile(counts, (3, 1))
    X[[0, 70, 449]] = 0
    X[8, 1:] = 0
    monkeypatch.setattr(scaling_module, "CHUNK_SIZE", 256)
    assert_array_equal(check_counts(as_given(X), "poisson"), [0, 70, 449])
    features = slice(1, 12)
    found = check_counts(as_given(X), "poisson", features)
    assert_array_equal(found, [0, 8, 70, 449])
    X[0, 3:] = np.nan
    assert_array_equal(check_counts(X, "poisson"), [0, 70, 449])


def test_counts_are_divided_by_the_total_of_the_sample(counts):
    mean_count = counts.mean(0)
    x = log1p_normalized(torch.tensor(counts), torch.tensor(mean_count))
    expected = np.log1p(mean_count.sum() * normalize(counts, "l1"))
    assert_allclose(x, expected)


def test_the_total_is_over_the_features_that_are_observed(missing):
    mean_count = np.nanmean(missing, 0)
    x = log1p_normalized(torch.tensor(missing), torch.tensor(mean_count)).numpy()
    for sample, row in zip(missing, x, strict=True):
        seen = ~np.isnan(sample)
        factor = mean_count[seen].sum() / sample[seen].sum()
        assert_allclose(row[seen], np.log1p(factor * sample[seen]))
        assert np.isnan(row[~seen]).all()


def test_a_sample_without_counts_has_the_total_of_a_single_one():
    x = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    reference = torch.tensor([4.0, 2.0])
    assert_allclose(size_factors(x, reference), [[1 / 6], [0.5]], rtol=1e-6)
    assert log1p_normalized(x, reference)[0].tolist() == [0, 0]


@pytest.mark.parametrize("as_sparse", [csr_array, csr_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size_factor", ["total", None])
def test_sparse_counts_stay_sparse_with_the_values_of_dense_ones(
    counts, size_factor, dtype, as_sparse
):
    X = counts.astype(dtype)
    X[3] = 0
    zeros, mean_count = np.zeros(12), counts.mean(0)
    reference_count = 0.3 * mean_count if size_factor else None
    scaling = Scaling(zeros, 1.0, zeros, mean_count, reference_count)
    dense, sparse = network_input(X, scaling), network_input(as_sparse(X), scaling)
    assert issparse(sparse)
    assert dense.dtype == sparse.dtype == dtype
    assert_allclose(sparse.toarray(), dense, rtol=1e-5 if dtype == np.float32 else 1e-7)
    assert not dense[3].any()


def test_what_is_no_count_is_given_as_it_is(counts):
    zeros = np.zeros(12)
    assert network_input(counts, Scaling(zeros, 1.0, zeros)) is counts


@pytest.mark.parametrize("size_factor", ["total", None])
def test_the_scaling_is_that_of_log1p(counts, size_factor):
    weight = np.linspace(0, 2, len(counts))
    mean_count = np.average(counts, axis=0, weights=weight)
    scaling = count_scaling(counts, weight, mean_count, size_factor)
    x = np.log1p(counts)
    if size_factor:
        reference = np.quantile(
            counts.sum(1), 0.1, method="inverted_cdf", weights=weight
        )
        x = np.log1p(reference * normalize(counts, "l1"))
        assert_allclose(scaling.reference_count.sum(), reference)
    location = np.average(x, axis=0, weights=weight)
    assert_allclose(scaling.location, location)
    assert_allclose(scaling.feature_mean, location)
    variance = np.average((x - location) ** 2, axis=0, weights=weight).mean()
    assert scaling.scale == pytest.approx(4 * np.sqrt(variance))
    assert_allclose(scaling.mean_count, mean_count)
    assert (scaling.reference_count is None) == (size_factor is None)


def test_a_feature_without_counts_has_a_finite_log_mean(counts):
    X = counts.copy()
    X[:, 4] = 0
    scaling = count_scaling(X, uniform_weights(len(X)), X.mean(0), "total")
    assert np.isfinite(np.log(scaling.mean_count)).all()


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_has_the_counts_beside_what_the_networks_get(missing, cached):
    dataset = make_dataset(missing)
    if cached:
        dataset = dataset.cache_on_device()
    positions = np.array([5, 3, 77])
    batch = dataset.get_batch(positions)
    seen = ~np.isnan(missing[positions])
    assert_array_equal(batch.mask, seen)
    assert_array_equal(batch.target, np.nan_to_num(missing[positions]))
    x = network_input(missing, dataset.scaling)[positions]
    x = np.where(seen, x, dataset.scaling.feature_mean)
    scale = dataset.scaling.scale
    assert_allclose(batch.x, (x - dataset.scaling.location) / scale, atol=1e-12)


def test_a_batch_of_samples_that_are_no_counts_has_no_second_copy(X):
    config, zeros = resolve_device("cpu", "float64"), np.zeros(5)
    scaling = Scaling(zeros, 1.0, zeros)
    dataset = Dataset.from_array(X, scaling, config, uniform_weights(len(X)), False)
    batch = dataset.get_batch(np.arange(3))
    assert batch.counts is None
    assert batch.target is batch.x


def test_transformers_get_log1p_of_the_counts(missing):
    dataset = make_dataset(missing)
    x = network_input(missing, dataset.scaling)
    expected = np.where(np.isnan(x), dataset.scaling.feature_mean, x)
    assert_allclose(dataset.mean_imputed(), expected)


# --- Fits ---------------------------------------------------------------------------


def test_a_model_of_counts_has_all_methods(model, counts):
    assert_array_equal(model.predict(counts), model.labels_)
    assert model.score(counts) == pytest.approx(model.lower_bound_)
    bounds = model.score_samples(counts)
    assert (bounds < 0).all()
    tighter = model.score_samples(counts, n_draws=64)
    assert tighter.mean() > bounds.mean()
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.score_samples(counts), bounds)
    assert_array_equal(copied.reconstruct(counts), model.reconstruct(counts))
    samples, _ = model.sample(200, random_state=0)
    assert_array_equal(samples, samples.round())
    check_counts(samples, "")
    assert hasattr(model, "dispersion_") == (model.likelihood == "negative_binomial")


def test_counts_are_plotted(make_estimator, counts):
    pytest.importorskip("matplotlib").use("agg")
    model = make_estimator(likelihood="multinomial", max_iter=1).fit(counts)
    for display in (ClusterSamplesDisplay, ReconstructionDisplay):
        assert display.from_estimator(model, counts).figure_ is not None


@pytest.mark.parametrize("likelihood", OF_COUNTS)
def test_centers_have_the_average_total_and_reconstructions_their_own(
    make_estimator, counts, likelihood
):
    model = make_estimator(likelihood=likelihood).fit(counts)
    mean_total = counts.sum(1).mean()
    assert_allclose(model.cluster_centers_.sum(1), mean_total)
    assert_allclose(model.reconstruct(counts).sum(1), counts.sum(1))
    samples, _ = model.sample(300, random_state=0)
    assert samples.sum(1).mean() == pytest.approx(mean_total, rel=0.1)


@pytest.mark.parametrize("likelihood", OF_COUNTS)
def test_with_a_size_factor_the_depth_tells_nothing(make_estimator, counts, likelihood):
    model = make_estimator(likelihood=likelihood, precision="float64").fit(counts)
    assert_allclose(model.predict_proba(7 * counts), model.predict_proba(counts))
    assert_allclose(model.transform(7 * counts), model.transform(counts), atol=1e-12)


def test_without_a_size_factor_the_depth_tells_groups_apart(make_estimator):
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    X = rng.poisson(np.array([3.0, 15.0, 70.0])[y][:, None], size=(150, 6))
    settings = {"pretrain_max_iter": 30, "max_iter": 20}
    model = make_estimator(**ABSOLUTE, **settings).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.9
    expected = np.array([X[model.labels_ == c].mean() for c in range(3)])
    assert_allclose(model.cluster_centers_.mean(1), expected, rtol=0.3)


def test_a_single_feature_of_counts_is_absolute_by_default(make_estimator):
    y = np.arange(150) % 3
    X = np.random.default_rng(0).poisson(np.array([3.0, 30.0, 200.0])[y])[:, None]
    settings = {"pretrain_max_iter": 30, "max_iter": 20}
    model = make_estimator(likelihood="poisson", **settings).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.9


def test_module_and_estimator_agree(model, counts, missing):
    with torch.no_grad():
        module = model.to_torch("cpu")
        for X in (counts, missing):
            log_proba = module(torch.tensor(X, dtype=torch.float32))
            assert_allclose(log_proba.exp(), model.predict_proba(X), atol=1e-4)
        z = torch.tensor(model.means_, dtype=torch.float32)
        assert_allclose(module.decode(z), model.cluster_centers_, rtol=1e-4)


@pytest.mark.parametrize("likelihood", OF_COUNTS)
def test_a_sample_is_predicted_alike_in_any_batch(make_estimator, counts, likelihood):
    model = make_estimator(likelihood=likelihood).fit(counts)
    many = np.tile(counts, (5, 1))
    for method in ("transform", "score_samples", "reconstruct"):
        values = getattr(model, method)(many)
        assert_array_equal(
            values, np.tile(values[:150], (5,) + (1,) * (values.ndim - 1))
        )
        assert_array_equal(getattr(model, method)(counts[17:18]), values[17:18])


def test_sparse_counts_are_fitted_as_dense_ones(make_estimator, counts, parameters):
    estimator = make_estimator(**parameters)
    dense = copy.deepcopy(estimator).fit(counts)
    sparse = estimator.fit(csr_array(counts))
    assert_array_equal(sparse.labels_, dense.labels_)
    assert_allclose(
        sparse.score_samples(csr_array(counts)), dense.score_samples(counts)
    )


def test_missing_counts(make_estimator, missing, parameters):
    model = make_estimator(**parameters).fit(missing)
    imputed = model.impute(missing)
    assert np.isfinite(imputed).all()
    seen = ~np.isnan(missing)
    assert_array_equal(imputed[seen], missing[seen])
    assert_allclose(imputed[~seen], model.reconstruct(missing)[~seen])
    assert np.isfinite(model.score_samples(missing, n_draws=4)).all()
    if "size_factor" not in parameters:
        totals = np.nansum(missing, 1)
        reconstructed = np.where(seen, model.reconstruct(missing), 0).sum(1)
        assert_allclose(reconstructed, totals)


def test_a_stream_of_counts(make_estimator, counts, parameters):
    model = make_estimator(**parameters).partial_fit(counts[:100])
    scaling = model._scaling
    bound = model.score(counts)
    for _ in range(5):
        model.partial_fit(counts)
    assert model.score(counts) > bound
    for name, value in scaling.items():
        assert_array_equal(value, model._scaling[name])


def test_weights_count_as_repetitions_in_the_scaling(make_estimator, counts):
    weight = np.random.default_rng(0).integers(1, 4, len(counts))
    weighted = make_estimator(likelihood="poisson").fit(counts, sample_weight=weight)
    repeated = make_estimator(likelihood="poisson").fit(np.repeat(counts, weight, 0))
    for name in ("location", "scale", "mean_count", "reference_count"):
        assert_allclose(weighted._scaling[name], repeated._scaling[name])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("pretraining", ["neighbors", "stacked", "vae"])
def test_other_pretraining_of_counts(make_estimator, counts, pretraining):
    model = make_estimator(
        likelihood="negative_binomial", pretraining=pretraining, pretrain_max_iter=1
    ).fit(counts)
    assert np.isfinite(model.score_samples(counts)).all()


@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
def test_counts_are_exported(make_estimator, counts, missing, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_estimator(likelihood="poisson").fit(counts)
    model.to_onnx(tmp_path / "model.onnx", "transform")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for X in (counts, missing):
        (z,) = session.run(None, {"X": X.astype(np.float32)})
        assert_allclose(z, model.transform(X), atol=1e-5)


def test_dispersions_are_learned(make_estimator):
    rng = np.random.default_rng(0)
    dispersion = np.repeat([0.05, 0.5, 2.0], 4)
    noise = rng.gamma(1 / dispersion, dispersion, size=(200, 12))
    X = rng.poisson(20 * noise)
    model = make_estimator(
        likelihood="negative_binomial", size_factor=None, n_clusters=1, max_iter=15
    ).fit(X)
    found = np.log(model.dispersion_).reshape(3, 4).mean(1)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("value", [-1, 0.5])
def test_values_that_are_no_counts_are_rejected_everywhere(
    make_estimator, counts, value
):
    model = make_estimator(likelihood="multinomial").fit(counts)
    wrong = counts.copy()
    wrong[3, 1] = value
    before = model.means_
    for method in ("fit", "partial_fit", "predict", "score", "transform", "impute"):
        with pytest.raises(ValueError, match="in row 3, column 1 of X"):
            getattr(model, method)(wrong)
    assert model.means_ is before


# --- Samples without any count ------------------------------------------------------


@pytest.fixture(scope="module")
def with_empty(counts):
    X = counts.copy()
    X[[3, 149]] = 0
    X.setflags(write=False)
    return X


def messages(function, *arguments, **keywords):
    """Give the warnings of a call about samples without any count."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments, **keywords)
    return [str(w.message) for w in caught if "no count above zero" in str(w.message)]


METHODS = ["predict", "predict_proba", "transform", "score_samples", "reconstruct"]
QUICK = {"pretrain_max_iter": 1, "max_iter": 1, "batch_size": 150}


@pytest.mark.parametrize("likelihood", OF_COUNTS)
def test_samples_without_any_count_are_reported_once(
    make_estimator, counts, with_empty, likelihood
):
    expected = "X has no count above zero in row 3, 149: 2 of 150 samples. Clusters"
    model = make_estimator(likelihood=likelihood, **QUICK)
    for method in ("fit", "partial_fit", *METHODS):
        (message,) = messages(getattr(model, method), with_empty)
        assert message.startswith(expected), method
        assert not messages(getattr(model, method), counts), method


def test_samples_of_weight_zero_need_no_count(make_estimator, with_empty):
    model = make_estimator(likelihood="poisson", **QUICK)
    weight = np.ones(150)
    weight[3] = 0
    (message,) = messages(model.fit, with_empty, sample_weight=weight)
    assert "in row 149: 1 of 150 samples" in message


@pytest.mark.parametrize("changes", [ABSOLUTE, {"likelihood": "gaussian"}])
def test_an_absolute_count_of_zero_says_something(make_estimator, with_empty, changes):
    model = make_estimator(**changes, **QUICK)
    assert not messages(model.fit, with_empty)
    assert not messages(model.predict, with_empty)


def test_other_columns_of_a_table_tell_the_cluster(make_estimator, with_empty):
    parts = [("multinomial", slice(0, 6)), ("gaussian", slice(6, 12))]
    model = make_estimator(likelihood=parts, **QUICK)
    assert not messages(model.fit, with_empty)
    model.set_params(likelihood=[("multinomial", slice(0, 12))])
    assert len(messages(model.fit, with_empty)) == 1


def test_a_document_of_unknown_words(make_estimator):
    documents = ["a cat sat", "a dog ran", "the cat ran", "the dog sat"] * 10
    clusterer = make_estimator(n_clusters=2, likelihood="multinomial", **QUICK)
    pipeline = make_pipeline(CountVectorizer(), clusterer)
    assert not messages(pipeline.fit, documents)
    (message,) = messages(pipeline.predict, ["a dog sat", "xyz", "cat"])
    assert message.startswith("X has no count above zero in row 1: 1 of 3 samples.")


# --- Errors and warnings about parameters and columns -------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_column_of_a_frame_is_named(make_estimator, counts, library):
    frame = pytest.importorskip(library).DataFrame
    names = [f"gene {i}" for i in range(12)]
    X = frame(dict(zip(names, counts.T, strict=True)))
    model = make_estimator(likelihood="poisson", max_iter=1).fit(X)
    wrong = counts.copy()
    wrong[3, 1] = -2
    message = "a negative value, -2 in row 3, column 'gene 1' of X"
    for method in ("fit", "predict"):
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(frame(dict(zip(names, wrong.T, strict=True))))


def test_parameters_of_other_likelihoods_have_no_effect(make_estimator, counts):
    for changes, name in [
        ({"likelihood": "poisson", "noise": "feature"}, "noise"),
        ({"likelihood": "multinomial", "size_factor": None}, "size_factor"),
        ({"size_factor": None}, "size_factor"),
    ]:
        estimator = make_estimator(max_iter=1, **changes)
        with pytest.warns(
            UserWarning, match=f"^{name} has no effect: likelihood=.* has no such"
        ):
            estimator.fit(counts)


# --- What the likelihoods are for ---------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recovers_groups_where_the_gaussian_likelihood_finds_the_depth(make_estimator):
    X, y = make_counts(150, 20, seed=0, dispersion=0.1)
    settings = {"pretrain_max_iter": 30, "max_iter": 10}
    of_counts = make_estimator(likelihood="negative_binomial", **settings)
    assert adjusted_rand_score(y, of_counts.fit_predict(X)) > 0.9
    gaussian = make_estimator(**settings)
    assert adjusted_rand_score(y, gaussian.fit_predict(X)) < 0.5


def test_a_noise_variance_for_each_feature_is_learned(make_estimator, X):
    std = np.array([0.1, 0.5, 1.0, 2.0, 4.0])
    X = X + std * np.random.default_rng(0).normal(size=X.shape)
    settings = {"pretrain_max_iter": 30, "max_iter": 15}
    model = make_estimator(noise="feature", **settings).fit(X)
    scalar = make_estimator(**settings).fit(X)
    assert model.noise_variance_.shape == (5,)
    assert np.isscalar(scalar.noise_variance_)
    residual = np.square(X - model.reconstruct(X)).mean(0)
    assert np.corrcoef(np.log(model.noise_variance_), np.log(residual))[0, 1] > 0.9
    assert model.lower_bound_ > scalar.lower_bound_
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.score_samples(X), model.score_samples(X))
