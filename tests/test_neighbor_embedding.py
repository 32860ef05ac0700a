"""Contrastive neighbor embedding: the loss, the pairs, the training, the graph."""

import math

import numpy as np
import pytest
import torch
from custom_modules import make_state
from missing_data import remove_entries
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsTransformer
from training_states import changed_parameters, copy_parameters, make_training_state

from skvade._data.neighbors import NeighborGraph
from skvade._training import neighbor_embedding
from skvade._training.neighbor_embedding import (
    ATTRACTION,
    N_PAIRS,
    SCALE_PENALTY,
    STEPS_PER_EPOCH,
    contrastive_neighbor_loss,
    iter_pair_batches,
    max_neighbor_epochs,
    n_neighbor_epochs,
    neighbor_graph,
    neighbor_loss,
    pretrain_neighbors,
)
from skvade._training.optim import Adam

# A few steps are enough for what is tested, and leave clusters that overlap.
FEW_STEPS = pytest.mark.filterwarnings(
    "ignore:Pretraining learned next to nothing", "ignore:Clusters share a mode"
)
PARAMS = {"pretraining": "neighbors", "pretrain_learning_rate_init": "auto"}


@pytest.fixture
def fewer_steps(monkeypatch):
    monkeypatch.setattr(neighbor_embedding, "STEPS_PER_EPOCH", 5)


def make_neighbor_state(X, **params):
    return make_training_state(X, **PARAMS | params)


def dense(graph):
    matrix = np.zeros((graph.n_samples, graph.n_samples), bool)
    matrix[graph.sources(), graph.indices] = True
    return matrix


# --- The loss -----------------------------------------------------------------------


def test_loss_is_the_formula_written_out(normal):
    z, n, attraction = normal(8, 3), 4, 2.5

    def q(u, v):
        return 1 / (1 + (z[u] - z[v]).square().sum())

    expected = [
        -attraction * q(i, n + i).log() + sum(q(i, v) for v in range(8) if v != i).log()
        for i in range(n)
    ]
    assert_allclose(contrastive_neighbor_loss(z, attraction), torch.stack(expected))


def test_gradient_of_the_loss(normal):
    z = normal(6, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: contrastive_neighbor_loss(z, 4.0), z)


def test_loss_of_a_sample_far_from_all_others(normal):
    """In float32 its similarity to itself, of one, hides those to the others."""
    z = normal(8, 3) * 1e5
    expected = contrastive_neighbor_loss(z, 2.0)
    assert_allclose(contrastive_neighbor_loss(z.float(), 2.0), expected, rtol=1e-4)


def test_loss_of_a_collapsed_embedding():
    loss = contrastive_neighbor_loss(torch.ones(10, 3), 4.0)
    assert_allclose(loss, math.log(9), rtol=1e-6)


def test_scale_of_the_embedding_is_penalized(X):
    state = make_neighbor_state(X)
    batch = state.dataset.get_batch(np.arange(20))
    z = state.module.encoder.encode_mean(batch.x)
    expected = contrastive_neighbor_loss(z, ATTRACTION).mean()
    expected = expected + SCALE_PENALTY * z.square().sum(1).mean()
    assert_allclose(neighbor_loss(state, batch).loss.item(), expected.item(), rtol=1e-6)
    assert SCALE_PENALTY > 0


# --- Pairs --------------------------------------------------------------------------


def test_pairs_are_edges_each_as_often_as_any_other(X, generator):
    state = make_neighbor_state(X[:6])
    edges = [(0, 1), (0, 2), (0, 3), (2, 5), (5, 0)]
    row, col = np.transpose(edges)
    graph = NeighborGraph.from_sparse(
        sparse.csr_array((np.ones(5), (row, col)), shape=(6, 6))
    )
    pairs = []
    for batch in iter_pair_batches(state.dataset, graph, generator):
        anchors, neighbors = batch.indices.split(N_PAIRS)
        pairs += zip(anchors.tolist(), neighbors.tolist(), strict=True)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    assert_array_equal(found, edges)
    assert_allclose(counts / len(pairs), 0.2, atol=0.015)


def test_pairs_are_drawn_by_the_weight_of_the_anchor(X, generator):
    weight = np.array([1.0, 3.0, 1.0, 1.0, 1.0, 5.0]) / 2
    state = make_neighbor_state(X[:6], sample_weight=weight)
    graph = NeighborGraph.from_array(np.array([[1, 2], [0, 2], [0, 1]] * 2))
    batches = iter_pair_batches(state.dataset, graph, generator)
    anchors = torch.cat([batch.indices[:N_PAIRS] for batch in batches])
    frequencies = np.bincount(anchors) / len(anchors)
    assert_allclose(frequencies, weight / weight.sum(), atol=0.015)


# --- Training -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_curve_falls_below_that_of_a_collapsed_embedding(make_estimator, X, precision):
    state = make_state(make_estimator(precision=precision, **PARAMS), X)
    state.config.pretrain_max_iter = 3
    pretrain_neighbors(state)
    curve = state.history.pretraining["neighbor_loss"]
    assert len(curve) == 3
    assert (
        curve[-1] < curve[0] < state.history.collapsed_loss == math.log(2 * N_PAIRS - 1)
    )


def test_only_the_means_of_the_encoder_are_trained(X, fewer_steps):
    state = make_neighbor_state(X, pretrain_max_iter=2)
    before = copy_parameters(state.module)
    pretrain_neighbors(state)
    changed = changed_parameters(before, state.module)
    assert {name.rsplit(".", 1)[0] for name in changed} == {
        "encoder.backbone.0",
        "encoder.mean",
    }


def test_learning_rate_falls_linearly(X, fewer_steps, monkeypatch):
    rates = []

    class RecordingAdam(Adam):
        def _step(self, parameters, grads, lr):
            rates.append(lr)
            super()._step(parameters, grads, lr)

    monkeypatch.setattr(neighbor_embedding, "Adam", RecordingAdam)
    params = {"pretrain_max_iter": 4, "pretrain_learning_rate_init": 0.01}
    state = make_neighbor_state(X, **params)
    pretrain_neighbors(state)
    n_steps = 4 * neighbor_embedding.STEPS_PER_EPOCH
    assert_allclose(rates, 0.01 * (1 - np.arange(n_steps) / n_steps))
    assert len(state.history.pretraining["neighbor_loss"]) == max_neighbor_epochs(state)


def test_budget_grows_with_the_number_of_samples_within_limits():
    assert n_neighbor_epochs(2) == n_neighbor_epochs(1_300) == 10
    assert n_neighbor_epochs(1_560) == 12
    assert n_neighbor_epochs(1_820) == n_neighbor_epochs(5_000) == 14
    assert n_neighbor_epochs(20_000) == 14 + 15
    assert n_neighbor_epochs(10**6) == n_neighbor_epochs(10**9) == 200
    assert STEPS_PER_EPOCH == 100


@pytest.mark.parametrize("params", [{"pretrain_max_iter": 0}, {}])
def test_nothing_is_learned_without_epochs_or_of_a_single_sample(X, params):
    state = make_neighbor_state(X if params else X[:1], n_clusters=1, **params)
    before = copy_parameters(state.module)
    pretrain_neighbors(state)
    assert not changed_parameters(before, state.module)
    assert max_neighbor_epochs(state) == 0
    assert state.neighbors is None


def test_curve_does_not_depend_on_the_mean_weight(X, fewer_steps):
    """The weights of the samples that are left of a split need not average to one."""
    curves = []
    for weight in (1.0, 3.0):
        sample_weight = np.full(len(X), weight)
        state = make_neighbor_state(X, sample_weight=sample_weight, pretrain_max_iter=2)
        pretrain_neighbors(state)
        curves.append(state.history.pretraining["neighbor_loss"])
    assert_allclose(*curves, rtol=1e-9)


def test_a_loss_that_is_not_finite_is_an_error(make_estimator, X):
    model = make_estimator(**PARAMS | {"pretrain_learning_rate_init": 1e30})
    message = r"not finite\. Lower pretrain_learning_rate_init=1e\+30, or rescale X"
    with pytest.raises(ValueError, match=message):
        model.fit(X)


@FEW_STEPS
def test_epochs_are_printed(make_estimator, X, fewer_steps, capsys):
    make_estimator(pretraining="neighbors", pretrain_max_iter=2, verbose=1).fit(X)
    assert "Pretraining epoch 2, neighbor loss = " in capsys.readouterr().out


# --- The graph ----------------------------------------------------------------------


class SeededTransformer(KNeighborsTransformer):
    """Record the seed and the input of each clone."""

    seen: list = []

    def __init__(self, n_neighbors=5, *, random_state=None):
        super().__init__(n_neighbors=n_neighbors)
        self.random_state = random_state

    def fit_transform(self, X, y=None):
        self.seen.append((self.random_state, X))
        return super().fit_transform(X)


def test_a_transformer_is_cloned_and_seeded(X_missing):
    transformer = SeededTransformer()
    SeededTransformer.seen.clear()
    for _ in range(2):
        neighbor_graph(make_neighbor_state(X_missing, neighbors=transformer))
    (seed, given), (again, _) = SeededTransformer.seen
    assert seed == again is not None
    assert not hasattr(transformer, "n_samples_fit_")
    expected = np.where(np.isnan(X_missing), np.nanmean(X_missing, axis=0), X_missing)
    assert_allclose(given, expected)


def test_samples_that_are_not_missing_reach_the_transformer_without_a_copy(X):
    SeededTransformer.seen.clear()
    neighbor_graph(make_neighbor_state(X, neighbors=SeededTransformer()))
    assert np.shares_memory(SeededTransformer.seen[0][1], X)


def test_the_graph_is_of_the_training_samples(X):
    graph = KNeighborsTransformer(n_neighbors=40).fit_transform(X)
    expected = graph.toarray() > 0
    for given in (graph, sparse.coo_array(graph)):
        state = make_neighbor_state(X, neighbors=given, n_validation=30)
        indices = state.dataset.indices
        assert len(indices) == 120
        assert_array_equal(dense(neighbor_graph(state)), expected[indices][:, indices])
    assert neighbor_graph(make_neighbor_state(X, n_validation=30)).n_samples == 120


def test_neighbors_are_found_once(X):
    state = make_neighbor_state(X)
    assert neighbor_graph(state) is neighbor_graph(state)


class NoGraph(BaseEstimator):
    def fit_transform(self, X):
        return X


def test_a_transformer_that_gives_no_graph_gets_a_note(make_estimator, X):
    message = (
        r"graph of neighbors=NoGraph\(\) must be a sparse matrix of shape \(150, 15"
    )
    with pytest.raises(ValueError, match=message) as caught:
        make_estimator(pretraining="neighbors", neighbors=NoGraph()).fit(X)
    assert "which was given 150 samples of 5 features" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "graph, message",
    [
        (sparse.eye_array(149), r"shape \(150, 150\)"),
        (sparse.eye_array(150), "no entry off its diagonal"),
    ],
)
def test_a_given_graph_is_checked_before_any_work(make_estimator, X, graph, message):
    model = make_estimator(pretraining="neighbors", neighbors=graph)
    with pytest.raises(ValueError, match=f"^A graph given as neighbors .*{message}"):
        model.fit(X)


def test_neighbors_that_nothing_uses_are_ignored_with_a_warning(make_estimator, X):
    with pytest.warns(UserWarning, match="^neighbors has no effect: neither pretrain"):
        make_estimator(pretraining="autoencoder", init="kmeans", neighbors=5).fit(X)


@FEW_STEPS
@pytest.mark.parametrize(
    "params",
    [{"pretraining": "neighbors"}, {"init": "communities"}],
)
def test_neighbors_that_are_used_do_not_warn(make_estimator, X, fewer_steps, params):
    make_estimator(neighbors=5, **{"pretraining": "autoencoder", **params}).fit(X)


# --- Was anything learned? ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_an_encoder_that_learns_nothing_warns(make_estimator, X, fewer_steps):
    rate = {"pretrain_learning_rate_init": 1e-12}
    with pytest.warns(
        ConvergenceWarning, match="^Pretraining learned next to nothing: i"
    ):
        make_estimator(pretraining="neighbors", **rate).fit(1e-3 * X + 1)


def test_equal_samples_do_not_warn_of_pretraining(make_estimator, fewer_steps):
    X = np.full((50, 3), 0.1)
    with pytest.warns() as caught:
        make_estimator(n_clusters=2, **PARAMS, init="communities").fit(X)
    assert not [w for w in caught if "Pretraining" in str(w.message)]


def test_missing_entries_are_learned_from(make_estimator, X):
    model = make_estimator(**PARAMS, init="communities", pretrain_max_iter=2)
    model.fit(remove_entries(X))
    assert model.pretrain_loss_curve_[-1] < math.log(511)
