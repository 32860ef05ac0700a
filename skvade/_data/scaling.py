"""Statistics of X, from one pass over its samples, and the scaling they lead to."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils import assert_all_finite

from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup

__all__ = [
    "MAX_STANDARDIZED_VALUE",
    "SUPPORTED_DTYPES",
    "TARGET_STD",
    "DataSummary",
    "Scaling",
    "WeightStatistics",
    "check_no_empty_features",
    "dense_samples",
    "drop_negligible_weights",
    "enumerate_first",
    "feature_label",
    "fingerprint",
    "iter_chunks",
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

# Of the mean weight: a smaller weight counts as zero. In float32 the share of such a
# sample, or of a group of them, in the weight of all would be zero in any case.
MIN_WEIGHT = 1e-30

# Values that are summarized at a time: few enough for the processor's cache.
CHUNK_SIZE = 2**17


def power_of_two(value: float) -> float:
    """Give the next lower power of two: a unit that rounds no digit."""
    return math.ldexp(0.5, math.frexp(value)[1])


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
    """Divide by the mean weight; uniform weights still share their memory.

    Raises
    ------
    ValueError
        If all weights are below `MIN_WEIGHT` of the mean, that of earlier samples.
    """
    if sample_weight.strides == (0,):
        weights = np.broadcast_to(sample_weight[0] / mean, len(sample_weight))
    else:
        weights = drop_negligible_weights(sample_weight, mean) / mean
    if not weights.max() >= MIN_WEIGHT:
        raise ValueError(
            f"sample_weight has values up to {sample_weight.max():.3g}, but those of "
            f"all samples so far have a mean of {mean:.3g}: the new samples would "
            "count for nothing. Give their weights on the scale of the earlier ones."
        )
    return weights


def drop_negligible_weights(sample_weight: NDArray, mean: float) -> NDArray:
    """Set the weights to zero that are below `MIN_WEIGHT` of the mean."""
    return np.where(sample_weight < MIN_WEIGHT * mean, 0.0, sample_weight)


class WeightStatistics(NamedTuple):
    """Number and mean weight of all samples seen so far; zero weights do not count."""

    n_samples: int = 0
    mean: float = 0.0

    def update(
        self, sample_weight: NDArray, group: ProcessGroup = SINGLE_PROCESS
    ) -> "WeightStatistics":
        """Include the weights of further samples, those of all processes."""
        # In a unit in which sums stay within the range of float64, and the mean of
        # equal weights is exact.
        largest = float(sample_weight.max())
        positive = (sample_weight / largest)[sample_weight > 0]
        mean = largest * float(positive.mean())
        statistics = self
        for other in group.gather(WeightStatistics(len(positive), mean)):
            statistics = statistics._merge(other)
        return statistics

    def _merge(self, other: "WeightStatistics") -> "WeightStatistics":
        unit = power_of_two(max(other.mean, self.mean))
        n_samples = self.n_samples + other.n_samples
        fraction = other.n_samples / n_samples
        mean = fraction * (other.mean / unit) + (1 - fraction) * (self.mean / unit)
        return WeightStatistics(n_samples, mean * unit)


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


def iter_chunks(X: NDArray | csr_array) -> Iterator[tuple[slice, NDArray]]:
    """Iterate over consecutive samples as dense arrays of about `CHUNK_SIZE` values."""
    n_samples, n_features = X.shape
    chunk_length = max(1, CHUNK_SIZE // n_features)
    for start in range(0, n_samples, chunk_length):
        rows = slice(start, min(start + chunk_length, n_samples))
        # Sums over an array depend on its memory layout, in the last digits.
        yield rows, dense_samples(X, rows)


def fingerprint(X: NDArray | csr_array, sample_weight: NDArray) -> dict[str, Any]:
    """Compute what tells X and its weights from others, in one pass over X."""
    matrix: Any = X
    blocks: Iterable[Any] = (chunk for _, chunk in iter_chunks(X))
    if issparse(X):
        blocks = matrix.data, matrix.indices, matrix.indptr
    checksum = 0
    for block in blocks:
        checksum = crc32(block, checksum)
    return {
        "shape of X": X.shape,
        "dtype of X": str(X.dtype),
        "format of X": "sparse" if issparse(X) else "dense",
        "checksum of X": checksum,
        "checksum of sample_weight": crc32(np.ascontiguousarray(sample_weight).data),
    }


def _weights_of(sample_weight: NDArray | None, rows: slice) -> NDArray | None:
    """Take the weights of consecutive samples, None for uniform ones."""
    if sample_weight is None or sample_weight.strides == (0,):
        return None
    return sample_weight[rows]


class Scaling(NamedTuple):
    """Offset of each feature and one scale for all, so relative scales remain.

    Only the features of a table with several likelihoods have scales of their own. They
    apply to what `network_input` makes of X: X itself, or log1p of counts.

    Attributes
    ----------
    location : ndarray of shape (n_features,)
        Subtracted; zero where the likelihood does not center.
    scale : float or ndarray of shape (n_features,)
        The difference is divided by it; the average feature then has a standard
        deviation of `TARGET_STD`.
    feature_mean : ndarray of shape (n_features,)
        Mean of each feature, the first guess at a missing entry.
    mean_count : ndarray of shape (n_features,) or None
        Mean count of each feature, where X is of counts; None otherwise.
    reference_count : ndarray of shape (n_features,) or None
        Mean count of each feature in a sample of the total that the counts of all
        samples are scaled to, for the networks. None where they are not scaled.
    edges : ndarray of shape (n_parts + 1,) or None
        Where the features of each part of a table begin, and where the last one ends.
        None if X has a single likelihood. With parts, the two above are NaN where they
        would be None for a part alone.
    """

    location: NDArray[np.float64]
    scale: float | NDArray[np.float64]
    feature_mean: NDArray[np.float64]
    mean_count: NDArray[np.float64] | None = None
    reference_count: NDArray[np.float64] | None = None
    edges: NDArray[np.int64] | None = None

    @classmethod
    def join(cls, parts: "Sequence[Scaling]") -> "Scaling":
        """Make the scaling of a table from those of its parts."""
        edges = np.cumsum([0, *(len(part.location) for part in parts)])
        scales = [np.broadcast_to(part.scale, part.location.shape) for part in parts]
        return cls(
            np.concatenate([part.location for part in parts]),
            np.concatenate(scales),
            np.concatenate([part.feature_mean for part in parts]),
            _join_optional([part.mean_count for part in parts], edges),
            _join_optional([part.reference_count for part in parts], edges),
            edges,
        )

    def split(self) -> "list[tuple[slice, Scaling]]":
        """Give the features of each part of a table, and their scaling."""
        assert self.edges is not None
        parts = []
        for start, stop in pairwise(self.edges.tolist()):
            features = slice(start, stop)
            part = Scaling(
                self.location[features],
                np.asarray(self.scale)[features],
                self.feature_mean[features],
                _take_optional(self.mean_count, features),
                _take_optional(self.reference_count, features),
            )
            parts.append((features, part))
        return parts

    @property
    def standardized_mean(self) -> NDArray[np.float64]:
        """Mean of each feature after scaling, (n_features,)."""
        return (self.feature_mean - self.location) / self.scale


def _join_optional(parts: list[NDArray | None], edges: NDArray) -> NDArray | None:
    """Join arrays, NaN where there is none; None if there is none at all."""
    if all(part is None for part in parts):
        return None
    joined = np.full(edges[-1], np.nan)
    for part, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
        if part is not None:
            joined[start:stop] = part
    return joined


def _take_optional(values: NDArray | None, features: slice) -> NDArray | None:
    """Take the values of a part that `_join_optional` has joined."""
    if values is None or np.isnan(values[features]).any():
        return None
    return values[features]


class DataSummary(NamedTuple):
    """What `fit` and the predictions must know of X before they start.

    Attributes
    ----------
    feature_min, feature_max : ndarray of shape (n_features,)
        Extreme values of each feature; NaN if all its entries are missing.
    has_missing : bool
        Whether an entry is NaN.
    feature_mean : ndarray of shape (n_features,) or None
        Weighted mean of each feature, NaN if all its entries are missing. None unless
        weights were given.
    std : float
        Square root of the weighted variance around these means, the average over all
        observed entries.
    feature_std : ndarray of shape (n_features,) or None
        The same of each feature; None unless weights were given.
    names : sequence or None
        What errors call the features; None for their positions.
    """

    feature_min: NDArray[np.float64]
    feature_max: NDArray[np.float64]
    has_missing: bool
    feature_mean: NDArray[np.float64] | None = None
    std: float = 0.0
    feature_std: NDArray[np.float64] | None = None
    names: Sequence[Any] | None = None

    @property
    def min(self) -> float:
        """The least value; missing entries do not count."""
        return float(np.fmin.reduce(self.feature_min))

    @property
    def max(self) -> float:
        """The largest value; missing entries do not count."""
        return float(np.fmax.reduce(self.feature_max))

    @classmethod
    def from_array(
        cls,
        X: NDArray | csr_array,
        sample_weight: NDArray | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
        transform: Callable[[NDArray], NDArray] | None = None,
        allow_empty: bool = False,
        names: Sequence[Any] | None = None,
    ) -> Self:
        """Summarize X in one pass over its samples, in chunks.

        Parameters
        ----------
        X : {ndarray, csr_array} of shape (n_samples, n_features)
            It may be a memory map, and is never copied as a whole.
        sample_weight : ndarray of shape (n_samples,), default=None
            If given, moments are estimated with these weights, one in the mean.
        group : ProcessGroup, default=SINGLE_PROCESS
            The summary is that of the samples of all its processes.
        transform : callable, default=None
            The moments are those of what it makes of some samples, (n, n_features);
            None leaves them as they are.
        allow_empty : bool, default=False
            Whether a sample may be without any observed entry, as one may be that has
            entries in other columns of a table.
        names : sequence of length n_features, default=None
            What errors call the features; None for their positions.

        Raises
        ------
        ValueError
            If X holds infinity, a sample without any observed entry, or NaN where it
            is sparse.
        """
        low = high = np.full(X.shape[1], np.nan)
        has_missing = False
        empty: list[NDArray] = []
        moments = None if sample_weight is None else _Moments(X.shape[1])
        for rows, chunk in iter_chunks(X):
            _check_no_infinity(chunk, rows, names)
            low = np.fmin(low, np.fmin.reduce(chunk))
            high = np.fmax(high, np.fmax.reduce(chunk))
            missing = np.isnan(chunk)
            if missing.any():
                has_missing = True
                empty.append(rows.start + np.flatnonzero(missing.all(1)))
            if moments is not None:
                if transform is not None:
                    chunk = transform(chunk)
                moments.update(chunk, _weights_of(sample_weight, rows))
        if empty and not allow_empty:
            _check_no_empty_samples(np.concatenate(empty))
        parts = group.gather((low, high, has_missing, moments))
        lows, highs, missing_flags, all_moments = zip(*parts, strict=True)
        # Of missing entries alone there is no least one.
        extremes = np.fmin.reduce(lows), np.fmax.reduce(highs)
        if moments is None:
            return cls(*extremes, any(missing_flags), names=names)
        moments = all_moments[0]
        for other in all_moments[1:]:
            moments.merge(other)
        summary = cls(*extremes, any(missing_flags), *moments.finish())
        return summary._replace(names=names)

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
        check_no_empty_features(np.isnan(self.feature_mean), self.names)
        location = self.feature_mean if center else np.zeros_like(self.feature_mean)
        scale = self.std / TARGET_STD if self.std > 0 else 1.0
        return Scaling(location, scale, self.feature_mean)


class _Moments:
    """Weighted mean and variance of each feature, merged over chunks.

    By the update of Chan, Golub and LeVeque (1979). Deviations are measured from a
    value in X, so that digits far from the origin are kept and constant features vary
    by exactly zero. They are in a unit of the largest one, so that no square leaves
    the range of float64; a power of two, so that nothing is rounded.
    """

    def __init__(self, n_features: int) -> None:
        self._origin = np.full(n_features, np.nan)
        self._unit = 0.0
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
            deviation = chunk - self._origin
            self._raise_unit(_unit_of(deviation))
            if self._unit > 0:
                deviation /= self._unit
            self._include(*_weighted_moments(deviation, sample_weight))

    def merge(self, other: Self) -> None:
        """Include what was estimated from other samples."""
        unset = np.isnan(self._origin)
        self._origin[unset] = other._origin[unset]
        with np.errstate(all="ignore"):
            shift = np.where(other._weight > 0, other._origin - self._origin, 0.0)
            self._raise_unit(max(other._unit, _unit_of(shift)))
            ratio = 0.0
            if self._unit > 0:
                ratio = other._unit / self._unit
                shift /= self._unit
            mean, squares = ratio * other._mean + shift, ratio**2 * other._squares
            self._include(other._weight, mean, squares)

    def _include(self, weight: NDArray, mean: NDArray, squares: NDArray) -> None:
        """Include moments in the same unit and from the same origin."""
        total = self._weight + weight
        fraction = weight / np.where(total > 0, total, 1)
        shift = mean - self._mean
        self._squares += squares + self._weight * fraction * np.square(shift)
        self._mean += fraction * shift
        self._weight = total

    def _raise_unit(self, unit: float) -> None:
        """Change to a larger unit."""
        if unit > self._unit:
            ratio = self._unit / unit
            self._mean *= ratio
            self._squares *= ratio**2
            self._unit = unit

    def finish(self) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
        """Give means of the features, and standard deviations of all entries and each.

        The mean is NaN for a feature without observed entries; what the arithmetic
        cannot express is infinite.
        """
        with np.errstate(all="ignore"):
            mean = self._origin + self._unit * self._mean
            total = self._weight.sum()
            variance = self._squares.sum() / total if total > 0 else 0.0
            std = self._unit * np.sqrt(variance)
            variances = self._squares / np.where(self._weight > 0, self._weight, 1)
            stds = self._unit * np.sqrt(variances)
        mean[np.isnan(mean) & (self._weight > 0)] = np.inf
        std = float(np.nan_to_num(std, nan=np.inf, posinf=np.inf))
        return mean, std, np.nan_to_num(stds, nan=np.inf, posinf=np.inf)


def _unit_of(deviation: NDArray[np.float64]) -> float:
    """Give the unit that the largest deviation needs."""
    low = np.fmin.reduce(deviation, axis=None)
    high = np.fmax.reduce(deviation, axis=None)
    largest = max(-low, high)
    return power_of_two(largest) if largest > 0 else 0.0


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


def _check_no_infinity(
    chunk: NDArray, rows: slice, names: Sequence[Any] | None
) -> None:
    try:
        with np.errstate(invalid="ignore"):  # a sum of infinite values
            assert_all_finite(chunk, allow_nan=True, input_name="X")
    except ValueError as error:
        row, column = np.argwhere(np.isinf(chunk))[0]
        raise ValueError(
            f"{error} The first is in row {rows.start + row}, column "
            f"{feature_label(names, column)}. Replace it, with NaN where the value is "
            "missing."
        ) from None


def feature_label(names: Sequence[Any] | None, feature: int | np.integer) -> str:
    """Give what an error calls a feature: the name of its column, or its position."""
    return str(feature) if names is None else repr(names[int(feature)])


def check_no_empty_features(is_empty: NDArray, names: Sequence[Any] | None) -> None:
    """Reject columns of X of which all entries are missing.

    Raises
    ------
    ValueError
        Names them. Several features may be of one column.
    """
    labels = [feature_label(names, feature) for feature in np.flatnonzero(is_empty)]
    columns = [*dict.fromkeys(labels)]
    if columns:
        raise ValueError(
            f"All entries of X are missing in column {enumerate_first(columns)}. A "
            "feature of which nothing is known can not be learned. Drop it."
        )


def _check_no_empty_samples(indices: NDArray) -> None:
    if len(indices):
        raise ValueError(
            f"All entries of X are missing in row {enumerate_first(indices)}. Drop "
            "such rows: nothing tells their cluster."
        )


def enumerate_first(indices: Sequence | NDArray) -> str:
    """List the first few of them, for a message."""
    listed = ", ".join(str(index) for index in indices[:5])
    return f"{listed} and {len(indices) - 5} more" if len(indices) > 5 else listed
