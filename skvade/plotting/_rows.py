"""The rows that a Display shows, of an array, a table or a sparse matrix."""

from typing import Any

from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing, check_array

__all__ = ["as_array", "choose"]


def choose(X: Any, indices: NDArray) -> Any:
    """Some rows of X, of its own type, as an estimator knows it."""
    # Not all formats of sparse matrices have an index.
    return _safe_indexing(X.tocsr() if issparse(X) else X, indices)


def as_array(rows: Any) -> NDArray:
    """The values of rows, NaN where a table knows none."""
    if issparse(rows):
        return rows.toarray()
    return check_array(rows, ensure_all_finite=False, ensure_min_samples=0)
