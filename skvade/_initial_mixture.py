"""From an embedding to the mixture that training starts from, with scikit-learn."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

__all__ = ["InitialMixture", "check_labels", "initial_mixture", "moments_of_partition"]


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
    if not 1 <= n_groups <= n_clusters:
        raise ValueError(
            f"{source} has {n_groups} groups of rows, which does not fit "
            f"n_clusters={n_clusters}. Set n_clusters to the number of groups or more."
        )


def moments_of_partition(
    embedding: NDArray, labels: NDArray, n_clusters: int, rng: RandomState
) -> InitialMixture:
    """Weights, means and variances of the groups of rows with one label.

    Negative labels mean noise: such rows belong to no group. Every group counts one
    row more, spread as the average group is, so that a group of equal rows keeps a
    width. Components without a group start at random rows.
    """
    groups = np.unique(labels[labels >= 0])
    members = [np.flatnonzero(labels == group) for group in groups]
    counts = np.array([len(rows) for rows in members], dtype=float)
    means = np.array([embedding[rows].mean(0) for rows in members])
    spread = np.array([embedding[rows].var(0) for rows in members])
    pooled = np.average(spread, axis=0, weights=counts)
    variances = (counts[:, None] * spread + pooled) / (counts[:, None] + 1)

    n_missing = n_clusters - len(groups)
    if n_missing:
        warnings.warn(
            f"The initial partition holds {len(groups)} groups for {n_clusters} "
            f"components; {n_missing} start at random rows and may stay empty. "
            "Lower n_clusters if the data hold fewer clusters.",
            stacklevel=2,
        )
        rows = rng.choice(len(embedding), n_missing, replace=n_missing > len(embedding))
        means = np.vstack([means, embedding[rows]])
        variances = np.vstack([variances, np.tile(pooled, (n_missing, 1))])
        counts = np.append(counts, np.ones(n_missing))
    return InitialMixture(counts / counts.sum(), means, variances)


def _by_kmeans(Z: NDArray, n_clusters: int, n_init: int, rng: RandomState) -> Any:
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=rng)
    return moments_of_partition(Z, kmeans.fit_predict(Z), n_clusters, rng)


def _by_em(Z: NDArray, n_clusters: int, n_init: int, rng: RandomState) -> Any:
    mixture = GaussianMixture(
        n_clusters, covariance_type="diag", n_init=n_init, random_state=rng
    ).fit(Z)
    return InitialMixture(mixture.weights_, mixture.means_, mixture.covariances_)


def _at_random(Z: NDArray, n_clusters: int, n_init: int, rng: RandomState) -> Any:
    rows = rng.choice(len(Z), n_clusters, replace=False)
    weights = np.full(n_clusters, 1 / n_clusters)
    return InitialMixture(weights, Z[rows], np.tile(Z.var(0), (n_clusters, 1)))


METHODS = {"kmeans": _by_kmeans, "gmm": _by_em, "random": _at_random}


def _seeded_clone(clusterer: BaseEstimator, rng: RandomState) -> BaseEstimator:
    """A clone whose open seeds come from our own generator."""
    clusterer = clone(clusterer)
    parameters = sorted(clusterer.get_params().items())
    seeds = [k for k, v in parameters if k.endswith("random_state") and v is None]
    largest = np.iinfo(np.int32).max
    return clusterer.set_params(**{name: rng.randint(largest) for name in seeds})


def initial_mixture(
    embedding: NDArray, init: Any, n_clusters: int, n_init: int, rng: RandomState
) -> InitialMixture:
    """Mixture on the embedding (n, L).

    `init` is a key of `METHODS`, an array of labels (n,), or a clusterer, of which a
    clone is fitted.
    """
    if isinstance(init, str):
        return METHODS[init](embedding, n_clusters, n_init, rng)
    if hasattr(init, "fit_predict"):
        labels = np.asarray(_seeded_clone(init, rng).fit_predict(embedding))
        source = f"The clusterer given as init, {init!r},"
        check_labels(labels, n_clusters, len(embedding), source)
    else:
        labels = np.asarray(init)
        check_labels(labels, n_clusters, len(embedding), "The array given as init")
    return moments_of_partition(embedding, labels, n_clusters, rng)
