"""What fit says of a result that should not be trusted."""

import re
import warnings
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from scipy.special import entr
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer, _training
from skvade._diagnosis import _Mixture, pairs_of_one_mode, warn_of_result
from skvade._run import Record


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


def test_unbalanced_clusters_are_fewer_effective_ones(make_estimator, blobs):
    X, y = blobs
    few = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:5]]
    model = make_estimator(n_clusters=2).fit(X[few])
    assert 1.3 < model.n_effective_clusters_ < 1.6


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(200, 10))


def test_responsibilities_that_say_nothing_warn(make_estimator, noise):
    """Without groups in the data and with a heavy prior the posterior collapses."""
    model = make_estimator(n_clusters=4, beta=10.0, max_iter=60)
    message = r"close to uniform: .* (9\d|100)% .* Lower beta"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "3 of 4 clusters hold no row")
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


def test_the_remedy_for_pretraining_that_learns_nothing(make_estimator, mostly_noise):
    """Where it was followed nothing is said: warnings are errors here."""
    model = make_estimator(
        pretrain_max_iter=40, pretrain_learning_rate_init=3, max_iter=1
    )
    model.fit(mostly_noise)
    leading = PCA(2).fit(mostly_noise).explained_variance_ratio_.sum()
    assert model.pretrain_loss_curve_[-1] < 1 - leading / 4


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_an_automatic_rate_is_no_rate_to_raise(make_estimator, mostly_noise):
    model = make_estimator(
        pretrain_max_iter=2, pretrain_learning_rate_init="auto", max_iter=1
    )
    with pytest.warns(ConvergenceWarning, match="variance. Raise pretrain_max_iter=2,"):
        model.fit(mostly_noise)


@pytest.mark.filterwarnings("ignore:(?!Pretraining)")
def test_a_single_row_that_hides_the_others_is_told(make_estimator, X):
    wild = np.r_[X, np.full((1, 5), 1e6)]
    message = "100.0% of the variance. Look for wild values in X, or raise pretrain_l"
    with pytest.warns(ConvergenceWarning, match=message):
        make_estimator(pretrain_max_iter=1, pretrain_learning_rate_init=0.01).fit(wild)


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    "rates, named",
    [
        (("auto", 1e-9), "learning_rate_init=1e-09"),
        ((1e-9, 1e-3), "pretrain_learning_rate_init=1e-09"),
    ],
)
def test_pretraining_as_a_vae_names_its_rate(
    make_estimator, mostly_noise, rates, named
):
    names = "pretrain_learning_rate_init", "learning_rate_init"
    model = make_estimator(
        pretraining="vae", max_iter=1, **dict(zip(names, rates, strict=True))
    )
    with pytest.warns(ConvergenceWarning, match=f"Raise {named} and"):
        model.fit(mostly_noise)


def test_constant_rows_have_nothing_to_learn(make_estimator):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Pretraining")
        warnings.filterwarnings("ignore", ".* clusters|The responsibilities")
        make_estimator().fit(np.ones((30, 4)))


def have_one_mode(*mixture):
    return pairs_of_one_mode(_Mixture(*mixture)) == [(0, 1)]


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
@pytest.mark.parametrize("latent_dim", [1, 3, 20])
def test_two_alike_have_two_modes_beyond_two_deviations(latent_dim, scale):
    """Half of the rows in each; so de Helguero in 1904, in any direction."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=latent_dim)
    direction /= np.linalg.norm(direction)
    deviations = scale * rng.uniform(0.1, 10, latent_dim)
    for distance, expected in [(0, True), (1.99, True), (2.01, False), (9, False)]:
        means = scale + np.stack([0 * direction, distance * direction]) * deviations
        variances = np.stack([deviations, deviations]) ** 2
        assert have_one_mode(np.full(2, 0.5), means, variances) == expected


def n_modes(weights, means, variances):
    """Peaks of a density in the plane, counted on a grid."""
    reach = 3 * np.sqrt(variances.max(0))
    ends = zip(means.min(0) - reach, means.max(0) + reach, strict=True)
    places = np.stack(np.meshgrid(*(np.linspace(*end, 601) for end in ends)), axis=-1)
    parts = zip(weights, means, variances, strict=True)
    density = sum(w * multivariate_normal(m, v).pdf(places) for w, m, v in parts)
    return np.count_nonzero(density == maximum_filter(density, 3))


def test_modes_are_as_many_as_a_search_finds():
    rng = np.random.default_rng(0)
    one = []
    for _ in range(60):
        weights, variances = rng.dirichlet([1, 1]), rng.uniform(0.2, 3, (2, 2))
        means = rng.normal(scale=1.6, size=(2, 2))
        one.append(have_one_mode(weights, means, variances))
        assert one[-1] == (n_modes(weights, means, variances) == 1)
    assert 20 <= sum(one) <= 40


def test_modes_of_very_unlike_components():
    """A needle in a haystack, beside its top: it is a mode if it stands out."""
    means, variances = np.array([[0.0], [0.5]]), np.array([[1.0], [1e-12]])
    for weight, expected in [(1e-3, False), (1e-11, False), (1e-14, True)]:
        weights = np.array([1 - weight, weight])
        assert have_one_mode(weights, means, variances) == expected
        assert have_one_mode(weights[::-1], means[::-1], variances[::-1]) == expected


def test_pairs_among_many_components():
    """Each pair is judged by itself, wherever it stands."""
    rng = np.random.default_rng(0)
    mixture = _Mixture(
        rng.dirichlet(np.ones(30)),
        rng.normal(scale=3, size=(30, 2)),
        rng.uniform(0.2, 3, (30, 2)),
    )
    pairs = combinations(range(30), 2)
    expected = [p for p in pairs if pairs_of_one_mode(mixture.part([*p]))]
    assert pairs_of_one_mode(mixture) == expected
    assert 50 < len(expected) < 385


def test_one_group_in_pieces_warns(make_estimator, blobs):
    X, y = blobs
    in_pieces = np.where((y == 0) & (np.arange(150) % 2 == 0), 3, y)
    model = make_estimator(n_clusters=4, init=in_pieces)
    with pytest.warns(ConvergenceWarning, match="share a mode .*: 2 and 3. The"):
        model.fit(X)
    pieces = model.labels_ >= 2
    assert set(y[pieces]) == {0}
    assert set(y[~pieces]) == {1, 2}


def test_of_many_pairs_a_few_are_named(make_estimator, noise):
    model = make_estimator(n_clusters=6, init="random")
    message = r"space: (\d and \d; ){3}\d+ more pairs\. The"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* clusters hold no row")
        with pytest.warns(ConvergenceWarning, match=message):
            model.fit(noise)


@pytest.mark.parametrize(("n_far", "n_warnings"), [(9, 0), (10, 1)])
def test_rows_that_no_cluster_holds_warn(make_estimator, X, n_far, n_warnings):
    """They come when all is learned, at a rate that leaves it so."""
    model = make_estimator(warm_start=True, learning_rate_init=1e-9).fit(X)
    apart = np.r_[X, -3 * X[:n_far], -9 * X]
    weight = np.repeat([1, 2, 0], [len(X), n_far, len(X)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(apart, sample_weight=weight)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == n_warnings
    expected = r"10 rows \(6\.2%\) .* one in 1,000,000 .*Raise n_clusters=3"
    assert all(re.match(expected, text) for text in messages)


@pytest.fixture
def judged():
    """Judges an estimator with a row in each component, all alike unless told."""

    def judge(weights=(0.5, 0.5), means=None, variances=None, **measured):
        k = len(weights)
        estimator = SimpleNamespace(
            n_clusters=k,
            labels_=np.arange(k),
            weights_=np.array(weights),
            means_=np.zeros((k, 3)) if means is None else means,
            covariances_=np.ones((k, 3)) if variances is None else variances,
            pretraining="autoencoder",
            pretrain_learning_rate_init=1.0,
            pretrain_max_iter=10,
            early_stopping=False,
            n_iter_=1,
            max_iter=10,
            tol=0,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_result(estimator, Record(**measured), warm=False)
        return [str(warning.message).partition(" ")[0] for warning in caught]

    return judge


def test_what_flat_responsibilities_imply_is_not_told(judged):
    assert judged() == ["Clusters"]
    assert judged(missed=np.array([0.1])) == ["Pretraining", "Clusters"]
    assert judged(vagueness=0.95) == ["The"]


def test_a_weight_that_has_vanished_is_no_trouble(judged):
    assert judged(weights=(1, 0)) == []


def test_several_groups_in_one_cluster_warn():
    X, y = make_blobs(1000, 8, centers=5, random_state=0)
    model = VaDEClusterer(3, random_state=0)
    message = r"Cluster 0 is [34]\.\d times as wide .* raise n_clusters=3\."
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(X)
    assert len(set(y[model.labels_ == 0])) == 3


@pytest.mark.parametrize(("times", "n_clusters"), [(2.4, 3), (2.6, 3), (2.6, 2)])
def test_how_wide_a_cluster_may_be(judged, times, n_clusters):
    """Of two there is no telling which of them is usual."""
    variances = np.ones((n_clusters, 3))
    variances[1] = np.square(times * np.array([0.5, 1, 2]))
    means = 100 * np.eye(3)[:n_clusters]
    told = judged(np.full(n_clusters, 1 / n_clusters), means, variances)
    assert told == ["Cluster"] * (times > 2.5 and n_clusters > 2)


@pytest.mark.parametrize(
    ("n_far", "n_rows", "told"),
    [(10, 10_000, True), (10, 10_001, False), (11, 21, False), (10, 21, True)],
)
def test_how_many_far_rows_count(judged, n_far, n_rows, told):
    """One of a thousand; where most are far, there are no clusters to be far from."""
    far = np.arange(n_rows) < n_far
    assert judged(far=far) == ["Clusters", "10"][: 1 + told]


def test_training_that_the_rows_held_out_reject_warns(make_estimator, X, monkeypatch):
    bounds = iter([0.0, -1.0, -2.0, -3.0])
    monkeypatch.setattr(_training, "mean_elbo", lambda *arguments: next(bounds))
    model = make_estimator(early_stopping=True)
    message = r"No epoch .* held-out ELBO .* Lower learning_rate_init=0\.001"
    with pytest.warns(ConvergenceWarning, match=message):
        model.fit(X)
    np.testing.assert_array_equal(model.labels_, model.init_labels_)


def test_a_warm_start_may_find_nothing_better(make_estimator, X, monkeypatch):
    model = make_estimator(early_stopping=True, warm_start=True).fit(X)
    bounds = iter([0.0, -1.0, -2.0, -3.0])
    monkeypatch.setattr(_training, "mean_elbo", lambda *arguments: next(bounds))
    means = model.means_
    np.testing.assert_array_equal(model.fit(X).means_, means)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, X: model.fit(X),
        lambda model, X: model.fit_predict(X),
        lambda model, X: model.fit_transform(X),
        lambda model, X: make_pipeline(StandardScaler(), model).fit(X),
        lambda model, X: GridSearchCV(model, {"beta": [1]}, cv=2, refit=False).fit(X),
    ],
    ids=["fit", "fit_predict", "fit_transform", "Pipeline", "GridSearchCV"],
)
def test_warnings_point_at_the_line_of_the_user(make_estimator, X, call):
    with pytest.warns(ConvergenceWarning, match="max_iter=3") as caught:
        call(make_estimator(tol=1e-9), X)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_warning_from_deep_inside_points_there_too(make_estimator, X):
    message = "initial partition holds 2|1 of 3 clusters hold no row|share a mode"
    with pytest.warns(UserWarning, match=message) as caught:
        make_estimator(init=np.arange(150) % 2).fit_predict(X)
    assert [warning.filename for warning in caught] == [__file__] * 3


def test_a_good_fit_is_silent(make_estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_estimator(early_stopping=True).fit(X)
