"""sample_weight: what a row counts, in every stage and in the score."""

import numpy as np
import pytest
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skvade import VaDEClusterer
from skvade._batching import Rows, make_generator, place
from skvade._initial_mixture import initial_mixture, moments_of_partition
from skvade._matrix import Standardization

# Few epochs on such rows may end without clusters, and the warning is right to say so.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def weight(X):
    """Integers from 1 to 4, which differ between the groups and within them."""
    return np.random.default_rng(0).integers(1, 4, len(X)) + (X[:, 0] > 0)


def assert_same_model(model, expected):
    assert model._parameters.keys() == expected._parameters.keys()
    for name, values in expected._parameters.items():
        assert_array_equal(model._parameters[name], values, err_msg=name)
    assert model.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-12)
    assert model.lower_bounds_ == expected.lower_bounds_
    assert model.pretrain_loss_curve_ == expected.pretrain_loss_curve_


# --- All alike, or nothing ----------------------------------------------------------


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
def test_ones_are_no_weights_to_the_last_bit(make_estimator, X, change):
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
def test_rows_of_weight_zero_are_as_if_they_were_not_there(
    make_estimator, X, weight, change
):
    absent = np.arange(len(X)) % 3 == 0
    kept = np.where(absent, 0, weight)
    far = np.where(absent[:, None], 1e3 + X, X)
    model = make_estimator(**change).fit(far, sample_weight=kept)
    expected = make_estimator(**change).fit(X[~absent], sample_weight=weight[~absent])
    assert_same_model(model, expected)
    assert_array_equal(model.labels_[~absent], expected.labels_)
    assert_array_equal(model.labels_, model.predict(far))


def test_rows_of_weight_zero_may_be_beyond_any_likelihood(make_estimator, X, weight):
    """Their bound is minus infinity, of which zero times would be NaN."""
    unit = Standardization.of(X, center=True, weight=weight).scale
    wild = np.vstack([np.full((1, 5), 1.5e19 * unit), X])
    weight = np.r_[0, weight]
    model = make_estimator().fit(wild, sample_weight=weight)
    assert model.score_samples(wild)[0] == -np.inf
    assert (
        model.lower_bound_
        == make_estimator().fit(X, sample_weight=weight[1:]).lower_bound_
    )
    assert model.score(wild, sample_weight=weight) == model.lower_bound_


def test_a_warm_start_passes_rows_of_weight_zero_by(make_estimator, X, weight):
    model, expected = (
        make_estimator(warm_start=True).fit(X),
        make_estimator(warm_start=True).fit(X),
    )
    absent = np.arange(len(X)) % 3 == 0
    model.fit(X, sample_weight=np.where(absent, 0, weight))
    assert_same_model(model, expected.fit(X[~absent], sample_weight=weight[~absent]))
    assert len(model.init_labels_) == len(X)


def test_a_group_of_weight_zero_gets_no_component(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(n_clusters=2, pretrain_max_iter=20).fit(
        X, sample_weight=y != 0
    )
    assert adjusted_rand_score(y[y != 0], model.labels_[y != 0]) == 1
    unweighted = make_estimator(n_clusters=2, pretrain_max_iter=20).fit(X)
    assert adjusted_rand_score(y[y != 0], unweighted.labels_[y != 0]) < 1


def test_a_component_of_rows_that_weigh_nothing_comes_before_empty_ones(
    make_estimator, blobs
):
    X, y = blobs
    model = make_estimator(n_clusters=3, init=y, max_iter=1).fit(X)
    model.set_params(warm_start=True, learning_rate_init=1e-9)
    model.fit(X, sample_weight=model.labels_ != 0)
    assert np.unique(model.labels_).tolist() == [0, 1, 2]
    assert (model.labels_[model.init_labels_ == 2] == 2).all()


def test_components_are_numbered_by_the_weight_of_their_rows(make_estimator, blobs):
    X, y = blobs
    weight = np.array([1, 9, 4])[y]
    labels = make_estimator(init=y).fit(X, sample_weight=weight).labels_
    assert (np.diff(np.bincount(labels, weight)) < 0).all()


# --- Weights are repetitions --------------------------------------------------------


def test_moments_of_weighted_rows_are_those_of_repeated_ones(blobs, weight):
    Z, y = blobs
    repeated = moments_of_partition(
        np.repeat(Z, weight, axis=0), np.repeat(y, weight), 3, RandomState(0)
    )
    found = moments_of_partition(Z, y, 3, RandomState(0), weight.astype(float))
    for values, expected in zip(found, repeated, strict=True):
        assert_allclose(values, expected)


def test_kmeans_heeds_the_weights(blobs):
    Z, y = blobs
    weight = np.where(y == 2, 1e-6, 1.0)
    means = initial_mixture(Z, "kmeans", 2, 5, RandomState(0), weight).means
    expected = [Z[y == c].mean(0) for c in (0, 1)]
    assert_allclose(sorted(means.tolist()), sorted(map(list, expected)), rtol=1e-3)


def test_random_rows_are_drawn_by_their_weight():
    Z, weight = np.arange(100.0)[:, None], np.where(np.arange(100) < 40, 1e6, 1e-6)
    means = initial_mixture(Z, "random", 30, 1, RandomState(0), weight).means
    one_group = np.zeros(100, int)
    with pytest.warns(UserWarning, match="holds 1 of 31 clusters"):
        filled = moments_of_partition(Z, one_group, 31, RandomState(0), weight).means
    for rows in (means, filled[1:]):
        assert len(np.unique(rows)) == 30
        assert (rows < 40).all()


def test_a_clusterer_gets_the_weights_if_it_takes_any(blobs):
    Z, y = blobs
    weight = np.where(y == 2, 1e-6, 1.0)
    with_weights = KMeans(2, n_init=5, random_state=0)
    means = initial_mixture(Z, with_weights, 2, 1, RandomState(0), weight).means
    assert np.abs(means - Z[y == 0].mean(0)).sum(1).min() < 1e-2
    without = AgglomerativeClustering(3)
    weights = initial_mixture(Z, without, 3, 1, RandomState(0), weight).weights
    assert_allclose(np.sort(weights), [5e-7, 0.5, 0.5], rtol=1e-3)


def test_a_pretraining_step_on_weighted_rows_is_one_on_repeated_rows(
    make_estimator, X, weight
):
    def pretrained(X, weight):
        parameters = {"init": "random", "precision": "float64", "batch_size": 1000}
        model = make_estimator(**parameters).fit(X, sample_weight=weight)
        return model.pretrain_loss_curve_

    repeated = pretrained(np.repeat(X, weight, axis=0), None)
    assert_allclose(pretrained(X, weight), repeated, rtol=1e-9)
    assert abs(pretrained(X, None)[-1] / repeated[-1] - 1) > 1e-3


def test_recorded_bounds_are_weighted_means(make_estimator, X, weight):
    parameters = {"max_iter": 1, "learning_rate_init": 1e-9, "n_draws": 200}
    for change in ({}, {"early_stopping": True}):
        model = make_estimator(**parameters, **change).fit(X, sample_weight=weight)
        assert_allclose(model.lower_bounds_, model.lower_bound_, atol=0.3)
        assert_allclose(model.loss_curve_, np.negative(model.lower_bounds_), rtol=0.05)
    expected = np.average(model.score_samples(X), weights=weight)
    assert model.lower_bound_ == pytest.approx(expected, rel=1e-12)


def test_weighted_rows_and_repeated_rows_agree_over_seeds():
    """The mean of the model, over seeds: 3 standard errors leave chance out.

    The same seed does not give the same model, since repeated rows come in another
    order: that is why scikit-learn's two checks can not pass.
    """
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(-1, 1, (20, 2)), rng.normal(1.5, 1, (20, 2))]
    weight = rng.integers(1, 3, 40) + 2 * (X[:, 0] > 0)

    def means(X, weight):
        parameters = {"latent_dim": 1, "hidden_layer_sizes": (8,), "n_init": 1}
        parameters |= {"pretrain_max_iter": 5, "max_iter": 10, "tol": 0}
        parameters |= {"batch_size": len(X), "pretrain_learning_rate_init": 0.3}
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


def test_a_search_splits_the_weights_with_the_rows(make_estimator, X, weight):
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


def test_batches_carry_the_weights_of_their_rows():
    X, weight = np.arange(20.0)[:, None], np.arange(20.0)
    as_is = Standardization(np.zeros(1), 1.0, np.zeros(1))
    rows = Rows.of(X, as_is, place("cpu", "float32"), weight).weighty()
    batches = list(rows.batches(6, make_generator(0)))
    assert len(rows) == sum(len(batch.x) for batch in batches) == 19
    for x, w, *_ in batches:
        assert x.dtype == w.dtype
        assert_array_equal(x[:, 0], w)


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
def test_weights_that_are_none(make_estimator, fitted, X, method, weight, message):
    model = fitted if method == "score" else make_estimator()
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(X, sample_weight=weight)
    assert vars(model) == before


def test_fewer_rows_that_count_than_clusters(make_estimator, X):
    message = r"n_samples=2 should be >= n_clusters=3"
    with pytest.raises(ValueError, match=message):
        make_estimator().fit(X, sample_weight=np.arange(150) < 2)


def test_expectation_maximization_takes_no_weights(make_estimator, X, weight):
    message = r"init='gmm' can not heed sample_weight.*Use init='kmeans'"
    with pytest.raises(ValueError, match=message):
        make_estimator(init="gmm").fit(X, sample_weight=weight)
    make_estimator(init="gmm").fit(X, sample_weight=np.arange(150) % 2)
    make_estimator(init=GaussianMixture(3)).fit(X, sample_weight=weight)
    model = make_estimator(init="gmm", warm_start=True).fit(X)
    model.fit(X, sample_weight=weight)
