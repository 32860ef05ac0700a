"""Indexing and densifying of arrays, dataframes and sparse matrices."""

from typing import Any

from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing, check_array

__all__ = ["safe_indexing", "to_dense"]


def safe_indexing(X: Any, indices: NDArray) -> Any:
    """Select samples of X by index.

    Parameters
    ----------
    X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        Data. Sparse matrices may be of any format.
    indices : ndarray of shape (n_selected,)
        Indices of the samples.

    Returns
    -------
    X_selected : {array-like, sparse matrix, dataframe} of shape \
(n_selected, n_features)
        Selected samples, in the order of `indices`; in CSR format if X is sparse.
    """
    # Not all sparse formats support indexing.
    if issparse(X):
        X = X.tocsr()
    return _safe_indexing(X, indices)


def to_dense(X: Any) -> NDArray:
    """Convert X to a dense array, with NaN for missing values.

    Parameters
    ----------
    X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        Data, perhaps without samples.

    Returns
    -------
    X_dense : ndarray of shape (n_samples, n_features)
        The same values.
    """
    if issparse(X):
        return X.toarray()
    return check_array(X, ensure_all_finite=False, ensure_min_samples=0)
