"""Sparse rows: the same answers as dense ones, without the memory of dense ones."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

# Of the two thirds of zeros come clusters that hold no row.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = ["predict", "predict_log_proba", "transform", "reconstruct", "score_samples"]


@pytest.fixture(scope="module")
def counts():
    """120 rows of counts, mostly zeros, of three kinds."""
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.exponential(0.4, (3, 12)) ** 2, 40, axis=0)
    return rng.poisson(rates).astype(float)


def assert_same_state(model, expected):
    for name, values in expected._parameters.items():
        assert_array_equal(model._parameters[name], values, err_msg=name)
    assert_array_equal(model.labels_, expected.labels_)
    assert model.lower_bound_ == expected.lower_bound_


def with_int64_indices(X):
    X = sparse.csr_array(X)
    parts = (X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64))
    return sparse.csr_array(parts, shape=X.shape)


def of_python_objects(X):
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
        of_python_objects,
    ],
)
def test_the_container_does_not_matter(make_estimator, counts, contain):
    model, expected = (
        make_estimator().fit(contain(counts)),
        make_estimator().fit(counts),
    )
    assert_same_state(model, expected)
    for method in METHODS:
        answer = getattr(model, method)(contain(counts))
        assert type(answer) is np.ndarray
        assert_array_equal(answer, getattr(expected, method)(counts), err_msg=method)
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
def test_sparse_rows_are_fitted_as_dense_ones(make_estimator, counts, dtype, change):
    X, weight = (counts / counts.max()).astype(dtype), np.ones(len(counts))
    model = make_estimator(**change).fit(sparse.csr_array(X), sample_weight=weight)
    assert_same_state(model, make_estimator(**change).fit(X))
    assert model.transform(sparse.csr_array(X)).dtype == dtype


def test_a_warm_start_takes_sparse_rows(make_estimator, counts):
    model = make_estimator(warm_start=True).fit(counts).fit(sparse.csr_array(counts))
    assert_same_state(model, make_estimator(warm_start=True).fit(counts).fit(counts))


def test_values_in_pieces_are_summed_and_stay_as_they_are(make_estimator, counts):
    """A place may be stored twice: its value is the sum of both."""
    X = counts / counts.max()
    i, j = np.nonzero(X)
    pieces = np.r_[1.5 * X[i, j], -0.5 * X[i, j]]
    order = np.argsort(np.r_[i, i], kind="stable")
    columns, ends = np.r_[j, j][order], np.r_[0, 2 * np.cumsum((X > 0).sum(1))]
    twice = sparse.csr_array((pieces[order], columns, ends), shape=X.shape)
    before = twice.data.copy()

    model = make_estimator(likelihood="bernoulli").fit(twice)
    expected = make_estimator(likelihood="bernoulli").fit(X)
    assert_allclose(model.means_, expected.means_, atol=1e-4)
    assert_allclose(model.score(twice), expected.lower_bound_, atol=1e-4)
    assert_array_equal(twice.data, before)
    assert_array_equal(twice.indices, columns)


def test_rows_are_never_dense_as_a_whole(make_estimator):
    X = sparse.random_array((6000, 2000), density=2e-3, format="csr", rng=0)
    model = make_estimator(pretrain_max_iter=1, max_iter=1, n_init=1)
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
    "spoil, message",
    [
        ({"value": np.nan}, "Sparse X contains NaN"),
        ({"value": np.inf}, "Input X contains infinity"),
        ({"index": -3}, "Sparse X has column indices from -3 to 11"),
        ({"index": 12}, "Sparse X has column indices from 0 to 12"),
    ],
)
def test_malformed_rows(make_estimator, counts, method, spoil, message, fitted_before):
    model = make_estimator().fit(counts) if fitted_before else make_estimator()
    before = dict(vars(model))
    X = sparse.csr_array(counts)
    X.data[3] = spoil.get("value", X.data[3])
    X.indices[3] = spoil.get("index", X.indices[3])
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)


@pytest.mark.parametrize("value, low, high", [(-0.5, "-0.5", "1"), (7, "0", "7")])
def test_values_that_no_probability_fits(make_estimator, counts, value, low, high):
    X = sparse.csr_array(counts / counts.max())
    X.data[3] = value
    message = f"needs X in .0, 1.. Got values from {low} to {high} instead"
    with pytest.raises(ValueError, match=message):
        make_estimator(likelihood="bernoulli").fit(X)


def test_sparse_rows_of_another_width(make_estimator, counts):
    model = make_estimator().fit(sparse.csr_array(counts))
    with pytest.raises(ValueError, match="X has 11 features, but VaDEClusterer is exp"):
        model.predict(sparse.csr_array(counts)[:, :11])


def test_no_rows(make_estimator):
    with pytest.raises(ValueError, match=r"0 sample\(s\) \(shape=\(0, 5\)\)"):
        make_estimator().fit(sparse.csr_array((0, 5)))
