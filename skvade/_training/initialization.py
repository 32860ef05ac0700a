"""From the pretrained embedding to a partition, which the mixture starts from."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from skvade._data.dataset import Dataset
from skvade._data.neighbors import NeighborGraph, find_neighbors
from skvade._inference import mixture_labels, pretrained_embedding
from skvade._model.module import VaDE
from skvade._model.prior import MixturePrior, draw_samples
from skvade._training.communities import community_labels, estimate_n_clusters
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
    """Start the mixture from a partition of the embedding.

    Where the number of clusters is open, it is that of the groups of a given partition,
    or estimated. Of several processes, the first does so with the samples of all.
    """
    module, config, dataset = state.module, state.config, state.dataset
    group, n_samples = state.group, state.count_samples()
    given = isinstance(config.init, np.ndarray)
    if n_samples > MAX_INIT_SAMPLES and not given:
        max_samples = math.ceil(MAX_INIT_SAMPLES * (len(dataset) / n_samples))
        dataset = dataset.subsample(max_samples, state.random.numpy)
    has_decoder = has_trained_decoder(config)
    Z = pretrained_embedding(module, dataset, has_decoder)
    labels = initial_labels(state, dataset, Z)
    parts = group.gather((Z, labels, dataset.weights))
    all_Z, all_labels, all_weights = map(np.concatenate, zip(*parts, strict=True))
    if config.n_clusters == "auto":
        config.n_clusters = len(np.unique(all_labels[all_labels >= 0]))
    module.set_n_clusters(config.n_clusters)
    group.on_first(
        lambda: module.prior.initialize_from_partition(
            all_Z, all_labels, all_weights, state.random.numpy
        )
    )
    group.broadcast_(module.prior.parameters())
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
    names = np.unique(all_labels[all_labels >= 0])
    grouped = labels >= 0
    init_labels[dataset.indices[grouped]] = np.searchsorted(names, labels[grouped])
    state.history.init_labels = init_labels
    state.neighbors = None  # of no further use


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


class EmbeddedSamples(NamedTuple):
    """What a partition is made from, of the samples of all processes.

    Attributes
    ----------
    Z : ndarray of shape (n_samples, latent_dim)
        Their embedding.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    graph : NeighborGraph or None
        Their neighbors, within the samples of each process, where `init` needs them.
    """

    Z: NDArray
    sample_weight: NDArray
    graph: NeighborGraph | None

    @classmethod
    def concatenate(cls, parts: "list[EmbeddedSamples]") -> "EmbeddedSamples":
        """Join the samples of several processes."""
        graphs = [part.graph for part in parts if part.graph is not None]
        return cls(
            np.concatenate([part.Z for part in parts]),
            np.concatenate([part.sample_weight for part in parts]),
            NeighborGraph.concatenate(graphs) if graphs else None,
        )


def initial_labels(state: TrainingState, dataset: Dataset, Z: NDArray) -> NDArray:
    """Partition the embedding as the parameter `init` says.

    Where the number of clusters is open and no partition is given, it is estimated
    before and set in the configuration.

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
    group, init = state.group, state.config.init
    if isinstance(init, np.ndarray):
        labels = init[dataset.indices]
        everything = np.concatenate(group.gather(labels))
        source = "The array given as init"
        check_labels(everything, state.config.n_clusters, len(everything), source)
        return labels
    is_name = isinstance(init, str)
    is_open = is_name and state.config.n_clusters == "auto"
    needs_graph = is_open or (is_name and init == "communities")
    graph = neighbor_graph(state, dataset) if needs_graph else None
    parts = group.gather(EmbeddedSamples(Z, dataset.weights, graph))
    samples = EmbeddedSamples.concatenate(parts)
    if is_open:
        n_clusters = group.on_first(lambda: _estimated_n_clusters(state, samples))
        state.config.n_clusters = n_clusters
    partition = INITIALIZERS[init] if is_name else _labels_of_clusterer
    labels = group.on_first(lambda: partition(state, samples))
    start = sum(len(part.Z) for part in parts[: group.rank])
    return labels[start : start + len(Z)]


def _labels_of_clusterer(state: TrainingState, samples: EmbeddedSamples) -> NDArray:
    init, weights = state.config.init, {}
    if has_fit_parameter(init, "sample_weight"):
        weights["sample_weight"] = samples.sample_weight
    clusterer = seeded_clone(init, state.random.numpy)
    labels = np.asarray(clusterer.fit_predict(samples.Z, **weights))
    source = f"The clusterer given as init, {init!r},"
    check_labels(labels, state.config.n_clusters, len(samples.Z), source)
    return labels


def _neighbor_graphs(
    state: TrainingState, samples: EmbeddedSamples
) -> tuple[NeighborGraph, NeighborGraph]:
    """Give the neighbors of the samples in X and find those in the embedding."""
    n_neighbors = state.config.neighbors
    if not isinstance(n_neighbors, Integral):
        n_neighbors = N_EMBEDDING_NEIGHBORS
    assert samples.graph is not None
    embedding = torch.from_numpy(samples.Z).float()
    return (
        samples.graph,
        find_neighbors(embedding, int(n_neighbors), state.random.shuffle),
    )


def _estimated_n_clusters(state: TrainingState, samples: EmbeddedSamples) -> int:
    graphs = _neighbor_graphs(state, samples)
    return estimate_n_clusters(
        samples.Z, graphs, samples.sample_weight, state.random.numpy
    )


def _community_labels(state: TrainingState, samples: EmbeddedSamples) -> NDArray:
    return community_labels(
        samples.Z,
        _neighbor_graphs(state, samples),
        state.config.n_clusters,
        samples.sample_weight,
        state.random.numpy,
    )


def _kmeans_labels(state: TrainingState, samples: EmbeddedSamples) -> NDArray:
    kmeans = KMeans(
        state.config.n_clusters,
        n_init=state.config.n_init,
        random_state=state.random.numpy,
    )
    return kmeans.fit_predict(samples.Z, sample_weight=samples.sample_weight)


def _gmm_labels(state: TrainingState, samples: EmbeddedSamples) -> NDArray:
    mixture = GaussianMixture(
        state.config.n_clusters,
        covariance_type=state.config.covariance_type,
        n_init=state.config.n_init,
        random_state=state.random.numpy,
    )
    return mixture.fit_predict(samples.Z)


def _random_labels(state: TrainingState, samples: EmbeddedSamples) -> NDArray:
    n_clusters, random_state = state.config.n_clusters, state.random.numpy
    centers = draw_samples(n_clusters, samples.sample_weight, random_state)
    return pairwise_distances_argmin(samples.Z, samples.Z[centers])


INITIALIZERS: dict[str, Callable[[TrainingState, EmbeddedSamples], NDArray]] = {
    "communities": _community_labels,
    "kmeans": _kmeans_labels,
    "gmm": _gmm_labels,
    "random": _random_labels,
}


def check_labels(
    labels: NDArray, n_clusters: int | str, n_samples: int, source: str
) -> None:
    """Reject labels that do not fit the samples or the number of clusters.

    Any number of groups fits "auto".

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
    if isinstance(n_clusters, Integral) and n_groups > n_clusters:
        raise ValueError(
            f"{source} has {n_groups} groups of samples, which does not fit "
            f"n_clusters={n_clusters}. Set n_clusters to the number of groups or more."
        )
