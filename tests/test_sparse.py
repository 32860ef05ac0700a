"""Sparse X: the same results as for dense X, in less memory."""

import tracemalloc

import numpy as np
import pytest
from custom_modules import assert_same_networks
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skvade._data import device
from skvade._data.device import resolve_device

# In counts that are mostly zero some clusters stay empty.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = ["predict", "predict_log_proba", "transform", "reconstruct", "score_samples"]


@pytest.fixture(scope="module")
def counts():
    """120 samples of counts, mostly zeros, from three groups."""
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.exponential(0.4, (3, 12)) ** 2, 40, axis=0)
    return rng.poisson(rates).astype(float)


def assert_same_state(model, expected):
    assert_same_networks(model, expected)
    for name, values in expected._scaling.items():
        assert_array_equal(model._scaling[name], values, err_msg=name)
    for name in ("weights_", "means_", "covariances_", "labels_", "init_labels_"):
        assert_array_equal(getattr(model, name), getattr(expected, name), err_msg=name)
    assert vars(model).get("noise_variance_") == vars(expected).get("noise_variance_")
    assert model.lower_bound_ == expected.lower_bound_


def with_int64_indices(X):
    X = sparse.csr_array(X)
    parts = (X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64))
    return sparse.csr_array(parts, shape=X.shape)


def with_integers(X):
    return sparse.csr_array(X.astype(int))


@pytest.mark.parametrize(
    "contain",
    [
        sparse.csr_array,
        sparse.csr_matrix,
        sparse.csc_array,
        sparse.coo_array,
        sparse.dok_array,
        with_int64_indices,
        with_integers,
    ],
)
def test_the_container_does_not_matter(make_estimator, counts, contain):
    model = make_estimator().fit(contain(counts))
    expected = make_estimator().fit(counts)
    assert_same_state(model, expected)
    for method in METHODS:
        values = getattr(model, method)(contain(counts))
        assert type(values) is np.ndarray
        assert_array_equal(values, getattr(expected, method)(counts), err_msg=method)
    assert model.score(contain(counts)) == model.lower_bound_


@pytest.mark.parametrize(
    "change",
    [
        {"likelihood": "bernoulli"},
        {"early_stopping": True},
        {"responsibilities": "sampled"},
        {"init": "gmm"},
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_to_sparse_x_is_that_to_dense_x(make_estimator, counts, dtype, change):
    X, weight = (counts / counts.max()).astype(dtype), np.ones(len(counts))
    model = make_estimator(**change).fit(sparse.csr_array(X), sample_weight=weight)
    assert_same_state(model, make_estimator(**change).fit(X))
    assert model.transform(sparse.csr_array(X)).dtype == dtype


def test_a_warm_start_takes_sparse_x(make_estimator, counts):
    model = make_estimator(warm_start=True).fit(counts).fit(sparse.csr_array(counts))
    assert_same_state(model, make_estimator(warm_start=True).fit(counts).fit(counts))


def test_duplicate_entries_are_summed_and_x_stays_as_it_is(make_estimator, counts):
    """An entry may be stored twice: its value is the sum of both."""
    X = counts / counts.max()
    i, j = np.nonzero(X)
    summands = np.r_[1.5 * X[i, j], -0.5 * X[i, j]]
    order = np.argsort(np.r_[i, i], kind="stable")
    columns, ends = np.r_[j, j][order], np.r_[0, 2 * np.cumsum((X > 0).sum(1))]
    twice = sparse.csr_array((summands[order], columns, ends), shape=X.shape)
    before = twice.data.copy()

    model = make_estimator(likelihood="bernoulli").fit(twice)
    expected = make_estimator(likelihood="bernoulli").fit(X)
    assert_allclose(model.means_, expected.means_, atol=1e-4)
    assert_allclose(model.score(twice), expected.lower_bound_, atol=1e-4)
    assert_array_equal(twice.data, before)
    assert_array_equal(twice.indices, columns)


@pytest.mark.parametrize("cached", [True, False])
def test_x_is_never_dense_as_a_whole(make_estimator, monkeypatch, cached):
    """But for tensors on the device, if that has room for all samples."""
    X = sparse.random_array((6000, 2000), density=2e-3, format="csr", rng=0)
    if not cached:
        monkeypatch.setattr(device, "MAX_CPU_CACHE", 0)
    assert resolve_device("cpu", "float32").fits_on_device(12_000_000) == cached
    model = make_estimator(pretrain_max_iter=1, max_iter=1, batch_size=256)
    tracemalloc.start()
    model.fit(X)
    for method in METHODS[:3] + METHODS[4:]:
        getattr(model, method)(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 8 * X.shape[0] * X.shape[1]


# --- Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, fitted_before", [("fit", False), ("fit", True), ("predict", True)]
)
@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": np.nan}, "Sparse X contains NaN"),
        ({"value": np.inf}, "Input X contains infinity"),
        ({"index": -3}, "Sparse X has column indices from -3 to 11"),
        ({"index": 12}, "Sparse X has column indices from 0 to 12"),
    ],
)
def test_malformed_x_raises_and_leaves_the_estimator_as_it_was(
    make_estimator, counts, method, change, message, fitted_before
):
    model = make_estimator().fit(counts) if fitted_before else make_estimator()
    before = dict(vars(model))
    X = sparse.csr_array(counts)
    X.data[3] = change.get("value", X.data[3])
    X.indices[3] = change.get("index", X.indices[3])
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)


@pytest.mark.parametrize(
    "index, found", [(-(2**31) + 6, "-2147483642 to 11"), (12, "0 to 12")]
)
def test_column_indices_that_do_not_fit_raise(make_estimator, counts, index, found):
    """SciPy takes them as they are, for instance where 32 bits have overflowed."""
    X = sparse.csr_array(counts)
    X.indices[5] = index
    message = f"column indices from {found}, which do not fit its 12 columns"
    with pytest.raises(ValueError, match=message):
        make_estimator().fit(X)


@pytest.mark.parametrize("position, value", [(0, 1), (50, -3), (50, 10**6), (-1, 9999)])
def test_row_pointers_that_do_not_fit_raise(make_estimator, counts, position, value):
    X = sparse.csr_array(counts)
    X.indptr[position] = value
    with pytest.raises(ValueError, match=r"row pointers .* do not rise from 0"):
        make_estimator().fit(X)


@pytest.mark.parametrize("value, low, high", [(-0.5, "-0.5", "1"), (7, "0", "7")])
def test_values_outside_of_the_support_raise(make_estimator, counts, value, low, high):
    X = sparse.csr_array(counts / counts.max())
    X.data[3] = value
    message = f"needs X in .0, 1.. Got values from {low} to {high} instead"
    with pytest.raises(ValueError, match=message):
        make_estimator(likelihood="bernoulli").fit(X)


def test_another_number_of_features_raises(make_estimator, counts):
    model = make_estimator().fit(sparse.csr_array(counts))
    with pytest.raises(ValueError, match="X has 11 features, but VaDEClusterer is exp"):
        model.predict(sparse.csr_array(counts)[:, :11])


def test_no_samples_raise(make_estimator):
    with pytest.raises(ValueError, match=r"0 sample\(s\) \(shape=\(0, 5\)\)"):
        make_estimator().fit(sparse.csr_array((0, 5)))
