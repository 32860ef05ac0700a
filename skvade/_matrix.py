"""Matrices as users have them, dense, sparse or memory-mapped, some rows at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

__all__ = [
    "FLOATS",
    "UNIT",
    "Standardization",
    "Tally",
    "check_indices",
    "equal_weights",
    "gather",
]

# What X may hold; the first is what everything else is converted to.
FLOATS = (np.float64, np.float32)

# Standard deviation, in the networks' unit, of the average feature. Grey images in
# [0, 1] have about this one, and on them the pretraining recipe was found.
UNIT = 0.25

# Values that are measured at a time, few enough for the cache.
CHUNK_VALUES = 2**16


def equal_weights(n_rows: int) -> NDArray[np.float64]:
    """A one for each row, in the memory of a single one."""
    return np.broadcast_to(np.float64(1), n_rows)


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


def check_indices(X: csr_array) -> None:
    """Reject indices that would be read or written beyond the end of a row.

    SciPy takes them as they are, for instance where 32 bits have overflowed.

    Raises
    ------
    ValueError
        If a column index is outside of the matrix, or the rows are out of order.
    """
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
    return X[rows].toarray() if issparse(X) else np.take(X, rows, axis=0)


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
    """An offset per feature and one scale for all: their relative scales remain."""

    location: NDArray[np.float64]
    scale: float

    @classmethod
    def of(
        cls, X: NDArray | csr_array, center: bool, weight: NDArray | None = None
    ) -> Self:
        """Measure X by chunks: the mean of each feature, the average variance of all.

        Each row counts by its weight; without weights all count alike. Without `center`
        the rows keep their origin: in an image or a table of [0, 1] zero is a value of
        its own, and pretraining separates such data better as is.
        """
        weight = equal_weights(X.shape[0]) if weight is None else weight
        first = gather(X, [weight.argmax()])[0].astype(np.float64)
        # Measured from one of the rows, so that constant data deviate by exactly zero.
        moments = [w @ (x - first) for x, w in _chunks(X, weight)]
        location = first + sum(moments) / weight.sum()
        squares = [w @ np.square(x - location).sum(1) for x, w in _chunks(X, weight)]
        deviation = float(np.sqrt(sum(squares) / (weight.sum() * X.shape[1])))
        scale = deviation / UNIT if deviation > 0 else 1.0
        return cls(location if center else np.zeros_like(location), scale)
