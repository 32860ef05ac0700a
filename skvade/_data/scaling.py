"""Statistics of X, from one pass over its samples, and the scaling they lead to."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils import assert_all_finite

__all__ = [
    "MAX_STANDARDIZED_VALUE",
    "SUPPORTED_DTYPES",
    "TARGET_STD",
    "DataSummary",
    "Scaling",
    "WeightStatistics",
    "dense_samples",
    "normalize_weights",
    "take_weights",
    "uniform_weights",
]

# Dtypes that X keeps; anything else is converted to the first.
SUPPORTED_DTYPES = (np.float64, np.float32)

# Standard deviation of the average feature after scaling. Grey images in [0, 1] have
# about this one, and the pretraining recipe was found on them.
TARGET_STD = 0.25

# After scaling: sums of products of larger values overflow in float32.
MAX_STANDARDIZED_VALUE = 1e28

# Values that are summarized at a time: few enough for the processor's cache.
CHUNK_SIZE = 2**17


# --- Sample weights -----------------------------------------------------------------


def uniform_weights(n_samples: int) -> NDArray[np.float64]:
    """Make a weight of one for each sample, in the memory of a single number."""
    return np.broadcast_to(np.float64(1), n_samples)


def take_weights(sample_weight: NDArray, indices: NDArray) -> NDArray:
    """Take the weights of some samples; uniform ones still share their memory."""
    if sample_weight.strides == (0,):
        return np.broadcast_to(sample_weight[0], len(indices))
    return sample_weight[indices]


def normalize_weights(sample_weight: NDArray, mean: float) -> NDArray:
    """Divide by the mean weight; uniform weights still share their memory."""
    if sample_weight.strides == (0,):
        return np.broadcast_to(sample_weight[0] / mean, len(sample_weight))
    return sample_weight / mean


class WeightStatistics(NamedTuple):
    """Number and mean weight of all samples seen so far; zero weights do not count."""

    n_samples: int = 0
    mean: float = 0.0

    def update(self, sample_weight: NDArray) -> Self:
        """Include the weights of further samples."""
        largest = sample_weight.max()  # a sum of the weights could overflow
        positive = (sample_weight / largest)[sample_weight > 0]
        n_samples = self.n_samples + len(positive)
        fraction = len(positive) / n_samples
        mean = (1 - fraction) * self.mean + fraction * largest * positive.mean()
        return type(self)(n_samples, float(mean))


# --- Samples ------------------------------------------------------------------------


def dense_samples(
    X: NDArray | csr_array, indices: Sequence[int] | NDArray | slice
) -> NDArray:
    """Give some samples as a dense array in C order, whatever X is.

    An array of indices gives a copy, a slice may give a view.
    """
    if not issparse(X):
        # np.take would first copy all of an X that is not contiguous.
        return np.ascontiguousarray(X[indices])
    samples: Any = X[indices]
    return samples.toarray()


def _iter_chunks(X: NDArray | csr_array) -> Iterator[tuple[slice, NDArray]]:
    """Iterate over consecutive samples as dense arrays of about `CHUNK_SIZE` values."""
    n_samples, n_features = X.shape
    chunk_length = max(1, CHUNK_SIZE // n_features)
    for start in range(0, n_samples, chunk_length):
        rows = slice(start, min(start + chunk_length, n_samples))
        # Sums over an array depend on its memory layout, in the last digits.
        yield rows, dense_samples(X, rows)


def _weights_of(sample_weight: NDArray | None, rows: slice) -> NDArray | None:
    """Take the weights of consecutive samples, None for uniform ones."""
    if sample_weight is None or sample_weight.strides == (0,):
        return None
    return sample_weight[rows]


class Scaling(NamedTuple):
    """Offset of each feature and one scale for all, so relative scales remain.

    Attributes
    ----------
    location : ndarray of shape (n_features,)
        Subtracted from X; zero where the likelihood does not center.
    scale : float
        X - location is divided by it; the average feature then has a standard deviation
        of `TARGET_STD`.
    feature_mean : ndarray of shape (n_features,)
        Mean of each feature, the first guess at a missing entry.
    """

    location: NDArray[np.float64]
    scale: float
    feature_mean: NDArray[np.float64]


class DataSummary(NamedTuple):
    """What `fit` and the predictions must know of X before they start.

    Attributes
    ----------
    min, max : float
        Extreme values; missing entries do not count.
    has_missing : bool
        Whether an entry is NaN.
    feature_mean : ndarray of shape (n_features,) or None
        Weighted mean of each feature, NaN if all its entries are missing. None unless
        weights were given.
    variance : float
        Weighted variance around these means, the average over all observed entries.
    """

    min: float
    max: float
    has_missing: bool
    feature_mean: NDArray[np.float64] | None = None
    variance: float = 0.0

    @classmethod
    def from_array(
        cls, X: NDArray | csr_array, sample_weight: NDArray | None = None
    ) -> Self:
        """Summarize X in one pass over its samples, in chunks.

        Parameters
        ----------
        X : {ndarray, csr_array} of shape (n_samples, n_features)
            It may be a memory map, and is never copied as a whole.
        sample_weight : ndarray of shape (n_samples,), default=None
            If given, moments are estimated with these weights, one in the mean.

        Raises
        ------
        ValueError
            If X holds infinity, a sample without any observed entry, or NaN where it
            is sparse.
        """
        low, high, has_missing = np.inf, -np.inf, False
        empty: list[NDArray] = []
        moments = None if sample_weight is None else _Moments(X.shape[1])
        for rows, chunk in _iter_chunks(X):
            assert_all_finite(chunk, allow_nan=True, input_name="X")
            low = min(low, np.fmin.reduce(chunk, axis=None))
            high = max(high, np.fmax.reduce(chunk, axis=None))
            missing = np.isnan(chunk)
            if missing.any():
                has_missing = True
                empty.append(rows.start + np.flatnonzero(missing.all(1)))
            if moments is not None:
                moments.update(chunk, _weights_of(sample_weight, rows))
        if empty:
            _check_no_empty_samples(np.concatenate(empty))
        if moments is None:
            return cls(float(low), float(high), has_missing)
        return cls(float(low), float(high), has_missing, *moments.finish())

    def scaling(self, center: bool) -> Scaling:
        """Derive the scaling of X.

        Without `center` the samples keep their origin: in an image or a table of
        [0, 1] zero is a value of its own, and pretraining separates such data better.

        Raises
        ------
        ValueError
            If all entries of a feature are missing.
        """
        assert self.feature_mean is not None
        missing = np.flatnonzero(np.isnan(self.feature_mean))
        if len(missing):
            raise ValueError(
                f"All entries of X are missing in column {_enumerate(missing)}. A "
                "feature of which nothing is known can not be learned. Drop it."
            )
        std = float(np.sqrt(self.variance))
        location = self.feature_mean if center else np.zeros_like(self.feature_mean)
        scale = std / TARGET_STD if std > 0 else 1.0
        return Scaling(location, scale, self.feature_mean)


class _Moments:
    """Weighted mean and variance of each feature, merged over chunks.

    By the update of Chan, Golub and LeVeque (1979). Deviations are measured from a
    value in X, so that digits far from the origin are kept and constant features vary
    by exactly zero.
    """

    def __init__(self, n_features: int) -> None:
        self._origin = np.full(n_features, np.nan)
        self._weight = np.zeros(n_features)  # of the observed entries
        self._mean = np.zeros(n_features)  # of X - origin
        self._squares = np.zeros(n_features)  # weighted sum around the mean

    def update(self, chunk: NDArray, sample_weight: NDArray | None) -> None:
        if sample_weight is None:
            sample_weight = np.ones(len(chunk))
        counted = sample_weight > 0
        if not counted.all():
            chunk, sample_weight = chunk[counted], sample_weight[counted]
        if not len(chunk):
            return
        unset = np.isnan(self._origin)
        if unset.any():
            self._origin[unset] = np.fmin.reduce(chunk)[unset]
        with np.errstate(all="ignore"):  # `finish` detects overflow
            moments = _weighted_moments(chunk - self._origin, sample_weight)
            weight, mean, squares = moments
            total = self._weight + weight
            fraction = weight / np.where(total > 0, total, 1)
            shift = mean - self._mean
            self._squares += squares + self._weight * fraction * np.square(shift)
            self._mean += fraction * shift
            self._weight = total

    def finish(self) -> tuple[NDArray[np.float64], float]:
        """Give the mean of each feature and the average variance of all entries.

        The mean is NaN for a feature without observed entries; what the arithmetic
        cannot express is infinite.
        """
        with np.errstate(all="ignore"):
            mean = self._origin + self._mean
            total = self._weight.sum()
            variance = self._squares.sum() / total if total > 0 else 0.0
        mean[np.isnan(mean) & (self._weight > 0)] = np.inf
        return mean, float(np.nan_to_num(variance, nan=np.inf, posinf=np.inf))


def _weighted_moments(
    deviation: NDArray[np.float64], sample_weight: NDArray[np.float64]
) -> tuple[NDArray, NDArray, NDArray]:
    """Sum weights and squares around the mean over the observed entries of a chunk."""
    missing = np.isnan(deviation)
    if missing.any():
        weight = sample_weight @ ~missing
        deviation[missing] = 0
    else:
        weight = np.full(deviation.shape[1], sample_weight.sum())
    mean = sample_weight @ deviation / np.where(weight > 0, weight, 1)
    deviation -= mean
    deviation[missing] = 0
    return weight, mean, sample_weight @ np.square(deviation)


def _check_no_empty_samples(indices: NDArray) -> None:
    if len(indices):
        raise ValueError(
            f"All entries of X are missing in row {_enumerate(indices)}. Drop such "
            "rows: nothing tells their cluster."
        )


def _enumerate(indices: NDArray) -> str:
    """List the first few of them, for a message."""
    listed = ", ".join(str(index) for index in indices[:5])
    return f"{listed} and {len(indices) - 5} more" if len(indices) > 5 else listed
