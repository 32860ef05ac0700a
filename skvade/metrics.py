"""Measures of a clustering that scikit-learn does not have."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils import check_array, check_consistent_length

__all__ = ["clustering_accuracy"]


def clustering_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Compute the accuracy under the best one-to-one match of clusters and classes.

    The names of clusters are arbitrary. So each cluster is first matched with a class,
    no class twice, such that as many samples as possible agree. This assignment problem
    is solved exactly [1]_. Samples of clusters or classes without a match count as
    errors. It is the usual measure of deep clustering [2]_.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Classes of the samples, of any discrete type.

    y_pred : array-like of shape (n_samples,)
        Clusters of the samples, of any discrete type. A label that means "noise",
        such as -1, is a cluster like any other.

    Returns
    -------
    accuracy : float
        Fraction of the samples that agree, in (0, 1]. It is 1 if the two are the same
        partition. Exchanging ``y_true`` and ``y_pred`` does not change it.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not 1D, or contain NaN or fractions.

    See Also
    --------
    sklearn.metrics.adjusted_rand_score : Agreement of pairs, corrected for chance.
    sklearn.metrics.normalized_mutual_info_score : Shared information, in [0, 1].

    Notes
    -----
    The measure is not corrected for chance. A single cluster scores the fraction of the
    largest class.

    References
    ----------
    .. [1] H. W. Kuhn, "The Hungarian method for the assignment problem",
       Naval Research Logistics Quarterly 2, 1955.
    .. [2] J. Xie, R. Girshick and A. Farhadi, "Unsupervised deep embedding for
       clustering analysis", ICML 2016.

    Examples
    --------
    >>> from skvade.metrics import clustering_accuracy
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    >>> clustering_accuracy([0, 0, 0, 1, 1], [0, 0, 2, 1, 1])
    0.8
    """
    classes = _checked_labels(y_true, "y_true")
    clusters = _checked_labels(y_pred, "y_pred")
    check_consistent_length(classes, clusters)
    counts = contingency_matrix(classes, clusters)  # (n_classes, n_clusters)
    matched = linear_sum_assignment(counts, maximize=True)
    return float(counts[matched].sum() / len(classes))


def _checked_labels(y: ArrayLike, name: str) -> NDArray:
    checked: NDArray = check_array(y, ensure_2d=False, dtype=None, input_name=name)
    if checked.ndim != 1:
        shape = checked.shape
        raise ValueError(f"{name} must be 1D. Got an array of shape {shape} instead.")
    if checked.dtype.kind == "f" and np.any(checked != np.floor(checked)):
        raise ValueError(f"{name} must hold discrete labels. Got fractions instead.")
    return checked
