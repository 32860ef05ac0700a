"""Pretraining of the encoder on the neighbor graph: contrastive neighbor embedding.

Damrich, Böhm, Hamprecht and Kobak, "From t-SNE to UMAP with contrastive learning",
ICLR 2023: the embedding puts neighbors close together and all other samples of a batch
apart.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

from skvade._data.dataset import Batch, Dataset
from skvade._data.neighbors import (
    NeighborGraph,
    check_graph,
    find_neighbors,
    neighbors_from_transformer,
)
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.search_features import search_features
from skvade._model.custom_networks import add_note_on_error
from skvade._model.likelihoods import Gaussian
from skvade._model.module import LossOutput
from skvade._training.optim import Adam
from skvade._training.state import TrainingState, seeded_clone
from skvade._training.trainer import (
    iter_epochs,
    log_epoch,
    train_epoch,
)

__all__ = [
    "contrastive_neighbor_loss",
    "max_neighbor_epochs",
    "n_neighbor_epochs",
    "neighbor_graph",
    "neighbor_loss",
    "pretrain_neighbors",
]

ATTRACTION = 2.0  # weight of the neighbors against all other samples of the batch
# Of the mean square of the embedding. Where many samples are equal, or nearly so, the
# loss falls as all others move away without end, and the networks would follow.
SCALE_PENALTY = 1e-3
N_PAIRS = 128  # per step
STEPS_PER_EPOCH = 100
# An automatic budget: an epoch for every `SAMPLES_PER_EPOCH`, from `MIN_EPOCHS` to
# `FULL_EPOCHS`, and a further one for every `LARGE_SAMPLES_PER_EPOCH` beyond
# `LARGE_SAMPLES`, up to `MAX_EPOCHS` in all.
SAMPLES_PER_EPOCH = 130
MIN_EPOCHS, FULL_EPOCHS, MAX_EPOCHS = 10, 14, 200
LARGE_SAMPLES, LARGE_SAMPLES_PER_EPOCH = 5_000, 1_000
LEARNING_RATE = 6e-3  # of Adam at the start, from where it falls linearly to zero


# --- The graph ----------------------------------------------------------------------


def neighbor_graph(
    state: TrainingState, dataset: Dataset | None = None
) -> NeighborGraph:
    """Find the neighbors of the training samples, once, or of a subset of them.

    As the parameter `neighbors` says: by Euclidean distance, by a transformer, or as a
    graph gives them.
    """
    if dataset is None or len(dataset) == len(state.dataset):
        if state.neighbors is None:
            state.neighbors = _compute_graph(state, state.dataset)
        return state.neighbors
    return _compute_graph(state, dataset)


def _compute_graph(state: TrainingState, dataset: Dataset) -> NeighborGraph:
    neighbors, random_state = state.config.neighbors, state.random.numpy
    if issparse(neighbors):
        graph = csr_array(neighbors)[dataset.indices][:, dataset.indices]
        source = "The part of neighbors for the samples to train on"
        check_graph(graph, len(dataset), source)
        return NeighborGraph.from_sparse(graph)
    if hasattr(neighbors, "fit_transform"):
        X = dataset.mean_imputed()
        with add_note_on_error(
            f"This came from neighbors={neighbors!r}, which was given {X.shape[0]} "
            f"samples of {X.shape[1]} features."
        ):
            transformer = seeded_clone(neighbors, random_state)
            return neighbors_from_transformer(transformer, X)
    likelihood = state.module.likelihood
    features = search_features(
        dataset,
        random_state,
        likelihood.table,
        finds_indicators=isinstance(likelihood, Gaussian),
    )
    return find_neighbors(
        features.x, neighbors, state.random.shuffle, features.variance
    )


# --- The encoder --------------------------------------------------------------------


def contrastive_neighbor_loss(z: Tensor, attraction: float) -> Tensor:
    r"""Compute the loss of anchors and their neighbors, (2 B, L) to (B,).

    .. math:: L_i = -a \log q(i, j) + \log \sum_{v \ne i} q(i, v), \qquad
        q(u, v) = \frac{1}{1 + \lVert z_u - z_v \rVert^2}

    The first half of `z` are the anchors i, the second their neighbors j; v runs over
    all points of the batch.
    """
    n_anchors = len(z) // 2
    anchors, neighbors = z[:n_anchors], z[n_anchors:]
    squares = z.square().sum(1)
    distances = torch.addmm(
        squares[:n_anchors, None] + squares, anchors, z.T, alpha=-2
    ).clamp_min(0)
    # Far from all others, the similarity of an anchor to itself would hide theirs.
    distances = distances.fill_diagonal_(math.inf)
    repulsion = (1 + distances).reciprocal().sum(1).log()
    attraction_term = torch.log1p((anchors - neighbors).square().sum(1))
    return repulsion + attraction * attraction_term


def neighbor_loss(state: TrainingState, batch: Batch) -> LossOutput:
    """Compute the contrastive loss of the encoder's means, and penalize their scale."""
    module = state.module
    z = module.encoder.encode_mean(module.likelihood.encoder_input(batch.x))
    # All processes compute the loss of all pairs, each for the gradient of its own.
    pairs = z.unflatten(0, (2, len(z) // 2))
    pairs = state.group.concatenate_with_own_gradient(pairs, dim=1)
    scale = pairs.square().sum(-1).mean()
    loss = contrastive_neighbor_loss(pairs.flatten(0, 1), ATTRACTION).mean()
    loss = loss + SCALE_PENALTY * scale
    return LossOutput(loss, {"loss": loss.detach() * len(batch.x)})


def iter_pair_batches(
    dataset: Dataset,
    graph: NeighborGraph,
    generator: torch.Generator,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """Draw the batches of an epoch: pairs of neighbors, by the weight of the anchor.

    All processes draw the same numbers, and each takes the pairs of its own graph.
    """
    degrees = np.diff(graph.indptr)
    cumulative = np.cumsum(dataset.weights * degrees)
    bounds = np.cumsum([0.0, *group.gather(cumulative[-1])])
    low, high = bounds[group.rank : group.rank + 2] / bounds[-1]
    cumulative = (bounds[group.rank] + cumulative) / bounds[-1]
    size = STEPS_PER_EPOCH, 2, N_PAIRS
    uniform = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
    by_weight, of_anchor = uniform[:, 0], uniform[:, 1]
    own = (low <= by_weight) & (by_weight < high)
    anchors = np.searchsorted(cumulative, by_weight[own], side="right")
    edges = (of_anchor[own] * degrees[anchors]).astype(np.int64)
    neighbors = graph.indices[graph.indptr[anchors] + edges]
    stops = np.cumsum(own.sum(1))[:-1]
    steps = np.split(anchors, stops), np.split(neighbors, stops)
    for pairs in zip(*steps, strict=True):
        batch = dataset.get_batch(np.concatenate(pairs))
        yield batch._replace(total_size=2 * N_PAIRS)


def n_neighbor_epochs(n_samples: int) -> int:
    """Choose the number of epochs, of `STEPS_PER_EPOCH` steps each, automatically."""
    n_epochs = min(max(n_samples / SAMPLES_PER_EPOCH, MIN_EPOCHS), FULL_EPOCHS)
    n_epochs += max(0, n_samples - LARGE_SAMPLES) / LARGE_SAMPLES_PER_EPOCH
    return min(round(n_epochs), MAX_EPOCHS)


def pretrain_neighbors(state: TrainingState) -> None:
    """Train the encoder to put neighbors close together and other samples apart.

    Pairs are drawn uniformly from the mutual neighbors. The decoder is not trained: it
    learns in the warm-up.
    """
    encoder, max_epochs = state.module.encoder, max_neighbor_epochs(state)
    if not max_epochs:
        return
    graph = neighbor_graph(state).mutual()
    rate = state.config.pretrain_learning_rate_init
    remedy = f"Lower pretrain_learning_rate_init={rate!r}"
    if rate == "auto":
        rate = LEARNING_RATE
        remedy += ", for instance to 1e-3"
    n_steps = max_epochs * STEPS_PER_EPOCH
    optimizer = Adam(
        [(rate, [*encoder.backbone.parameters(), *encoder.mean.parameters()])],
        state.dataset.device_config.has_fused_optimizers,
        schedule=lambda step: 1 - step / n_steps,
    )
    curve = state.history.pretraining["neighbor_loss"]
    for _ in iter_epochs(state, max_epochs, optimizer=optimizer):
        batches = iter_pair_batches(
            state.dataset, graph, state.random.shared, state.group
        )
        means = train_epoch(state, neighbor_loss, optimizer, remedy, batches=batches)
        curve.append(means["loss"])
        log_epoch(state, "Pretraining", curve, "neighbor loss")
    varies = any(state.group.gather(_varies(state.dataset)))
    if not state.task.stopped and varies:
        state.history.collapsed_loss = math.log(2 * N_PAIRS - 1)


def max_neighbor_epochs(state: TrainingState) -> int:
    """Count the epochs of pretraining; a single sample has no neighbors."""
    largest_share = max(state.group.gather(len(state.dataset)))
    return state.config.pretrain_max_iter if largest_share > 1 else 0


def _varies(dataset: Dataset) -> bool:
    """Tell whether any two samples differ, as far as the arithmetic can tell."""
    first = dataset.get_batch(np.zeros(1, int)).x
    blocks = np.array_split(np.arange(len(dataset)), math.ceil(len(dataset) / N_PAIRS))
    return any(bool((dataset.get_batch(b).x != first).any()) for b in blocks)
