"""Statistics of X and its scaling, in float64 against NumPy."""

import tracemalloc
from copy import deepcopy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skvade._data import scaling
from skvade._data.process_group import ProcessGroup
from skvade._data.scaling import (
    TARGET_STD,
    DataSummary,
    WeightStatistics,
    dense_samples,
    fingerprint,
    normalize_weights,
    take_weights,
    uniform_weights,
)


@pytest.fixture
def X_sparse():
    """100 samples of 7 features, two thirds of the entries zero."""
    return sparse.random_array((100, 7), density=1 / 3, format="csr", rng=0)


def summarize(X, sample_weight=None):
    """Summarize X with its moments, uniform weights unless others are given."""
    if sample_weight is None:
        sample_weight = uniform_weights(X.shape[0])
    return DataSummary.from_array(X, sample_weight)


def scaling_of(X, sample_weight=None, center=True):
    return summarize(X, sample_weight).scaling(center)


# --- Moments and scaling ------------------------------------------------------------


@pytest.mark.parametrize("offset, scale", [(0, 1), (100, 1e-3), (-5, 1e6)])
@pytest.mark.parametrize("n_samples", [1, 30, 50_000])
def test_moments_are_those_of_numpy(n_samples, offset, scale):
    X = offset + scale * np.random.default_rng(0).normal(size=(n_samples, 4))
    summary = summarize(X)
    assert_allclose(summary.feature_mean, X.mean(0), rtol=1e-12, atol=1e-12 * scale)
    assert_allclose(summary.std, np.sqrt(X.var(0).mean()), rtol=1e-9)
    assert_allclose(summary.feature_std, X.std(0), rtol=1e-9)
    assert (summary.min, summary.max) == (X.min(), X.max())
    location, one_scale, feature_mean, *_ = summary.scaling(center=True)
    assert_array_equal(location, summary.feature_mean)
    assert_array_equal(feature_mean, summary.feature_mean)
    expected = np.sqrt(X.var(0).mean()) / TARGET_STD if n_samples > 1 else 1
    assert_allclose(one_scale, expected, rtol=1e-9)


@pytest.mark.parametrize("offset", [1e8, -1e8])
def test_moments_keep_their_digits_far_from_the_origin(offset):
    """The offset is a multiple of the spacing of the values, so it adds exactly."""
    X = np.random.default_rng(0).integers(-512, 512, size=(50_000, 3)) / 1024
    summary, expected = summarize(X + offset), summarize(X)
    assert_allclose(summary.feature_mean - offset, expected.feature_mean, atol=2e-8)
    assert_allclose(summary.std, expected.std, rtol=1e-9)


def test_scaling_without_centering_keeps_the_scale():
    X = np.random.default_rng(0).uniform(size=(50, 3))
    centered, uncentered = scaling_of(X), scaling_of(X, center=False)
    assert_array_equal(uncentered.location, np.zeros(3))
    assert uncentered.scale == centered.scale
    assert_array_equal(uncentered.feature_mean, centered.location)


def test_moments_of_float32_are_computed_in_float64():
    X = (1e4 + np.random.default_rng(0).normal(size=(50_000, 3))).astype(np.float32)
    location, scale, *_ = scaling_of(X)
    assert location.dtype == np.float64
    exact = X.astype(np.float64)
    assert_allclose(location, exact.mean(0), rtol=1e-12)
    assert_allclose(scale, np.sqrt(exact.var(0).mean()) / TARGET_STD, rtol=1e-6)


# Sums of 0.1 and the like round.
@pytest.mark.parametrize("value", [0, 3, 0.1, 1e8, -1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_data_have_scale_one(value, dtype):
    X = np.full((50_000, 3), value, dtype)
    location, scale, *_ = scaling_of(X)
    assert_array_equal(location, X[0])
    assert scale == 1.0


def test_a_constant_feature_has_no_variance_wherever_it_is_observed_first():
    """Also if all its entries are missing in the first chunk of samples."""
    X = np.full((100_000, 3), 1e8 + 0.1)
    X[:90_000, 1] = np.nan
    summary = summarize(X)
    assert_array_equal(summary.feature_mean, X[-1])
    assert summary.std == 0


@pytest.mark.parametrize("n_samples", [60, 100_000])
@pytest.mark.parametrize("other", [1, -1])
def test_moments_that_overflow_are_infinite(n_samples, other):
    """They must not become a scale of one, as of constant data."""
    X = np.random.default_rng(0).normal(size=(n_samples, 4))
    X[3, 1], X[-1, 1] = 1.7e308, other * 1.7e308
    summary = summarize(X)
    expected = np.sqrt((X / 1e300).var(0).mean()) * 1e300
    assert summary.std in (np.inf, pytest.approx(expected, rel=1e-9))
    assert not np.isnan(summary.feature_mean).any()


@pytest.mark.parametrize("n_samples", [60, 100_000])
@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-163, 1e153, 1e200, 1e305])
def test_moments_of_any_scale(n_samples, scale):
    """Squares of the deviations would be zero or infinite."""
    X = np.random.default_rng(0).normal(size=(n_samples, 4))
    X[::2] *= 1e-3
    found, expected = summarize(scale * X), summarize(X)
    # Denormal numbers have few digits.
    rtol = 1e-3 if scale < 1e-300 else 1e-9
    assert_allclose(found.std / scale, expected.std, rtol=rtol)
    for unit in (scale, 1.0):  # in chunks of another unit each
        parts = np.r_[scale * X, unit * 1e-30 * X]
        deviation = parts / max(scale, unit * 1e-30)
        std = np.sqrt(deviation.var(0).mean()) * max(scale, unit * 1e-30)
        assert_allclose(summarize(parts).std, std, rtol=rtol)


@pytest.mark.parametrize("n_samples", [150, 90_000])
def test_moments_of_weighted_samples_are_those_of_repeated_ones(n_samples):
    rng = np.random.default_rng(0)
    X = 1e4 + rng.normal(size=(n_samples, 3)) * [1, 5, 9]
    weight = rng.integers(4, size=n_samples) + 9 * (np.abs(X[:, 2] - 1e4) > 9)
    location, scale, *_ = scaling_of(X, weight / weight.mean())
    repeated = scaling_of(np.repeat(X, weight, axis=0))
    assert_allclose(location, repeated.location, rtol=1e-12)
    assert_allclose(scale, repeated.scale, rtol=1e-9)
    assert abs(scale - scaling_of(X).scale) > 1e-3 * scale


def test_samples_of_weight_zero_change_no_moment():
    X = np.random.default_rng(0).normal(size=(90_000, 3))
    weight = np.where(np.arange(90_000) < 70_000, 0.0, 1.0)
    X[::7] = np.where(weight[::7, None] > 0, X[::7], 1e300)
    X[1, 0] = np.nan
    summary, expected = summarize(X, weight), summarize(X[70_000:])
    assert_allclose(summary.feature_mean, expected.feature_mean, rtol=1e-9)
    assert_allclose(summary.std, expected.std, rtol=1e-12)
    assert summary.max == 1e300 and summary.has_missing


@pytest.mark.parametrize("n_samples", [150, 90_000])
def test_missing_entries_do_not_count(n_samples):
    """The variance is the average over all observed entries, by their weights."""
    rng = np.random.default_rng(0)
    X = 1e4 + rng.normal(size=(n_samples, 3)) * [1, 5, 9]
    X[rng.random(X.shape) < [0, 0.2, 0.6]] = np.nan
    X[:, 0] = 1e4 + rng.normal(size=n_samples)
    weight = rng.integers(1, 4, size=n_samples) / 2.0
    for w in (uniform_weights(n_samples), weight):
        summary = summarize(X, w)
        counted = w[:, None] * ~np.isnan(X)
        mean = np.nansum(w[:, None] * X, axis=0) / counted.sum(0)
        squares = np.nansum(w[:, None] * (X - mean) ** 2)
        assert_allclose(summary.feature_mean, mean, rtol=1e-12)
        assert_allclose(summary.std, np.sqrt(squares / counted.sum()), rtol=1e-9)
        variance = np.nansum(w[:, None] * (X - mean) ** 2, axis=0) / counted.sum(0)
        assert_allclose(summary.feature_std, np.sqrt(variance), rtol=1e-9)
        assert (summary.min, summary.max) == (np.nanmin(X), np.nanmax(X))
        assert summary.has_missing


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaling_of_sparse_samples_is_that_of_dense_ones(X_sparse, dtype, center):
    X, weight = X_sparse.astype(dtype), np.arange(100.0)
    found = scaling_of(X, weight, center)
    expected = scaling_of(X.toarray(), weight, center)
    assert_array_equal(found.location, expected.location)
    assert_array_equal(found.feature_mean, expected.feature_mean)
    assert found.scale == expected.scale


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_summary_of_a_read_only_memory_map(tmp_path, order, dtype):
    X = np.random.default_rng(0).normal(size=(50_000, 4)).astype(dtype, order=order)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    found, expected = summarize(mapped), summarize(np.ascontiguousarray(X))
    for name in ("feature_min", "feature_max", "feature_mean", "std", "feature_std"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.has_missing == expected.has_missing


def test_a_scaling_needs_moments_of_all_features():
    X = np.ones((10, 3))
    X[:, 1] = np.nan
    summary = summarize(X)
    assert_array_equal(np.isnan(summary.feature_mean), [False, True, False])
    with pytest.raises(ValueError, match="All entries of X are missing in column 1"):
        summary.scaling(center=True)
    X[0, 1] = 1
    weight = np.r_[0.0, np.ones(9)]
    with pytest.raises(ValueError, match="All entries of X are missing in column 1"):
        summarize(X, weight).scaling(center=True)


# --- What predictions must know -----------------------------------------------------


def test_summary_without_weights_has_no_moments(X_sparse):
    X = X_sparse.toarray()
    for given in (X, X_sparse):
        summary = DataSummary.from_array(given)
        assert_array_equal(summary.feature_min, X.min(0))
        assert_array_equal(summary.feature_max, X.max(0))
        assert summary[2:] == (False, None, 0.0, None, None)


def test_missing_entries_are_found_in_any_chunk():
    X = np.zeros((100_000, 3))
    assert not DataSummary.from_array(X).has_missing
    X[-1, 2] = np.nan
    assert DataSummary.from_array(X).has_missing
    summary = DataSummary.from_array(X)
    assert (summary.min, summary.max) == (0, 0)


def test_samples_without_an_observed_entry_are_named():
    X = np.zeros((100_000, 3))
    X[[5, 7, 99_999]] = np.nan
    X[6, :2] = np.nan
    message = r"All entries of X are missing in row 5, 7, 99999\. Drop such rows"
    with pytest.raises(ValueError, match=message):
        DataSummary.from_array(X)
    X[10:20] = np.nan
    with pytest.raises(ValueError, match="in row 5, 7, 10, 11, 12 and 8 more"):
        DataSummary.from_array(X)


@pytest.mark.parametrize("missing", [0, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_are_found(dtype, missing):
    X = np.zeros((100_000, 5), dtype)
    X[7, 2] = missing
    for row in (3, 99_999):
        for infinite in (np.inf, -np.inf):
            X[row, 3] = infinite
            message = rf"contains infinity or .*'{X.dtype}'.* in row {row}, column 3"
            with pytest.raises(ValueError, match=message):
                DataSummary.from_array(X)
            if not np.isnan(missing):
                with pytest.raises(ValueError, match=message):
                    DataSummary.from_array(sparse.csr_array(X))
        X[row, 3] = 0
    DataSummary.from_array(X)
    DataSummary.from_array(sparse.csr_array((3, 3)))


# --- Of several processes -----------------------------------------------------------


class Processes(ProcessGroup):
    """Processes that come one after the other; the last one gets all values."""

    def __init__(self):
        self.values = []

    def gather(self, value):
        self.values.append(deepcopy(value))
        return deepcopy(self.values)


def summarize_shares(X, weight, ends):
    group = Processes()
    shares = zip(np.split(X, ends), np.split(weight, ends), strict=True)
    return [DataSummary.from_array(*share, group) for share in shares][-1]


@pytest.mark.parametrize("factor", [1e-140, 1.0, 1e140])
@pytest.mark.parametrize("ends", [[30], [1, 50, 60]])
def test_moments_of_shares_are_those_of_all_samples(factor, ends):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 4)) * [1, 10, 1e-3, 1] + [1e6, 0, 1, 5]
    X[:, 3] = 0.1  # constant
    X[: ends[0], 1] = np.nan  # missing in the whole first share
    X, weight = X * factor, rng.uniform(0.1, 2, 100)
    found, expected = summarize_shares(X, weight, ends), summarize(X, weight)
    assert (found.min, found.max) == (expected.min, expected.max)
    assert found.has_missing
    assert_allclose(found.feature_mean, expected.feature_mean, rtol=1e-12)
    assert found.std == pytest.approx(expected.std, rel=1e-12)


def test_constant_samples_of_several_shares_do_not_vary():
    assert summarize_shares(np.full((9, 2), 0.1), np.ones(9), [2, 5]).std == 0


def test_weights_of_shares_have_the_statistics_of_all():
    group, earlier = Processes(), WeightStatistics(5, 3.0)
    shares = [np.array([1.0, 0, 5]), np.array([2.0]), np.array([0.25, 4, 0, 8])]
    statistics = [earlier.update(share, group) for share in shares][-1]
    assert statistics.n_samples == 11
    assert statistics.mean == pytest.approx((5 * 3 + 20.25) / 11, rel=1e-15)


# --- Memory -------------------------------------------------------------------------


@pytest.mark.parametrize("view", [np.asarray, lambda X: X[:, 1:]], ids=["C", "view"])
@pytest.mark.parametrize("missing", [0, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_summary_needs_memory_for_a_chunk_only(dtype, missing, view, weighted):
    X = view(np.zeros((100_000, 50), dtype))
    X[7, 7] = missing
    weight = np.arange(100_000.0) if weighted else uniform_weights(100_000)
    peaks = []
    for arguments in ((X,), (X, weight)):
        tracemalloc.start()
        DataSummary.from_array(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Without moments one mask, and copies of two chunks that are not contiguous.
    assert peaks[0] < 3 * scaling.CHUNK_SIZE * X.itemsize
    assert peaks[1] < 8 * scaling.CHUNK_SIZE * 8 < 0.5 * X.size * 8


def test_sparse_samples_become_dense_once_and_a_chunk_at_a_time(monkeypatch):
    sizes, toarray = [], sparse.csr_array.toarray

    def count_values(X, *args, **kwargs):
        sizes.append(np.prod(X.shape))
        return toarray(X, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_array, "toarray", count_values)
    summarize(sparse.csr_array((500, 10_000)))
    assert sum(sizes) == 500 * 10_000
    assert max(sizes) <= scaling.CHUNK_SIZE


def test_more_features_than_a_chunk_has_values(monkeypatch):
    X = np.random.default_rng(0).normal(size=(20, 7))
    expected = summarize(X)
    monkeypatch.setattr(scaling, "CHUNK_SIZE", 3)
    found = summarize(X)
    assert_allclose(found.feature_mean, expected.feature_mean, rtol=1e-12)
    assert_allclose(found.std, expected.std, rtol=1e-12)


# --- Samples ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_dense_samples_are_copies(X_sparse, kind):
    dense, indices = X_sparse.toarray(), np.array([3, 3, 99, 0])
    for X in (kind(X_sparse), dense):
        found = dense_samples(X, indices)
        assert type(found) is np.ndarray
        assert_array_equal(found, dense[indices])
        found[:] = 7
        assert_array_equal(dense_samples(X, indices), dense[indices])


@pytest.mark.parametrize("view", [np.asfortranarray, lambda X: X[:, 1:]])
def test_dense_samples_copy_no_more_than_these(view):
    X, indices = view(np.zeros((10_000, 50))), np.arange(100)
    tracemalloc.start()
    found = dense_samples(X, indices)
    assert tracemalloc.get_traced_memory()[1] < 3 * found.nbytes
    tracemalloc.stop()
    assert found.flags.c_contiguous


# --- Weights ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, sparse.csr_array])
def test_a_fingerprint_depends_on_every_value_and_weight(make):
    X = np.random.default_rng(0).normal(size=(3, scaling.CHUNK_SIZE // 2))  # two chunks
    weights = np.ones(3)
    expected = fingerprint(make(X), weights)
    assert fingerprint(make(X.copy()), uniform_weights(3)) == expected
    if make is not sparse.csr_array:
        assert fingerprint(X, weights) == expected
    for row, column in ((0, 0), (2, -1)):
        other = X.copy()
        other[row, column] += 1e-12
        changed = fingerprint(make(other), weights)
        assert {k for k in expected if changed[k] != expected[k]} == {"checksum of X"}
    weights[-1] += 1e-12
    changed = fingerprint(make(X), weights)
    names = {k for k in expected if changed[k] != expected[k]}
    assert names == {"checksum of sample_weight"}


def test_uniform_weights_stay_in_the_memory_of_a_single_number():
    uniform, indices = uniform_weights(1000), np.arange(10)
    for weight in (
        uniform,
        normalize_weights(uniform, 2.0),
        take_weights(uniform, indices),
    ):
        assert weight.strides == (0,)
    assert_array_equal(normalize_weights(uniform, 2.0), np.full(1000, 0.5))
    assert_array_equal(take_weights(uniform, indices), np.ones(10))


def test_other_weights_follow_their_samples():
    weight = np.array([1.0, 2.0, 4.0])
    assert_array_equal(normalize_weights(weight, 2.0), [0.5, 1, 2])
    assert_array_equal(take_weights(weight, np.array([2, 0])), [4, 1])


def test_weight_statistics_of_several_updates_are_those_of_all_weights():
    parts = [np.array([1.0, 0, 5]), np.array([2.0]), np.array([0.25, 4, 0, 8])]
    statistics = WeightStatistics()
    for part in parts:
        statistics = statistics.update(part)
    positive = np.concatenate(parts)[np.concatenate(parts) > 0]
    assert statistics.n_samples == len(positive) == 6
    assert statistics.mean == pytest.approx(positive.mean(), rel=1e-15)


@pytest.mark.parametrize("factor", [1e-305, 1e305])
def test_weight_statistics_of_extreme_weights_are_finite(factor):
    weight = np.arange(1000) / 10
    statistics = WeightStatistics().update(factor * weight)
    assert statistics.n_samples == 999
    assert statistics.mean == pytest.approx(factor * weight[1:].mean(), rel=1e-12)


def test_uniform_weights_have_the_mean_one_exactly():
    statistics = WeightStatistics().update(uniform_weights(1000))
    assert statistics == (1000, 1.0)
    assert statistics.update(np.ones(77)) == (1077, 1.0)


def test_negligible_weights_are_zero():
    weight = np.array([1e-60, 1.0, 1e-29, 3.0])
    found = normalize_weights(weight, 1.0)
    assert_array_equal(found, [0, 1, 1e-29, 3])
    assert_array_equal(weight, [1e-60, 1.0, 1e-29, 3.0])


@pytest.mark.parametrize("weight", [np.full(3, 1e-60), uniform_weights(3) * 1e-60])
def test_weights_that_are_negligible_beside_earlier_ones_raise(weight):
    with pytest.raises(ValueError, match=r"values up to 1e-60, .* have a mean of 1"):
        normalize_weights(weight, 1.0)
