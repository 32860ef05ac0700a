"""sample_weight, in every stage and in the score."""

from dataclasses import replace

import numpy as np
import pytest
from custom_modules import assert_same_networks
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from training_states import make_training_state

from skvade import VaDEClusterer
from skvade._data.scaling import DataSummary
from skvade._model.prior import DiagonalMixturePrior
from skvade._training.initialization import initial_labels

# A few epochs on such data may leave clusters overlapping, of which a fit warns.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def weight(X):
    """Integers from 1 to 4, which differ between the groups and within them."""
    return np.random.default_rng(0).integers(1, 4, len(X)) + (X[:, 0] > 0)


def assert_same_model(model, expected):
    assert_same_networks(model, expected)
    for name, values in expected._scaling.items():
        assert_array_equal(model._scaling[name], values, err_msg=name)
    for name in ("weights_", "means_", "covariances_"):
        assert_array_equal(getattr(model, name), getattr(expected, name), err_msg=name)
    assert model.noise_variance_ == expected.noise_variance_
    assert model.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-12)
    assert model.lower_bounds_ == expected.lower_bounds_
    assert model.pretrain_loss_curve_ == expected.pretrain_loss_curve_


# --- Uniform weights, weights of zero -----------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"init": "gmm"},
        {"init": "random"},
        {"init": KMeans(3, n_init=1)},
        {"init": np.repeat([0, 1, 2], 50)},
        {"early_stopping": True},
        {"responsibilities": "sampled"},
    ],
)
def test_weights_of_one_change_nothing_to_the_last_bit(make_estimator, X, change):
    model = make_estimator(**change).fit(X, sample_weight=np.ones(len(X)))
    expected = make_estimator(**change).fit(X)
    assert_same_model(model, expected)
    assert model.lower_bound_ == expected.lower_bound_
    assert model.score(X, sample_weight=np.ones(len(X))) == model.score(X)


@pytest.mark.parametrize("factor", [1 / 8, 3.7, 1e-305, 1e305])
def test_only_the_ratios_matter(make_estimator, X, weight, factor):
    model = make_estimator().fit(X, sample_weight=weight)
    scaled = make_estimator().fit(X, sample_weight=factor * weight)
    assert_array_equal(scaled.labels_, model.labels_)
    assert_allclose(scaled.means_, model.means_, atol=1e-4)
    assert_allclose(scaled.lower_bound_, model.lower_bound_, rtol=1e-5)


@pytest.mark.parametrize("change", [{}, {"early_stopping": True}, {"init": "random"}])
def test_samples_of_weight_zero_change_nothing(make_estimator, X, weight, change):
    absent = np.arange(len(X)) % 3 == 0
    kept = np.where(absent, 0, weight)
    far = np.where(absent[:, None], 1e3 + X, X)
    model = make_estimator(**change).fit(far, sample_weight=kept)
    expected = make_estimator(**change).fit(X[~absent], sample_weight=weight[~absent])
    assert_same_model(model, expected)
    assert_array_equal(model.labels_[~absent], expected.labels_)
    assert_array_equal(model.labels_, model.predict(far))


def test_samples_of_weight_zero_may_have_a_bound_of_minus_infinity(
    make_estimator, X, weight
):
    """Zero times this would be NaN."""
    scale = DataSummary.from_array(X, weight).scaling(center=True).scale
    X_outlier = np.vstack([np.full((1, 5), 1.5e19 * scale), X])
    weight = np.r_[0, weight]
    model = make_estimator().fit(X_outlier, sample_weight=weight)
    assert model.score_samples(X_outlier)[0] == -np.inf
    expected = make_estimator().fit(X, sample_weight=weight[1:])
    assert model.lower_bound_ == expected.lower_bound_
    score = model.score(X_outlier, sample_weight=weight)
    assert score == pytest.approx(model.lower_bound_, rel=1e-12)


def test_samples_of_weight_zero_change_nothing_in_a_warm_start(
    make_estimator, X, weight
):
    model = make_estimator(warm_start=True).fit(X)
    expected = make_estimator(warm_start=True).fit(X)
    absent = np.arange(len(X)) % 3 == 0
    model.fit(X, sample_weight=np.where(absent, 0, weight))
    assert_same_model(model, expected.fit(X[~absent], sample_weight=weight[~absent]))
    assert len(model.init_labels_) == len(X)


def test_a_group_of_weight_zero_gets_no_component(make_estimator, blobs, start):
    X, y = blobs
    n_epochs = 20 if start == "autoencoder" else 4
    estimator = make_estimator(n_clusters=2, pretrain_max_iter=n_epochs)
    model = clone(estimator).fit(X, sample_weight=y != 0)
    assert adjusted_rand_score(y[y != 0], model.labels_[y != 0]) == 1
    unweighted = clone(estimator).fit(X)
    assert adjusted_rand_score(y[y != 0], unweighted.labels_[y != 0]) < 1


def test_a_component_of_samples_of_weight_zero_comes_before_empty_ones(
    make_estimator, blobs
):
    X, y = blobs
    model = make_estimator(n_clusters=3, init=y, max_iter=1).fit(X)
    model.set_params(warm_start=True, learning_rate_init=1e-9)
    model.fit(X, sample_weight=model.labels_ != 0)
    assert np.unique(model.labels_).tolist() == [0, 1, 2]
    assert (model.labels_[model.init_labels_ == 2] == 2).all()


def test_components_are_sorted_by_the_weight_of_their_samples(make_estimator, blobs):
    X, y = blobs
    weight = np.array([1, 9, 4])[y]
    labels = make_estimator(init=y).fit(X, sample_weight=weight).labels_
    assert (np.diff(np.bincount(labels, weight)) < 0).all()


# --- Weights are repetitions --------------------------------------------------------


def partition(Z, init, n_clusters, n_init, weight):
    params = {"n_clusters": n_clusters, "init": init, "n_init": n_init}
    state = make_training_state(Z, sample_weight=weight, **params)
    state = replace(state, random=state.random._replace(numpy=RandomState(0)))
    return initial_labels(state, state.dataset, Z)


def prior_of_partition(Z, labels, n_components, weight):
    prior = DiagonalMixturePrior(n_components, Z.shape[1], reg_covar=0.0).double()
    prior.initialize_from_partition(Z, labels, weight, RandomState(0))
    return prior.fitted_attributes()


def test_a_prior_of_weighted_samples_is_that_of_repeated_ones(blobs, weight):
    Z, y = blobs
    repeated = prior_of_partition(
        np.repeat(Z, weight, axis=0), np.repeat(y, weight), 3, np.ones(weight.sum())
    )
    found = prior_of_partition(Z, y, 3, weight.astype(float))
    for name, expected in repeated.items():
        assert_allclose(found[name], expected, err_msg=name)


def test_kmeans_uses_the_weights(blobs):
    """Samples of next to no weight get no cluster of their own."""
    Z, y = blobs
    weight = np.where(y == 2, 1e-6, 1.0)
    labels = partition(Z, "kmeans", 2, 5, weight)
    assert adjusted_rand_score(y[y != 2], labels[y != 2]) == 1
    means = prior_of_partition(Z, labels, 2, weight)["means_"]
    expected = [Z[y == c].mean(0) for c in (0, 1)]
    assert_allclose(sorted(means.tolist()), sorted(map(list, expected)), rtol=1e-3)


def test_random_samples_are_drawn_by_their_weight():
    """Those that start the groups, and those that stand for groups without any."""
    Z, weight = np.arange(100.0)[:, None], np.where(np.arange(100) < 40, 1e6, 1e-6)
    labels = partition(Z, "random", 30, 1, weight)
    # Each of 30 samples drawn from the first 40 is in a group of its own.
    assert len(np.unique(labels[:40])) == 30
    assert len(np.unique(labels[40:])) == 1
    one_group = np.zeros(100, int)
    with pytest.warns(UserWarning, match="holds 1 of 31 clusters"):
        means = prior_of_partition(Z, one_group, 31, weight)["means_"][1:]
    assert len(np.unique(means)) == 30
    assert (means < 40).all()


def test_a_clusterer_gets_the_weights_if_it_accepts_them(blobs):
    Z, y = blobs
    weight = np.where(y == 2, 1e-6, 1.0)
    with_weights = KMeans(2, n_init=5, random_state=0)
    labels = partition(Z, with_weights, 2, 1, weight)
    means = prior_of_partition(Z, labels, 2, weight)["means_"]
    assert np.abs(means - Z[y == 0].mean(0)).sum(1).min() < 1e-2
    labels = partition(Z, AgglomerativeClustering(3), 3, 1, weight)
    weights = prior_of_partition(Z, labels, 3, weight)["weights_"]
    assert_allclose(np.sort(weights), [5e-7, 0.5, 0.5], rtol=1e-3)


def test_pretraining_on_weighted_samples_is_that_on_repeated_ones(
    make_estimator, X, weight
):
    def pretrained(X, weight):
        parameters = {"init": "random", "precision": "float64", "batch_size": 1000}
        # Repeated samples are neighbors of each other: the graph is another one.
        parameters["pretraining"] = "autoencoder"
        model = make_estimator(**parameters).fit(X, sample_weight=weight)
        return model.pretrain_loss_curve_

    repeated = pretrained(np.repeat(X, weight, axis=0), None)
    assert_allclose(pretrained(X, weight), repeated, rtol=1e-9)
    assert abs(pretrained(X, None)[-1] / repeated[-1] - 1) > 1e-3


def test_recorded_bounds_are_weighted_means(make_estimator, X, weight):
    parameters = {"max_iter": 1, "learning_rate_init": 1e-9, "n_draws": 200}
    for change in ({}, {"early_stopping": True}):
        model = make_estimator(**parameters, **change).fit(X, sample_weight=weight)
        assert_allclose(model.lower_bounds_, model.lower_bound_, rtol=0.05)
        assert_allclose(model.loss_curve_, np.negative(model.lower_bounds_), rtol=0.05)
    expected = np.average(model.score_samples(X), weights=weight)
    assert model.lower_bound_ == pytest.approx(expected, rel=1e-12)


def test_weighted_and_repeated_samples_agree_over_seeds():
    """The mean of the model, over seeds: 3 standard errors leave chance out.

    The same seed does not give the same model, since repeated samples come in another
    order: that is why scikit-learn's two checks can not pass.
    """
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(-1, 1, (20, 2)), rng.normal(1.5, 1, (20, 2))]
    weight = rng.integers(1, 3, 40) + 2 * (X[:, 0] > 0)

    def means(X, weight):
        parameters = {"latent_dim": 1, "hidden_layer_sizes": (8,), "n_init": 1}
        parameters |= {"pretrain_max_iter": 5, "warmup_max_iter": 1, "max_iter": 10}
        parameters |= {
            "tol": 0,
            "batch_size": len(X),
            "pretrain_learning_rate_init": 0.3,
        }
        parameters |= {"pretraining": "autoencoder", "init": "kmeans"}
        models = [
            VaDEClusterer(1, random_state=seed, **parameters).fit(
                X, sample_weight=weight
            )
            for seed in range(8)
        ]
        return np.array([model.cluster_centers_[0] for model in models])

    weighted, plain = means(X, weight), means(X, None)
    repeated = means(np.repeat(X, weight, axis=0), None)
    error = np.sqrt((weighted.var(0) + repeated.var(0)) / 7)
    assert (np.abs(weighted.mean(0) - repeated.mean(0)) < 3 * error).all()
    assert (np.abs(plain.mean(0) - repeated.mean(0)) > 6 * error).all()


# --- Scores and routing -------------------------------------------------------------


def test_score_is_the_weighted_mean(fitted, X, weight):
    expected = (fitted.score_samples(X) * weight).sum() / weight.sum()
    assert fitted.score(X, sample_weight=weight) == pytest.approx(expected, rel=1e-12)
    assert fitted.score(X) != pytest.approx(expected, rel=1e-6)


def test_fit_predict_takes_weights(make_estimator, X, weight):
    labels = make_estimator().fit_predict(X, sample_weight=weight)
    assert_array_equal(labels, make_estimator().fit(X, sample_weight=weight).labels_)


def test_a_pipeline_passes_weights_on(make_estimator, X, weight):
    with config_context(enable_metadata_routing=True):
        model = make_estimator().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        scaler = MinMaxScaler()
        pipeline = make_pipeline(scaler, model).fit(X, sample_weight=weight)
        score = pipeline.score(X, sample_weight=weight)
        labels = make_pipeline(scaler, model).fit_predict(X, sample_weight=weight)
    expected = make_estimator().fit(scaler.fit_transform(X), sample_weight=weight)
    assert_same_model(pipeline[-1], expected)
    assert score == pytest.approx(expected.lower_bound_, rel=1e-12)
    assert_array_equal(labels, expected.labels_)


def test_a_search_splits_the_weights_with_the_samples(make_estimator, X, weight):
    grid = {"n_clusters": [2, 3]}
    with config_context(enable_metadata_routing=True):
        model = make_estimator().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, grid, cv=2).fit(X, sample_weight=weight)
    assert_same_model(
        search.best_estimator_,
        make_estimator(**search.best_params_).fit(X, sample_weight=weight),
    )
    half = make_estimator(n_clusters=3).fit(X[75:], sample_weight=weight[75:])
    score = half.score(X[:75], sample_weight=weight[:75])
    assert search.cv_results_["split0_test_score"][1] == pytest.approx(score, rel=1e-12)


# --- Weights at the edge ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The initial partition holds 2 of 3:UserWarning")
def test_next_to_no_weight_is_none(make_estimator, blobs):
    X, y = blobs
    expected = make_estimator(init=y).fit(X, sample_weight=(y != 2).astype(float))
    model = make_estimator(init=y).fit(X, sample_weight=np.where(y == 2, 1e-60, 1.0))
    assert_same_model(model, expected)
    assert model.n_samples_seen_ == np.count_nonzero(y != 2)
    assert np.isfinite(model.predict_log_proba(X)).all()


def test_a_group_of_little_weight_has_finite_log_responsibilities(
    make_estimator, blobs
):
    X, y = blobs
    model = make_estimator(init=y).fit(X, sample_weight=np.where(y == 2, 1e-29, 1.0))
    assert 0 < model.weights_[2] < 1e-20
    assert np.isfinite(model.predict_log_proba(X)).all()


@pytest.mark.parametrize("factor", [1.5e308, 2.0**-1074])
def test_only_ratios_of_weights_matter(make_estimator, fitted, X, factor):
    weight = np.full(len(X), factor)
    assert_same_model(make_estimator().fit(X, sample_weight=weight), fitted)
    assert fitted.score(X, sample_weight=weight) == fitted.score(X)


def test_weights_that_vanish_beside_earlier_ones_raise(make_estimator, X):
    model = make_estimator().partial_fit(X, sample_weight=np.full(150, 1e300))
    before = dict(vars(model))
    with pytest.raises(ValueError, match="the new samples would count for nothing"):
        model.partial_fit(X, sample_weight=np.full(150, 1e-300))
    assert vars(model) == before


# --- Errors -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "fit_predict", "score"])
@pytest.mark.parametrize(
    "weight, message",
    [
        (np.full(150, -1.0), "Negative values in data passed to `sample_weight`"),
        (np.zeros(150), "must contain at least one non-zero number"),
        (np.ones(149), r"sample_weight.shape == \(149,\), expected \(150,\)"),
        (np.ones((150, 2)), "must be 1D array or scalar, got 2D array"),
        (np.full(150, np.nan), "Input sample_weight contains NaN"),
        (np.full(150, np.inf), "Input sample_weight contains infinity"),
    ],
)
def test_invalid_weights_raise(make_estimator, fitted, X, method, weight, message):
    model = fitted if method == "score" else make_estimator()
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, sample_weight=weight)
    assert vars(model) == before


def test_fewer_samples_of_positive_weight_than_clusters_raise(make_estimator, X):
    message = r"n_samples=2 should be >= n_clusters=3"
    with pytest.raises(ValueError, match=message):
        make_estimator().fit(X, sample_weight=np.arange(150) < 2)


def test_the_initial_mixture_gmm_takes_no_weights(make_estimator, X, weight):
    message = r"init='gmm' can not use sample_weight.*Use init='kmeans'"
    with pytest.raises(ValueError, match=message):
        make_estimator(init="gmm").fit(X, sample_weight=weight)
    make_estimator(init="gmm").fit(X, sample_weight=np.arange(150) % 2)
    make_estimator(init=GaussianMixture(3)).fit(X, sample_weight=weight)
    model = make_estimator(init="gmm", warm_start=True).fit(X)
    model.fit(X, sample_weight=weight)
