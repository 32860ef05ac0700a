"""From an embedding to the mixture that training starts from, with scikit-learn."""

from typing import Any, NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import has_fit_parameter

from skvade._matrix import equal_weights
from skvade._warnings import warn

__all__ = [
    "InitialMixture",
    "check_labels",
    "check_weights",
    "initial_mixture",
    "moments_of_partition",
    "seeded_clone",
]


class InitialMixture(NamedTuple):
    """K diagonal Gaussians: weights (K,), means (K, L), variances (K, L)."""

    weights: NDArray
    means: NDArray
    variances: NDArray


def check_labels(labels: NDArray, n_clusters: int, n_samples: int, source: str) -> None:
    """Reject a partition that does not fit the rows or the number of components.

    Raises
    ------
    ValueError
        If there is not one label per row, or more groups than components.
    """
    if labels.shape != (n_samples,):
        raise ValueError(
            f"{source} must give one label per row, shape ({n_samples},). "
            f"Got shape {labels.shape} instead."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{source} must give integers. Got {labels.dtype} instead. LabelEncoder "
            "turns other labels into integers."
        )
    n_groups = len(np.unique(labels[labels >= 0]))
    if not n_groups:
        raise ValueError(
            f"{source} puts no row to train on into a group: all labels there are "
            "negative, which stands for noise. Give labels from 0, or a clusterer that "
            "takes fewer rows as noise."
        )
    if n_groups > n_clusters:
        raise ValueError(
            f"{source} has {n_groups} groups of rows, which does not fit "
            f"n_clusters={n_clusters}. Set n_clusters to the number of groups or more."
        )


def _moments(Z: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Weighted mean and variance of each column."""
    mean = np.average(Z, axis=0, weights=weight)
    return mean, np.average(np.square(Z - mean), axis=0, weights=weight)


def _draw(n_rows: int, weight: NDArray, rng: RandomState) -> NDArray:
    """Random rows by their weight, distinct where there are enough."""
    p = weight / weight.sum()
    return rng.choice(len(weight), n_rows, replace=n_rows > len(weight), p=p)


def moments_of_partition(
    embedding: NDArray,
    labels: NDArray,
    n_clusters: int,
    rng: RandomState,
    weight: NDArray | None = None,
) -> InitialMixture:
    """Weights, means and variances of the groups of rows with one label.

    Rows count by their weight, or all alike. Negative labels mean noise: such rows
    belong to no group. Every group counts one row more, spread as the average group is,
    so that a group of equal rows keeps a width. Components without a group start at
    random rows.
    """
    weight = equal_weights(len(labels)) if weight is None else weight
    groups = np.unique(labels[labels >= 0])
    members = [np.flatnonzero(labels == group) for group in groups]
    counts = np.array([weight[rows].sum() for rows in members])
    moments = [_moments(embedding[rows], weight[rows]) for rows in members]
    means, spread = map(np.array, zip(*moments, strict=True))
    pooled = np.average(spread, axis=0, weights=counts)
    variances = (counts[:, None] * spread + pooled) / (counts[:, None] + 1)

    n_missing = n_clusters - len(groups)
    if n_missing:
        warn(
            f"The initial partition holds {len(groups)} of {n_clusters} clusters; the "
            "others start at random rows and may stay empty. Lower n_clusters if the "
            "data hold fewer clusters."
        )
        means = np.vstack([means, embedding[_draw(n_missing, weight, rng)]])
        variances = np.vstack([variances, np.tile(pooled, (n_missing, 1))])
        counts = np.append(counts, np.ones(n_missing))
    return InitialMixture(counts / counts.sum(), means, variances)


def _by_kmeans(
    Z: NDArray, weight: NDArray, n_clusters: int, n_init: int, rng: RandomState
) -> InitialMixture:
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=rng)
    labels = kmeans.fit_predict(Z, sample_weight=weight)
    return moments_of_partition(Z, labels, n_clusters, rng, weight)


def _by_em(
    Z: NDArray, weight: NDArray, n_clusters: int, n_init: int, rng: RandomState
) -> InitialMixture:
    mixture = GaussianMixture(
        n_clusters, covariance_type="diag", n_init=n_init, random_state=rng
    ).fit(Z)
    return InitialMixture(mixture.weights_, mixture.means_, mixture.covariances_)


def _at_random(
    Z: NDArray, weight: NDArray, n_clusters: int, n_init: int, rng: RandomState
) -> InitialMixture:
    means = Z[_draw(n_clusters, weight, rng)]
    variances = np.tile(_moments(Z, weight)[1], (n_clusters, 1))
    return InitialMixture(np.full(n_clusters, 1 / n_clusters), means, variances)


METHODS = {"kmeans": _by_kmeans, "gmm": _by_em, "random": _at_random}


def check_weights(weight: NDArray, init: Any) -> None:
    """Reject weights that the start can not heed.

    Raises
    ------
    ValueError
        If rows that count differ in weight, and `init` is "gmm".
    """
    counting = weight[weight > 0]
    if isinstance(init, str) and init == "gmm" and np.ptp(counting) > 0:
        raise ValueError(
            "init='gmm' can not heed sample_weight: scikit-learn's GaussianMixture "
            "takes no weights. Use init='kmeans', or give the mixture as a clusterer, "
            "init=GaussianMixture(...), if the partition need not heed them."
        )


def seeded_clone(estimator: BaseEstimator, rng: RandomState) -> BaseEstimator:
    """A clone whose open seeds come from our own generator."""
    estimator = clone(estimator)
    parameters = sorted(estimator.get_params().items())
    seeds = [k for k, v in parameters if k.endswith("random_state") and v is None]
    largest = np.iinfo(np.int32).max
    return estimator.set_params(**{name: rng.randint(largest) for name in seeds})


def _partition(
    clusterer: BaseEstimator, Z: NDArray, weight: NDArray, rng: RandomState
) -> NDArray:
    """What a clone of the clusterer finds, with the weights if it takes any."""
    heeds = has_fit_parameter(clusterer, "sample_weight")
    weights = {"sample_weight": weight} if heeds else {}
    return np.asarray(seeded_clone(clusterer, rng).fit_predict(Z, **weights))


def initial_mixture(
    embedding: NDArray,
    init: Any,
    n_clusters: int,
    n_init: int,
    rng: RandomState,
    weight: NDArray | None = None,
) -> InitialMixture:
    """Mixture on the embedding (n, L).

    `init` is a key of `METHODS`, an array of labels (n,), or a clusterer, of which a
    clone is fitted. Rows count by their `weight`, (n,), which is positive and one on
    average, or all alike.
    """
    weight = equal_weights(len(embedding)) if weight is None else weight
    if isinstance(init, str):
        return METHODS[init](embedding, weight, n_clusters, n_init, rng)
    if hasattr(init, "fit_predict"):
        labels = _partition(init, embedding, weight, rng)
        source = f"The clusterer given as init, {init!r},"
        check_labels(labels, n_clusters, len(embedding), source)
    else:
        labels = np.asarray(init)
        check_labels(labels, n_clusters, len(embedding), "The array given as init")
    return moments_of_partition(embedding, labels, n_clusters, rng, weight)
