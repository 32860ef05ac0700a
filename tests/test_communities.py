"""Communities of the graph of small groups of samples."""

import itertools
import warnings

import networkx as nx
import numpy as np
import pytest
from numpy.random import RandomState
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, mutual_info_score
from training_states import make_training_state

from skvade._data.neighbors import NeighborGraph
from skvade._inference import pretrained_embedding
from skvade._training import communities as module
from skvade._training.communities import (
    IMPROVEMENT_RESOLUTIONS,
    best_merger_by_information,
    best_merger_by_modularity,
    candidate_partitions,
    choose_partition,
    communities,
    community_labels,
    estimate_n_clusters,
    even_partition,
    improve_partition,
    louvain,
    modularity,
    mutual_information,
    split_and_merge,
)
from skvade._training.initialization import initial_labels
from skvade._training.pretraining import pretrain


def planted_links(n_groups=5, size=12, seed=0):
    """Weights of the edges of a graph with groups, and the groups."""
    rng = RandomState(seed)
    groups = np.repeat(np.arange(n_groups), size)
    inside = groups[:, None] == groups
    links = rng.uniform(size=inside.shape) * np.where(inside, 1.0, 0.1)
    return links + links.T, groups


def neighbors_of(X, n_neighbors=10):
    distances = np.linalg.norm(X[:, None] - X, axis=2)
    np.fill_diagonal(distances, np.inf)
    return NeighborGraph.from_array(distances.argsort(1)[:, :n_neighbors])


@pytest.fixture
def blobs_and_graph():
    Z, y = make_blobs(300, 3, centers=4, cluster_std=0.7, random_state=1)
    return Z, y, neighbors_of(Z)


# --- Communities --------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_modularity_is_that_of_networkx(resolution):
    links, groups = planted_links()
    np.fill_diagonal(links, 0)
    graph = nx.from_numpy_array(links)
    sets = [{*np.flatnonzero(groups == g).tolist()} for g in range(5)]
    expected = nx.community.modularity(graph, sets, resolution=resolution)
    assert modularity(links, groups, resolution) == pytest.approx(expected)


def test_louvain_finds_planted_groups():
    links, groups = planted_links()
    labels = louvain(links, 1.0, RandomState(0))
    assert adjusted_rand_score(groups, labels) == 1


def test_louvain_is_about_as_good_as_that_of_networkx():
    rng = RandomState(0)
    links = rng.uniform(size=(60, 60)) ** 8
    links += links.T
    np.fill_diagonal(links, 0)
    graph = nx.from_numpy_array(links)
    sets = nx.community.louvain_communities(graph, seed=0)
    expected = nx.community.modularity(graph, sets)
    assert modularity(links, louvain(links, 1.0, rng)) > 0.9 * expected


@pytest.mark.parametrize("n_communities", [1, 2, 5, 8, 60])
def test_communities_are_as_many_as_asked_for(n_communities):
    links, _ = planted_links()
    labels = communities(links, n_communities, RandomState(0))
    assert labels is None or len(np.unique(labels)) == n_communities
    assert labels is not None or n_communities not in (2, 5, 8)


# --- Partitions of samples ----------------------------------------------------------


def test_groups_are_found(blobs_and_graph):
    Z, y, graph = blobs_and_graph
    labels = community_labels(Z, [graph, graph], 4, np.ones(300), RandomState(0))
    assert adjusted_rand_score(y, labels) > 0.95


def test_the_partition_of_high_modularity_that_others_agree_with_is_chosen(
    blobs_and_graph,
):
    _, y, graph = blobs_and_graph
    rng = RandomState(0)
    almost = np.where(rng.uniform(size=300) < 0.02, 0, y)
    candidates = [rng.permutation(y), almost, y, rng.randint(4, size=300)]
    chosen = choose_partition(candidates, graph, np.ones(300), rng)
    assert_array_equal(chosen, y)


def test_kmeans_takes_the_place_of_communities_of_low_modularity(
    monkeypatch, blobs_and_graph
):
    Z, y, graph = blobs_and_graph
    worse = np.where(y == 1, 0, y) + 2 * (np.arange(300) % 2)
    for candidates in ([], [worse]):
        monkeypatch.setattr(
            module, "candidate_partitions", lambda *args, found=candidates: found
        )
        labels = community_labels(Z, [graph], 4, np.ones(300), RandomState(0))
        assert adjusted_rand_score(y, labels) > 0.9


def test_a_group_is_split_and_two_are_merged():
    """Two groups share a label, and one has two: single moves find no better one."""
    links, groups = planted_links()
    labels = np.array([0, 0, 1, 2, 3])[groups]
    labels[np.flatnonzero(groups == 4)[:6]] = 4
    found = split_and_merge(
        labels, links, links, RandomState(0), best_merger_by_modularity
    )
    assert adjusted_rand_score(groups, found) == 1
    assert adjusted_rand_score(groups, labels) < 0.8


def test_split_and_merge_raises_the_modularity_at_all_resolutions():
    rng, n_changed = RandomState(0), 0
    for _ in range(20):
        links = rng.gamma(0.2, size=(30, 30))
        links = links + links.T
        labels = np.r_[np.arange(5), rng.randint(5, size=25)]
        found = split_and_merge(labels, links, links, rng, best_merger_by_modularity)
        assert_array_equal(np.unique(found), np.arange(5))
        for resolution in IMPROVEMENT_RESOLUTIONS:
            before = modularity(links, labels, resolution)
            after = modularity(links, found, resolution)
            assert (after > before) if (found != labels).any() else after == before
        n_changed += (found != labels).any()
    assert n_changed > 5


def rise_of_modularity(links, labels, new):
    return min(
        modularity(links, new, resolution) - modularity(links, labels, resolution)
        for resolution in IMPROVEMENT_RESOLUTIONS
    )


def edges_between(links, labels):
    """Give the weights in millionths, since scikit-learn counts."""
    members = np.eye(labels.max() + 1)[labels]
    return np.rint(1e6 * members.T @ links @ members).astype(int)


def rise_of_information(links, labels, new):
    scores = [
        mutual_info_score(None, None, contingency=edges_between(links, partition))
        for partition in (new, labels)
    ]
    return scores[0] - scores[1]


@pytest.mark.parametrize(
    ("best_merger", "rise"),
    [
        (best_merger_by_modularity, rise_of_modularity),
        (best_merger_by_information, rise_of_information),
    ],
)
def test_the_best_move_is_that_of_a_search_over_all(best_merger, rise, monkeypatch):
    """Rise of the objective for each partition that one split and one merger give."""
    rng, n_changed = RandomState(0), 0
    monkeypatch.setattr(module, "MAX_IMPROVEMENTS", 1)
    for _ in range(10):
        links = rng.gamma(0.2, size=(16, 16))
        links = links + links.T
        edges = links * (links > 0.5)  # some groups have none between them
        labels = np.r_[np.arange(4), rng.randint(4, size=12)]
        found = split_and_merge(labels, edges, links, RandomState(1), best_merger)
        reached = [labels]
        draws = RandomState(1)
        for group in range(4):
            half = module._half(np.flatnonzero(labels == group), links, draws)
            if half is None:
                continue
            split = labels.copy()
            split[half] = 4
            between = edges_between(edges, split)
            density = between / np.outer(between.sum(0), between.sum(1))
            limit = module.MIN_DENSITY_RATIO * density[group, 4]
            for kept, merged in itertools.combinations(range(5), 2):
                touch = density[kept, merged] > limit
                if best_merger is best_merger_by_modularity or touch:
                    new = np.where(split == merged, kept, split)
                    reached.append(np.unique(new, return_inverse=True)[1])
        gains = [rise(edges, labels, new) for new in reached]
        assert rise(edges, labels, found) == pytest.approx(max(gains), abs=1e-6)
        n_changed += max(gains) > 1e-6
    assert n_changed > 5


def test_the_mutual_information_is_that_of_the_ends_of_edges():
    links, groups = planted_links()
    between = edges_between(links, groups)
    expected = mutual_info_score(None, None, contingency=between)
    assert mutual_information(between) == pytest.approx(expected)


@pytest.mark.parametrize("between", [0.0, 1e-3])
def test_clusters_that_hardly_touch_are_never_merged(between, monkeypatch):
    """Else the large group would be cut, and the two small ones become one."""
    parts = np.repeat([0, 1, 2, 3], [18, 18, 8, 8])
    labels = np.array([0, 0, 1, 2])[parts]
    links = RandomState(0).uniform(0.5, 1.5, size=(52, 52))
    links = (links + links.T) * np.where(labels[:, None] == labels, 0.1, between)
    links[parts[:, None] == parts] *= 10
    arguments = labels, links, links, RandomState(0), best_merger_by_information
    assert_array_equal(split_and_merge(*arguments), labels)
    if between:
        monkeypatch.setattr(module, "MIN_DENSITY_RATIO", 0.0)
        assert (split_and_merge(*arguments) != labels).any()


def test_a_group_without_edges_is_never_merged():
    before = np.array([[60.0, 1.0, 0.0], [1.0, 30.0, 0.0], [0.0, 0.0, 0.0]])
    split = np.zeros((4, 4))
    split[:2, :2] = [[28.0, 0.5], [0.5, 30.0]]
    split[3] = split[:, 3] = [2.0, 0.5, 0.0, 28.0]
    _, pair = best_merger_by_information(before, split, 0)
    assert 2 not in pair


def blobs_in_a_row(sizes, gap=3.0):
    """Each blob touches its neighbors."""
    centers = gap * np.arange(len(sizes))[:, None] * [1.0, 0.0]
    return make_blobs(sizes, centers=centers, cluster_std=0.8, random_state=0)


def uneven_partition():
    """One of eight even blobs is divided, two others are one group."""
    Z, y = blobs_in_a_row([200] * 8, gap=2.4)
    labels = np.array([0, 0, 1, 2, 3, 4, 5, 6])[y]
    labels[(y == 7) & (Z[:, 1] > -0.4)] = 7
    return Z, y, labels, neighbors_of(Z)


def test_even_groups_are_found():
    Z, y, labels, graph = uneven_partition()
    found = even_partition(labels, Z, [graph, graph], np.ones(1600), RandomState(0))
    assert adjusted_rand_score(y, found) > 0.9
    assert adjusted_rand_score(y, labels) < 0.85


@pytest.mark.parametrize(
    ("before", "after", "first_weight", "is_taken"),
    [
        ([60, 40], [55, 45], 1.0, True),
        ([50, 50], [55, 45], 1.0, False),  # less even than before
        ([70, 30], [65, 35], 1.0, False),  # not yet even
        ([80, 20], [50, 50], 1.0, False),  # too uneven before
        ([60, 40], [55, 45], 100.0, False),  # too uneven by weight
    ],
)
def test_the_result_counts_if_it_is_even(
    before, after, first_weight, is_taken, monkeypatch
):
    before, after = np.repeat([0, 1], before), np.repeat([0, 1], after)
    weights = np.r_[first_weight, np.ones(99)]
    monkeypatch.setattr(module, "improve_partition", lambda *_: after)
    found = even_partition(before, np.zeros((100, 2)), [], weights, RandomState(0))
    assert_array_equal(found, after if is_taken else before)


@pytest.mark.parametrize("sizes", [[700, 100, 100], [400, 100, 100, 100]])
def test_uneven_groups_stay_as_they_are(sizes):
    Z, y = blobs_in_a_row(sizes)
    graph = neighbors_of(Z)
    weights = np.ones(len(Z))
    found = even_partition(y, Z, [graph, graph], weights, RandomState(0))
    assert_array_equal(found, y)


def test_groups_that_do_not_become_even_stay_as_they_are(monkeypatch):
    Z, y = blobs_in_a_row([300, 150, 150])
    arguments = y, Z, [neighbors_of(Z)] * 2, np.ones(600)
    assert_array_equal(even_partition(*arguments, RandomState(0)), y)
    monkeypatch.setattr(module, "_evenness", lambda labels, weights: 1.0)
    assert (even_partition(*arguments, RandomState(0)) != y).any()


def test_many_groups_are_left_alone(monkeypatch):
    Z, _, labels, graph = uneven_partition()
    monkeypatch.setattr(module, "MAX_EVEN_GROUPS", 7)
    found = even_partition(labels, Z, [graph, graph], np.ones(1600), RandomState(0))
    assert_array_equal(found, labels)


def test_the_start_makes_groups_even(monkeypatch, blobs_and_graph):
    Z, _, graph = blobs_and_graph
    monkeypatch.setattr(module, "even_partition", lambda labels, *_: -labels)
    found = community_labels(Z, [graph, graph], 4, np.ones(300), RandomState(0))
    assert found.min() == -3


def test_a_partition_is_improved_on_the_samples(blobs_and_graph):
    Z, y, graph = blobs_and_graph
    labels = np.array([0, 0, 1, 2])[y]
    labels[(y == 3) & (Z[:, 0] > np.median(Z[y == 3, 0]))] = 3
    arguments = labels, Z, [graph, graph], np.ones(300), RandomState(0)
    found = improve_partition(*arguments, best_merger_by_modularity)
    assert adjusted_rand_score(y, found) > 0.95
    assert adjusted_rand_score(y, labels) < 0.8


def test_the_seed_decides(blobs_and_graph):
    Z, _, graph = blobs_and_graph
    first, again = (
        community_labels(Z, [graph], 7, np.ones(300), RandomState(0)) for _ in range(2)
    )
    assert_array_equal(first, again)


@pytest.mark.parametrize(
    "kind, n_clusters",
    [
        ("one cluster", 1),
        ("as many as samples", 30),
        ("few samples for each", 12),
        ("equal samples", 3),
        ("no edges", 3),
        ("one sample", 1),
    ],
)
def test_edge_cases_give_a_partition_without_warnings(kind, n_clusters):
    Z = RandomState(0).normal(size=(30, 2)).astype(np.float32)
    graph = neighbors_of(Z, 5)
    if kind == "equal samples":
        Z[:] = 0.1
    if kind == "no edges":
        graph = NeighborGraph(np.zeros(31, int), np.zeros(0, np.int32))
    if kind == "one sample":
        Z, graph = Z[:1], NeighborGraph(np.zeros(2, int), np.zeros(0, np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = community_labels(
            Z, [graph], n_clusters, np.ones(len(Z)), RandomState(0)
        )
    assert labels.shape == (len(Z),)
    assert len(np.unique(labels)) <= n_clusters
    if kind == "as many as samples":
        assert len(np.unique(labels)) == 30


def test_micro_clusters_are_limited_in_number(monkeypatch, blobs_and_graph):
    Z, _, graph = blobs_and_graph
    monkeypatch.setattr(module, "MAX_MICRO_CLUSTERS", 8)
    sizes, find = [], module.communities

    def record(links, n_communities, random_state):
        sizes.append(len(links))
        return find(links, n_communities, random_state)

    monkeypatch.setattr(module, "communities", record)
    args = [graph], 4, np.ones(300), RandomState(0)
    assert candidate_partitions(Z, *args)
    assert max(sizes) <= 8
    assert candidate_partitions(Z, [graph], 9, *args[2:]) == []


def test_weights_are_repetitions():
    """Edges and kernel of micro-clusters count samples by their weight."""
    Z = RandomState(0).normal(size=(40, 2))
    labels, weight = np.arange(40) % 4, RandomState(1).randint(1, 4, 40)
    graph = neighbors_of(Z, 5)
    row = np.repeat(np.arange(40), weight)
    repeated = NeighborGraph.from_array(graph.indices.reshape(40, 5)[row])
    # The neighbors are those of the first of the repeated samples.
    ones = np.ones(len(row))
    kernel = module._kernel(Z, labels, weight.astype(float))
    np.testing.assert_allclose(kernel, module._kernel(Z[row], labels[row], ones))
    sources, targets = labels[row][repeated.sources()], labels[repeated.indices]
    expected = np.zeros((4, 4))
    np.add.at(expected, (sources, targets), 1)
    counts = module._edge_counts(labels, graph, weight.astype(float))
    np.testing.assert_allclose(counts, (expected + expected.T) / 2)


@pytest.mark.parametrize("pretraining", ["neighbors", "autoencoder"])
def test_communities_start_the_mixture_whatever_the_pretraining(blobs, pretraining):
    X, y = blobs
    rate = "auto" if pretraining == "neighbors" else 0.3
    state = make_training_state(
        X,
        init="communities",
        pretraining=pretraining,
        pretrain_learning_rate_init=rate,
    )
    state.config.pretrain_max_iter = 2 if pretraining == "neighbors" else 20
    pretrain(state)
    has_decoder = pretraining != "neighbors"
    Z = pretrained_embedding(state.module, state.dataset, has_decoder)
    assert adjusted_rand_score(y, initial_labels(state, state.dataset, Z)) > 0.9


# --- The number of clusters ---------------------------------------------------------


@pytest.mark.parametrize("n_groups", [1, 2, 3, 7])
def test_the_number_of_separated_groups_is_found(n_groups):
    rng = RandomState(n_groups)
    centers = 20 * rng.permutation(np.eye(n_groups, 8))
    Z = np.repeat(centers, 60, axis=0) + rng.normal(size=(60 * n_groups, 8))
    graph = neighbors_of(Z)
    estimate = estimate_n_clusters(Z, (graph, graph), np.ones(len(Z)), RandomState(0))
    assert estimate == n_groups


def test_a_graph_without_edges_has_one_cluster():
    graph = NeighborGraph(np.zeros(7, int), np.zeros(0, int))
    Z = RandomState(0).normal(size=(6, 2))
    estimate = estimate_n_clusters(Z, (graph, graph), np.ones(6), RandomState(0))
    assert estimate == 1
