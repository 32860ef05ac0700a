"""Valid data at the edge: duplicates, constants, few samples, any origin and scale."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

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
    "all equal, with a sum that rounds": (np.full((5000, 3), 0.1), 2),
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_defaults_cluster_data_far_from_the_origin(blobs, precision):
    X, y = blobs
    parameters = {"max_iter": 20, "tol": 0, "random_state": 0}
    model = VaDEClusterer(3, precision=precision, **parameters).fit(1e4 + X)
    assert adjusted_rand_score(y, model.labels_) > 0.95


# --- The container of the data ------------------------------------------------------


def memory_mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


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
    assert adjusted_rand_score(model.labels_, expected.labels_) == 1
    if start == "autoencoder":  # Neighbors at equal distance come in another order.
        assert_array_equal(model.labels_, expected.labels_)
        assert_allclose(model.means_, expected.means_, atol=1e-3)


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
