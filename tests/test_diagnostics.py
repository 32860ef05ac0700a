"""Warnings about fitted models that should not be trusted as they are."""

import re
import warnings
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from scipy.special import entr
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from skvade import VaDEClusterer
from skvade._data.process_group import SINGLE_PROCESS
from skvade._diagnostics import _Mixture, unimodal_pairs, warn_fit_quality
from skvade._inference import AssignmentSummary
from skvade._model.prior import DiagonalMixturePrior
from skvade._training import joint
from skvade._training.state import History


def diagnose(
    weights=(0.5, 0.5),
    means=None,
    variances=None,
    normalized_entropy=0.0,
    is_outlier=(),
    tol=0,
    **history,
):
    """Give the warnings about a mixture, by default of two equal components.

    Each component holds one sample.
    """
    n_clusters = len(weights)
    if means is None:
        means = np.zeros((n_clusters, 3))
    if variances is None:
        variances = np.ones((n_clusters, 3))
    prior = DiagonalMixturePrior(n_clusters, 3, reg_covar=0.0).double()
    prior.set_parameters(*map(torch.tensor, (np.array(weights), means, variances)))
    estimator = SimpleNamespace(
        n_clusters_=n_clusters,
        labels_=np.arange(n_clusters),
        weights_=np.array(weights),
        means_=means,
        pretraining="autoencoder",
        pretrain_learning_rate_init=1.0,
        pretrain_max_iter=10,
        embedding_max_iter=50,
        beta="auto",
        init_weight="auto",
        early_stopping=False,
        n_iter_=10,
        max_iter=10,
        tol=tol,
        n_iter_no_change=10,
        converged_=False,
    )
    summary = AssignmentSummary(
        labels=estimator.labels_,
        mean_responsibilities=np.full(n_clusters, 1 / n_clusters),
        mean_entropy=normalized_entropy * np.log(n_clusters),
        is_outlier=np.array(is_outlier, dtype=bool),
        deviations=np.ones(n_clusters),
    )
    module = SimpleNamespace(prior_float64=lambda: prior)
    dataset = SimpleNamespace(X=np.eye(n_clusters))
    state = SimpleNamespace(
        module=module,
        history=History(**history),
        dataset=dataset,
        group=SINGLE_PROCESS,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_fit_quality(estimator, state, summary, resumed=False)
    return [str(warning.message) for warning in caught]


def first_words(messages):
    return [message.partition(" ")[0] for message in messages]


# --- Effective number of clusters ---------------------------------------------------


def test_effective_clusters_are_the_perplexity_of_the_mean_responsibilities(
    make_estimator, X
):
    weight = 1.0 + np.arange(150) % 3
    model = make_estimator().fit(X, sample_weight=weight)
    mean_r = weight @ model.predict_proba(X) / weight.sum()
    expected = np.prod(mean_r**-mean_r)
    assert model.n_effective_clusters_ == pytest.approx(expected)
    assert 2.5 < expected <= 3


def test_one_cluster_is_one_effective_cluster(make_estimator, X):
    model = make_estimator(n_clusters=1).fit(X)
    assert model.n_effective_clusters_ == pytest.approx(1)


def test_unbalanced_clusters_count_as_fewer(make_estimator, blobs):
    X, y = blobs
    chosen = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:5]]
    model = make_estimator(n_clusters=2).fit(X[chosen])
    assert 1.3 < model.n_effective_clusters_ < 1.6


# --- Responsibilities and pretraining -----------------------------------------------


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(200, 10))


def test_uniform_responsibilities_warn(make_estimator, noise):
    """Without groups in the data and with a large beta the posterior collapses."""
    model = make_estimator(n_clusters=4, beta=10.0, max_iter=60)
    message = r"uniform: .* (9\d|100)% .* is 4: .* is 10\. With beta=10.0, try 'auto'"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "3 of 4 clusters hold no sample")
        with pytest.warns(ConvergenceWarning, match=message):
            model.fit(noise)
    r = model.predict_proba(noise)
    assert entr(r).sum(1).mean() > 0.9 * np.log(4)


@pytest.fixture(scope="module")
def mostly_noise():
    """Three groups in 2 of 1000 features; ten directions hold 3 % of the variance."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1000))
    X[:, :2] += np.array([[0, 6], [6, 0], [-6, -6]])[rng.integers(3, size=300)]
    return X


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_pretraining_that_learns_nothing_warns(make_estimator, mostly_noise):
    model = make_estimator(
        pretrain_max_iter=3, pretrain_learning_rate_init=0.1, max_iter=1
    )
    leading = PCA(2).fit(mostly_noise).explained_variance_ratio_.sum()
    message = (
        f"first 2 principal components do, {leading:.1%} .* Raise "
        "pretrain_learning_rate_init=0.1 and pretrain_max_iter=3, threefold"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(mostly_noise)
    assert model.pretrain_loss_curve_[-1] > 1 - leading / 4


def test_no_warning_once_the_pretraining_budget_is_raised(make_estimator, mostly_noise):
    """By the advice of the warning above; any warning would be an error here."""
    model = make_estimator(
        pretrain_max_iter=40, pretrain_learning_rate_init=3, max_iter=1
    )
    model.fit(mostly_noise)
    leading = PCA(2).fit(mostly_noise).explained_variance_ratio_.sum()
    assert model.pretrain_loss_curve_[-1] < 1 - leading / 4


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_warning_about_pretraining_does_not_name_an_automatic_rate(
    make_estimator, mostly_noise
):
    model = make_estimator(
        pretrain_max_iter=2, pretrain_learning_rate_init="auto", max_iter=1
    )
    with pytest.warns(ConvergenceWarning, match="variance. Raise pretrain_max_iter=2,"):
        model.fit(mostly_noise)


@pytest.mark.filterwarnings("ignore:(?!Pretraining)")
def test_warning_about_pretraining_mentions_extreme_values(make_estimator, X):
    X = np.r_[X, np.full((1, 5), 1e6)]
    message = "100.0% of the variance. Look for extreme values in X, or raise pretrain_"
    with pytest.warns(ConvergenceWarning, match=message):
        make_estimator(pretrain_max_iter=1, pretrain_learning_rate_init=0.01).fit(X)


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    "rates, named",
    [
        (("auto", 1e-9), "learning_rate_init=1e-09"),
        ((1e-9, 1e-3), "pretrain_learning_rate_init=1e-09"),
    ],
)
def test_warning_about_pretraining_as_a_vae_names_its_rate(
    make_estimator, mostly_noise, rates, named
):
    names = "pretrain_learning_rate_init", "learning_rate_init"
    model = make_estimator(
        pretraining="vae", max_iter=1, **dict(zip(names, rates, strict=True))
    )
    with pytest.warns(ConvergenceWarning, match=f"Raise {named} and"):
        model.fit(mostly_noise)


def test_no_warning_about_pretraining_on_constant_data(make_estimator):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Pretraining")
        warnings.filterwarnings("ignore", ".* clusters|The responsibilities")
        make_estimator().fit(np.ones((30, 4)))


# --- Modes of the mixture -----------------------------------------------------------


def is_unimodal(*mixture):
    return unimodal_pairs(_Mixture(*mixture)) == [(0, 1)]


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
@pytest.mark.parametrize("latent_dim", [1, 3, 20])
def test_equal_components_are_bimodal_beyond_two_standard_deviations(latent_dim, scale):
    """At equal weights, in any direction (de Helguero, 1904)."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=latent_dim)
    direction /= np.linalg.norm(direction)
    deviations = scale * rng.uniform(0.1, 10, latent_dim)
    for distance, expected in [(0, True), (1.99, True), (2.01, False), (9, False)]:
        means = scale + np.stack([0 * direction, distance * direction]) * deviations
        variances = np.stack([deviations, deviations]) ** 2
        assert is_unimodal(np.full(2, 0.5), means, variances) == expected


def count_modes(weights, means, covariances):
    """Count the maxima of a density in the plane on a grid."""
    margin = 3 * np.sqrt(covariances.max((0, 1)))
    limits = zip(means.min(0) - margin, means.max(0) + margin, strict=True)
    axes = [np.linspace(low, high, 601) for low, high in limits]
    points = np.stack(np.meshgrid(*axes), axis=-1)
    components = zip(weights, means, covariances, strict=True)
    density = sum(w * multivariate_normal(m, v).pdf(points) for w, m, v in components)
    return np.count_nonzero(density == maximum_filter(density, 3))


def test_unimodal_pairs_agree_with_a_search_on_a_grid():
    rng = np.random.default_rng(0)
    unimodal = []
    for _ in range(30):
        weights, variances = rng.dirichlet([1, 1]), rng.uniform(0.2, 3, (2, 2))
        means = rng.normal(scale=1.6, size=(2, 2))
        unimodal.append(is_unimodal(weights, means, variances))
        matrices = variances[:, :, None] * np.eye(2)
        assert unimodal[-1] == (count_modes(weights, means, matrices) == 1)
    assert 10 <= sum(unimodal) <= 20


def test_unimodal_pairs_with_correlations_agree_with_a_search_on_a_grid():
    rng = np.random.default_rng(0)
    unimodal = []
    for _ in range(30):
        weights, means = rng.dirichlet([1, 1]), rng.normal(scale=1.8, size=(2, 2))
        factors = rng.normal(size=(2, 2, 2)) + 0.3 * np.eye(2)
        covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(2)
        variances = covariances.diagonal(axis1=1, axis2=2)
        unimodal.append(is_unimodal(weights, means, variances, covariances))
        assert unimodal[-1] == (count_modes(weights, means, covariances) == 1)
    assert 8 <= sum(unimodal) <= 22


def test_modes_of_diagonal_matrices_are_those_of_their_variances():
    rng = np.random.default_rng(0)
    weights, means = rng.dirichlet(np.ones(10)), rng.normal(scale=3, size=(10, 2))
    variances = rng.uniform(0.2, 3, (10, 2))
    matrices = variances[:, :, None] * np.eye(2)
    expected = unimodal_pairs(_Mixture(weights, means, variances))
    assert unimodal_pairs(_Mixture(weights, means, variances, matrices)) == expected
    assert expected


def test_unimodal_pairs_of_components_of_very_different_width():
    """A narrow component on the flank of a wide one is a mode if it is high enough."""
    means, variances = np.array([[0.0], [0.5]]), np.array([[1.0], [1e-12]])
    for weight, expected in [(1e-3, False), (1e-11, False), (1e-14, True)]:
        weights = np.array([1 - weight, weight])
        assert is_unimodal(weights, means, variances) == expected
        assert is_unimodal(weights[::-1], means[::-1], variances[::-1]) == expected


def test_unimodal_pairs_among_many_components_are_those_of_each_pair_alone():
    rng = np.random.default_rng(0)
    mixture = _Mixture(
        rng.dirichlet(np.ones(30)),
        rng.normal(scale=3, size=(30, 2)),
        rng.uniform(0.2, 3, (30, 2)),
    )
    pairs = combinations(range(30), 2)
    expected = [p for p in pairs if unimodal_pairs(mixture.take([*p]))]
    assert unimodal_pairs(mixture) == expected
    assert 50 < len(expected) < 385


def test_split_group_warns(make_estimator, blobs):
    X, y = blobs
    init = np.where((y == 0) & (np.arange(150) % 2 == 0), 3, y)
    model = make_estimator(n_clusters=4, init=init)
    with pytest.warns(ConvergenceWarning, match="share a mode .*: 2 and 3. The"):
        model.fit(X)
    is_split = model.labels_ >= 2
    assert set(y[is_split]) == {0}
    assert set(y[~is_split]) == {1, 2}


def test_warning_about_split_groups_lists_three_pairs():
    (message,) = diagnose(np.full(6, 1 / 6))
    expected = "0 and 1; 0 and 2; 0 and 3; 12 more pairs. The density"
    assert f"in the latent space: {expected}" in message


# --- Outliers and wide clusters -----------------------------------------------------


@pytest.mark.parametrize(("n_outliers", "n_warnings"), [(9, 0), (10, 1)])
def test_outliers_warn(make_estimator, X, n_outliers, n_warnings):
    """A resumed fit gets them, at a learning rate that leaves the clusters in place.

    Samples of zero weight do not count.
    """
    model = make_estimator(warm_start=True, learning_rate_init=1e-9).fit(X)
    X_outliers = np.r_[X, -3 * X[:n_outliers], -9 * X]
    weight = np.repeat([1, 2, 0], [len(X), n_outliers, len(X)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X_outliers, sample_weight=weight)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == n_warnings
    expected = r"10 samples \(6\.2%\) .* one in 1,000,000 .*n_clusters is 3: if they"
    assert all(re.match(expected, message) for message in messages)


def test_uniform_responsibilities_suppress_the_warnings_that_follow_from_them():
    assert first_words(diagnose()) == ["Clusters"]
    messages = diagnose(unlearned_components=np.array([0.1]))
    assert first_words(messages) == ["Pretraining", "Clusters"]
    (message,) = diagnose(normalized_entropy=0.95)
    assert message.startswith("The responsibilities are close to uniform")


@pytest.mark.parametrize(("error", "warned"), [(0.09, False), (0.11, True)])
def test_embedding_that_is_not_learned_warns(error, warned):
    messages = diagnose(weights=(1, 0), embedding_error=error)
    assert len(messages) == warned
    assert all("does not reproduce the embedding" in text for text in messages)


def test_component_of_zero_weight_does_not_warn():
    assert diagnose(weights=(1, 0)) == []


def test_cluster_of_several_groups_warns():
    X, y = make_blobs(1000, 8, centers=5, random_state=0)
    model = VaDEClusterer(
        3,
        hidden_layer_sizes=(64,),
        pretraining="autoencoder",
        pretrain_max_iter=10,
        init="kmeans",
        learning_rate="constant",
        learning_rate_init=1e-3,
        max_iter=30,
        batch_size=50,
        random_state=0,
    )
    message = r"Cluster 0 is \d\.\d times as wide .*n_clusters is 3: .*, try more\."
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(X)
    assert len(set(y[model.labels_ == 0])) == 3


@pytest.mark.parametrize(
    ("ratio", "n_clusters", "warned"),
    [(2.4, 3, False), (2.6, 3, True), (2.6, 2, False)],
)
def test_ratio_above_which_a_wide_cluster_warns(ratio, n_clusters, warned):
    """With two clusters neither width is the usual one."""
    variances = np.ones((n_clusters, 3))
    variances[1] = np.square(ratio * np.array([0.5, 1, 2]))
    means = 100 * np.eye(3)[:n_clusters]
    messages = diagnose(np.full(n_clusters, 1 / n_clusters), means, variances)
    assert first_words(messages) == ["Cluster"] * warned


@pytest.mark.parametrize(
    ("tol", "stopped", "warning"),
    [(0, False, "Cluster"), (1e-3, False, "Training"), (1e-3, True, "Cluster")],
)
def test_training_cut_short_warns_of_that_and_not_of_a_wide_cluster(
    tol, stopped, warning
):
    """The widths of clusters that were still changing tell nothing about groups."""
    variances = np.ones((3, 3))
    variances[1] = 9
    means = 100 * np.eye(3)
    messages = diagnose(np.full(3, 1 / 3), means, variances, tol=tol, stopped=stopped)
    assert first_words(messages) == [warning]


@pytest.mark.parametrize(
    ("n_outliers", "n_samples", "warned"),
    [(10, 10_000, True), (10, 10_001, False), (11, 21, False), (10, 21, True)],
)
def test_number_of_outliers_that_warns(n_outliers, n_samples, warned):
    """One in a thousand; if most samples are outliers the clusters are at fault."""
    is_outlier = np.arange(n_samples) < n_outliers
    messages = diagnose(is_outlier=is_outlier)
    assert first_words(messages) == ["Clusters", "10"][: 1 + warned]


# --- Convergence --------------------------------------------------------------------


def test_training_that_never_improves_the_validation_score_warns(
    make_estimator, X, monkeypatch
):
    bounds = iter([0.0, -1.0, -2.0, -3.0])
    monkeypatch.setattr(joint, "mean_elbo", lambda *args: next(bounds))
    model = make_estimator(early_stopping=True)
    message = r"No epoch .* held-out ELBO .* Lower learning_rate_init=0\.001"
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(X)
    np.testing.assert_array_equal(model.labels_, model.init_labels_)


def test_warm_start_without_improvement_does_not_warn(make_estimator, X, monkeypatch):
    model = make_estimator(early_stopping=True, warm_start=True).fit(X)
    bounds = iter([0.0, -1.0, -2.0, -3.0])
    monkeypatch.setattr(joint, "mean_elbo", lambda *args: next(bounds))
    means = model.means_
    np.testing.assert_array_equal(model.fit(X).means_, means)


def test_initial_partition_of_fewer_groups_than_clusters_warns(make_estimator, X):
    with pytest.warns(UserWarning) as caught:
        make_estimator(init=np.arange(150) % 2).fit(X)
    messages = [str(warning.message) for warning in caught]
    expected = ("The initial partition holds 2", "1 of 3 clusters", "Clusters share a")
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(start)


def test_good_fit_does_not_warn(make_estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_estimator(early_stopping=True).fit(X)
