"""A partition of an embedding into communities of its neighbor graphs.

Clusters of an embedding are compact, but lie at irregular distances: inertia and
likelihood prefer to split a far one and to merge two near ones. Communities of a graph
do not depend on these distances. The graph is small, micro-clusters of the embedding,
and dense: on such graphs the moves below take milliseconds as NumPy operations.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from skvade._data.neighbors import NeighborGraph

__all__ = [
    "best_merger_by_information",
    "best_merger_by_modularity",
    "candidate_partitions",
    "choose_partition",
    "communities",
    "community_labels",
    "estimate_n_clusters",
    "even_partition",
    "improve_partition",
    "modularity",
    "mutual_information",
    "split_and_merge",
]

# Micro-clusters for each cluster: one group of candidate partitions for each number.
MICRO_CLUSTERS = (15, 30)
SAMPLES_PER_MICRO_CLUSTER = 10  # at least
MAX_MICRO_CLUSTERS = 1_000  # the time of the moves grows with their square
KERNEL_WEIGHTS = (2.0, 3.0, 5.0, 9.0)  # of the kernel, beside one for the edge counts
MAX_KMEANS_SAMPLES = 20_000  # that micro-clusters are fitted on
CHOICE_RESOLUTION = 0.5  # of the modularity that candidates are chosen by
AGREEMENT_WEIGHT = 0.02  # beside it
N_AGREEMENT_SAMPLES = 2_000  # on which candidate partitions are compared
IMPROVEMENT_RESOLUTIONS = (0.2, 1.5)  # of the modularity that must rise at both
SPLIT_KERNEL_WEIGHT = 3.0  # of the kernel in the links by which a group is split
MIN_IMPROVEMENT = 1e-6  # of the modularity, or of the mutual information
MAX_IMPROVEMENTS = 20
# Two groups become one if the edges between them are more than this fraction as dense
# as those between the parts of the group that is split for it.
MIN_DENSITY_RATIO = 0.3
# Simpson's evenness, at most 1. Below the first value the clusters differ in size; a
# partition that was made even is kept from the second on.
MIN_EVENNESS_BEFORE, MIN_EVENNESS_AFTER = 0.8, 0.93
MAX_EVEN_GROUPS = 100  # the time grows with the cube
N_TRIES = 2  # of Louvain's method at each resolution
N_BISECTIONS = 14
MIN_RESOLUTION, MAX_RESOLUTION = 0.02, 30.0
MAX_PASSES = 20  # over the nodes of a graph

# The number of clusters is that of the partition of highest modularity, among those
# that a grid of resolutions finds. A resolution of 0.3 counts one cluster of all
# samples as 0.7: so much of the edges, and more, must lie within several clusters.
COUNT_RESOLUTION = 0.3
N_COUNT_RESOLUTIONS = 24
MIN_COUNT_RESOLUTION, MAX_COUNT_RESOLUTION = 0.05, 10.0
COUNT_MICRO_CLUSTERS = (100, 300)
MAX_KMEANS_CLUSTERS = 20  # k-means serves small data, which have few groups


def community_labels(
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    n_clusters: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    """Partition an embedding into `n_clusters` communities.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, latent_dim)
        The embedding.
    graphs : sequence of NeighborGraph
        Neighbor graphs of the samples: of X, and of the embedding. Partitions are
        judged on the first.
    n_clusters : int
        Number of groups.
    sample_weight : ndarray of shape (n_samples,)
        Weights of the samples.
    random_state : RandomState
        Source of randomness.

    Returns
    -------
    labels : ndarray of shape (n_samples,)
        Group of each sample.
    """
    if n_clusters == 1:
        return np.zeros(len(Z), int)
    candidates = candidate_partitions(
        Z, graphs, n_clusters, sample_weight, random_state
    )
    # Of few samples, micro-clusters can be too coarse for the groups.
    candidates.append(
        _kmeans_labels(Z, n_clusters, sample_weight, random_state, n_init=10)
    )
    labels = choose_partition(candidates, graphs[0], sample_weight, random_state)
    improved = improve_partition(
        labels, Z, graphs, sample_weight, random_state, best_merger_by_modularity
    )
    candidates.append(improved)
    labels = choose_partition(candidates, graphs[0], sample_weight, random_state)
    return even_partition(labels, Z, graphs, sample_weight, random_state)


def estimate_n_clusters(
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    sample_weight: NDArray,
    random_state: RandomState,
) -> int:
    """Estimate the number of clusters in an embedding.

    Candidates are the communities at a grid of resolutions, and partitions by k-means.
    The number is that of the candidate of highest modularity, `COUNT_RESOLUTION`, in
    the first of the graphs.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, latent_dim)
        The embedding.
    graphs : sequence of NeighborGraph
        Neighbor graphs of the samples: of X, and of the embedding.
    sample_weight : ndarray of shape (n_samples,)
        Weights of the samples.
    random_state : RandomState
        Source of randomness.

    Returns
    -------
    n_clusters : int
        From 1 on; 1 where the graph has no edges.
    """
    if not len(graphs[0].indices):
        return 1
    resolutions = np.geomspace(
        MIN_COUNT_RESOLUTION, MAX_COUNT_RESOLUTION, N_COUNT_RESOLUTIONS
    )
    candidates = [np.zeros(len(Z), int)]
    for n_micro in COUNT_MICRO_CLUSTERS:
        for micro_labels, links in _micro_graphs(
            Z, graphs, n_micro, 1, sample_weight, random_state
        ):
            groups = [louvain(links, r, random_state) for r in resolutions]
            candidates += [labels[micro_labels] for labels in groups]
    for n_clusters in range(2, min(MAX_KMEANS_CLUSTERS, len(Z) // 5) + 1):
        candidates.append(_kmeans_labels(Z, n_clusters, sample_weight, random_state))
    scores = [
        _modularity(_edge_counts(labels, graphs[0], sample_weight), COUNT_RESOLUTION)
        for labels in candidates
    ]
    return int(candidates[int(np.argmax(scores))].max()) + 1


# --- Candidates ---------------------------------------------------------------------


def candidate_partitions(
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    n_clusters: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> list[NDArray]:
    """Find communities for several numbers of micro-clusters and weights of the kernel.

    The result is empty where no resolution gives `n_clusters` of them, or where there
    are too many, or no edges.
    """
    candidates: list[NDArray] = []
    if n_clusters > MAX_MICRO_CLUSTERS:
        return candidates
    for per_cluster in MICRO_CLUSTERS:
        for micro_labels, links in _micro_graphs(
            Z, graphs, per_cluster * n_clusters, n_clusters, sample_weight, random_state
        ):
            groups = communities(links, n_clusters, random_state)
            if groups is not None:
                candidates.append(groups[micro_labels])
    return candidates


def _micro_graphs(
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    n_micro_clusters: int,
    n_clusters: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> Iterator[tuple[NDArray, NDArray]]:
    """Give micro-clusters and the links between them, for each weight of the kernel.

    There are none without edges.
    """
    if not any(len(graph.indices) for graph in graphs):
        return
    micro_labels = _micro_labels(
        Z, n_micro_clusters, n_clusters, sample_weight, random_state
    )
    counts, kernel = _link_fractions(micro_labels, Z, graphs, sample_weight)
    for weight in KERNEL_WEIGHTS:
        yield micro_labels, counts + weight * kernel


def _micro_labels(
    Z: NDArray,
    n_micro_clusters: int,
    n_clusters: int,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    """Partition the embedding into micro-clusters, fewer of few samples."""
    most = max(len(Z) // SAMPLES_PER_MICRO_CLUSTER, n_clusters)
    n_micro_clusters = min(n_micro_clusters, most, MAX_MICRO_CLUSTERS)
    return _kmeans_labels(Z, n_micro_clusters, sample_weight, random_state)


def _link_fractions(
    labels: NDArray, Z: NDArray, graphs: Sequence[NeighborGraph], sample_weight: NDArray
) -> tuple[NDArray, NDArray]:
    """Link groups by the edges between them, and by the kernel; each sums to one."""
    counts = np.sum([_edge_counts(labels, g, sample_weight) for g in graphs], axis=0)
    kernel = _kernel(Z, labels, sample_weight)
    return counts / counts.sum(), kernel / kernel.sum()


def _kmeans_labels(
    Z: NDArray,
    n_clusters: int,
    sample_weight: NDArray,
    random_state: RandomState,
    n_init: int = 1,
) -> NDArray:
    """Partition the embedding by k-means, fitted on a subset of many samples."""
    subset = random_state.permutation(len(Z))[:MAX_KMEANS_SAMPLES]
    n_distinct = _n_distinct(Z[subset], n_clusters)
    kmeans = KMeans(n_distinct, n_init=n_init, random_state=random_state)
    kmeans.fit(Z[subset], sample_weight=sample_weight[subset])
    return np.unique(kmeans.predict(Z), return_inverse=True)[1]


def _n_distinct(Z: NDArray, most: int) -> int:
    """Count the distinct points, up to `most`: k-means finds no more clusters."""
    return min(most, len(np.unique(Z, axis=0)))


def _edge_counts(
    labels: NDArray, graph: NeighborGraph, sample_weight: NDArray
) -> NDArray[np.float64]:
    """Count the edges between groups, symmetrically, by the weight of their source."""
    n_groups = labels.max() + 1
    sources = graph.sources()
    pairs = labels[sources].astype(np.int64) * n_groups + labels[graph.indices]
    counts = np.bincount(pairs, sample_weight[sources], n_groups**2)
    counts = counts.reshape(n_groups, n_groups)
    return (counts + counts.T) / 2


def _kernel(Z: NDArray, labels: NDArray, sample_weight: NDArray) -> NDArray[np.float64]:
    """Weigh pairs of groups by a squared Cauchy kernel of their mean squared distance.

    The weights of the groups multiply it.
    """
    weights = np.bincount(labels, sample_weight)
    sums = [np.bincount(labels, sample_weight * z) for z in Z.T]
    centers = np.stack(sums, axis=1) / weights[:, None]
    deviations = np.square(Z - centers[labels]).sum(1)
    spreads = np.bincount(labels, sample_weight * deviations) / weights
    distances = np.square(centers[:, None] - centers).sum(-1)
    distances += (spreads[:, None] + spreads) / 2
    return np.outer(weights, weights) / np.square(1 + distances)


# --- Communities of a small dense graph ---------------------------------------------


def communities(
    links: NDArray, n_communities: int, random_state: RandomState
) -> NDArray | None:
    """Find `n_communities` of a graph by Louvain's method, by bisecting the resolution.

    Parameters
    ----------
    links : ndarray of shape (n_nodes, n_nodes)
        Symmetric weights of the edges.
    n_communities : int
        Number of communities.
    random_state : RandomState
        Decides about the order of the nodes.

    Returns
    -------
    labels : ndarray of shape (n_nodes,) or None
        None if no resolution that was tried gives this number.
    """
    low, high, found = MIN_RESOLUTION, MAX_RESOLUTION, None
    for _ in range(N_BISECTIONS):
        resolution = np.sqrt(low * high)
        tries = [louvain(links, resolution, random_state) for _ in range(N_TRIES)]
        tries.sort(key=lambda labels: modularity(links, labels, resolution))
        n_found = tries[-1].max() + 1
        if n_found == n_communities:
            return tries[-1]
        for labels in tries:
            if labels.max() + 1 == n_communities:
                found = labels
        if n_found > n_communities:
            high = resolution
        else:
            low = resolution
    return found


def louvain(links: NDArray, resolution: float, random_state: RandomState) -> NDArray:
    """Maximize modularity by moving nodes, then groups of them (Blondel et al., 2008).

    Single nodes are moved once more at the end.
    """
    labels, level = np.arange(len(links)), links
    while True:
        singletons = np.arange(len(level))
        groups = _move_nodes(level, singletons, resolution, random_state)
        if groups.max() + 1 == len(level):
            return _move_nodes(links, labels, resolution, random_state)
        labels = groups[labels]
        level = _aggregate(links, labels)


def _move_nodes(
    links: NDArray, labels: NDArray, resolution: float, random_state: RandomState
) -> NDArray:
    """Move nodes to the group that raises the modularity most, until none moves."""
    labels, degrees = labels.copy(), links.sum(1)
    n_groups, total = labels.max() + 1, degrees.sum()
    group_degrees = np.bincount(labels, degrees, n_groups)
    to_groups = _one_hot(labels).T @ links  # (n_groups, n_nodes)
    to_groups = np.ascontiguousarray(to_groups.T)
    penalties = resolution * degrees / total
    for _ in range(MAX_PASSES):
        has_moved = False
        for node in random_state.permutation(len(links)):
            old = labels[node]
            gains = to_groups[node] - penalties[node] * group_degrees
            gains[old] += penalties[node] * degrees[node] - links[node, node]
            new = gains.argmax()
            if gains[new] > gains[old] + 1e-12 * total:
                labels[node], has_moved = new, True
                to_groups[:, old] -= links[:, node]
                to_groups[:, new] += links[:, node]
                group_degrees[old] -= degrees[node]
                group_degrees[new] += degrees[node]
        if not has_moved:
            break
    return np.unique(labels, return_inverse=True)[1]


def _one_hot(labels: NDArray) -> NDArray[np.float64]:
    return np.eye(labels.max() + 1)[labels]


def _aggregate(links: NDArray, labels: NDArray) -> NDArray:
    """Sum the weights of the edges between groups."""
    members = _one_hot(labels)
    return members.T @ links @ members


def modularity(links: NDArray, labels: NDArray, resolution: float = 1.0) -> float:
    """Compute the modularity of a partition of a graph (Newman, 2006)."""
    return _modularity(_aggregate(links, labels), resolution)


def _modularity(between: NDArray, resolution: float = 1.0) -> float:
    """Compute modularity from the weights of the edges between groups."""
    fractions = between.sum(1) / between.sum()
    inside = between.trace() / between.sum()
    return float(inside - resolution * np.square(fractions).sum())


# --- The choice ---------------------------------------------------------------------


def choose_partition(
    candidates: Sequence[NDArray],
    graph: NeighborGraph,
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    """Choose the candidate of high modularity that agrees with the others.

    Modularity is that of the samples' own neighbor graph, at a resolution below one,
    since modularity prefers groups of equal size. Agreement is the mean adjusted Rand
    index with all candidates.
    """
    subset = random_state.permutation(len(sample_weight))[:N_AGREEMENT_SAMPLES]
    agreement = np.eye(len(candidates))  # which is symmetric
    for i, j in combinations(range(len(candidates)), 2):
        pair = candidates[i][subset], candidates[j][subset]
        agreement[i, j] = agreement[j, i] = adjusted_rand_score(*pair)
    scores = AGREEMENT_WEIGHT * agreement.mean(1)
    if len(graph.indices):
        for i, labels in enumerate(candidates):
            edge_counts = _edge_counts(labels, graph, sample_weight)
            scores[i] += _modularity(edge_counts, CHOICE_RESOLUTION)
    return candidates[int(np.argmax(scores))]


# --- The improvement ----------------------------------------------------------------

# From the weights of the edges between groups before and after a split, and the group
# that was split: the rise of an objective by the best merger, and the two groups.
BestMerger = Callable[[NDArray, NDArray, int], tuple[float, tuple[int, int]]]


def improve_partition(
    labels: NDArray,
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    sample_weight: NDArray,
    random_state: RandomState,
    best_merger: BestMerger,
) -> NDArray:
    """Split one group of samples and merge two, as long as that raises an objective.

    Louvain's method moves one node at a time and does not find such partitions: on the
    way there the objective falls. It is computed from the edges of the first graph.
    Micro-clusters move as a whole. The number of groups stays.
    """
    n_groups = labels.max() + 1
    if n_groups < 2 or not len(graphs[0].indices):
        return labels
    micro_labels = _micro_labels(
        Z, MICRO_CLUSTERS[-1] * n_groups, n_groups, sample_weight, random_state
    )
    # The nodes are the parts of micro-clusters in each group.
    pairs, nodes = np.unique(micro_labels * n_groups + labels, return_inverse=True)
    counts, kernel = _link_fractions(nodes, Z, graphs, sample_weight)
    edges = _edge_counts(nodes, graphs[0], sample_weight)
    links = counts + SPLIT_KERNEL_WEIGHT * kernel
    groups = split_and_merge(pairs % n_groups, edges, links, random_state, best_merger)
    return groups[nodes]


def even_partition(
    labels: NDArray,
    Z: NDArray,
    graphs: Sequence[NeighborGraph],
    sample_weight: NDArray,
    random_state: RandomState,
) -> NDArray:
    """Make groups that are nearly even in size more so, where the graph allows it.

    The mutual information of the groups at the two ends of an edge rewards even groups.
    Of data whose clusters differ in size it would cut the large ones. So uneven groups
    stay as they are, and the result counts only if its groups have become even.
    """
    evenness = _evenness(labels, sample_weight)
    if evenness < MIN_EVENNESS_BEFORE or labels.max() >= MAX_EVEN_GROUPS:
        return labels
    result = improve_partition(
        labels, Z, graphs, sample_weight, random_state, best_merger_by_information
    )
    least = max(MIN_EVENNESS_AFTER, evenness)
    return result if _evenness(result, sample_weight) >= least else labels


def _evenness(labels: NDArray, sample_weight: NDArray) -> float:
    """Compute Simpson's evenness of the groups, 1 / sum p_c^2 over their number."""
    fractions = np.bincount(labels, sample_weight) / sample_weight.sum()
    return float(1 / np.square(fractions).sum() / len(fractions))


def split_and_merge(
    labels: NDArray,
    edges: NDArray,
    links: NDArray,
    random_state: RandomState,
    best_merger: BestMerger,
) -> NDArray:
    """Split a group of nodes and merge two, best pair first, until nothing improves.

    Parameters
    ----------
    labels : ndarray of shape (n_nodes,)
        Group of each node.
    edges : ndarray of shape (n_nodes, n_nodes)
        Symmetric weights of the edges, by which the objective is computed.
    links : ndarray of shape (n_nodes, n_nodes)
        Symmetric weights, by which a group is split into two communities.
    random_state : RandomState
        Decides about the order of the nodes.
    best_merger : callable
        Finds the two groups to merge after a split, see `BestMerger`.

    Returns
    -------
    labels : ndarray of shape (n_nodes,)
        As many groups, at least as good as the given ones.
    """
    n_groups = labels.max() + 1
    halves: dict[bytes, NDArray | None] = {}  # of groups, by their nodes
    for _ in range(MAX_IMPROVEMENTS):
        to_groups = edges @ _one_hot(labels)
        between = _one_hot(labels).T @ to_groups
        best_gain, best_labels = MIN_IMPROVEMENT, labels
        for group in range(n_groups):
            nodes = np.flatnonzero(labels == group)
            key = nodes.tobytes()
            if key not in halves:
                halves[key] = _half(nodes, links, random_state)
            half = halves[key]
            if half is None:
                continue
            inside = edges[np.ix_(half, half)].sum()
            split = _split_off(between, group, to_groups[half].sum(0), inside)
            gain, (kept, merged) = best_merger(between, split, group)
            if gain > best_gain:
                new_labels = labels.copy()
                new_labels[half] = n_groups
                new_labels[new_labels == merged] = kept
                new_labels[new_labels == n_groups] = merged
                best_gain, best_labels = gain, new_labels
        if best_labels is labels:
            break
        labels = best_labels
    return labels


def _half(nodes: NDArray, links: NDArray, random_state: RandomState) -> NDArray | None:
    """Give one of the two communities of some nodes; None if they do not fall apart."""
    if len(nodes) < 2:
        return None
    labels = communities(links[np.ix_(nodes, nodes)], 2, random_state)
    return None if labels is None else nodes[labels == 1]


def _split_off(
    between: NDArray, group: int, to_groups: NDArray, inside: float
) -> NDArray:
    """Give the weights of the edges between groups, a part of one as the last group.

    `to_groups` are the weights from this part to the groups as they were, and `inside`
    is the weight within it.
    """
    moved = np.append(to_groups, inside)
    moved[group] -= inside
    result = np.pad(between, (0, 1))
    result[group] -= moved
    result[:, group] -= moved
    result[group, group] -= inside
    result[-1] = result[:, -1] = moved
    return np.maximum(result, 0.0)  # rounding may leave negative weights


def best_merger_by_modularity(
    before: NDArray, between: NDArray, group: int
) -> tuple[float, tuple[int, int]]:
    """Find the two groups whose merger raises the modularity most since `before`.

    Both arrays are weights of the edges between groups. Since `before`, the last group
    was split off from `group`: these two stay apart. The rise is the lowest of those at
    all `IMPROVEMENT_RESOLUTIONS`: a low one prefers groups of unequal size, a high one
    even groups.
    """
    total = between.sum()
    degrees = between.sum(1) / total
    gains = [
        _modularity(between, resolution)
        - _modularity(before, resolution)
        + 2 * (between / total - resolution * np.outer(degrees, degrees))
        for resolution in IMPROVEMENT_RESOLUTIONS
    ]
    lowest = np.min(gains, axis=0)
    lowest[np.triu_indices(len(lowest))] = -np.inf
    lowest[-1, group] = -np.inf
    merged, kept = np.unravel_index(lowest.argmax(), lowest.shape)
    return float(lowest[merged, kept]), (int(kept), int(merged))


def best_merger_by_information(
    before: NDArray, between: NDArray, group: int
) -> tuple[float, tuple[int, int]]:
    """Find the two groups whose merger raises the mutual information most.

    As in `best_merger_by_modularity`. Up to constants, the objective is the
    log-likelihood of a degree-corrected stochastic block model (Karrer and Newman,
    2011). The edges between the two must be nearly as dense as those between the parts
    of `group`, else they are clusters of their own, and a cluster was cut for their
    sake.
    """
    weights = between / between.sum()
    degrees = weights.sum(1)
    # Densities are weights over products of degrees, which may be zero.
    products = np.outer(degrees, degrees)
    limits = MIN_DENSITY_RATIO * weights[-1, group] * products
    allowed = np.tril(weights * products[-1, group] > limits, -1)
    allowed[-1, group] = False
    merged, kept = np.nonzero(allowed)
    if not len(merged):
        return -np.inf, (0, 0)
    pairs = np.arange(len(merged))
    rows = weights[kept] + weights[merged]
    rows[pairs, kept] += rows[pairs, merged]
    rows[pairs, merged] = 0.0
    # Entries in a row and a column count twice, those in the crossings once.
    terms, row_terms, degree_terms = entr(weights), entr(rows), entr(degrees)
    after = 2 * row_terms.sum(1) - row_terms[pairs, kept]
    former = 2 * (terms[kept] + terms[merged]).sum(1)
    former -= terms[kept, kept] + terms[merged, merged] + 2 * terms[kept, merged]
    fall = degree_terms[kept] + degree_terms[merged]
    fall -= entr(degrees[kept] + degrees[merged])
    gains = former - after - 2 * fall
    gains += mutual_information(between) - mutual_information(before)
    best = int(gains.argmax())
    return float(gains[best]), (int(kept[best]), int(merged[best]))


def mutual_information(between: NDArray) -> float:
    """Compute the mutual information of the groups at both ends of an edge, in nats.

    `between` holds the weights of the edges between groups.
    """
    weights = between / between.sum()
    return float(2 * entr(weights.sum(1)).sum() - entr(weights).sum())
