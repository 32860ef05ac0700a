"""The warm-up, the maximization of the bound, and the numbering of the components."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from training_states import (
    SETTINGS,
    all_samples,
    changed_parameters,
    copy_parameters,
    make_training_state,
    run_stages,
)

from skvade._inference import (
    elbo_samples,
    embed,
    make_elbo_terms,
    map_batches,
    mixture_labels,
    predict_labels,
)
from skvade._training import joint
from skvade._training.initialization import initialize_mixture
from skvade._training.joint import (
    EarlyStopping,
    elbo_loss,
    learning_rate_factor,
    maximize_elbo,
    n_joint_epochs,
    partial_fit_epoch,
    sort_components,
    warm_up,
)
from skvade._training.pretraining import pretrain

# --- Early stopping -----------------------------------------------------------------


@pytest.mark.parametrize(
    "scores, n_epochs",
    [
        ([5, 5, 5, 5], 3),
        ([5, 4, 3, 2], 3),
        ([1, 2, 3, 4], None),
        ([1, 1, 9, 9, 9, 9], 5),
        ([1, 1.06, 1.12, 1.18], 3),
        ([9, 1, 2, 3], 3),
        ([-math.inf, 1, 1, 1], 4),
    ],
    ids=["flat", "falls", "rises", "rises late", "creeps", "below the best", "inf"],
)
def test_early_stopping_after_some_epochs_without_a_rise_by_tol(scores, n_epochs):
    early_stopping = EarlyStopping(tol=0.1, patience=2)
    stops = [early_stopping.update(score) for score in scores]
    assert n_epochs == (stops.index(True) + 1 if any(stops) else None)


def test_early_stopping_without_tolerance_never_stops():
    early_stopping = EarlyStopping(tol=0, patience=1)
    assert not any(early_stopping.update(score) for score in [3, 3, 2, 1, 1])


# --- Warm-up ------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_warm_up_trains_decoder_variances_and_noise_alone(X_unit, likelihood):
    state = make_training_state(X_unit, likelihood=likelihood)
    run_stages(state, pretrain, initialize_mixture)
    before = copy_parameters(state.module)
    Z = embed(state.module, state.dataset)
    run_stages(state, warm_up)
    new = {n for n in before if n.startswith(("decoder.", "encoder.log_variance."))}
    if likelihood == "gaussian":
        new.add("likelihood.raw_log_noise_variance")
    assert changed_parameters(before, state.module) == new
    assert_array_equal(embed(state.module, state.dataset), Z)


def test_parameters_are_trainable_again_after_warm_up(X):
    state = make_training_state(X)
    frozen_by_user = state.module.encoder.backbone[0].bias.requires_grad_(False)
    run_stages(state, pretrain, initialize_mixture, warm_up)
    frozen = [p for p in state.module.parameters() if not p.requires_grad]
    assert len(frozen) == 1
    assert frozen[0] is frozen_by_user


def test_parameters_are_trainable_again_after_an_interrupted_warm_up(X, monkeypatch):
    state = run_stages(make_training_state(X), pretrain, initialize_mixture)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(joint, "train_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        warm_up(state)
    assert all(p.requires_grad for p in state.module.parameters())


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_warm_up_raises_the_bound(X_unit, likelihood):
    def bound(n_epochs):
        state = make_training_state(
            X_unit, likelihood=likelihood, warmup_max_iter=n_epochs
        )
        run_stages(state, pretrain, initialize_mixture, warm_up)
        return elbo_samples(state.module, state.dataset, "expected").mean()

    assert bound(0) < bound(5) < bound(20)


# --- Maximizing the bound -----------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_last_stage_trains_every_parameter(X, responsibilities):
    state = make_training_state(X, responsibilities=responsibilities, n_draws=2)
    run_stages(state, pretrain, initialize_mixture, warm_up)
    before = copy_parameters(state.module)
    run_stages(state, maximize_elbo)
    names = {name for name, _ in state.module.named_parameters()}
    assert changed_parameters(before, state.module) == names


def test_mixture_has_a_learning_rate_of_its_own(X):
    def moved(rate, name):
        state = make_training_state(X, max_iter=1, mixture_learning_rate_init=rate)
        run_stages(state, pretrain, initialize_mixture, warm_up)
        before = copy_parameters(state.module)[name]
        run_stages(state, maximize_elbo)
        return (copy_parameters(state.module)[name] - before).abs().max()

    n_steps = math.ceil(len(X) / SETTINGS["batch_size"])
    assert 0 < moved(1e-6, "prior.means") < 1e-6 * n_steps * 1.1
    assert moved(1e-6, "encoder.mean.bias") > 1e-4
    assert moved(None, "prior.means") == moved(1e-3, "prior.means") > 1e-4


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_last_stage_raises_the_bound(X, responsibilities):
    state = make_training_state(X, responsibilities=responsibilities, max_iter=15)
    run_stages(state, pretrain, initialize_mixture, warm_up, maximize_elbo)
    bounds = state.history.training["elbo"]
    assert len(bounds) == 15
    assert np.mean(bounds[-3:]) > np.mean(bounds[:3])


def test_recorded_bounds_are_those_of_the_module(X):
    state = make_training_state(X, max_iter=1, learning_rate_init=1e-12, n_draws=50)
    run_stages(state, pretrain, initialize_mixture, warm_up, maximize_elbo)
    function = make_elbo_terms(state.module, "expected")
    terms = map_batches(state.module, state.dataset, function).mean(0)
    curves = state.history.training
    assert_allclose(curves["elbo"], terms.sum(), atol=0.05)
    assert_allclose(curves["reconstruction"], terms[0], atol=0.05)


def test_recorded_bounds_are_weighted_means(X):
    """Samples that count three times are as three samples each."""
    weight = np.where(np.arange(150) % 3 == 0, 3.0, 1.0)
    settings = {"max_iter": 1, "learning_rate_init": 1e-12, "n_draws": 50}
    state = make_training_state(X, sample_weight=weight / weight.mean(), **settings)
    run_stages(state, pretrain, initialize_mixture, warm_up, maximize_elbo)
    bounds = elbo_samples(state.module, state.dataset, "expected")
    expected = np.average(bounds, weights=weight)
    assert abs(expected - bounds.mean()) > 0.05
    assert_allclose(state.history.training["elbo"], expected, atol=0.05)


def test_beta_weights_the_latent_terms_of_the_loss_and_not_the_bound(X):
    def first_epoch(beta):
        state = make_training_state(X, max_iter=1, learning_rate_init=1e-12, beta=beta)
        run_stages(state, pretrain, initialize_mixture, warm_up, maximize_elbo)
        curves = state.history.training
        return curves["loss"][0], curves["elbo"][0]

    losses, bounds = zip(*map(first_epoch, [1e-9, 0.5, 1, 2]), strict=True)
    assert_allclose(bounds, bounds[0])
    assert_allclose(losses[2], -bounds[2])
    assert_allclose(losses[1], (losses[0] + losses[2]) / 2)
    assert_allclose(losses[3], 2 * losses[2] - losses[0])
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize("n_draws", [1, 3])
def test_loss_is_taken_at_fresh_draws(X, n_draws):
    state = run_stages(
        make_training_state(X, n_draws=n_draws), pretrain, initialize_mixture
    )
    batch, noises = all_samples(state), []
    loss = state.module.loss

    def recording_loss(batch, noise, config):
        noises.append(noise)
        return loss(batch, noise, config)

    state.module.loss = recording_loss
    values = {elbo_loss(state, batch).loss.item() for _ in range(3)}
    assert len(values) == 3
    assert {noise.shape for noise in noises} == {(n_draws, 150, 2)}
    assert torch.stack(noises).std() == pytest.approx(1, abs=0.1)


def test_last_stage_stops_when_the_bound_is_level(X):
    state = make_training_state(X, max_iter=50, tol=1e9, n_iter_no_change=4)
    history = run_stages(state, pretrain, initialize_mixture, maximize_elbo).history
    assert history.converged
    assert len(history.training["elbo"]) == len(history.training["loss"]) == 5


@pytest.mark.parametrize("stage", [warm_up, maximize_elbo, partial_fit_epoch])
def test_a_loss_that_is_not_finite_is_an_error(X, stage):
    state = make_training_state(X, learning_rate_init=1e200)
    run_stages(state, pretrain, initialize_mixture)
    message = r"not finite. Lower learning_rate_init=1e\+200"
    with pytest.raises(ValueError, match=message):
        stage(state)


# --- Validation samples -------------------------------------------------------------


@pytest.fixture
def scripted_scores(monkeypatch):
    """Give the validation samples these scores, the first one at the start.

    The list that is returned gets the parameters at each score.
    """

    def script(scores):
        parameters, remaining = [], iter(scores)

        def validate(module, *_):
            parameters.append(copy_parameters(module))
            return next(remaining)

        monkeypatch.setattr(joint, "mean_elbo", validate)
        return parameters

    return script


def test_validation_scores_choose_the_best_epoch(X, scripted_scores):
    state = make_training_state(X, n_validation=40, max_iter=6)
    run_stages(state, pretrain, initialize_mixture)
    parameters = scripted_scores([0, 1, 2, 4, 3, 4, 0])
    run_stages(state, maximize_elbo)
    assert len(parameters) == 7
    assert not changed_parameters(parameters[3], state.module)
    assert changed_parameters(parameters[5], state.module)
    assert state.history.validation_improved


def test_the_start_is_kept_where_no_epoch_is_better(X, scripted_scores):
    state = make_training_state(X, n_validation=40, max_iter=3)
    run_stages(state, pretrain, initialize_mixture)
    parameters = scripted_scores([2, 1, 2, 0])
    run_stages(state, maximize_elbo)
    assert not changed_parameters(parameters[0], state.module)
    assert state.history.validation_scores == [1, 2, 0]
    assert not state.history.validation_improved


def test_validation_scores_decide_about_convergence(X, scripted_scores):
    state = make_training_state(
        X, n_validation=40, max_iter=9, tol=0.5, n_iter_no_change=2
    )
    run_stages(state, pretrain, initialize_mixture)
    parameters = scripted_scores([0, 1, 2, 2.1, 2.2, 9])
    history = run_stages(state, maximize_elbo).history
    assert history.converged
    assert len(parameters) - 1 == len(history.training["elbo"]) == 4


def test_validation_scores_are_bounds_of_the_validation_samples(X):
    state = make_training_state(X, n_validation=40, max_iter=3)
    run_stages(state, pretrain, initialize_mixture, maximize_elbo)
    scores = state.history.validation_scores
    kept = elbo_samples(state.module, state.validation, "expected").mean()
    assert len(state.validation) == 40
    assert_allclose(kept, max(scores), rtol=1e-12)


# --- Interrupts ---------------------------------------------------------------------


def interrupt_at(monkeypatch, line):
    """Press Ctrl-C as soon as a line that starts so is printed."""

    def print_or_interrupt(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", print_or_interrupt)


def test_interrupt_in_the_last_stage_keeps_what_was_learned(
    make_estimator, X, monkeypatch
):
    interrupt_at(monkeypatch, "Training epoch 2")
    with pytest.warns(UserWarning, match="Interrupted after 2 epochs of training"):
        model = make_estimator(verbose=1, max_iter=50, tol=1e-3).fit(X)
    assert model.n_iter_ == 2
    assert not model.converged_
    assert_array_equal(model.predict(X), model.labels_)
    uninterrupted = make_estimator(max_iter=2).fit(X)
    assert_array_equal(model.means_, uninterrupted.means_)


def test_interrupt_with_validation_samples_keeps_the_best_epoch(
    make_estimator, X, monkeypatch
):
    interrupt_at(monkeypatch, "Training epoch 3")
    with pytest.warns(UserWarning, match="Interrupted after 3 epochs"):
        model = make_estimator(verbose=1, max_iter=9, early_stopping=True).fit(X)
    assert len(model.validation_scores_) == 2
    assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize(
    "search",
    [
        lambda model: GridSearchCV(model, {"max_iter": [5]}, cv=2).fit,
        lambda model: (
            GridSearchCV(
                make_pipeline(model), {"vadeclusterer__max_iter": [5]}, cv=2
            ).fit
        ),
        lambda model: partial(cross_val_score, model, cv=2),
    ],
    ids=["search", "search over a pipeline", "cross-validation"],
)
def test_interrupt_reaches_the_caller_of_a_search(
    make_estimator, X, monkeypatch, search
):
    """It would go on with a truncated candidate."""
    interrupt_at(monkeypatch, "Training epoch 2")
    with pytest.raises(KeyboardInterrupt):
        search(make_estimator(verbose=1, max_iter=5))(X)


# --- An epoch of partial_fit --------------------------------------------------------


@pytest.mark.parametrize("n_validation", [0, 30])
def test_epochs_of_partial_fit_are_epochs_of_the_last_stage(X, n_validation):
    """An optimizer that is restored from arrays goes on as one that was kept."""
    expected = run_stages(
        make_training_state(X, max_iter=4, n_validation=n_validation),
        pretrain,
        initialize_mixture,
        maximize_elbo,
    )
    state = run_stages(
        make_training_state(X, n_validation=n_validation), pretrain, initialize_mixture
    )
    run_stages(state, *4 * [partial_fit_epoch])
    if not n_validation:
        assert not changed_parameters(copy_parameters(state.module), expected.module)
    assert state.history.training == expected.history.training
    assert state.history.training.keys() == {"elbo", "reconstruction", "loss"}


# --- The initial partition ----------------------------------------------------------


@pytest.mark.parametrize("init_weight", [0.0, 3.0])
def test_the_initial_partition_holds_by_its_weight(init_weight):
    """It cuts one blob in two halves, which the ELBO alone does not keep apart."""
    X, y = make_blobs([80, 80], 5, cluster_std=1.0, random_state=0)
    halves = np.where(y == 1, 1 + (X[:, 0] > np.median(X[y == 1, 0])), 0)
    state = make_training_state(
        X, init=halves, init_weight=init_weight, max_iter=60, learning_rate_init=1e-2
    )
    run_stages(state, pretrain, initialize_mixture, warm_up, maximize_elbo)
    assert_array_equal(state.history.init_labels, halves)
    labels = predict_labels(state.module, state.dataset, "expected")
    agreement = adjusted_rand_score(labels[y == 1], halves[y == 1])
    assert agreement > 0.9 if init_weight else agreement < 0.7
    curves = state.history.training
    assert ("init_cross_entropy" in curves) == bool(init_weight)
    if init_weight:
        assert curves["init_cross_entropy"][-1] < curves["init_cross_entropy"][0]


def test_labels_of_a_batch_are_those_of_its_samples_where_some_are_held_out():
    X, y = make_blobs([40, 30, 30], 5, random_state=0)
    state = make_training_state(X, init=y, init_weight=1.0, n_validation=20)
    run_stages(state, pretrain, initialize_mixture, warm_up)
    for dataset in (state.dataset, state.dataset.cache_on_device()):
        batch = replace(dataset, labels=y).get_batch(np.arange(80))
        assert batch.labels.dtype == torch.int64
        assert_array_equal(batch.labels, y[dataset.indices])


def test_the_initial_partition_does_not_change_the_unit_of_the_curves():
    X, y = make_blobs([40, 30, 30], 5, random_state=0)
    weight = np.random.RandomState(0).exponential(size=100)
    weight /= weight.mean()
    curves = []
    for init_weight in (0.0, 1.0):
        state = make_training_state(
            X,
            init=y,
            init_weight=init_weight,
            learning_rate_init=1e-12,
            n_validation=20,
            sample_weight=weight,
        )
        run_stages(state, pretrain, initialize_mixture, maximize_elbo)
        assert abs(state.dataset.weights.mean() - 1) > 0.01
        curves.append(state.history.training["elbo"])
    assert_allclose(curves[0], curves[1])


# --- The order of the components ----------------------------------------------------


def test_components_are_sorted_by_size_with_empty_ones_last():
    X, y = make_blobs([20, 80, 50], 5, random_state=0)
    state = make_training_state(X, n_clusters=4, init=y)
    with pytest.warns(UserWarning, match="3 of 4 clusters"):
        run_stages(state, pretrain, initialize_mixture)
    far_away = torch.full((2,), 1e3, dtype=torch.float64)
    with torch.no_grad():
        state.module.prior.means[1] = far_away
    state.history.init_labels = mixture_labels(state.module, state.dataset, True)
    run_stages(state, sort_components)

    labels = predict_labels(state.module, state.dataset, "expected")
    counts = np.bincount(labels, minlength=4)
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] == 0
    assert torch.equal(state.module.prior.means[-1], far_away)


def test_components_are_sorted_by_the_weights_of_their_samples():
    X, y = make_blobs([20, 80, 50], 5, random_state=0)
    weight = np.array([9.0, 1.0, 1.0])[y]
    state = make_training_state(X, init=y, sample_weight=weight / weight.mean())
    run_stages(state, pretrain, initialize_mixture, sort_components)
    labels = predict_labels(state.module, state.dataset, "expected")
    totals = np.bincount(labels, weight)
    assert (np.diff(totals) <= 0).all()
    assert np.bincount(labels)[0] < np.bincount(labels)[1]


def test_initial_labels_follow_the_order_of_the_components():
    X, y = make_blobs([20, 80, 50], 5, random_state=0)
    state = run_stages(make_training_state(X, init=y), pretrain, initialize_mixture)
    before = state.history.init_labels
    run_stages(state, sort_components)
    assert not np.array_equal(state.history.init_labels, before)
    assert_array_equal(
        state.history.init_labels, mixture_labels(state.module, state.dataset, True)
    )


# --- The schedule -------------------------------------------------------------------


def test_learning_rate_rises_stays_and_falls_to_zero():
    factors = np.array([learning_rate_factor(f) for f in np.linspace(0, 1, 201)])
    assert factors[0] == 0
    assert (np.diff(factors[:21]) > 0).all()
    assert (factors[21:110] == 1).all()
    assert (np.diff(factors[112:]) < 0).all()
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert np.abs(np.diff(factors)).max() < 0.06


def test_the_last_stage_follows_the_schedule(X, monkeypatch):
    rates = []

    class RecordingAdam(joint.Adam):
        def _step(self, parameters, grads, lr):
            rates.append(lr)
            super()._step(parameters, grads, lr)

    monkeypatch.setattr(joint, "Adam", RecordingAdam)
    state = make_training_state(X, learning_rate="cosine", max_iter=10)
    run_stages(state, initialize_mixture, maximize_elbo)
    n_steps = 10 * math.ceil(len(X) / state.config.batch_size)
    expected = [
        1e-3 * learning_rate_factor((i + 0.5) / n_steps) for i in range(n_steps)
    ]
    assert_allclose(rates[::2], expected)  # the other group is the noise variance


@pytest.mark.parametrize("n_samples, n_steps", [(50, 505), (200, 620), (10_000, 1_600)])
def test_budget_of_steps(n_samples, n_steps):
    n_warmup, n_joint = n_joint_epochs(n_samples, batch_size=50)
    n_batches = n_samples // 50
    assert n_steps <= (n_warmup + n_joint) * n_batches < n_steps + 2 * n_batches
    assert n_warmup < 1 + n_joint / 10  # of whole epochs


def test_matrices_of_the_networks_decay_and_nothing_else(X):
    state = make_training_state(X)
    optimizer = joint.make_adam(state, {state.module: 1e-3})
    decayed = {n for n, p in state.module.named_parameters() if p in optimizer.decayed}
    assert decayed == {
        "encoder.backbone.0.weight",
        "encoder.log_variance.weight",
        "decoder.backbone.0.weight",
        "decoder.output.weight",
    }
