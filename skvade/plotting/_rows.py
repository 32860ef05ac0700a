"""The rows that a Display shows, of an array, a table or a sparse matrix."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing

__all__ = ["as_array", "choose"]


def choose(X: Any, indices: NDArray) -> Any:
    """Some rows of X, of its own type, as an estimator knows it."""
    # Not all formats of sparse matrices have an index.
    return _safe_indexing(X.tocsr() if issparse(X) else X, indices)


def as_array(rows: Any) -> NDArray:
    """The values of rows."""
    return rows.toarray() if issparse(rows) else np.asarray(rows)
