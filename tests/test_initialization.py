"""From an embedding to a partition, and to the mixture that starts from it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training_states import all_samples, make_training_state, run_stages

from skvade._inference import embed, mixture_labels, pretrained_embedding
from skvade._model.prior import draw_samples
from skvade._training import initialization
from skvade._training.initialization import (
    INIT_COMPONENT_STD,
    INIT_POSTERIOR_VARIANCE,
    INITIALIZERS,
    check_labels,
    initial_labels,
    initialize_mixture,
)
from skvade._training.pretraining import pretrain
from skvade._training.state import seeded_clone


@pytest.fixture(scope="module")
def groups():
    """An embedding of 3 groups with 60, 30 and 10 samples, and their labels."""
    return make_blobs([60, 30, 10], 4, random_state=0, cluster_std=[1, 0.5, 2])


def partition(Z, init, n_clusters=3, n_init=2, seed=0, sample_weight=None):
    """Partition an embedding that is that of samples which equal it."""
    params = {"n_clusters": n_clusters, "init": init, "n_init": n_init}
    state = make_training_state(Z, sample_weight=sample_weight, **params)
    random = state.random._replace(numpy=RandomState(seed))
    random.shuffle.manual_seed(seed)
    return initial_labels(replace(state, random=random), state.dataset, Z)


def means_of(Z, labels):
    return np.array([Z[labels == c].mean(0) for c in np.unique(labels[labels >= 0])])


# --- By name ------------------------------------------------------------------------


def test_kmeans_gives_the_partition_of_scikit_learn(groups):
    Z, _ = groups
    expected = KMeans(3, n_init=2, random_state=RandomState(0)).fit_predict(Z)
    assert_array_equal(partition(Z, "kmeans"), expected)


def test_n_init_keeps_the_best_partition():
    Z = make_blobs(200, 2, centers=12, cluster_std=0.3, random_state=3)[0]

    def inertia(n_init):
        labels = partition(Z, "kmeans", n_clusters=12, n_init=n_init)
        return np.square(Z - means_of(Z, labels)[labels]).sum()

    assert inertia(10) < inertia(1)


def test_kmeans_takes_sample_weights(groups):
    Z, _ = groups
    weight = np.linspace(0.1, 1.9, len(Z))
    kmeans = KMeans(20, n_init=2, random_state=RandomState(0))
    labels = partition(Z, "kmeans", n_clusters=20, sample_weight=weight)
    assert_array_equal(labels, kmeans.fit_predict(Z, sample_weight=weight))


def test_gmm_gives_the_partition_of_scikit_learn(groups):
    Z, _ = groups
    mixture = GaussianMixture(
        3, covariance_type="diag", n_init=2, random_state=RandomState(0)
    )
    assert_array_equal(partition(Z, "gmm"), mixture.fit_predict(Z))


def test_random_gives_the_nearest_of_distinct_random_samples(groups):
    Z, _ = groups
    labels = partition(Z, "random", n_clusters=20)
    drawn = draw_samples(20, np.ones(len(Z)), RandomState(0))
    assert len(np.unique(drawn)) == 20
    centers = Z[drawn]
    distances = np.linalg.norm(Z[:, None] - centers, axis=2)
    assert_array_equal(labels, distances.argmin(1))
    assert_array_equal(np.unique(labels), np.arange(20))


def test_random_draws_samples_by_weight(groups):
    Z, y = groups
    weight = np.where(y == 2, 1e-6, 1.0)
    for seed in range(20):
        labels = partition(Z, "random", seed=seed, sample_weight=weight)
        # No group is around a sample of next to no weight.
        assert_array_equal(np.unique(labels[y != 2]), np.arange(3))


def test_random_takes_samples_twice_where_there_are_too_few(groups):
    labels = partition(groups[0][:3], "random", n_clusters=9)
    assert len(labels) == 3


@pytest.mark.parametrize("init", sorted(INITIALIZERS))
def test_the_seed_decides(groups, init):
    Z = groups[0]
    first, again, other = (
        partition(Z, init, n_clusters=8, n_init=1, seed=seed) for seed in (0, 0, 1)
    )
    assert_array_equal(first, again)
    assert adjusted_rand_score(first, other) < 1


# --- Labels -------------------------------------------------------------------------


def test_labels_are_taken_as_they_are(groups):
    Z, labels = groups
    assert_array_equal(partition(Z, labels), labels)
    with_noise = np.where(np.arange(len(Z)) % 3 == 0, -1, 10 * labels)
    assert_array_equal(partition(Z, with_noise), with_noise)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 1], r"one label per sample, shape \(4,\). Got shape \(3,\) instead"),
        ([[0, 1, 1, 0]], r"Got shape \(1, 4\) instead"),
        ([0.0, 1.0, 0.0, 1.0], "must give integers. Got float64 instead"),
        (["a", "b", "a", "b"], "must give integers. Got <U1 instead"),
        ([True, False, True, False], "must give integers. Got bool instead"),
        ([0, 1, 2, 3], "has 4 groups of samples, which does not fit n_clusters=3"),
        ([-1, -1, -1, -1], "puts no sample to train on into a group"),
    ],
)
def test_labels_that_do_not_fit_are_rejected(labels, message):
    with pytest.raises(ValueError, match=f"^The source .*{message}"):
        check_labels(np.array(labels), 3, 4, "The source")


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [-1, 7, -2, 5], [0, 0, 0, 0]])
def test_labels_that_fit_pass(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_labels(np.array(labels), 3, 4, "The source")


def test_an_array_that_does_not_fit_is_named(groups):
    with pytest.raises(ValueError, match=r"^The array given as init has 3 groups"):
        partition(*groups, n_clusters=2)


# --- Clusterers ---------------------------------------------------------------------


def test_a_clusterer_is_cloned_and_its_partition_used(groups):
    Z, _ = groups
    clusterer = AgglomerativeClustering(3)
    before = dict(vars(clusterer))
    expected = AgglomerativeClustering(3).fit_predict(Z)
    assert_array_equal(partition(Z, clusterer), expected)
    assert vars(clusterer) == before


def test_noise_of_a_clusterer_is_kept(groups):
    Z, y = groups
    labels = partition(Z, DBSCAN(eps=4))
    assert (labels == -1).sum() == 3
    assert_array_equal(labels, DBSCAN(eps=4).fit_predict(Z))
    assert adjusted_rand_score(y[labels >= 0], labels[labels >= 0]) > 0.9


def test_a_clusterer_gets_the_sample_weights_if_it_takes_any(groups):
    class RecordingKMeans(KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            weights.append(sample_weight)
            return super().fit_predict(X, sample_weight=sample_weight)

    Z, _ = groups
    weights, weight = [], np.linspace(0.1, 1.9, len(Z))
    partition(Z, RecordingKMeans(3), sample_weight=weight)
    assert_array_equal(weights[0], weight)
    labels = partition(Z, AgglomerativeClustering(3), sample_weight=weight)
    assert_array_equal(labels, AgglomerativeClustering(3).fit_predict(Z))


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(8, n_init=1, init="random"),
        make_pipeline(StandardScaler(), KMeans(8, n_init=1, init="random")),
    ],
)
def test_open_seeds_of_a_clusterer_are_drawn_from_random_state(groups, clusterer):
    Z, _ = groups
    first, again, other = (
        partition(Z, clusterer, n_clusters=8, seed=seed) for seed in (0, 0, 1)
    )
    assert_array_equal(first, again)
    assert adjusted_rand_score(first, other) < 1


def test_the_seed_of_a_clusterer_is_kept(groups):
    Z, _ = groups
    clusterer = KMeans(8, n_init=1, init="random", random_state=5)
    first, other = (partition(Z, clusterer, 8, seed=seed) for seed in (0, 1))
    assert_array_equal(first, other)


def test_seeded_clone_sets_open_seeds_of_all_parts():
    pipeline = make_pipeline(KMeans(2), KMeans(2, random_state=5))
    clone = seeded_clone(pipeline, RandomState(0))
    assert [type(step.random_state) for _, step in clone.steps] == [int, int]
    assert clone.steps[1][1].random_state == 5
    assert pipeline.steps[0][1].random_state is None


def test_a_clusterer_that_finds_too_many_groups_is_named(groups):
    with pytest.raises(ValueError, match=r"KMeans\(n_clusters=4\), has 4 groups"):
        partition(groups[0], KMeans(n_clusters=4))


# --- The mixture --------------------------------------------------------------------


def weights_of(module):
    return module.prior.log_weights.detach().exp()


def test_mixture_starts_from_the_moments_of_the_groups_in_the_embedding(blobs):
    X, y = blobs
    state = run_stages(make_training_state(X, init=y), pretrain, initialize_mixture)
    Z, prior = embed(state.module, state.dataset), state.module.prior
    groups = [Z[y == label] for label in range(3)]
    counts = np.array([len(group) for group in groups])
    within = np.array([group.var(0) for group in groups])
    pooled = np.average(within, axis=0, weights=counts)
    # Every group counts one more point, of average spread.
    variances = (counts[:, None] * within + pooled) / (counts[:, None] + 1)
    assert_allclose(weights_of(state.module), counts / len(X))
    assert_allclose(prior.means.detach(), [group.mean(0) for group in groups])
    assert_allclose(prior.variances.detach(), variances + prior.reg_covar)


def test_given_labels_are_those_of_the_samples_that_are_trained_on(blobs):
    X, y = blobs
    state = make_training_state(X, init=y, n_validation=30)
    run_stages(state, pretrain, initialize_mixture)
    indices = state.dataset.indices
    assert len(indices) == 120
    assert_allclose(weights_of(state.module), np.bincount(y[indices]) / 120)
    assert adjusted_rand_score(y, state.history.init_labels) > 0.9


def test_samples_outside_of_the_partition_get_the_likeliest_component(blobs):
    X, y = blobs
    labels = np.where(np.arange(len(X)) % 3, 2 * y, -1)
    labels[:3] = 0  # not the likeliest component of all of them
    state = make_training_state(X, init=labels)
    run_stages(state, pretrain, initialize_mixture)
    found = state.history.init_labels
    given = labels >= 0
    assert_array_equal(found[given], labels[given] // 2)
    likeliest = mixture_labels(state.module, state.dataset, True)
    assert_array_equal(found[~given], likeliest[~given])
    assert not np.array_equal(found, likeliest)


def test_of_many_samples_some_are_clustered_and_all_get_a_label(X, monkeypatch):
    clustered = []

    class RecordingKMeans(KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            clustered.append(len(X))
            return super().fit_predict(X, sample_weight=sample_weight)

    monkeypatch.setattr(initialization, "MAX_INIT_SAMPLES", 50)
    state = make_training_state(X, init=RecordingKMeans(3))
    run_stages(state, pretrain, initialize_mixture)
    assert clustered == [50]
    assert len(state.history.init_labels) == len(X)


def test_all_given_labels_count_however_many_there_are(blobs, monkeypatch):
    X, y = blobs
    monkeypatch.setattr(initialization, "MAX_INIT_SAMPLES", 50)
    state = run_stages(make_training_state(X, init=y), pretrain, initialize_mixture)
    assert_allclose(weights_of(state.module), np.bincount(y) / len(y))


def test_posterior_variance_starts_small_and_equal_for_all_samples(X):
    state = run_stages(make_training_state(X), pretrain, initialize_mixture)
    with torch.no_grad():
        variance = state.module.encoder(all_samples(state).x).log_variance.exp()
        average = state.module.prior.variances.mean()
    assert_allclose(variance, INIT_POSTERIOR_VARIANCE * average.expand_as(variance))


def test_contrastive_pretraining_starts_at_a_fixed_scale(X):
    state = make_training_state(X, pretraining="neighbors", pretrain_max_iter=2)
    run_stages(state, pretrain, initialize_mixture)
    variances = state.module.prior.variances
    assert variances.mean().sqrt().item() == pytest.approx(INIT_COMPONENT_STD, rel=1e-6)
    Z = pretrained_embedding(state.module, state.dataset, has_decoder=False)
    labels = state.history.init_labels
    weights = np.bincount(labels, minlength=3) / len(X)
    means = np.stack([Z[labels == c].mean(0) for c in range(3) if weights[c]])
    found = state.module.prior.means.detach().numpy()[weights > 0]
    assert_allclose(means, found, atol=0.5)
