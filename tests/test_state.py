import copy
import pickle

import numpy as np
import pytest
import torch
from custom_modules import make_state
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import entropy
from sklearn.base import clone

from skvade import VaDEClusterer, _inference
from skvade._state import (
    init_training,
    make_config,
    reset_fitted_attributes,
    restore_on_error,
    resume_fit,
    resume_partial_fit,
    set_fitted_attributes,
    snapshot,
)
from skvade._training.joint import maximize_elbo, sort_components
from skvade._training.stages import train

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
SAMPLE_METHODS = [
    "predict",
    "predict_log_proba",
    "transform",
    "reconstruct",
    "score_samples",
]


SETTINGS = {
    "latent_dim": 2,
    "hidden_layer_sizes": (16,),
    "pretrain_max_iter": 1,
    "n_init": 1,
    "warmup_max_iter": 1,
    "max_iter": 1,
    "tol": 0,
    "random_state": 0,
}


class FewerParameters(VaDEClusterer):
    def __init__(self, n_clusters=3):
        super().__init__(n_clusters, **SETTINGS)


class MoreParameters(VaDEClusterer):
    def __init__(self, n_clusters=3, *, penalty=0.5):
        super().__init__(n_clusters, **SETTINGS)
        self.penalty = penalty


def module_predictions(state, dataset, responsibilities="expected"):
    """Compute what the live module of a training state predicts."""
    module, likelihood = state.module, state.module.likelihood_float64()
    likelihood.set_scaling(state.dataset.scaling)  # not rounded to float32
    log_r = _inference.predict_log_responsibilities(module, dataset, responsibilities)
    return {
        "predict": _inference.predict_labels(module, dataset, responsibilities),
        "predict_log_proba": log_r,
        "transform": _inference.embed(module, dataset),
        "reconstruct": _inference.reconstruct(module, dataset, likelihood),
        "score_samples": _inference.elbo_samples(module, dataset, responsibilities),
    }


@pytest.fixture
def trained(make_estimator, X):
    """Make an estimator and its training state after the last stage."""

    def make(X=X, sample_weight=None, **params):
        estimator = make_estimator(**params)
        sample_weight = np.ones(len(X)) if sample_weight is None else sample_weight
        state = init_training(estimator, X, sample_weight)
        train(state)
        return estimator, state

    return make


# --- restore_on_error ---------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_restores_the_former_attributes(fitted, error):
    model = copy.copy(fitted)
    before = dict(vars(model))
    with pytest.raises(error), restore_on_error(model):
        model.means_ = None
        model.new_ = 1
        del model.labels_
        raise error
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)


def test_without_an_error_the_new_attributes_stay(fitted):
    model = copy.copy(fitted)
    with restore_on_error(model):
        model.new_ = 1
        del model.labels_
    assert model.new_ == 1
    assert not hasattr(model, "labels_")


# --- make_config --------------------------------------------------------------------


def test_config_has_the_parameters_and_no_other_attributes(fitted):
    config = make_config(fitted, 150, 5)
    expected = fitted.get_params(deep=False)
    automatic = {name for name, value in expected.items() if value == "auto"}
    automatic -= {"device", "pretrain_learning_rate_init", "size_factor"}
    resolved = {name: getattr(config, name) for name in automatic}
    assert vars(config) == expected | resolved
    assert "auto" not in resolved.values()


def test_automatic_budgets_grow_with_the_samples():
    model = VaDEClusterer()

    def n_steps(n_samples):
        config = make_config(model, n_samples, 5)
        n_batches = -(-n_samples // config.batch_size)
        return n_batches * (config.warmup_max_iter + config.max_iter)

    steps = [n_steps(n) for n in (50, 200, 10_000, 10**6)]
    assert steps == sorted(steps)
    assert 500 <= steps[0] <= 550
    assert 600 <= steps[1] <= 700
    assert 20_000 <= steps[3] <= 28_000


@pytest.mark.parametrize(
    "n_features, beta", [(1, 1.0), (64, 1.0), (128, 2.0), (784, 10.0)]
)
def test_automatic_beta_grows_with_the_features(n_features, beta):
    assert make_config(VaDEClusterer(), 100, n_features).beta == beta
    assert make_config(VaDEClusterer(beta=0.5), 100, n_features).beta == 0.5


@pytest.mark.parametrize("n_samples, expected", [(30, 128), (3200, 200), (10**6, 256)])
def test_automatic_batch_size_gives_small_data_enough_steps(n_samples, expected):
    model = VaDEClusterer()
    assert make_config(model, n_samples, 5).batch_size == expected
    assert model.batch_size == "auto"
    assert make_config(VaDEClusterer(batch_size=7), n_samples, 5).batch_size == 7


def test_labels_given_as_init_become_an_array(blobs):
    labels = blobs[1].tolist()
    model = VaDEClusterer(3, init=labels)
    config = make_config(model, 150, 5)
    assert isinstance(config.init, np.ndarray)
    assert_array_equal(config.init, labels)
    assert model.init is labels


def test_config_of_a_subclass_with_fewer_parameters():
    assert FewerParameters().get_params().keys() == {"n_clusters"}
    config = make_config(FewerParameters(4), 150, 5)
    assert config.n_clusters == 4
    assert vars(config).keys() == VaDEClusterer().get_params().keys()


def test_config_of_a_subclass_with_more_parameters():
    config = make_config(MoreParameters(penalty=0.1), 150, 5)
    assert config.penalty == 0.1
    assert vars(config).keys() == {*VaDEClusterer().get_params(), "penalty"}


@pytest.mark.parametrize("cls", [FewerParameters, MoreParameters])
def test_subclasses_are_fitted_like_the_estimator(X, cls):
    expected = VaDEClusterer(3, **SETTINGS).fit(X)
    model = clone(cls()).fit(X)
    assert_array_equal(model.means_, expected.means_)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.labels_)
    model.partial_fit(X)
    model.set_params(n_clusters=2).fit(X)
    assert model.weights_.shape == (2,)


# --- init_training ------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_init_training_gives_modules_and_samples_of_the_precision(
    make_estimator, X, precision
):
    state = make_state(make_estimator(precision=precision), X)
    dtypes = {values.dtype for values in state.module.state_dict().values()}
    assert dtypes == {PRECISIONS[precision]}
    assert state.dataset.get_batch(np.arange(3)).x.dtype == PRECISIONS[precision]


def test_fresh_weights_are_the_same_in_any_precision(make_estimator, X):
    first, second = (
        make_state(make_estimator(precision=precision), X).module.encoder.state_dict()
        for precision in PRECISIONS
    )
    assert all(torch.equal(first[name].double(), second[name]) for name in first)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_init_training_standardizes_X(make_estimator, X_unit, likelihood):
    state = make_state(make_estimator(likelihood=likelihood), X_unit)
    module, batch = state.module, state.dataset.get_batch(np.arange(150))
    centers = likelihood == "gaussian"
    location = X_unit.mean(0) if centers else np.zeros(5)
    assert_allclose(module.likelihood.location, location, rtol=1e-6)
    assert_allclose(module.likelihood.unstandardize(batch.x), X_unit, atol=1e-6)


def test_init_training_depends_on_the_seed_alone(make_estimator, X, fitted):
    def encoder(estimator):
        return make_state(estimator, X).module.encoder.state_dict()

    fresh, again = encoder(make_estimator()), encoder(copy.copy(fitted))
    other = encoder(make_estimator(random_state=1))
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)
    assert not torch.equal(fresh["mean.weight"], other["mean.weight"])


def test_init_training_leaves_the_estimator_as_it_is(make_estimator, X):
    model = make_estimator()
    before = dict(vars(model))
    make_state(model, X)
    assert vars(model) == before


def test_init_training_drops_samples_of_zero_weight(make_estimator, X):
    weight = np.where(np.arange(150) < 30, 0.0, 5.0)
    state = init_training(make_estimator(), X, weight)
    assert len(state.dataset) == 120
    assert state.dataset.indices.min() == 30
    assert state.dataset.weights.mean() == 1
    assert state.weight_statistics == (120, 5.0)
    assert len(state.dataset.full()) == 150


def test_init_training_splits_validation_samples_off(make_estimator, X):
    state = make_state(make_estimator(early_stopping=True, validation_fraction=0.2), X)
    indices = [*state.dataset.indices, *state.validation.indices]
    assert len(state.validation) == 30
    assert sorted(indices) == list(range(150))
    assert make_state(make_estimator(), X).validation is None


def test_init_training_starts_with_an_empty_history(make_estimator, X):
    history = make_state(make_estimator(), X).history
    assert not history.pretraining
    assert not history.training
    assert history.init_labels is None


# --- resume_fit, resume_partial_fit -------------------------------------------------


@pytest.mark.parametrize("resume", [resume_fit, resume_partial_fit])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_resumed_module_is_the_fitted_one(make_estimator, X, resume, precision):
    model = make_estimator(precision=precision).fit(X)
    state = resume(model, X, np.ones(150))
    expected = model.to_torch().state_dict()
    actual = state.module.state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert_array_equal(state.history.init_labels, model.labels_)


def test_resumed_fit_starts_with_an_empty_history(fitted, X):
    state = resume_fit(fitted, X, np.full(150, 2.0))
    assert not state.history.training
    assert not state.optimizer_state
    assert state.weight_statistics == (150, 2.0)


def test_resumed_partial_fit_continues_history_weights_and_optimizer(make_estimator, X):
    model = make_estimator().fit(X)
    model.partial_fit(X, sample_weight=np.full(150, 4.0))
    before = copy.deepcopy(vars(model))
    state = resume_partial_fit(model, X, np.full(150, 7.0))
    assert state.history.training["elbo"] == model.lower_bounds_
    assert state.history.training["loss"] == model.loss_curve_
    assert state.history.training["reconstruction"] == model.reconstruction_terms_
    curve = state.history.pretraining["unexplained_variance"]
    assert curve == model.pretrain_loss_curve_
    assert state.weight_statistics.n_samples == 450
    assert state.weight_statistics.mean == pytest.approx(4)
    assert state.optimizer_state.keys() == dict(state.module.named_parameters()).keys()
    state.history.training["elbo"].append(0.0)
    assert model.lower_bounds_ == before["lower_bounds_"]


# --- set_fitted_attributes ----------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_predictions_after_fit_are_those_of_the_module(
    trained, X_unit, precision, likelihood, responsibilities, early_stopping
):
    estimator, state = trained(
        X_unit,
        precision=precision,
        likelihood=likelihood,
        responsibilities=responsibilities,
        early_stopping=early_stopping,
    )
    estimator.n_features_in_ = 5
    summary = set_fitted_attributes(estimator, state)
    expected = module_predictions(state, state.dataset.full(), responsibilities)
    for method in SAMPLE_METHODS:
        assert_array_equal(getattr(estimator, method)(X_unit), expected[method])
    assert_array_equal(estimator.labels_, expected["predict"])
    assert_array_equal(summary.labels, estimator.labels_)
    assert estimator.lower_bound_ == estimator.score(X_unit)
    module = estimator.to_torch().state_dict()
    for name, values in state.module.state_dict().items():
        assert torch.equal(module[name], values), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_setting_the_attributes_hardly_changes_the_module(trained, precision):
    """The parameters are rounded at most once: they are read from the attributes."""
    estimator, state = trained(precision=precision)
    before = copy.deepcopy(state.module.state_dict())
    set_fitted_attributes(estimator, state)
    resolution = torch.finfo(PRECISIONS[precision]).resolution
    for name, values in state.module.state_dict().items():
        expected = before[name]
        if name == "prior.logits":  # attributes hold their softmax
            values, expected = values.softmax(0), expected.softmax(0)
        torch.testing.assert_close(
            values, expected, rtol=20 * resolution, atol=20 * resolution, msg=name
        )


def test_fitted_attributes_are_numpy_of_float64(trained):
    estimator, state = trained()
    set_fitted_attributes(estimator, state)
    prior = state.module.prior_float64()
    assert estimator.weights_.dtype == np.float64
    assert_allclose(estimator.weights_, prior.log_weights.exp().detach(), rtol=1e-6)
    assert_array_equal(estimator.means_, prior.means.detach())
    assert_allclose(estimator.covariances_, prior.variances.detach(), rtol=1e-6)
    noise_variance = state.module.likelihood_float64().noise_variance.item()
    assert estimator.noise_variance_ == pytest.approx(noise_variance, rel=1e-6)


def test_number_of_effective_clusters(trained, X):
    weight = np.random.default_rng(0).random(150)
    estimator, state = trained(sample_weight=weight)
    estimator.n_features_in_ = 5
    set_fitted_attributes(estimator, state)
    mean = np.average(estimator.predict_proba(X), axis=0, weights=weight)
    assert estimator.n_effective_clusters_ == pytest.approx(np.exp(entropy(mean)))


def test_samples_of_zero_weight_get_labels_and_are_no_outliers(trained, X):
    X = np.vstack([X, np.full((5, 5), 1e4)])
    weight = np.repeat([1.0, 0.0], [150, 5])
    estimator, state = trained(X, sample_weight=weight)
    summary = set_fitted_attributes(estimator, state)
    assert estimator.labels_.shape == (155,)
    assert estimator.init_labels_.shape == (155,)
    assert estimator.n_samples_seen_ == 150
    assert summary.is_outlier.shape == (150,)


def test_attributes_do_not_share_memory_with_the_module(trained, X):
    estimator, state = trained()
    estimator.n_features_in_ = 5
    set_fitted_attributes(estimator, state)
    expected = estimator.predict_proba(X)
    with torch.no_grad():
        for values in state.module.state_dict().values():
            values.fill_(7.0)
    state.history.training["elbo"].clear()
    assert_array_equal(estimator.predict_proba(X), expected)
    assert len(estimator.lower_bounds_) == 3


# --- reset_fitted_attributes --------------------------------------------------------


def test_reset_keeps_parameters_and_what_is_known_of_the_input(fitted):
    model = copy.copy(fitted)
    model.feature_names_in_ = np.array(list("abcde"), dtype=object)
    reset_fitted_attributes(model)
    names = {name for name in vars(model) if name.endswith("_")}
    assert names == {"n_features_in_", "feature_names_in_"}
    assert not hasattr(model, "_version")
    assert model.get_params() == fitted.get_params()
    assert hasattr(fitted, "means_")


# --- snapshot -----------------------------------------------------------------------


def test_there_is_no_snapshot_before_the_mixture(make_estimator, X):
    model = make_estimator()
    assert snapshot(model, make_state(model, X)) is None


@pytest.fixture
def make_snapshot(trained):
    """Make a training state and an estimator of the snapshot of it."""

    def make(**params):
        estimator, state = trained(**params)
        estimator.n_features_in_ = 5
        before = dict(vars(estimator))
        model = clone(estimator)
        vars(model).update(snapshot(estimator, state))
        assert vars(estimator) == before
        return state, model

    return make


@pytest.mark.parametrize("precision", PRECISIONS)
def test_snapshot_predicts_as_the_module_does(make_snapshot, X, X_new, precision):
    state, model = make_snapshot(precision=precision)
    expected = module_predictions(state, state.dataset.full())
    for method in SAMPLE_METHODS:
        predicted = getattr(model, method)(X)
        assert_allclose(predicted, expected[method], rtol=1e-5, atol=1e-5)
    assert model.predict(X_new).shape == (700,)
    assert model.lower_bounds_ == state.history.training["elbo"]


def test_snapshot_has_no_attributes_of_the_training_samples(make_snapshot):
    _, model = make_snapshot()
    of_samples = {"labels_", "lower_bound_", "n_effective_clusters_"}
    assert not of_samples & vars(model).keys()
    assert model.init_labels_.shape == (150,)


def test_snapshot_stays_as_it_is_while_training_goes_on(make_snapshot, X):
    state, model = make_snapshot()
    before = copy.deepcopy(vars(model))
    proba = model.predict_proba(X)
    maximize_elbo(state)
    sort_components(state)
    assert_array_equal(model.predict_proba(X), proba)
    for name in ("means_", "weights_", "init_labels_", "lower_bounds_"):
        assert_array_equal(vars(model)[name], before[name])
