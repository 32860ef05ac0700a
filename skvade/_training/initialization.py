"""From the pretrained embedding to a partition, which the mixture starts from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import has_fit_parameter

from skvade._inference import mixture_labels, pretrained_embedding
from skvade._model.prior import draw_samples
from skvade._training.state import TrainingState

__all__ = [
    "INITIALIZERS",
    "check_labels",
    "initial_labels",
    "initialize_mixture",
    "seeded_clone",
]

MAX_INIT_SAMPLES = 200_000  # that the initial mixture is fitted on
INIT_POSTERIOR_VARIANCE = 0.05  # as a fraction of the average component's variance
MAX_INIT_POSTERIOR_VARIANCE = 0.5  # and of the components' in any one dimension


def initialize_mixture(state: TrainingState) -> None:
    """Start the mixture from a partition of the embedding."""
    module, config, dataset = state.module, state.config, state.dataset
    random_state = state.random.numpy
    given = isinstance(config.init, np.ndarray)
    if len(dataset) > MAX_INIT_SAMPLES and not given:
        dataset = dataset.subsample(MAX_INIT_SAMPLES, random_state)
    Z, sample_weight = pretrained_embedding(module, dataset), dataset.weights
    init = config.init[dataset.indices] if given else config.init
    n_clusters = len(module.prior.logits)
    labels = initial_labels(
        Z, init, n_clusters, config.n_init, sample_weight, random_state
    )
    module.prior.initialize_from_partition(Z, labels, sample_weight, random_state)
    variances = module.prior.variances.double().cpu()
    # A wider posterior than a component would decide about the responsibilities.
    limit = MAX_INIT_POSTERIOR_VARIANCE * variances.mean(0)
    width = torch.minimum(INIT_POSTERIOR_VARIANCE * variances.mean(), limit)
    module.encoder.reset_variance(width)
    state.history.init_labels = mixture_labels(module, state.dataset.full())


def initial_labels(
    Z: NDArray,
    init: Any,
    n_clusters: int,
    n_init: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    """Partition the embedding as the parameter `init` says.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, latent_dim)
        Embedding of the samples.
    init : str, array-like of shape (n_samples,) or clusterer
        A key of `INITIALIZERS`, the labels themselves, or a clusterer, of which a clone
        is fitted.
    n_clusters, n_init : int
        Parameters of the estimator.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights, one on average.
    random_state : RandomState
        Source of randomness.

    Returns
    -------
    labels : ndarray of shape (n_samples,)
        Group of each sample; negative ones stand for noise.

    Raises
    ------
    ValueError
        If the clusterer or the array gives labels that do not fit.
    """
    if isinstance(init, str):
        initializer = INITIALIZERS[init]
        return initializer(Z, n_clusters, n_init, sample_weight, random_state)
    if hasattr(init, "fit_predict"):
        weights = {}
        if has_fit_parameter(init, "sample_weight"):
            weights["sample_weight"] = sample_weight
        clusterer = seeded_clone(init, random_state)
        labels = np.asarray(clusterer.fit_predict(Z, **weights))
        check_labels(
            labels, n_clusters, len(Z), f"The clusterer given as init, {init!r},"
        )
        return labels
    labels = np.asarray(init)
    check_labels(labels, n_clusters, len(Z), "The array given as init")
    return labels


def _kmeans_labels(
    Z: NDArray,
    n_clusters: int,
    n_init: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    kmeans = KMeans(n_clusters, n_init=n_init, random_state=random_state)
    return kmeans.fit_predict(Z, sample_weight=sample_weight)


def _gmm_labels(
    Z: NDArray,
    n_clusters: int,
    n_init: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    mixture = GaussianMixture(
        n_clusters, covariance_type="diag", n_init=n_init, random_state=random_state
    )
    return mixture.fit_predict(Z)


def _random_labels(
    Z: NDArray,
    n_clusters: int,
    n_init: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    centers = Z[draw_samples(n_clusters, sample_weight, random_state)]
    return pairwise_distances_argmin(Z, centers)


INITIALIZERS: dict[str, Callable[..., NDArray]] = {
    "kmeans": _kmeans_labels,
    "gmm": _gmm_labels,
    "random": _random_labels,
}


def seeded_clone(estimator: BaseEstimator, random_state: RandomState) -> BaseEstimator:
    """Clone an estimator; open seeds are drawn from our own generator."""
    estimator = clone(estimator)
    parameters = sorted(estimator.get_params().items())
    seeds = [k for k, v in parameters if k.endswith("random_state") and v is None]
    max_seed = np.iinfo(np.int32).max
    return estimator.set_params(
        **{name: random_state.randint(max_seed) for name in seeds}
    )


def check_labels(labels: NDArray, n_clusters: int, n_samples: int, source: str) -> None:
    """Reject labels that do not fit the samples or the number of clusters.

    Raises
    ------
    ValueError
        If there is not one integer per sample, no group, or more groups than clusters.
    """
    if labels.shape != (n_samples,):
        raise ValueError(
            f"{source} must give one label per sample, shape ({n_samples},). "
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
            f"{source} puts no sample to train on into a group: all labels there are "
            "negative, which stands for noise. Give labels from 0, or a clusterer that "
            "takes fewer samples as noise."
        )
    if n_groups > n_clusters:
        raise ValueError(
            f"{source} has {n_groups} groups of samples, which does not fit "
            f"n_clusters={n_clusters}. Set n_clusters to the number of groups or more."
        )
