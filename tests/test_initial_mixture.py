import warnings

import numpy as np
import pytest
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade._initial_mixture import (
    METHODS,
    check_labels,
    initial_mixture,
    moments_of_partition,
)


@pytest.fixture(scope="module")
def groups():
    """An embedding of 3 groups with 60, 30 and 10 rows, and their labels."""
    return make_blobs([60, 30, 10], 4, random_state=0, cluster_std=[1, 0.5, 2])


def start(embedding, init, n_clusters=3, n_init=2, seed=0):
    return initial_mixture(embedding, init, n_clusters, n_init, RandomState(seed))


# --- Moments ------------------------------------------------------------------------


def test_weights_and_means_of_a_partition_are_numpys(groups):
    Z, labels = groups
    weights, means, _ = moments_of_partition(Z, labels, 3, RandomState(0))
    assert_allclose(weights, [0.6, 0.3, 0.1])
    assert_allclose(means, [Z[labels == c].mean(0) for c in range(3)])


def test_variances_count_one_row_of_the_average_group_more(groups):
    Z, labels = groups
    variances = moments_of_partition(Z, labels, 3, RandomState(0)).variances
    within = np.array([Z[labels == c].var(0) for c in range(3)])
    pooled = sum(
        ((Z[labels == c] - Z[labels == c].mean(0)) ** 2).sum(0) for c in range(3)
    ) / len(Z)
    for c, n in enumerate([60, 30, 10]):
        assert_allclose(variances[c], (n * within[c] + pooled) / (n + 1))


def test_names_of_the_groups_do_not_matter(groups):
    Z, labels = groups
    expected = moments_of_partition(Z, labels, 3, RandomState(0))
    renamed = moments_of_partition(Z, 100 + 7 * labels, 3, RandomState(0))
    for found, wanted in zip(renamed, expected, strict=True):
        assert_array_equal(found, wanted)


def test_noise_belongs_to_no_group(groups):
    Z, labels = groups
    keep = np.arange(len(Z)) % 3 > 0
    with_noise = np.where(keep, labels, -1)
    expected = moments_of_partition(Z[keep], labels[keep], 3, RandomState(0))
    found = moments_of_partition(Z, with_noise, 3, RandomState(0))
    for values, wanted in zip(found, expected, strict=True):
        assert_allclose(values, wanted)


def test_a_group_of_equal_rows_keeps_a_width(groups):
    Z, labels = groups
    Z = np.where(labels[:, None] == 2, 9.0, Z)
    variances = moments_of_partition(Z, labels, 3, RandomState(0)).variances
    assert (variances > 0).all()


def test_missing_groups_start_at_rows_with_a_warning(groups):
    Z, labels = groups
    with pytest.warns(UserWarning, match="holds 3 of 5 clusters; the others start"):
        weights, means, variances = moments_of_partition(Z, labels, 5, RandomState(0))
    assert_allclose(weights, np.array([60, 30, 10, 1, 1]) / 102)
    rows = [np.flatnonzero((mean == Z).all(1)) for mean in means[3:]]
    assert [len(found) for found in rows] == [1, 1]
    assert rows[0] != rows[1]
    assert_array_equal(variances[3], variances[4])
    assert (variances[3] > 0).all()


def test_more_missing_groups_than_rows(groups):
    Z = groups[0][:3]
    with pytest.warns(UserWarning, match="1 of 9 clusters; the others start"):
        mixture = moments_of_partition(Z, np.zeros(3, int), 9, RandomState(0))
    assert mixture.means.shape == (9, 4)
    assert_allclose(mixture.weights.sum(), 1)


# --- Methods ------------------------------------------------------------------------


def test_kmeans_is_the_moments_of_scikit_learns_partition(groups):
    Z, _ = groups
    labels = KMeans(3, n_init=2, random_state=RandomState(0)).fit_predict(Z)
    expected = moments_of_partition(Z, labels, 3, RandomState(0))
    for found, wanted in zip(start(Z, "kmeans"), expected, strict=True):
        assert_allclose(found, wanted)


def test_n_init_keeps_the_best_partition():
    Z = make_blobs(200, 2, centers=12, cluster_std=0.3, random_state=3)[0]

    def inertia(n_init):
        mixture = start(Z, "kmeans", n_clusters=12, n_init=n_init)
        distances = ((Z[:, None] - mixture.means) ** 2).sum(2)
        return distances.min(1).sum()

    assert inertia(10) < inertia(1)


def test_gmm_is_scikit_learns(groups):
    Z, _ = groups
    expected = GaussianMixture(
        3, covariance_type="diag", n_init=2, random_state=RandomState(0)
    ).fit(Z)
    weights, means, variances = start(Z, "gmm")
    assert_allclose(weights, expected.weights_)
    assert_allclose(means, expected.means_)
    assert_allclose(variances, expected.covariances_)


def test_random_starts_at_distinct_rows_with_the_spread_of_all(groups):
    Z, _ = groups
    weights, means, variances = start(Z, "random", n_clusters=20)
    assert_allclose(weights, np.full(20, 0.05))
    assert len(np.unique(means, axis=0)) == 20
    assert all((mean == Z).all(1).any() for mean in means)
    assert_allclose(variances, np.tile(Z.var(0), (20, 1)))


@pytest.mark.parametrize("init", sorted(METHODS))
def test_the_seed_decides(groups, init):
    Z = groups[0]
    again = [start(Z, init, n_clusters=8, n_init=1) for _ in range(2)]
    other = start(Z, init, n_clusters=8, n_init=1, seed=1)
    for first, second in zip(*again, strict=True):
        assert_array_equal(first, second)
    assert not np.array_equal(again[0].means, other.means)


def test_labels_are_taken_as_they_are(groups):
    Z, labels = groups
    expected = moments_of_partition(Z, labels, 3, RandomState(0))
    for found, wanted in zip(start(Z, labels), expected, strict=True):
        assert_array_equal(found, wanted)


# --- Clusterers ---------------------------------------------------------------------


def test_a_clusterer_is_cloned_and_its_partition_used(groups):
    Z, _ = groups
    clusterer = AgglomerativeClustering(3)
    before = dict(vars(clusterer))
    labels = AgglomerativeClustering(3).fit_predict(Z)
    expected = moments_of_partition(Z, labels, 3, RandomState(0))
    for found, wanted in zip(start(Z, clusterer), expected, strict=True):
        assert_allclose(found, wanted)
    assert vars(clusterer) == before


def test_a_clusterer_with_noise(groups):
    Z, labels = groups
    mixture = start(Z, DBSCAN(eps=4))
    nearest = np.linalg.norm(Z[:, None] - mixture.means, axis=2).argmin(1)
    assert (DBSCAN(eps=4).fit_predict(Z) == -1).sum() == 3
    assert adjusted_rand_score(labels, nearest) > 0.9
    assert_allclose(mixture.weights, np.array([60, 30, 7]) / 97)


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(8, n_init=1, init="random"),
        make_pipeline(StandardScaler(), KMeans(8, n_init=1, init="random")),
    ],
)
def test_open_seeds_of_a_clusterer_come_from_ours(groups, clusterer):
    again = [start(groups[0], clusterer, n_clusters=8).means for _ in range(2)]
    other = start(groups[0], clusterer, n_clusters=8, seed=1).means
    assert_array_equal(*again)
    assert not np.array_equal(again[0], other)


def test_a_seed_that_a_clusterer_has_is_kept(groups):
    clusterer = KMeans(8, n_init=1, init="random", random_state=5)
    means = [start(groups[0], clusterer, 8, seed=seed).means for seed in (0, 1)]
    assert_array_equal(*means)


def test_a_clusterer_that_finds_too_many_groups(groups):
    with pytest.raises(ValueError, match=r"KMeans\(n_clusters=4\), has 4 groups"):
        start(groups[0], KMeans(n_clusters=4))


# --- Labels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 1], r"one label per row, shape \(4,\). Got shape \(3,\) instead"),
        ([[0, 1, 1, 0]], r"Got shape \(1, 4\) instead"),
        ([0.0, 1.0, 0.0, 1.0], "must give integers. Got float64 instead"),
        (["a", "b", "a", "b"], "must give integers. Got <U1 instead"),
        ([True, False, True, False], "must give integers. Got bool instead"),
        ([0, 1, 2, 3], "has 4 groups of rows, which does not fit n_clusters=3"),
        ([-1, -1, -1, -1], "puts no row to train on into a group"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=f"^The source .*{message}"):
        check_labels(np.array(labels), 3, 4, "The source")


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [-1, 7, -2, 5], [0, 0, 0, 0]])
def test_labels_that_fit(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_labels(np.array(labels), 3, 4, "The source")
