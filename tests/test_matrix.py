import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skvade._matrix import (
    UNIT,
    Standardization,
    check_finite,
    check_sparse,
    equal_weights,
    gather,
    in_unit,
    pick,
)


@pytest.fixture
def holey():
    """100 rows, two thirds of them zeros."""
    return sparse.random_array((100, 7), density=1 / 3, format="csr", rng=0)


# --- Standardization ----------------------------------------------------------------


@pytest.mark.parametrize("offset, scale", [(0, 1), (100, 1e-3), (-5, 1e6)])
@pytest.mark.parametrize("n_samples", [1, 30, 50_000])
def test_standardization_is_numpys(n_samples, offset, scale):
    X = offset + scale * np.random.default_rng(0).normal(size=(n_samples, 4))
    location, one_scale, _ = Standardization.of(X, center=True)
    assert_allclose(location, X.mean(0), rtol=1e-12, atol=1e-12 * scale)
    expected = np.sqrt(X.var(0).mean()) / UNIT if n_samples > 1 else 1
    assert_allclose(one_scale, expected, rtol=1e-9)


def test_standardization_without_center_keeps_the_scale():
    X = np.random.default_rng(0).uniform(size=(50, 3))
    centered = Standardization.of(X, center=True)
    uncentered = Standardization.of(X, center=False)
    assert_array_equal(uncentered.location, np.zeros(3))
    assert uncentered.scale == centered.scale


def test_standardization_of_float32_is_measured_in_float64():
    X = (1e4 + np.random.default_rng(0).normal(size=(50_000, 3))).astype(np.float32)
    location, scale, _ = Standardization.of(X, center=True)
    assert location.dtype == np.float64
    exact = X.astype(np.float64)
    assert_allclose(location, exact.mean(0), rtol=1e-12)
    assert_allclose(scale, np.sqrt(exact.var(0).mean()) / UNIT, rtol=1e-6)


# 0.1 and the like: values whose sums round.
@pytest.mark.parametrize("value", [0, 3, 0.1, 1e8, -1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_data_have_scale_one(value, dtype):
    X = np.full((50_000, 3), value, dtype)
    assert Standardization.of(X, center=True).scale == 1.0


@pytest.mark.parametrize("n_rows", [150, 90_000])
def test_the_unit_of_weighted_rows_is_that_of_repeated_ones(n_rows):
    rng = np.random.default_rng(0)
    X = 1e4 + rng.normal(size=(n_rows, 3)) * [1, 5, 9]
    weight = rng.integers(4, size=n_rows) + 9 * (np.abs(X[:, 2] - 1e4) > 9)
    location, scale, _ = Standardization.of(X, True, weight / weight.mean())
    repeated = Standardization.of(np.repeat(X, weight, axis=0), True)
    assert_allclose(location, repeated.location, rtol=1e-12)
    assert_allclose(scale, repeated.scale, rtol=1e-9)
    assert abs(scale - Standardization.of(X, True).scale) > 1e-3 * scale


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_unit_of_sparse_rows_is_that_of_dense_ones(holey, dtype, center):
    X, weight = holey.astype(dtype), np.arange(100.0)
    found = Standardization.of(X, center, weight)
    expected = Standardization.of(X.toarray(), center, weight)
    assert_array_equal(found.location, expected.location)
    assert found.scale == expected.scale


def test_measuring_makes_few_rows_dense_at_a_time(monkeypatch):
    sizes, toarray = [], sparse.csr_array.toarray

    def spy(X, *args, **kwargs):
        sizes.append(np.prod(X.shape))
        return toarray(X, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_array, "toarray", spy)
    Standardization.of(sparse.csr_array((500, 10_000)), True)
    assert sum(sizes) > 2 * 500 * 10_000
    assert max(sizes) <= 2**16


# --- Rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_gathered_rows_are_dense_copies(holey, kind):
    dense, rows = holey.toarray(), np.array([3, 3, 99, 0])
    for X in (kind(holey), dense):
        found = gather(X, rows)
        assert type(found) is np.ndarray
        assert_array_equal(found, dense[rows])
        found[:] = 7
        assert_array_equal(gather(X, rows), dense[rows])


@pytest.mark.parametrize("view", [np.asfortranarray, lambda X: X[:, 1:]])
def test_gathering_copies_no_more_than_the_rows(view):
    X, rows = view(np.zeros((10_000, 50))), np.arange(100)
    tracemalloc.start()
    found = gather(X, rows)
    assert tracemalloc.get_traced_memory()[1] < 3 * found.nbytes
    tracemalloc.stop()
    assert found.flags.c_contiguous


@pytest.mark.parametrize("missing", [0, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_are_found_in_the_memory_that_there_is(dtype, missing):
    X = np.zeros((10_000, 50), dtype)
    X[7, 7] = missing
    tracemalloc.start()
    check_finite(X)
    assert tracemalloc.get_traced_memory()[1] < 0.01 * X.nbytes
    tracemalloc.stop()
    for infinite in (np.inf, -np.inf):
        X[3, 3] = infinite
        message = rf"contains infinity or a value too large for dtype\('{X.dtype}'\)"
        with pytest.raises(ValueError, match=message):
            check_finite(X)
        with pytest.raises(ValueError, match=message):
            check_finite(sparse.csr_array(X))
    check_finite(sparse.csr_array((3, 3)))


def test_indices_that_do_not_fit(holey):
    check_sparse(holey)
    check_sparse(sparse.csr_array((3, 0)))
    overflown, high = holey.copy(), holey.copy()
    overflown.indices[5] = -(2**31) + 6
    high.indices[5] = 7
    for X, found in ((overflown, "-2147483642 to 6"), (high, "0 to 7")):
        message = f"column indices from {found}, which do not fit its 7 columns"
        with pytest.raises(ValueError, match=message):
            check_sparse(X)


@pytest.mark.parametrize("position, value", [(0, 1), (50, -3), (50, 10**6), (-1, 999)])
def test_row_pointers_that_do_not_fit(holey, position, value):
    holey.indptr[position] = value
    with pytest.raises(ValueError, match=r"row pointers .* do not rise from 0"):
        check_sparse(holey)


# --- Weights ------------------------------------------------------------------------


def test_weights_that_are_equal_stay_in_the_memory_of_one():
    equal, rows = equal_weights(1000), np.arange(10)
    for weight in (in_unit(equal, 2.0), pick(equal, rows)):
        assert weight.strides == (0,)
    assert_array_equal(in_unit(equal, 2.0), np.full(1000, 0.5))
    assert_array_equal(pick(equal, rows), np.ones(10))


def test_weights_that_differ_follow_their_rows():
    weight = np.array([1.0, 2.0, 4.0])
    assert_array_equal(in_unit(weight, 2.0), [0.5, 1, 2])
    assert_array_equal(pick(weight, np.array([2, 0])), [4, 1])
