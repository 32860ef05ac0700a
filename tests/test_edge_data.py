"""Valid data at the edge: duplicates, constants, few samples, any origin and scale."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from starts import one_start

from skvade import VaDEClusterer
from skvade._data.dataset import Dataset

RNG = np.random.default_rng(0)
DISTINCT = RNG.uniform(size=(4, 3))

# Data and n_clusters.
EDGE_DATA = {
    "4 distinct samples, each 4 times": (np.repeat(DISTINCT, 4, axis=0), 8),
    "all samples equal": (np.tile(DISTINCT[0], (20, 1)), 3),
    "all zero": (np.zeros((20, 3)), 2),
    "all one": (np.ones((20, 3)), 2),
    "all equal, with a sum that rounds": (np.full((150, 3), 0.1), 2),
    "a constant feature": (np.c_[RNG.uniform(size=(40, 2)), np.full(40, 0.3)], 3),
    "one feature": (RNG.uniform(size=(40, 1)), 3),
    "one cluster": (RNG.uniform(size=(40, 3)), 1),
    "as many clusters as samples": (RNG.uniform(size=(6, 3)), 6),
    "one sample": (DISTINCT[:1], 1),
    "two samples": (DISTINCT[:2], 2),
    "30 samples": (RNG.uniform(size=(30, 4)), 3),
    "more features than samples": (RNG.uniform(size=(20, 200)), 3),
    "binary": (RNG.integers(2, size=(60, 4)).astype(float), 4),
    "one outlier": (np.r_[RNG.uniform(size=(50, 3)) * 1e-6, np.ones((1, 3))], 2),
}


def assert_consistent(model, X):
    """Assert that all results are finite and agree, whatever the clusters are."""
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all()
    assert_allclose(proba.sum(1), 1)
    assert_array_equal(model.predict(X), model.labels_)
    assert set(model.labels_) <= set(range(model.n_clusters))
    for method in (model.transform, model.reconstruct, model.score_samples):
        assert np.isfinite(method(X)).all()
    for name in ("weights_", "means_", "covariances_", "cluster_centers_"):
        assert np.isfinite(getattr(model, name)).all()
    assert_allclose(model.weights_.sum(), 1)
    assert (model.covariances_ > 0).all()
    assert np.isfinite(model.sample(5, random_state=0)[0]).all()


# Such data leave clusters empty, in any stage.
EMPTY_CLUSTERS = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}",
    "ignore:The initial partition holds:UserWarning",
)


@EMPTY_CLUSTERS
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("kind", EDGE_DATA)
def test_edge_data_give_finite_consistent_results(make_estimator, kind, likelihood):
    X, n_clusters = EDGE_DATA[kind]
    model = make_estimator(n_clusters=n_clusters, likelihood=likelihood).fit(X)
    assert_consistent(model, X)


@EMPTY_CLUSTERS
@pytest.mark.parametrize("init", ["kmeans", "gmm", "random"])
@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
@pytest.mark.parametrize(
    "kind", ["4 distinct samples, each 4 times", "all samples equal"]
)
def test_duplicates_with_every_init(make_estimator, kind, init, responsibilities):
    X, n_clusters = EDGE_DATA[kind]
    model = make_estimator(
        n_clusters=n_clusters, init=init, responsibilities=responsibilities
    )
    assert_consistent(model.fit(X), X)
    counts = np.bincount(model.labels_, minlength=n_clusters)
    assert (np.diff(counts) <= 0).all()
    for labels in np.split(model.labels_, 4):
        assert kind == "all samples equal" or len(set(labels)) == 1


@EMPTY_CLUSTERS
@pytest.mark.parametrize(
    "kind", ["4 distinct samples, each 4 times", "all samples equal", "one sample"]
)
def test_reg_covar_of_zero(make_estimator, kind):
    X, n_clusters = EDGE_DATA[kind]
    assert_consistent(make_estimator(n_clusters=n_clusters, reg_covar=0).fit(X), X)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_one_latent_dimension(make_estimator, X_unit, likelihood):
    model = make_estimator(latent_dim=1, likelihood=likelihood).fit(X_unit)
    assert model.transform(X_unit).shape == (150, 1)
    assert_consistent(model, X_unit)


# --- Origin and scale of the data ---------------------------------------------------


def _skip_rounding(start, offset):
    if start == "neighbors" and offset == 1e8:
        pytest.skip("Rounding changes which neighbors are drawn.")


@pytest.mark.parametrize("offset", [100, -1e4, 1e8])
def test_clusters_do_not_depend_on_the_origin(make_estimator, X, fitted, offset, start):
    _skip_rounding(start, offset)
    model = make_estimator().fit(X + offset)
    assert_consistent(model, X + offset)
    assert_array_equal(model.labels_, fitted.labels_)
    assert_allclose(model.transform(X + offset), fitted.transform(X), atol=1e-3)
    assert_allclose(model.lower_bound_, fitted.lower_bound_, atol=1e-3)


@pytest.mark.parametrize("offset", [100, -1e4, 1e8])
def test_results_are_in_the_units_of_the_data(make_estimator, X, fitted, offset, start):
    _skip_rounding(start, offset)
    model = make_estimator().fit(X + offset)
    centers = model.cluster_centers_ - offset
    assert_allclose(centers, fitted.cluster_centers_, atol=1e-2)
    reconstructed = model.reconstruct(X + offset) - offset
    assert_allclose(reconstructed, fitted.reconstruct(X), atol=1e-2)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e6, 1e-25, 1e25])
def test_clusters_do_not_depend_on_the_scale(make_estimator, X, fitted, scale):
    model = make_estimator().fit(scale * X)
    assert_consistent(model, scale * X)
    assert_array_equal(model.labels_, fitted.labels_)
    centers = model.cluster_centers_ / scale
    assert_allclose(centers, fitted.cluster_centers_, rtol=1e-2, atol=1e-2)
    noise = model.noise_variance_ / scale**2
    assert_allclose(noise, fitted.noise_variance_, rtol=1e-2)
    bound = model.lower_bound_ + X.shape[1] * np.log(scale)
    assert_allclose(bound, fitted.lower_bound_, atol=1e-2)


@pytest.mark.parametrize("scale", [1e-140, 1e-60, 1e60, 1e150])
def test_float64_takes_scales_whose_squares_are_numbers(make_estimator, X, scale):
    expected = make_estimator(precision="float64").fit(X)
    model = make_estimator(precision="float64").fit(scale * X)
    assert_consistent(model, scale * X)
    assert_array_equal(model.labels_, expected.labels_)
    assert_allclose(model.noise_variance_ / scale**2, expected.noise_variance_)


@pytest.mark.parametrize("contain", [np.asarray, csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-310, 1e-163, 1e153, 1e305])
def test_other_scales_raise(make_estimator, X, scale, precision, method, contain):
    X = X - X.min() + 1
    offset, std = scale * X.mean(0).max(), scale * X.std(0).mean()
    X = contain(scale * X)
    with pytest.raises(ValueError, match="beyond what the arithmetic") as caught:
        getattr(make_estimator(precision=precision), method)(X)
    named = re.findall(
        r"averages up to (\S+) and a standard deviation of (\S+),", str(caught.value)
    )
    assert_allclose([float(number) for number in named[0]], [offset, std], rtol=0.5)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_samples_of_a_dtype_that_cannot_express_the_scale_raise(
    make_estimator, X, scale
):
    model = make_estimator(precision="float64").fit(scale * X)
    with pytest.raises(ValueError, match="the arithmetic in float32 can express"):
        model.predict(np.zeros((3, 5), np.float32))


# --- Outliers that leave nothing to tell the others apart by ------------------------


@pytest.mark.parametrize("value", [1e5, 1e9, 1e20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_entries_are_named(make_estimator, X, value, dtype):
    X = X.astype(dtype)
    X[7, 1], X[40, 0] = value, -value
    with pytest.warns(ConvergenceWarning) as caught:
        make_estimator().fit(X)
    message = "Samples 7, 40 of X: .* replace them by NaN or drop the samples"
    assert any(re.match(message, str(warning.message)) for warning in caught)


def test_an_extreme_entry_of_a_sample_without_weight_is_not_named(make_estimator, X):
    """It does not decide about the scale."""
    X = X.copy()
    X[7, 1] = 1e9
    make_estimator().fit(X, sample_weight=np.arange(150) != 7)


@pytest.mark.filterwarnings("ignore:The initial partition holds:UserWarning")
def test_duplicates_and_a_few_others_are_no_outliers(make_estimator):
    X = np.zeros((100, 2))
    X[3], X[4] = 1, [2, -1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_estimator().fit(X)
    assert not [w for w in caught if str(w.message).startswith("Sample")]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_data_far_from_the_origin_are_clustered(blobs, precision):
    X, y = blobs
    small = {"hidden_layer_sizes": (32,), "pretrain_max_iter": 5, "max_iter": 5}
    model = VaDEClusterer(3, precision=precision, random_state=0, **small)
    model.fit(1e4 + X)
    assert adjusted_rand_score(y, model.labels_) > 0.95


# --- The container of the data ------------------------------------------------------


def memory_mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


@one_start
@pytest.mark.parametrize(
    "contain",
    [
        lambda X, _: X.tolist(),
        lambda X, _: np.asfortranarray(X),
        lambda X, _: np.repeat(X, 2, axis=0)[::2],
        lambda X, _: pd.DataFrame(X).astype(object),
        memory_mapped,
    ],
    ids=["list", "Fortran order", "stride", "objects", "read-only memory map"],
)
def test_clusters_do_not_depend_on_the_container(
    make_estimator, X, fitted, tmp_path, contain
):
    contained = contain(X, tmp_path)
    model = make_estimator().fit(contained)
    assert_array_equal(model.means_, fitted.means_)
    assert_array_equal(model.predict(contained), fitted.labels_)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16])
def test_clusters_hardly_depend_on_the_dtype(make_estimator, X, dtype, start):
    X = (4 * X).round().astype(dtype)
    model = make_estimator().fit(X)
    expected = make_estimator().fit(X.astype(float))
    assert adjusted_rand_score(model.labels_, expected.labels_) > 0.9
    if start == "autoencoder":  # Neighbors at equal distance come in another order.
        assert_array_equal(model.labels_, expected.labels_)
        assert_allclose(model.means_, expected.means_, atol=1e-3)


@one_start
def test_float32_data_are_not_copied(make_estimator, X, monkeypatch):
    """Nor converted to float64, which would take twice the memory."""
    matrices = []
    from_array = Dataset.from_array

    def record(matrix, *arguments):
        matrices.append(matrix)
        return from_array(matrix, *arguments)

    monkeypatch.setattr(Dataset, "from_array", record)
    X = X.astype(np.float32)
    make_estimator().fit(X).partial_fit(X).predict(X)
    assert len(matrices) == 3
    assert all(np.shares_memory(matrix, X) for matrix in matrices)


# --- Missing entries and dtypes of other containers ---------------------------------

METHODS_OF_X = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "transform",
    "reconstruct",
    "impute",
    "score_samples",
    "score",
)

MISSING = {
    "masked array": lambda X: np.ma.masked_array(
        np.nan_to_num(X, nan=1e6), np.isnan(X)
    ),
    "masked infinity": lambda X: np.ma.masked_invalid(np.nan_to_num(X, nan=np.inf)),
    "list of masked arrays": lambda X: [*np.ma.masked_invalid(X)],
    "objects": lambda X: np.where(np.isnan(X), pd.NA, X.astype(object)),
    "lists": lambda X: np.where(np.isnan(X), pd.NA, X.astype(object)).tolist(),
    "None": lambda X: np.where(np.isnan(X), None, X.astype(object)),
    "frame of objects": lambda X: pd.DataFrame(
        np.where(np.isnan(X), pd.NA, X.astype(object))
    ),
    "frame of None": lambda X: pd.DataFrame(
        np.where(np.isnan(X), None, X.astype(object))
    ),
    "frame": pd.DataFrame,
    "nullable frame": lambda X: pd.DataFrame(X).astype("Float64"),
    "lists of NaN": lambda X: X.tolist(),
    "tensor": torch.tensor,
}


@pytest.fixture(scope="module")
def fits_of_missing(make_estimator, X_missing):
    """What `fit` and `partial_fit` make of missing entries, and all predictions."""
    model = make_estimator(pretrain_max_iter=1, max_iter=1)
    fitted, learned = clone(model).fit(X_missing), clone(model).partial_fit(X_missing)
    found = {method: getattr(fitted, method)(X_missing) for method in METHODS_OF_X}
    return fitted, learned, found


@one_start
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", MISSING)
def test_every_mask_is_a_missing_entry(fits_of_missing, X_missing, kind):
    X = MISSING[kind](X_missing)
    fitted, learned, expected = fits_of_missing
    assert_array_equal(clone(fitted).fit(X).means_, fitted.means_)
    assert_array_equal(clone(learned).partial_fit(X).means_, learned.means_)
    for method, result in expected.items():
        assert_array_equal(getattr(fitted, method)(X), result)


@one_start
def test_masked_integers_are_missing(make_estimator, X, X_missing):
    integers = np.round(100 * X).astype(np.int64)
    masked = np.ma.masked_array(integers, np.isnan(X_missing))
    model = make_estimator().fit(masked)
    expected = make_estimator().fit(masked.astype(float).filled(np.nan))
    assert_array_equal(model.means_, expected.means_)


@one_start
def test_masked_weights_and_points_raise(make_estimator, fitted, X):
    weight = np.ma.masked_array(np.ones(150), np.arange(150) < 3)
    for method in (make_estimator().fit, fitted.score):
        with pytest.raises(ValueError, match="Input sample_weight contains NaN"):
            method(X, sample_weight=weight)
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        fitted.inverse_transform(np.ma.masked_array(np.zeros((2, 2)), np.eye(2)))


@one_start
def test_masked_labels_of_init_are_noise(make_estimator, blobs):
    X, y = blobs
    is_unknown = np.arange(150) < 20
    model = make_estimator(init=np.ma.masked_array(y, is_unknown)).fit(X)
    expected = make_estimator(init=np.where(is_unknown, -1, y)).fit(X)
    assert_array_equal(model.means_, expected.means_)


CONTAINERS = {
    "array": lambda X: X,
    "tensor": torch.tensor,
    "tensor with gradients": lambda X: torch.tensor(X, requires_grad=True),
    "frame": pd.DataFrame,
    "sparse": csr_array,
}


@one_start
@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_have_the_dtype_of_X(fitted, X, kind, dtype):
    samples = CONTAINERS[kind](X.astype(dtype))
    for method in ("transform", "reconstruct", "impute"):
        assert getattr(fitted, method)(samples).dtype == dtype
    if kind != "sparse":
        points = CONTAINERS[kind](np.zeros((4, 2), dtype))
        assert fitted.inverse_transform(points).dtype == dtype


@one_start
@pytest.mark.parametrize("dtype", ["Float32", "float32[pyarrow]"])
def test_results_have_the_dtype_of_a_nullable_frame(fitted, X, dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pd.DataFrame(X.astype(np.float32)).astype(dtype)
    assert fitted.transform(frame).dtype == np.float32
    frame[0] = frame[0].astype(dtype.replace("32", "64"))
    assert fitted.transform(frame).dtype == np.float64


@one_start
def test_a_tensor_of_bfloat16_is_converted(fitted, X):
    samples = torch.tensor(X, dtype=torch.bfloat16)
    found = fitted.transform(samples)
    assert found.dtype == np.float64
    assert_array_equal(found, fitted.transform(samples.double().numpy()))


@one_start
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [1e39, 1e300])
def test_points_without_finite_expectation_raise(fitted, value, dtype):
    points = np.full((2, 2), min(value, 1e38 if dtype == "float32" else value))
    points = (3 * points).astype(dtype)
    with pytest.raises(ValueError, match=r"Z has values up to \S+, for which"):
        fitted.inverse_transform(points)
