"""The nearest neighbors of each sample, exact or approximate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.neighbors import NearestNeighbors
from torch import Generator, Tensor

__all__ = [
    "NeighborGraph",
    "approximate_neighbors",
    "check_graph",
    "exact_neighbors",
    "find_neighbors",
    "neighbors_from_transformer",
]

MAX_EXACT_SAMPLES = 30_000  # from here on the search is approximate
CELL_SIZE = 256  # samples of a cell of the approximate search, on average
N_PROBES = 32  # cells that are searched for the neighbors of a sample
N_CELL_ITER = 4  # of k-means that places the cells
MAX_CELL_SIZE = 1024  # larger cells, of duplicates for instance, are cut to pieces
SAMPLES_PER_CELL = 40  # that k-means takes for each cell
BLOCK_SIZE = 4096  # samples whose distances are computed at a time
MAX_BLOCK_VALUES = 2**20  # of these distances
MAX_BLOCK_VALUES_GPU = 2**25


class NeighborGraph(NamedTuple):
    """Neighbors of each sample, as the indices of a CSR matrix.

    Attributes
    ----------
    indptr : ndarray of shape (n_samples + 1,)
        Where the neighbors of each sample start and end in `indices`.
    indices : ndarray
        The neighbors, as positions in the dataset.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]

    @classmethod
    def from_array(cls, neighbors: NDArray) -> Self:
        """Make a graph of an array of the same number of neighbors for each sample."""
        n_samples, n_neighbors = neighbors.shape
        indptr = np.arange(n_samples + 1, dtype=np.int64) * n_neighbors
        return cls(indptr, np.ascontiguousarray(neighbors, np.int32).ravel())

    @classmethod
    def from_sparse(cls, graph: Any) -> Self:
        """Take the stored entries of a square sparse matrix; a loop is no neighbor."""
        coo = csr_array(graph).tocoo()
        keep = coo.row != coo.col
        row, col = coo.row[keep], coo.col[keep]
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row, minlength=graph.shape[0])
        return cls(np.r_[0, np.cumsum(counts)], col[order].astype(np.int32))

    @classmethod
    def concatenate(cls, graphs: list[Self]) -> Self:
        """Join graphs of different samples; no edge links two of them."""
        n_samples = np.cumsum([0, *(graph.n_samples for graph in graphs)])
        n_edges = np.cumsum([0, *(len(graph.indices) for graph in graphs)])
        starts = [g.indptr[:-1] + n for g, n in zip(graphs, n_edges, strict=False)]
        indices = [g.indices + n for g, n in zip(graphs, n_samples, strict=False)]
        indptr = np.concatenate([*starts, n_edges[-1:]])
        return cls(indptr, np.concatenate(indices).astype(np.int32))

    @property
    def n_samples(self) -> int:
        return len(self.indptr) - 1

    def sources(self) -> NDArray[np.int32]:
        """Give the sample that each entry of `indices` is a neighbor of."""
        return np.repeat(
            np.arange(self.n_samples, dtype=np.int32), np.diff(self.indptr)
        )

    def mutual(self) -> NeighborGraph:
        """Keep the pairs of samples that are neighbors of each other.

        A sample without any keeps its first neighbor, so that it stays connected.
        """
        ones = np.ones(len(self.indices), np.int8)
        shape = (self.n_samples, self.n_samples)
        adjacency = csr_array((ones, self.indices, self.indptr), shape=shape)
        both = adjacency.multiply(adjacency.T.tocsr())
        counts = np.diff(both.indptr)
        lonely = np.flatnonzero((counts == 0) & (np.diff(self.indptr) > 0))
        counts[lonely] = 1
        indptr = np.r_[0, np.cumsum(counts)]
        indices = np.empty(indptr[-1], np.int32)
        is_mutual = np.ones(len(indices), bool)
        is_mutual[indptr[lonely]] = False
        indices[is_mutual] = both.indices
        indices[~is_mutual] = self.indices[self.indptr[lonely]]
        return NeighborGraph(indptr, indices)


def find_neighbors(
    features: Tensor,
    n_neighbors: int,
    generator: Generator,
    variance: Tensor | None = None,
) -> NeighborGraph:
    """Find the nearest neighbors of each sample, but for itself.

    Of few samples each has a third of the others as neighbors, at most: if all were
    neighbors of each other, an embedding that has them in one place would be the best.

    Parameters
    ----------
    features : Tensor of shape (n_samples, n_features)
        See `search_features`.
    n_neighbors : int
        Neighbors of each sample.
    generator : Generator
        On the CPU; decides about the cells of an approximate search.
    variance : Tensor of shape (n_samples,), default=None
        Of what was imputed. Distances are then expected ones: a squared distance, and
        the variances of both samples.
    """
    n_others = len(features) - 1
    n_neighbors = min(n_neighbors, math.ceil(n_others / 3))
    if len(features) > MAX_EXACT_SAMPLES:
        return approximate_neighbors(features, n_neighbors, generator, variance)
    return exact_neighbors(features, n_neighbors, variance)


def exact_neighbors(
    features: Tensor, n_neighbors: int, variance: Tensor | None = None
) -> NeighborGraph:
    """Find exact neighbors.

    By scikit-learn, which knows no variances; else by blocks of matrix products, which
    are also faster on a GPU.
    """
    if n_neighbors == 0:
        return NeighborGraph.from_array(np.empty((len(features), 0)))
    if features.device.type == "cpu" and variance is None:
        search = NearestNeighbors(n_neighbors=n_neighbors).fit(features.numpy())
        return NeighborGraph.from_array(search.kneighbors(return_distance=False))
    found = []
    everything = torch.arange(len(features), device=features.device)
    for queries in everything.split(_block_size(everything)):
        nearest = _nearest(features, queries, everything, n_neighbors, variance)
        found.append(nearest.cpu())
    return NeighborGraph.from_array(torch.cat(found).numpy())


def approximate_neighbors(
    features: Tensor,
    n_neighbors: int,
    generator: Generator,
    variance: Tensor | None = None,
) -> NeighborGraph:
    """Find neighbors within the cells of a k-means partition that are nearest.

    Each sample is compared with all samples of the `N_PROBES` cells around its own,
    which finds at least nine of ten neighbors where data have a structure, as the tests
    require. Memory grows with the number of samples alone.
    """
    centers = _cell_centers(features, max(1, len(features) // CELL_SIZE), generator)
    cells = _nearest_center(features, centers)
    order = torch.argsort(cells, stable=True)
    members: list[Tensor] = []
    pieces: list[int] = []  # the center of each element of members
    counts = torch.bincount(cells, minlength=len(centers)).tolist()
    for cell, member in enumerate(order.split(counts)):
        parts = member.split(MAX_CELL_SIZE)
        members += parts
        pieces += [cell] * len(parts)
    centers = centers[pieces]
    probes = _nearest_cells(centers, min(N_PROBES, len(centers)))
    found = torch.empty(len(features), n_neighbors, dtype=torch.int32)
    for cell, probed in enumerate(probes.tolist()):
        candidates = torch.cat([members[index] for index in probed])
        if len(candidates) <= n_neighbors:  # tiny cells around: search everything
            candidates = order
        for queries in members[cell].split(_block_size(candidates)):
            nearest = _nearest(features, queries, candidates, n_neighbors, variance)
            found[queries.cpu()] = nearest.int().cpu()
    return NeighborGraph.from_array(found.numpy())


def _block_size(candidates: Tensor) -> int:
    """Choose how many samples are compared with the candidates at a time."""
    on_cpu = candidates.device.type == "cpu"
    max_values = MAX_BLOCK_VALUES if on_cpu else MAX_BLOCK_VALUES_GPU
    return max(1, min(BLOCK_SIZE, max_values // len(candidates)))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute squared distances up to a constant of each row of a, (n, m)."""
    return torch.addmm(b.square().sum(1), a, b.T, alpha=-2)


def _nearest(
    features: Tensor,
    queries: Tensor,
    candidates: Tensor,
    n_neighbors: int,
    variance: Tensor | None = None,
) -> Tensor:
    """Find the nearest candidates of each query, but for itself, (n, n_neighbors)."""
    distances = _squared_distances(features[queries], features[candidates])
    if variance is not None:
        distances += variance[candidates]
    distances.masked_fill_(queries[:, None] == candidates, torch.inf)
    return candidates[distances.topk(n_neighbors, largest=False).indices]


def _nearest_center(features: Tensor, centers: Tensor) -> Tensor:
    blocks = features.split(BLOCK_SIZE)
    return torch.cat([_squared_distances(b, centers).argmin(1) for b in blocks])


def _nearest_cells(centers: Tensor, n_probes: int) -> Tensor:
    """Find the cells around each cell, itself the first, (n_cells, n_probes)."""
    probes = []
    cells = torch.arange(len(centers), device=centers.device)
    for block in cells.split(BLOCK_SIZE):
        distances = _squared_distances(centers[block], centers)
        # Pieces of one cell are as near as the cell itself.
        distances.scatter_(1, block[:, None], -torch.inf)
        probes.append(distances.topk(n_probes, largest=False).indices)
    return torch.cat(probes)


def _cell_centers(features: Tensor, n_cells: int, generator: Generator) -> Tensor:
    """Place cells by a few iterations of k-means on a subsample."""
    order = torch.randperm(len(features), generator=generator).to(features.device)
    centers = features[order[:n_cells]].clone()
    sample = features[order[: SAMPLES_PER_CELL * n_cells]]
    for _ in range(N_CELL_ITER):
        cells = _nearest_center(sample, centers)
        counts = torch.bincount(cells, minlength=n_cells)[:, None]
        sums = torch.zeros_like(centers).index_add_(0, cells, sample)
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    return centers


def neighbors_from_transformer(
    transformer: Any, X: NDArray | csr_array
) -> NeighborGraph:
    """Fit a transformer with the interface of KNeighborsTransformer.

    Raises
    ------
    ValueError
        If it does not give a square sparse matrix with a row for each sample.
    """
    graph = transformer.fit_transform(X)
    check_graph(graph, X.shape[0], f"The graph of neighbors={transformer!r}")
    return NeighborGraph.from_sparse(graph)


def check_graph(graph: Any, n_samples: int, source: str) -> None:
    """Reject what is no neighbor graph of the samples.

    Raises
    ------
    ValueError
        If it is not a sparse matrix of shape (n_samples, n_samples), or no entry off
        its diagonal is stored.
    """
    if not issparse(graph) or graph.shape != (n_samples, n_samples):
        raise ValueError(
            f"{source} must be a sparse matrix of shape ({n_samples}, {n_samples}), as "
            "KNeighborsTransformer gives it. "
            f"Got {type(graph).__name__} of shape {np.shape(graph)} instead."
        )
    coo = graph.tocoo()
    if n_samples > 1 and not (coo.row != coo.col).any():
        raise ValueError(
            f"{source} must have an edge between two samples at least. Got a matrix "
            "that stores no entry off its diagonal."
        )
