"""From the pretrained embedding to a partition, which the mixture starts from."""

from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from skvade._data.dataset import Dataset
from skvade._data.neighbors import find_neighbors
from skvade._inference import mixture_labels, pretrained_embedding
from skvade._model.module import VaDE
from skvade._model.prior import MixturePrior, draw_samples
from skvade._training.communities import community_labels
from skvade._training.neighbor_embedding import neighbor_graph
from skvade._training.state import TrainingState, has_trained_decoder, seeded_clone

__all__ = [
    "INITIALIZERS",
    "check_labels",
    "initial_labels",
    "initialize_mixture",
]

MAX_INIT_SAMPLES = 200_000  # that the initial mixture is fitted on
N_EMBEDDING_NEIGHBORS = 15  # in the embedding, where those of X come from a transformer
INIT_POSTERIOR_VARIANCE = 0.05  # as a fraction of the average component's variance
INIT_COMPONENT_STD = 0.5  # after contrastive pretraining
MIN_VARIANCE_RATIO = 1e-2  # of directions that are widened to it, in the average one
MAX_INIT_POSTERIOR_VARIANCE = 0.5  # and of the components' along any one dimension


def initialize_mixture(state: TrainingState) -> None:
    """Start the mixture from a partition of the embedding."""
    module, config, dataset = state.module, state.config, state.dataset
    given = isinstance(config.init, np.ndarray)
    if len(dataset) > MAX_INIT_SAMPLES and not given:
        dataset = dataset.subsample(MAX_INIT_SAMPLES, state.random.numpy)
    has_decoder = has_trained_decoder(config)
    Z = pretrained_embedding(module, dataset, has_decoder)
    labels = initial_labels(state, dataset, Z)
    module.prior.initialize_from_partition(
        Z, labels, dataset.weights, state.random.numpy
    )
    if not has_decoder:
        _map_latent_space(module)
    prior = module.prior_float64()
    # A wider posterior than a component would decide about the responsibilities.
    limit = MAX_INIT_POSTERIOR_VARIANCE * prior.conditional_variances.mean(0)
    width = torch.minimum(INIT_POSTERIOR_VARIANCE * prior.variances.mean(), limit)
    module.encoder.reset_variance(width)
    # Samples outside of the partition go to the likeliest component.
    full = state.dataset.full()
    init_labels = mixture_labels(module, full, has_decoder)
    grouped = labels >= 0
    groups = np.unique(labels[grouped], return_inverse=True)[1]
    init_labels[dataset.indices[grouped]] = groups
    state.history.init_labels = init_labels


@torch.no_grad()
def _map_latent_space(module: VaDE) -> None:
    """Map the latent space linearly, so that components are `INIT_COMPONENT_STD` wide.

    Learning rates are in this unit. The decoder must be untrained.
    """
    prior, layer = module.prior_float64(), module.encoder.mean
    matrix = _latent_map(prior)
    layer.weight.copy_(matrix @ layer.weight.double().cpu())
    layer.bias.copy_(matrix @ layer.bias.double().cpu())
    if prior.is_diagonal:
        covariances = prior.covariances * matrix[0, 0] ** 2
    else:
        covariances = matrix @ prior.covariances @ matrix.T
    weights = prior.log_weights.exp()
    module.prior.set_parameters(weights, prior.means @ matrix.T, covariances)


def _latent_map(prior: MixturePrior) -> Tensor:
    """Choose the matrix that the latent space is multiplied by, (L, L).

    It is a factor where components are diagonal. Others can follow any map, and get the
    one that makes the average covariance a multiple of the identity: the diagonal
    posterior has no room in a component that is narrow in an oblique direction.
    Directions of nearly no variance stay narrow.
    """
    latent_dim = prior.means.shape[1]
    if prior.is_diagonal:
        factor = INIT_COMPONENT_STD / prior.variances.mean().sqrt()
        return factor * torch.eye(latent_dim, dtype=torch.float64)
    covariances = prior.covariances.expand(len(prior.means), -1, -1)
    average = torch.tensordot(prior.log_weights.exp(), covariances, 1)
    variances, axes = torch.linalg.eigh(average)
    floor = MIN_VARIANCE_RATIO * variances.mean()
    return (INIT_COMPONENT_STD * axes / variances.clamp_min(floor).sqrt()).T


def initial_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    """Partition the embedding as the parameter `init` says.

    Parameters
    ----------
    state : TrainingState
        Its configuration and its random streams are used.
    dataset : Dataset
        The samples to partition, of the training data.
    Z : ndarray of shape (n_samples, latent_dim)
        Their embedding.

    Returns
    -------
    labels : ndarray of shape (n_samples,)
        Group of each sample; negative ones stand for noise.

    Raises
    ------
    ValueError
        If a clusterer or an array gives labels that do not fit.
    """
    init, n_clusters = state.config.init, state.config.n_clusters
    if isinstance(init, str):
        return INITIALIZERS[init](state, dataset, Z)
    if isinstance(init, np.ndarray):
        labels, source = init[dataset.indices], "The array given as init"
    else:
        weights = {}
        if has_fit_parameter(init, "sample_weight"):
            weights["sample_weight"] = dataset.weights
        clusterer = seeded_clone(init, state.random.numpy)
        labels = np.asarray(clusterer.fit_predict(Z, **weights))
        source = f"The clusterer given as init, {init!r},"
    check_labels(labels, n_clusters, len(Z), source)
    return labels


def _community_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    n_neighbors = state.config.neighbors
    if not isinstance(n_neighbors, Integral):
        n_neighbors = N_EMBEDDING_NEIGHBORS
    embedding = torch.from_numpy(Z).float()
    graphs = (
        neighbor_graph(state, dataset),
        find_neighbors(embedding, int(n_neighbors), state.random.shuffle),
    )
    return community_labels(
        Z, graphs, state.config.n_clusters, dataset.weights, state.random.numpy
    )


def _kmeans_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    kmeans = KMeans(
        state.config.n_clusters,
        n_init=state.config.n_init,
        random_state=state.random.numpy,
    )
    return kmeans.fit_predict(Z, sample_weight=dataset.weights)


def _gmm_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    mixture = GaussianMixture(
        state.config.n_clusters,
        covariance_type=state.config.covariance_type,
        n_init=state.config.n_init,
        random_state=state.random.numpy,
    )
    return mixture.fit_predict(Z)


def _random_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    n_clusters, random_state = state.config.n_clusters, state.random.numpy
    centers = Z[draw_samples(n_clusters, dataset.weights, random_state)]
    return pairwise_distances_argmin(Z, centers)


INITIALIZERS: dict[str, Callable[[TrainingState, Dataset, NDArray], NDArray]] = {
    "communities": _community_labels,
    "kmeans": _kmeans_labels,
    "gmm": _gmm_labels,
    "random": _random_labels,
}


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
