"""Matrices as users have them, dense, sparse or memory-mapped, some rows at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

__all__ = [
    "FLOATS",
    "UNIT",
    "Standardization",
    "Tally",
    "check_finite",
    "check_observed",
    "check_reach",
    "check_sparse",
    "check_unit",
    "equal_weights",
    "extent",
    "gather",
    "has_missing",
    "in_unit",
    "pick",
]

# What X may hold; the first is what everything else is converted to.
FLOATS = (np.float64, np.float32)

# Standard deviation, in the networks' unit, of the average feature. Grey images in
# [0, 1] have about this one, and on them the pretraining recipe was found.
UNIT = 0.25

# In the networks' unit: sums of products of larger numbers overflow in float32.
REACH = 1e28

# Values that are measured at a time, few enough for the cache.
CHUNK_VALUES = 2**16


def equal_weights(n_rows: int) -> NDArray[np.float64]:
    """A one for each row, in the memory of a single one."""
    return np.broadcast_to(np.float64(1), n_rows)


def pick(weight: NDArray, rows: NDArray) -> NDArray:
    """Weights of some rows; equal ones stay in the memory of a single one."""
    if weight.strides == (0,):
        return np.broadcast_to(weight[0], len(rows))
    return weight[rows]


def in_unit(weight: NDArray, unit: float) -> NDArray:
    """Weights in units of one; equal ones stay in the memory of a single one."""
    if weight.strides == (0,):
        return np.broadcast_to(weight[0] / unit, len(weight))
    return weight / unit


class Tally(NamedTuple):
    """How many rows were learned from so far, and their mean weight."""

    n_rows: int = 0
    mean_weight: float = 0.0

    def add(self, weight: NDArray) -> Self:
        """With the rows of another matrix; those of weight zero do not count."""
        largest = weight.max()  # a sum could overflow
        mean_of_new = largest * (weight / largest)[weight > 0].mean()
        n_new = int(np.count_nonzero(weight))
        share = n_new / (self.n_rows + n_new)
        mean = (1 - share) * self.mean_weight + share * mean_of_new
        return type(self)(self.n_rows + n_new, float(mean))


def has_missing(X: NDArray | csr_array) -> bool:
    """Whether there is a NaN. Sparse rows that were checked hold none."""
    return not issparse(X) and bool(np.isnan(X.min()))


def extent(X: NDArray | csr_array) -> tuple[float, float]:
    """Least and largest value."""
    least, most = X.min(), X.max()
    if np.isnan(least):
        return np.fmin.reduce(X, axis=None), np.fmax.reduce(X, axis=None)
    return least, most


def _some(numbers: list[int]) -> str:
    """The first few of them, for a message."""
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown


def check_finite(X: NDArray | csr_array) -> None:
    """Reject infinities, without a mask of the size of X. NaN is no infinity.

    Raises
    ------
    ValueError
        If a value is infinite, in the words of scikit-learn.
    """
    values: Any = X.data if issparse(X) else X
    if values.size and np.isinf(extent(values)).any():
        raise ValueError(
            "Input X contains infinity or a value too large for dtype"
            f"({values.dtype.name!r})."
        )


def check_unit(standard: "Standardization", least: float, most: float) -> None:
    """Reject a unit that the arithmetic can not express.

    Raises
    ------
    ValueError
        If the scale, or an offset, is not from `least` to `most`.
    """
    offset = np.abs(standard.location).max()
    if not (least <= standard.scale <= most and offset <= most):
        raise ValueError(
            f"X has averages up to {offset:.3g} and a standard deviation of "
            f"{standard.scale * UNIT:.3g}, which is beyond what the arithmetic of the "
            "networks can express. Look for wild values in X, or rescale it, for "
            "instance with MaxAbsScaler."
        )


def check_reach(X: NDArray | csr_array, standard: "Standardization") -> None:
    """Reject rows so far out that answers for them would be NaN.

    Raises
    ------
    ValueError
        If a standardized value could exceed `REACH`.
    """
    largest = max(map(abs, extent(X)))
    offset = np.abs(standard.location).max()
    if not (largest + offset) / standard.scale <= REACH:
        raise ValueError(
            f"X has values up to {largest:.3g}, but the rows that the model is fitted "
            f"to vary by {standard.scale * UNIT:.3g}: the arithmetic of the networks "
            "does not reach that far. Look for wild values in X."
        )


def check_observed(X: NDArray) -> None:
    """Reject rows of which nothing is known.

    Raises
    ------
    ValueError
        If all entries of a row are missing.
    """
    if not has_missing(X):
        return
    chunks = _chunks(X, equal_weights(len(X)))
    empty = [np.isnan(x).all(1) for x, _ in chunks]
    rows = np.flatnonzero(np.concatenate(empty)).tolist()
    if rows:
        raise ValueError(
            f"All entries of X are missing in row {_some(rows)}. Drop such rows: "
            "nothing tells their cluster."
        )


def check_sparse(X: csr_array) -> None:
    """Reject sparse rows with NaN, or with indices beyond the end of a row.

    SciPy takes indices as they are, for instance where 32 bits have overflowed.

    Raises
    ------
    ValueError
        If a value is NaN, a column index is outside of the matrix, or the rows are out
        of order.
    """
    if np.isnan(X.data).any():
        raise ValueError(
            "Sparse X contains NaN. Missing entries are understood in dense X only: "
            "in sparse X, what is not stored is zero."
        )
    columns, ends = X.indices, X.indptr
    if len(columns) and not (columns.min() >= 0 and columns.max() < X.shape[1]):
        raise ValueError(
            f"Sparse X has column indices from {columns.min()} to {columns.max()}, "
            f"which do not fit its {X.shape[1]} columns. Was an integer type too small?"
        )
    if (np.diff(ends) < 0).any() or ends[0] != 0 or ends[-1] > len(columns):
        raise ValueError(
            "Sparse X has row pointers (indptr) that do not rise from 0 to the number "
            "of its values. Was an integer type too small?"
        )


def gather(X: NDArray | csr_array, rows: Sequence[int] | NDArray) -> NDArray:
    """Copies of some rows, dense whatever X is."""
    if not issparse(X):
        # np.take would first copy all of an X that is not contiguous row by row.
        return np.ascontiguousarray(X[rows])
    taken: Any = X[rows]
    return taken.toarray()


def _chunks(
    X: NDArray | csr_array, weight: NDArray
) -> Iterator[tuple[NDArray, NDArray]]:
    """The rows that count at all and their weights, some at a time."""
    members = np.flatnonzero(weight)
    n_rows = max(1, CHUNK_VALUES // X.shape[1])
    for start in range(0, len(members), n_rows):
        chunk = members[start : start + n_rows]
        yield gather(X, chunk), weight[chunk]


class Standardization(NamedTuple):
    """An offset per feature and one scale for all: their relative scales remain.

    `average`, of each feature, is the first guess at a missing entry.
    """

    location: NDArray[np.float64]
    scale: float
    average: NDArray[np.float64]

    @classmethod
    def of(
        cls, X: NDArray | csr_array, center: bool, weight: NDArray | None = None
    ) -> Self:
        """Measure X by chunks: the mean of each feature, the average variance of all.

        Each row counts by its weight; without weights all count alike. What is missing
        does not count. Without `center` the rows keep their origin: in an image or a
        table of [0, 1] zero is a value of its own, and pretraining separates such data
        better as is.

        Raises
        ------
        ValueError
            If all entries of a feature are missing, in the rows that count.
        """
        weight = equal_weights(X.shape[0]) if weight is None else weight
        # Measured from values in X, so that constant data deviate by exactly zero.
        origin = _origin(X, weight)
        counts = _counts(X, weight)
        moments = (w @ _deviations(x, origin) for x, w in _chunks(X, weight))
        average = origin + sum(moments) / counts
        squares = (
            w @ np.square(_deviations(x, average)).sum(1) for x, w in _chunks(X, weight)
        )
        with np.errstate(over="ignore"):  # `check_unit` is told
            deviation = float(np.sqrt(sum(squares) / counts.sum()))
        scale = deviation / UNIT if deviation > 0 else 1.0
        return cls(average if center else np.zeros_like(average), scale, average)


def _origin(X: NDArray | csr_array, weight: NDArray) -> NDArray[np.float64]:
    """A value of each feature."""
    row = gather(X, [int(weight.argmax())])[0]
    if np.isnan(row).any():
        row = np.fmin.reduce([np.fmin.reduce(x) for x, _ in _chunks(X, weight)])
    return row.astype(np.float64)


def _counts(X: NDArray | csr_array, weight: NDArray) -> NDArray[np.float64]:
    """Weight of the values of each feature."""
    if not has_missing(X):
        return np.full(X.shape[1], weight.sum())
    counts = sum(w @ ~np.isnan(x) for x, w in _chunks(X, weight))
    if not counts.all():
        columns = np.flatnonzero(counts == 0).tolist()
        raise ValueError(
            f"All entries of X are missing in column {_some(columns)}. A feature of "
            "which nothing is known can not be learned. Drop it."
        )
    return counts


def _deviations(x: NDArray, origin: NDArray) -> NDArray[np.float64]:
    """Of dense rows, zero where an entry is missing."""
    deviations = x - origin
    deviations[np.isnan(deviations)] = 0
    return deviations
