"""The nearest neighbors of each sample, exact or approximate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import eigsh
from sklearn.neighbors import NearestNeighbors
from torch import Generator, Tensor

from skvade._data.dataset import Batch, Dataset
from skvade._data.imputation import NeighborImputer
from skvade._data.table import CATEGORICAL, Part

__all__ = [
    "NeighborGraph",
    "SearchFeatures",
    "approximate_neighbors",
    "check_graph",
    "exact_neighbors",
    "find_neighbors",
    "neighbors_from_transformer",
    "search_features",
]

# More features are projected onto principal components, for the search only.
MAX_SEARCH_FEATURES = 100
N_SEARCH_COMPONENTS = 50
MAX_PCA_SAMPLES = 20_000  # that components are estimated from
N_OVERSAMPLES = 10  # axes beside them, of which the subspace iteration takes hold
N_SUBSPACE_ITER = 5
MAX_READ_VALUES = 2**19  # of X, at a time

# Where some features are discrete, samples are compared by what features share.
WEIGHT_OF_REST = 0.5  # of what a continuous feature does not share with others
MIN_CATEGORY_SAMPLES = 10  # a rarer category is weighted as one of so many samples
MIN_DISCRETE_VARIANCE = 0.05  # of all, in features that are not known to be discrete
MAX_SHARED_FEATURES = 5_000  # the covariance of more would take much memory
MAX_DENSE_EIGENVECTORS = 1_000  # features; of more, ARPACK finds the first ones

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


class SearchFeatures(NamedTuple):
    """What the distances between samples are computed from, on the device.

    Attributes
    ----------
    x : Tensor of shape (n_samples, n_features or N_SEARCH_COMPONENTS)
        In float32.
    variance : Tensor of shape (n_samples,) or None
        Sum of the variances of what was imputed, None if no entry is missing.
    """

    x: Tensor
    variance: Tensor | None


def search_features(
    dataset: Dataset,
    random_state: RandomState,
    table: Sequence[Part] = (),
    *,
    finds_indicators: bool = False,
) -> SearchFeatures:
    """Give the samples that the distances are computed from.

    Standardized samples, missing entries imputed by a `NeighborImputer`. They are
    mapped by `_shared_axes` if there are discrete features among them. If there are
    more than `MAX_SEARCH_FEATURES` features, they are projected onto their first
    principal components.

    Parameters
    ----------
    dataset : Dataset
        The samples.
    random_state : RandomState
        Source of randomness.
    table : sequence of Part, default=()
        The columns of each likelihood; empty if there is a single one.
    finds_indicators : bool, default=False
        Whether features of two values are taken for indicators of categories, where
        there is a single likelihood.
    """
    device = dataset.device_config.device
    axes, imputer, variance = None, None, None
    kinds = None
    if dataset.n_features <= MAX_SHARED_FEATURES:
        if table:
            kinds = _kinds_of_table(dataset, table)
        elif finds_indicators:
            kinds = _kinds_of_features(dataset)
    if kinds is not None:
        axes = _shared_axes(dataset, kinds, random_state)
    n_columns = dataset.n_features if axes is None else axes.shape[1]
    if n_columns > MAX_SEARCH_FEATURES and len(dataset) > N_SEARCH_COMPONENTS:
        components = _principal_axes(dataset, random_state, axes)
        axes = components if axes is None else axes @ components
        n_columns = axes.shape[1]
    x = torch.empty(len(dataset), n_columns, dtype=torch.float32, device=device)
    if dataset.has_missing:
        imputer = NeighborImputer(dataset, random_state)
        variance = torch.empty(len(dataset), dtype=torch.float32, device=device)
    for rows, batch in _iter_blocks(dataset):
        samples = batch.x.float()
        if imputer is not None and variance is not None:
            samples, variances = imputer.impute(batch)
            if axes is not None:
                variances = variances @ axes.square()
            variance[rows] = variances.sum(1)
        x[rows] = samples if axes is None else samples @ axes
    # In a unit in which squares do not overflow, however far outliers are.
    low, high = x.aminmax()
    largest = max(-float(low), float(high))
    if largest > 0:
        x /= largest
        if variance is not None:
            largest_float = torch.finfo(variance.dtype).max
            variance = variance.clamp_max(largest_float) / largest / largest
    return SearchFeatures(x, variance)


def _iter_blocks(dataset: Dataset) -> Iterator[tuple[slice, Batch]]:
    """Iterate over consecutive samples, in blocks of few values."""
    block_size = max(1, MAX_READ_VALUES // dataset.n_features)
    for start in range(0, len(dataset), block_size):
        stop = min(start + block_size, len(dataset))
        yield slice(start, stop), dataset.get_batch(np.arange(start, stop))


def _principal_axes(
    dataset: Dataset, random_state: RandomState, matrix: Tensor | None = None
) -> Tensor:
    """Estimate the first principal axes, (n_columns, at most N_SEARCH_COMPONENTS).

    By subspace iteration on a subsample (Halko, Martinsson and Tropp, 2011, algorithm
    4.4), block by block: no copy of the samples is made. The samples are multiplied by
    the `matrix` before, (n_features, n_columns), if there is one.
    """
    subset = dataset.subsample(MAX_PCA_SAMPLES, random_state)
    device = subset.device_config.device
    mean = torch.tensor(subset.scaling.standardized_mean, dtype=torch.float32)
    mean = mean.to(device)

    def iter_centered() -> Iterator[Tensor]:
        for _, batch in _iter_blocks(subset):
            x = batch.x.float() - mean
            yield x if matrix is None else x @ matrix

    n_columns = subset.n_features if matrix is None else matrix.shape[1]
    largest = max(float(x.abs().max()) for x in iter_centered())
    n_axes = N_SEARCH_COMPONENTS + N_OVERSAMPLES
    start = random_state.standard_normal((n_columns, n_axes))
    axes = torch.tensor(start, dtype=torch.float32, device=device)
    for _ in range(N_SUBSPACE_ITER if largest > 0 else 0):
        product = torch.zeros_like(axes)
        for x in iter_centered():
            x = x / largest
            product += x.T @ (x @ axes)
        axes = torch.linalg.qr(product).Q
    return axes[:, :N_SEARCH_COMPONENTS]


# --- Discrete features --------------------------------------------------------------


class FeatureKinds(NamedTuple):
    """What the search must know of features, (n_features,) each.

    Attributes
    ----------
    is_continuous : ndarray of bool
        Whether a feature takes real values.
    share : ndarray
        The share of its category where a feature is the indicator of one, else NaN.
    width : ndarray
        The difference of the two values of an indicator, after standardization.
    """

    is_continuous: NDArray[np.bool_]
    share: NDArray[np.float64]
    width: NDArray[np.float64]


def _kinds_of_table(dataset: Dataset, table: Sequence[Part]) -> FeatureKinds | None:
    """Give the kinds of a table's features; None if all are numbers of one kind."""
    names = [part.likelihood for part in table]
    if len({*names}) == 1 and CATEGORICAL not in names:
        return None
    name = np.repeat(names, [len(part.feature_columns) for part in table])
    share = np.where(name == CATEGORICAL, dataset.scaling.feature_mean, np.nan)
    width = 1 / np.broadcast_to(dataset.scaling.scale, share.shape)
    return FeatureKinds(name == "gaussian", share, width)


def _kinds_of_features(dataset: Dataset) -> FeatureKinds | None:
    """Find the features that take two values, as one-hot categories do.

    None if they hold less than `MIN_DISCRETE_VARIANCE`, as some pixels of images do.
    """
    subset = _evenly_spaced(dataset)
    mean = subset.scaling.standardized_mean
    variance = np.zeros_like(mean)  # times the number of samples
    low, high = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
    for x in _iter_observed(subset):
        low, high = np.fmin(low, np.fmin.reduce(x)), np.fmax(high, np.fmax.reduce(x))
        variance += np.square(np.nan_to_num(x - mean)).sum(0)
    is_indicator = high > low
    for x in _iter_observed(subset):
        is_indicator &= ((x == low) | (x == high) | np.isnan(x)).all(0)
    if not variance[is_indicator].sum() > MIN_DISCRETE_VARIANCE * variance.sum():
        return None
    width = np.where(is_indicator, high - low, np.nan)
    return FeatureKinds(~is_indicator, (mean - low) / width, width)


def _shared_axes(
    dataset: Dataset, kinds: FeatureKinds, random_state: RandomState
) -> Tensor | None:
    """Choose the axes along which samples with discrete features are compared.

    Two categories are far apart, so the nearest samples would be those that agree in
    all categories, also in a column of mere chance. So would those of the same small
    count. But clusters show in such columns by an association with others only.
    Principal components of mixed data (Pages, "Multiple Factor Analysis by Example
    Using R", 2014, chapter 3) are what columns share: those of a larger variance than
    independent columns have (Marchenko and Pastur, 1967). A sample is compared by its
    part in them. Of continuous features the rest counts too, by `WEIGHT_OF_REST`:
    clusters can show in one of them alone.

    Parameters
    ----------
    dataset : Dataset
        The samples.
    kinds : FeatureKinds
        Which features are discrete.
    random_state : RandomState
        Source of randomness.

    Returns
    -------
    axes : Tensor of shape (n_features, n_columns) or None
        The samples are to be multiplied by it. None if nothing would be left of them.
    """
    covariance, n_samples = _covariance(dataset)
    # Indicators are divided by the root of the category's share, so that independent
    # columns have a variance of one in every direction.
    share = np.maximum(kinds.share, MIN_CATEGORY_SAMPLES / n_samples)
    std = np.sqrt(covariance.diagonal())
    unit = np.where(np.isnan(share), std, kinds.width * np.sqrt(share))
    unit[unit == 0] = 1.0
    correlation = covariance / np.outer(unit, unit)
    variances, components = _leading_eigenvectors(correlation, random_state)
    largest_of_noise = (1 + math.sqrt(correlation.trace() / n_samples)) ** 2
    components = components[:, variances > largest_of_noise]
    to_scores, from_scores = components / unit[:, None], components * unit[:, None]
    # The discrete features have common coordinates, of the same distances.
    _, of_discrete = np.linalg.qr(from_scores[~kinds.is_continuous])
    of_continuous = (1 - WEIGHT_OF_REST) * to_scores @ from_scores.T
    of_continuous += WEIGHT_OF_REST * np.eye(len(unit))
    parts = to_scores @ of_discrete.T, of_continuous[:, kinds.is_continuous]
    axes = np.hstack(parts)
    if not axes.any():
        return None
    device = dataset.device_config.device
    return torch.tensor(axes, dtype=torch.float32, device=device)


def _iter_observed(dataset: Dataset) -> Iterator[NDArray]:
    """Iterate over standardized samples in blocks, NaN where an entry is missing."""
    for _, batch in _iter_blocks(dataset):
        x = batch.x.numpy(force=True)
        if batch.mask is not None:
            x = np.where(batch.mask.numpy(force=True) > 0, x, np.nan)
        yield x


def _evenly_spaced(dataset: Dataset) -> Dataset:
    """Take samples for the moments; all of them if there are few."""
    n_samples = min(len(dataset), MAX_PCA_SAMPLES)
    return dataset.subset(np.linspace(0, len(dataset) - 1, n_samples).astype(int))


def _covariance(dataset: Dataset) -> tuple[NDArray[np.float64], int]:
    """Compute the weighted covariance of a subset, and its number of samples."""
    subset = _evenly_spaced(dataset)
    mean = subset.scaling.standardized_mean
    covariance = np.zeros((subset.n_features, subset.n_features))
    for rows, batch in _iter_blocks(subset):
        x = batch.x.numpy(force=True).astype(np.float64) - mean
        covariance += x.T @ (subset.weights[rows, None] * x)
    return covariance / subset.weights.sum(), len(subset)


def _leading_eigenvectors(
    matrix: NDArray, random_state: RandomState
) -> tuple[NDArray, NDArray]:
    """Give the largest eigenvalues of a symmetric matrix and their eigenvectors."""
    if len(matrix) <= MAX_DENSE_EIGENVECTORS:
        values, vectors = np.linalg.eigh(matrix)
        return values[-N_SEARCH_COMPONENTS:], vectors[:, -N_SEARCH_COMPONENTS:]
    start = random_state.standard_normal(len(matrix))
    return eigsh(matrix, k=N_SEARCH_COMPONENTS, v0=start)


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
