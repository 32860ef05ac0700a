"""The nearest neighbors of each sample: exact, approximate, and as graphs give them."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from missing_data import remove_entries
from numpy.random import RandomState
from numpy.testing import assert_array_equal
from scipy import sparse
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsTransformer
from training_states import make_training_state

from skvade._data import neighbors
from skvade._data import search_features as search_module
from skvade._data.dataset import Dataset
from skvade._data.device import resolve_device
from skvade._data.imputation import NeighborImputer
from skvade._data.neighbors import (
    NeighborGraph,
    approximate_neighbors,
    check_graph,
    exact_neighbors,
    find_neighbors,
    neighbors_from_transformer,
)
from skvade._data.scaling import DataSummary, uniform_weights
from skvade._data.search_features import search_features
from skvade._data.table import Part
from skvade._model.likelihoods import Mixed
from skvade._training import neighbor_embedding


def brute_force(X, n_neighbors):
    """Find neighbors by sorting all distances, (n, n_neighbors)."""
    distances = np.linalg.norm(X[:, None] - X, axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances.argsort(axis=1)[:, :n_neighbors]


def neighbor_sets(graph):
    return [{*part} for part in np.split(graph.indices, graph.indptr[1:-1])]


def recall(graph, expected):
    found = neighbor_sets(graph)
    return np.mean(
        [len(a & {*b}) / len(b) for a, b in zip(found, expected, strict=True)]
    )


def tensor(X):
    return torch.tensor(X, dtype=torch.float32)


@pytest.fixture
def forbid_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- Exact --------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [3, 40])
def test_exact_neighbors_are_those_of_brute_force(n_features):
    X = RandomState(0).normal(size=(300, n_features))
    graph = exact_neighbors(tensor(X), 7)
    assert recall(graph, brute_force(X, 7)) == 1
    assert_array_equal(np.diff(graph.indptr), 7)


def test_blocks_of_products_find_the_same(monkeypatch):
    X = tensor(RandomState(0).normal(size=(300, 8)))
    everything = torch.arange(300)
    found = neighbors._nearest(X, everything, everything, 7)
    assert (
        recall(NeighborGraph.from_array(found.numpy()), brute_force(X.numpy(), 7)) == 1
    )


@pytest.mark.parametrize(
    "n_samples, expected", [(1, 0), (2, 1), (4, 1), (16, 5), (99, 15)]
)
def test_few_samples_have_a_third_of_the_others_as_neighbors(
    n_samples, expected, generator
):
    X = tensor(RandomState(0).normal(size=(n_samples, 2)))
    graph = find_neighbors(X, 15, generator)
    assert_array_equal(np.diff(graph.indptr), expected)


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_a_duplicate_is_a_neighbor_and_the_sample_itself_is_not(search, generator):
    X = tensor(np.repeat(RandomState(0).normal(size=(4, 3)), 4, axis=0))
    if search == "exact":
        graph = exact_neighbors(X, 3)
    else:
        graph = approximate_neighbors(X, 3, generator)
    groups = np.arange(16) // 4
    assert (graph.sources() != graph.indices).all()
    assert_array_equal(groups[graph.sources()], groups[graph.indices])


# --- Approximate --------------------------------------------------------------------


def test_approximate_neighbors_of_structured_data(generator):
    """Groups on planes of five dimensions, in twenty."""
    rng = RandomState(0)
    centers = rng.normal(scale=3, size=(30, 20))
    planes = rng.normal(size=(30, 5, 20))
    groups = rng.randint(30, size=40_000)
    X = centers[groups] + np.einsum(
        "ni,nij->nj", rng.normal(size=(40_000, 5)), planes[groups]
    )
    X += 0.1 * rng.normal(size=X.shape)
    X = tensor(X)
    graph = find_neighbors(X, 15, generator)
    assert (graph.sources() != graph.indices).all()
    queries = torch.arange(0, 40_000, 80)
    expected = neighbors._nearest(X, queries, torch.arange(40_000), 15).numpy()
    found = graph.indices.reshape(-1, 15)[queries.numpy()]
    hits = [np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]
    assert np.mean(hits) >= 0.9


def test_number_of_samples_decides_whether_the_search_is_approximate(
    monkeypatch, generator
):
    called = []
    monkeypatch.setattr(neighbors, "MAX_EXACT_SAMPLES", 50)
    monkeypatch.setattr(
        neighbors, "approximate_neighbors", lambda *args: called.append("approximate")
    )
    monkeypatch.setattr(
        neighbors, "exact_neighbors", lambda *args: called.append("exact")
    )
    for n_samples in (50, 51):
        find_neighbors(torch.zeros(n_samples, 2), 3, generator)
    assert called == ["exact", "approximate"]


def test_equal_samples_are_compared_in_pieces(monkeypatch, generator):
    """All are in one cell: comparing all pairs would take quadratic time."""
    compared, nearest = [], neighbors._nearest

    def record(features, queries, candidates, *args):
        compared.append(len(queries) * len(candidates))
        return nearest(features, queries, candidates, *args)

    monkeypatch.setattr(neighbors, "_nearest", record)
    monkeypatch.setattr(neighbors, "MAX_CELL_SIZE", 50)
    monkeypatch.setattr(neighbors, "N_PROBES", 4)
    graph = approximate_neighbors(torch.ones(2000, 3), 5, generator)
    assert sum(compared) <= 2000 * 50 * 4
    assert (graph.sources() != graph.indices).all()


def test_the_seed_decides_about_the_cells(generator):
    X = tensor(RandomState(0).normal(size=(3000, 8)))
    first, again = (
        approximate_neighbors(X, 5, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert_array_equal(first.indices, again.indices)


# --- What the distances are computed from -------------------------------------------


def test_missing_entries_are_imputed_for_the_search(X_missing):
    dataset = make_training_state(X_missing).dataset
    x, variance = search_features(dataset, RandomState(0))
    imputer = NeighborImputer(dataset, RandomState(0))
    imputed = imputer.impute(dataset.get_batch(np.arange(len(X_missing))))
    unit = imputed.x.abs().max()
    np.testing.assert_allclose(x, imputed.x / unit, rtol=1e-6)
    expected = imputed.variance.sum(1) / unit**2
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_expected_distances_count_what_is_not_known(search, generator):
    X, variance = (
        RandomState(0).normal(size=(300, 4)),
        RandomState(1).gamma(1, size=300),
    )
    variance[0] = 1e6  # nobody's neighbor, and still one with neighbors
    distances = np.square(X[:, None] - X).sum(2) + variance
    np.fill_diagonal(distances, np.inf)
    find = exact_neighbors
    if search == "approximate":
        find = partial(approximate_neighbors, generator=generator)
    graph = find(tensor(X), 7, variance=tensor(variance))
    assert recall(graph, distances.argsort(axis=1)[:, :7]) == 1
    assert 0 not in graph.indices


@pytest.mark.parametrize("n_features", [5, 150])
def test_neighbors_of_incomplete_samples_are_of_their_group(n_features, generator):
    """Two of five entries are missing; a sample with few left is near to no one."""
    X, y = make_blobs(300, n_features, centers=4, random_state=0)
    state = make_training_state(remove_entries(X, 0.4))
    x, variance = search_features(state.dataset, RandomState(0))
    graph = find_neighbors(x, 15, generator, variance).mutual()
    assert (y[graph.sources()] == y[graph.indices]).mean() > 0.98
    assert x.shape[1] == min(n_features, 50)


@pytest.mark.parametrize("n_features", [4, 120])
def test_an_outlier_beside_missing_entries(n_features, generator):
    X = remove_entries(RandomState(0).normal(size=(120, n_features)))
    X[0, 1] = 1e20
    x, variance = search_features(make_training_state(X).dataset, RandomState(0))
    assert x.isfinite().all() and variance.isfinite().all()
    graph = find_neighbors(x, 5, generator, variance)
    assert (graph.sources() != graph.indices).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_many_features_are_projected_onto_principal_components(likelihood):
    """Sixty strong directions, whose distances the projection keeps."""
    rng = RandomState(0)
    X = rng.normal(size=(400, 30)) @ rng.normal(size=(30, 300))
    X += 0.01 * rng.normal(size=X.shape)
    X = (X - X.min()) / np.ptp(X)
    state = make_training_state(X, likelihood=likelihood)
    features = search_features(state.dataset, RandomState(0)).x
    assert features.shape == (400, 50)
    assert recall(exact_neighbors(features, 10), brute_force(X, 10)) > 0.99


@pytest.mark.parametrize("kind", ["constant", "one outlier", "few samples"])
def test_degenerate_data_are_projected_without_warnings(kind, forbid_warnings):
    X = np.ones((120, 200))
    if kind == "one outlier":
        X[0] = 1e20
    if kind == "few samples":
        X = RandomState(0).normal(size=(60, 200))
    state = make_training_state(X)
    assert search_features(state.dataset, RandomState(0)).x.isfinite().all()


# --- Graphs -------------------------------------------------------------------------


def test_joined_graphs_have_the_edges_of_each(X):
    graphs = [exact_neighbors(torch.tensor(x), 3) for x in (X[:9], X[9:14])]
    graphs.insert(1, NeighborGraph.from_array(np.empty((1, 0))))
    joined = NeighborGraph.concatenate(graphs)
    matrices = [
        sparse.csr_array((np.ones(len(g.indices)), g.indices, g.indptr), (n, n))
        for g, n in zip(graphs, (9, 1, 5), strict=True)
    ]
    expected = sparse.block_diag(matrices, format="csr")
    assert_array_equal(joined.indptr, expected.indptr)
    blocks = NeighborGraph(expected.indptr, expected.indices)
    assert neighbor_sets(joined) == neighbor_sets(blocks)


def test_mutual_neighbors():
    graph = NeighborGraph.from_array(np.array([[1, 2], [0, 2], [3, 0], [4, 2], [0, 1]]))
    # 0-1, 0-2 and 2-3 are mutual; the first neighbor of 4 is 0.
    expected = [{1, 2}, {0}, {0, 3}, {2}, {0}]
    assert neighbor_sets(graph.mutual()) == expected


def test_mutual_neighbors_are_symmetric_but_for_the_lonely():
    X = tensor(RandomState(0).normal(size=(200, 3)))
    graph = exact_neighbors(X, 6)
    directed, mutual = neighbor_sets(graph), neighbor_sets(graph.mutual())
    for i, found in enumerate(mutual):
        expected = {j for j in directed[i] if i in directed[j]}
        assert found == expected or (not expected and found == {graph.indices[6 * i]})


def test_a_sample_without_neighbors_stays_without():
    graph = sparse.csr_array(([1.0, 1.0], ([0, 2], [2, 0])), shape=(3, 3))
    assert neighbor_sets(NeighborGraph.from_sparse(graph).mutual()) == [{2}, set(), {0}]


def test_stored_entries_are_neighbors_zeros_included_and_loops_are_not():
    graph = sparse.coo_matrix(([0.0, 5.0, 1.0, 2.0], ([0, 0, 1, 2], [1, 0, 2, 2])))
    assert neighbor_sets(NeighborGraph.from_sparse(graph)) == [{1}, {2}, set()]


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_neighbors_of_a_transformer(mode):
    X = make_blobs(100, 4, random_state=0)[0]
    X[50] = X[0]  # a distance of zero is stored
    transformer = KNeighborsTransformer(n_neighbors=6, metric="cosine", mode=mode)
    graph = neighbors_from_transformer(transformer, X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    n_expected = 6 if mode == "distance" else 5
    assert recall(graph, brute_force(unit, n_expected)) > 0.99
    assert (graph.sources() != graph.indices).all()
    assert 50 in neighbor_sets(graph)[0]


@pytest.mark.parametrize(
    "graph, message",
    [
        (np.eye(3), r"sparse matrix of shape \(3, 3\).* Got ndarray of shape \(3, 3\)"),
        (sparse.eye_array(4), r"shape \(3, 3\).* of shape \(4, 4\) instead"),
        (sparse.eye_array(3), "stores no entry off its diagonal"),
    ],
)
def test_what_is_no_graph_of_the_samples_is_rejected(graph, message):
    with pytest.raises(ValueError, match=f"^The graph must .*{message}"):
        check_graph(graph, 3, "The graph")


# --- Tables -------------------------------------------------------------------------


def make_table(numbers, codes, counts=None, sample_weight=None):
    """Make the dataset of some numbers, categories and counts, and list its parts."""
    sizes = [int(np.nanmax(column)) + 1 for column in codes.T]
    blocks = []
    for column, size in zip(codes.T, sizes, strict=True):
        block = np.eye(size)[np.nan_to_num(column).astype(int)]
        block[np.isnan(column)] = np.nan
        blocks.append(block)
    X = np.hstack([numbers, *blocks])
    n_numbers = numbers.shape[1]
    positions = range(n_numbers, n_numbers + len(sizes))
    parts = [Part("categorical", tuple(positions), tuple(sizes))]
    if n_numbers:
        parts.insert(0, Part("gaussian", tuple(range(n_numbers))))
    if counts is not None:
        X = np.column_stack([X, counts])
        parts.append(Part("poisson", (n_numbers + len(sizes),)))
    mixed = Mixed(parts, {"noise": "scalar", "size_factor": None})
    if sample_weight is None:
        sample_weight = uniform_weights(len(X))
    summary = DataSummary.from_array(X, sample_weight)
    scaling = mixed.make_scaling(X, sample_weight, summary)
    dataset = Dataset.from_array(
        X, scaling, resolve_device("cpu", "float64"), sample_weight, summary.has_missing
    )
    return dataset, mixed.table


def make_groups(n_samples=600, n_numbers=4, n_chance=2, seed=0):
    """Three groups by numbers and two columns; further columns are of mere chance."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n_samples)
    numbers = 2.5 * np.eye(3, n_numbers)[y] + rng.normal(size=(n_samples, n_numbers))
    telling = np.where(
        rng.random((n_samples, 2)) < 0.8, y[:, None], rng.integers(3, size=2)
    )
    chance = rng.integers([2, 4][:n_chance], size=(n_samples, n_chance))
    return numbers, np.hstack([telling, chance]).astype(float), y


def distances_of(dataset, table):
    """Give the distances of the search, in units of the average one."""
    features = search_features(dataset, RandomState(0), table).x
    distances = pdist(features.double().numpy())
    return distances / distances.mean()


@pytest.mark.parametrize("solver", ["LAPACK", "ARPACK"])
@pytest.mark.parametrize("n_numbers", [0, 4])
def test_tables_are_compared_by_what_their_columns_share(
    n_numbers, solver, monkeypatch
):
    """The distances are those of components that scikit-learn computes."""
    if solver == "ARPACK":
        monkeypatch.setattr(search_module, "MAX_DENSE_EIGENVECTORS", 0)
        monkeypatch.setattr(search_module, "N_SEARCH_COMPONENTS", 5)
    numbers, codes, _ = make_groups(n_numbers=n_numbers)
    dataset, table = make_table(numbers, codes)
    is_indicator = np.arange(dataset.n_features) >= n_numbers
    share = dataset.X[:, is_indicator].mean(0)
    unit = np.r_[dataset.X[:, ~is_indicator].std(0), np.sqrt(share)]
    Z = (dataset.X - dataset.X.mean(0)) / unit
    n_samples, n_degrees = len(Z), n_numbers + is_indicator.sum() - codes.shape[1]
    variances = np.square(PCA().fit(Z).singular_values_) / n_samples
    n_components = (variances > (1 + np.sqrt(n_degrees / n_samples)) ** 2).sum()
    pca = PCA(n_components).fit(Z)
    shared = pca.inverse_transform(pca.transform(Z))
    compared = np.where(is_indicator, unit * shared, (shared + Z) / 2)
    expected = pdist(compared)
    assert n_components == 2  # of three groups
    np.testing.assert_allclose(
        distances_of(dataset, table), expected / expected.mean(), rtol=1e-4
    )


def test_neighbors_disagree_in_columns_of_mere_chance(generator):
    numbers, codes, y = make_groups()
    counts = np.random.default_rng(1).poisson(1.0, len(y))
    dataset, table = make_table(numbers, codes, counts)
    columns = np.column_stack([y, codes[:, 3], counts])
    agreement = []
    for parts in ((), table):
        features = search_features(dataset, RandomState(0), parts)
        graph = find_neighbors(features.x, 15, generator).mutual()
        pairs = columns[graph.sources()] == columns[graph.indices]
        agreement.append(pairs.mean(0))
    (_, category_alike, count_alike), (group, category, count) = agreement
    assert category_alike > 0.6
    assert count_alike > 0.6
    assert group > 0.9
    assert category < 0.35  # a quarter, of four categories
    assert count < 0.4  # as of any two samples: 0.31


@pytest.mark.parametrize("n_numbers", [0, 3])
def test_columns_that_share_nothing(n_numbers):
    """Numbers are compared alone; where there are none, the categories are."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(400, n_numbers))
    codes = rng.integers([2, 3, 5], size=(400, 3)).astype(float)
    dataset, table = make_table(numbers, codes)
    Z = dataset.get_batch(np.arange(400)).x
    Z = Z[:, :n_numbers] if n_numbers else Z
    expected = pdist(Z.numpy())
    np.testing.assert_allclose(
        distances_of(dataset, table), expected / expected.mean(), rtol=1e-4
    )


def test_weights_count_as_copies_in_what_columns_share():
    numbers, codes, _ = make_groups(200)
    counts = np.random.default_rng(1).integers(1, 4, size=200)
    copied = make_table(np.repeat(numbers, counts, 0), np.repeat(codes, counts, 0))
    weighted = make_table(numbers, codes, sample_weight=counts / counts.mean())
    axes = [
        search_module._shared_axes(
            dataset, search_module._kinds_of_table(dataset, table), RandomState(0)
        )
        for dataset, table in (copied, weighted)
    ]
    grams = [a @ a.T / (a @ a.T).trace() for a in axes]
    np.testing.assert_allclose(*grams, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_indicators_among_real_values_are_compared_as_categories(missing, is_scaled):
    """The distances are those of the table, also if the indicators are scaled."""
    numbers, codes, _ = make_groups()
    dataset, table = make_table((numbers - numbers.mean(0)) / numbers.std(0), codes)
    X = dataset.X.copy()
    if is_scaled:
        X[:, -6:] = 3 * X[:, -6:] - 1
    if missing:
        X[:5, -4:] = np.nan
    array = make_training_state(X).dataset
    kinds = search_module._kinds_of_features(array)
    of_table = search_module._kinds_of_table(dataset, table)
    assert_array_equal(kinds.is_continuous, of_table.is_continuous)
    np.testing.assert_allclose(kinds.share, of_table.share, atol=0.01)
    features = search_features(array, RandomState(0), finds_indicators=True).x
    assert features.isfinite().all()
    if not is_scaled and not missing:
        distances = pdist(features.double().numpy())
        expected = distances_of(dataset, table)
        np.testing.assert_allclose(distances / distances.mean(), expected, rtol=1e-4)


def test_pixels_of_two_values_do_not_change_the_distances():
    X = load_digits().data
    n_values = np.array([len(np.unique(column)) for column in X.T])
    assert (n_values == 2).any()
    dataset = make_training_state(X).dataset
    features = search_features(dataset, RandomState(0), finds_indicators=True).x
    assert_array_equal(features, search_features(dataset, RandomState(0)).x)


def test_the_search_knows_indicators_of_the_gaussian_only(monkeypatch):
    X = RandomState(0).randint(2, size=(60, 4)).astype(float)
    found = []
    monkeypatch.setattr(
        neighbor_embedding,
        "search_features",
        lambda *args, **options: found.append(options) or search_features(*args),
    )
    for likelihood in ("gaussian", "bernoulli"):
        neighbor_embedding.neighbor_graph(make_training_state(X, likelihood=likelihood))
    assert found == [{"finds_indicators": True}, {"finds_indicators": False}]


@pytest.mark.parametrize("kind", ["rare", "constant", "missing", "few", "many"])
def test_degenerate_tables_are_compared_without_warnings(
    kind, forbid_warnings, generator
):
    numbers, codes, _ = make_groups(8 if kind == "few" else 300)
    if kind == "rare":
        codes[:3, 0] = [3, 4, 5]
    elif kind == "constant":
        numbers[:, 0], codes[:, 1] = 7, 0
    elif kind == "missing":
        numbers, codes = remove_entries(numbers), remove_entries(codes)
    elif kind == "many":
        numbers = np.tile(numbers, 40)
    dataset, table = make_table(numbers, codes)
    features = search_features(dataset, RandomState(0), table)
    assert features.x.isfinite().all()
    assert features.x.shape[1] <= 50
    graph = find_neighbors(features.x, 5, generator, features.variance)
    assert (graph.sources() != graph.indices).all()
