import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer, _training
from skvade._batching import Rows, place
from skvade._inference import (
    elbo_of,
    elbo_per_row,
    embed,
    log_responsibilities_per_row,
    mixture_labels,
    over_batches,
)
from skvade._initial_mixture import moments_of_partition
from skvade._matrix import Standardization
from skvade._pretraining import pretrain
from skvade._run import Chance, Plan, Run, build
from skvade._training import (
    START_VARIANCE,
    Plateau,
    catch_up,
    continue_stream,
    maximize_elbo,
    number_components,
    start_mixture,
    train,
)

PLAN = Plan(
    init="kmeans",
    n_init=1,
    pretraining="autoencoder",
    pretrain_max_iter=20,
    pretrain_learning_rate_init=0.3,
    embedding=None,
    embedding_input="autoencoder",
    embedding_max_samples=20_000,
    embedding_max_iter=40,
    warmup_max_iter=2,
    max_iter=3,
    learning_rate_init=1e-3,
    mixture_learning_rate_init=None,
    batch_size=16,
    n_draws=1,
    responsibilities="expected",
    beta=1.0,
    tol=0.0,
    n_iter_no_change=10,
    verbose=0,
)


ARCHITECTURE = {
    "latent_dim": 2,
    "n_clusters": 3,
    "hidden_layer_sizes": (16,),
    "activation": "relu",
    "likelihood": "gaussian",
    "reg_covar": 1e-6,
}


def run_of(X, *, n_held_out=0, **parameters):
    """A run in float64 that stands before its first stage."""
    shape = {k: parameters.pop(k, v) for k, v in ARCHITECTURE.items()}
    placement = place("cpu", "float64")
    chance = Chance.of(RandomState(0), placement.device)
    standard = Standardization.of(X, center=shape["likelihood"] == "gaussian")
    rows = Rows.of(X, standard, placement)
    model = build({"n_features": X.shape[1], **shape}, rows, chance)
    training, held_out = rows.split(n_held_out, chance.order)
    return Run(model, training, held_out, replace(PLAN, **parameters), chance)


def after(run, *stages):
    """The run, taken through some stages."""
    for stage in stages:
        stage(run)
    return run


def state_of(module):
    return copy.deepcopy(module.state_dict())


def changed(before, module):
    """Names of the values that differ from an earlier state."""
    now = module.state_dict()
    return {name for name in now if not torch.equal(before[name], now[name])}


# --- Plateau ------------------------------------------------------------------------


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
def test_plateau_is_a_rise_by_less_than_tol_for_some_epochs(scores, n_epochs):
    plateau = Plateau(tol=0.1, patience=2)
    reached = [plateau.reached(score) for score in scores]
    assert n_epochs == (reached.index(True) + 1 if any(reached) else None)


def test_plateau_without_tolerance_never_ends():
    plateau = Plateau(tol=0, patience=1)
    assert not any(plateau.reached(score) for score in [3, 3, 2, 1, 1])


# --- Pretraining --------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_pretraining_learns_to_reconstruct(X, X_unit, likelihood):
    rows = X if likelihood == "gaussian" else X_unit
    run = after(run_of(rows, likelihood=likelihood, pretrain_max_iter=30), pretrain)
    curve = run.record.pretrain_loss_curve
    assert len(curve) == 30
    assert curve[-1] < 0.3 < np.mean(curve[:3])


def test_pretraining_loss_is_the_unexplained_fraction_of_the_variance(X):
    run = run_of(X, pretrain_max_iter=1, pretrain_learning_rate_init=1e-12)
    after(run, pretrain)
    x = run.rows.take(np.arange(len(X))).x
    with torch.no_grad():
        error = (run.model.decoder(run.model.encoder.embed(x)) - x).square().mean()
    assert_allclose(run.record.pretrain_loss_curve, error / x.square().mean())


def test_pretraining_touches_neither_the_variances_nor_the_mixture(X):
    run = run_of(X)
    before = state_of(run.model)
    after(run, pretrain)
    touched = {name.rsplit(".", 2)[0] for name in changed(before, run.model)}
    untouched = {name for name in before if name.startswith("prior.")}
    assert not changed(before, run.model) & (untouched | {"encoder.log_variance.bias"})
    assert touched == {"encoder.hidden", "encoder", "decoder.hidden", "decoder"}


# --- The start of the mixture -------------------------------------------------------


def test_the_mixture_starts_on_the_embedding(blobs):
    X, y = blobs
    run = after(run_of(X, init=y), pretrain, start_mixture)
    Z = embed(run.model, run.rows)
    weights, means, variances = moments_of_partition(Z, y, 3, RandomState(0))
    prior = run.model.prior
    assert_allclose(prior.log_weights.detach().exp(), weights)
    assert_allclose(prior.means.detach(), means)
    assert_allclose(prior.log_variances.detach().exp(), variances + prior.reg_covar)


def test_given_labels_follow_the_rows_that_are_not_held_out(blobs):
    X, y = blobs
    run = after(run_of(X, init=y, n_held_out=30), pretrain, start_mixture)
    kept = run.rows.members
    weights = run.model.prior.log_weights.detach().exp()
    assert_allclose(weights, np.bincount(y[kept]) / len(kept))
    assert adjusted_rand_score(y, run.record.init_labels) > 0.9


def test_of_many_rows_the_start_sees_some(X, monkeypatch):
    seen = []

    class Watched(KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            seen.append(len(X))
            return super().fit_predict(X, sample_weight=sample_weight)

    monkeypatch.setattr(_training, "MOST_ROWS", 50)
    run = after(run_of(X, init=Watched(3)), pretrain, start_mixture)
    assert seen == [50]
    assert len(run.record.init_labels) == len(X)


def test_given_labels_all_count_however_many_they_are(blobs, monkeypatch):
    X, y = blobs
    monkeypatch.setattr(_training, "MOST_ROWS", 50)
    run = after(run_of(X, init=y), pretrain, start_mixture)
    weights = run.model.prior.log_weights.detach().exp()
    assert_allclose(weights, np.bincount(y) / len(y))


def test_posterior_starts_narrow_whatever_the_row(X):
    run = after(run_of(X), pretrain, start_mixture)
    x = run.rows.take(np.arange(len(X))).x
    with torch.no_grad():
        variance = run.model.encoder(x).log_variance.exp()
        average = run.model.prior.log_variances.exp().mean()
    assert_allclose(variance, START_VARIANCE * average.expand_as(variance))


# --- Catching up --------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_catch_up_trains_the_new_parts_and_nothing_else(X_unit, likelihood):
    run = after(run_of(X_unit, likelihood=likelihood), pretrain, start_mixture)
    before, Z = state_of(run.model), embed(run.model, run.rows)
    after(run, catch_up)
    new = {n for n in before if n.startswith(("decoder.", "encoder.log_variance."))}
    if likelihood == "gaussian":
        new.add("likelihood.log_excess_noise")
    assert changed(before, run.model) == new
    assert_array_equal(embed(run.model, run.rows), Z)


def test_catch_up_thaws_what_it_froze(X):
    run = after(run_of(X), pretrain, start_mixture, catch_up)
    assert all(p.requires_grad for p in run.model.parameters())


def test_an_interrupted_catch_up_thaws_too(X, monkeypatch):
    run = after(run_of(X), pretrain, start_mixture)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_training, "epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        catch_up(run)
    assert all(p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_catch_up_raises_the_bound(X_unit, likelihood):
    def bound(n_epochs):
        run = run_of(X_unit, likelihood=likelihood, warmup_max_iter=n_epochs)
        after(run, pretrain, start_mixture, catch_up)
        return elbo_per_row(run.model, run.rows, "expected").mean()

    assert bound(0) < bound(5) < bound(20)


# --- Maximizing the bound -----------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_the_last_stage_trains_every_parameter(X, responsibilities):
    run = run_of(X, responsibilities=responsibilities, n_draws=2)
    after(run, pretrain, start_mixture, catch_up)
    before = state_of(run.model)
    after(run, maximize_elbo)
    assert changed(before, run.model) == {n for n, _ in run.model.named_parameters()}


def test_the_mixture_moves_at_a_rate_of_its_own(X):
    def moved(rate, name):
        run = run_of(X, max_iter=1, mixture_learning_rate_init=rate)
        after(run, pretrain, start_mixture, catch_up)
        before = state_of(run.model)[name]
        after(run, maximize_elbo)
        return (state_of(run.model)[name] - before).abs().max()

    n_steps = math.ceil(len(X) / PLAN.batch_size)
    assert 0 < moved(1e-6, "prior.means") < 1e-6 * n_steps * 1.1
    assert moved(1e-6, "encoder.mean.bias") > 1e-4
    assert moved(None, "prior.means") == moved(1e-3, "prior.means") > 1e-4


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_the_last_stage_raises_the_bound(X, responsibilities):
    run = run_of(X, responsibilities=responsibilities, max_iter=15)
    after(run, pretrain, start_mixture, catch_up, maximize_elbo)
    bounds = run.record.lower_bounds
    assert len(bounds) == 15
    assert np.mean(bounds[-3:]) > np.mean(bounds[:3])


def test_recorded_bounds_are_those_of_the_model(X):
    run = run_of(X, max_iter=1, learning_rate_init=1e-12, n_draws=50)
    after(run, pretrain, start_mixture, catch_up, maximize_elbo)
    terms = over_batches(run.model, run.rows, elbo_of(run.model, "expected")).mean(0)
    assert_allclose(run.record.lower_bounds, terms.sum(), atol=0.05)
    assert_allclose(run.record.reconstruction_terms, terms[0], atol=0.05)


def test_beta_weighs_the_latent_terms_of_the_loss_and_not_the_bound(X):
    def first_epoch(beta):
        run = run_of(X, max_iter=1, learning_rate_init=1e-12, beta=beta)
        record = after(run, pretrain, start_mixture, catch_up, maximize_elbo).record
        return record.loss_curve[0], record.lower_bounds[0]

    losses, bounds = zip(*map(first_epoch, [1e-9, 0.5, 1, 2]), strict=True)
    assert_allclose(bounds, bounds[0])
    assert_allclose(losses[2], -bounds[2])
    assert_allclose(losses[1], (losses[0] + losses[2]) / 2)
    assert_allclose(losses[3], 2 * losses[2] - losses[0])
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_the_last_stage_stops_on_a_plateau(X):
    run = run_of(X, max_iter=50, tol=1e9, n_iter_no_change=4)
    record = after(run, pretrain, start_mixture, maximize_elbo).record
    assert record.converged
    assert len(record.lower_bounds) == len(record.loss_curve) == 5


@pytest.fixture
def scripted_scores(monkeypatch):
    """Let the rows held out score as told, first at the start; gives the states."""

    def script(scores):
        states, remaining = [], iter(scores)

        def validate(model, rows, responsibilities):
            states.append(state_of(model))
            return next(remaining)

        monkeypatch.setattr(_training, "mean_elbo", validate)
        return states

    return script


def test_rows_held_out_choose_the_model(X, scripted_scores):
    run = run_of(X, n_held_out=40, max_iter=6)
    after(run, pretrain, start_mixture)
    states = scripted_scores([0, 1, 2, 4, 3, 4, 0])
    after(run, maximize_elbo)
    assert len(states) == 7
    assert not changed(states[3], run.model)
    assert changed(states[5], run.model)
    assert run.record.improved


def test_the_start_is_kept_where_no_epoch_is_better(X, scripted_scores):
    run = run_of(X, n_held_out=40, max_iter=3)
    after(run, pretrain, start_mixture)
    states = scripted_scores([2, 1, 2, 0])
    after(run, maximize_elbo)
    assert not changed(states[0], run.model)
    assert run.record.validation_scores == [1, 2, 0]
    assert not run.record.improved


def test_rows_held_out_decide_about_convergence(X, scripted_scores):
    run = run_of(X, n_held_out=40, max_iter=9, tol=0.5, n_iter_no_change=2)
    after(run, pretrain, start_mixture)
    states = scripted_scores([0, 1, 2, 2.1, 2.2, 9])
    record = after(run, maximize_elbo).record
    assert record.converged
    assert len(states) - 1 == len(record.lower_bounds) == 4


def test_scores_of_rows_held_out_are_their_bounds(X):
    run = run_of(X, n_held_out=40, max_iter=3)
    after(run, pretrain, start_mixture, maximize_elbo)
    scores = run.record.validation_scores
    kept = elbo_per_row(run.model, run.held_out, "expected").mean()
    assert len(run.held_out) == 40
    assert_allclose(kept, max(scores), rtol=1e-12)


@pytest.mark.parametrize("n_held_out", [0, 30])
def test_passes_of_a_stream_are_epochs_of_the_last_stage(X, n_held_out):
    """An optimizer whose memory goes through arrays is the optimizer that lived on."""
    run = run_of(X, max_iter=4, n_held_out=n_held_out)
    expected = after(run, pretrain, start_mixture, maximize_elbo)
    run = after(run_of(X, n_held_out=n_held_out), pretrain, start_mixture)
    after(run, *4 * [continue_stream])
    if not n_held_out:
        assert not changed(state_of(run.model), expected.model)
    assert run.record.lower_bounds == expected.record.lower_bounds
    assert run.record.loss_curve == expected.record.loss_curve


# --- Numbering ----------------------------------------------------------------------


def test_components_are_numbered_by_size_with_empty_ones_last():
    X, y = make_blobs([20, 80, 50], 5, random_state=0)
    run = run_of(X, n_clusters=4, init=y)
    with pytest.warns(UserWarning, match="3 of 4 clusters"):
        after(run, pretrain, start_mixture)
    far_away = torch.full((2,), 1e3, dtype=torch.float64)
    with torch.no_grad():
        run.model.prior.means[1] = far_away
    run.record.init_labels = mixture_labels(run.model, run.rows)
    after(run, number_components)

    log_r = log_responsibilities_per_row(run.model, run.rows, "expected")
    counts = np.bincount(log_r.argmax(1), minlength=4)
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] == 0
    assert torch.equal(run.model.prior.means[-1], far_away)


def test_labels_of_the_start_are_numbered_alike():
    X, y = make_blobs([20, 80, 50], 5, random_state=0)
    run = after(run_of(X, init=y), pretrain, start_mixture)
    before = run.record.init_labels
    after(run, number_components)
    assert not np.array_equal(run.record.init_labels, before)
    assert_array_equal(run.record.init_labels, mixture_labels(run.model, run.rows))


# --- Trouble, and what is said ------------------------------------------------------


@pytest.mark.parametrize("stage", [catch_up, maximize_elbo])
def test_a_loss_that_is_not_finite_ends_training(X, stage):
    run = run_of(X, learning_rate_init=1e200)
    after(run, pretrain, start_mixture)
    with pytest.raises(
        ValueError, match=r"not finite. Lower learning_rate_init=1e\+200"
    ):
        stage(run)


def test_a_loss_that_is_not_finite_ends_pretraining(X):
    message = r"not finite. Lower pretrain_learning_rate_init=1e\+200"
    with pytest.raises(ValueError, match=message):
        pretrain(run_of(X, pretrain_learning_rate_init=1e200))


def test_progress_is_printed_every_so_many_epochs(X, capsys):
    after(run_of(X, pretrain_max_iter=4, max_iter=6, verbose=2), train)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split(",")[0] for line in lines]
    assert epochs == [
        *(f"Pretraining epoch {epoch}" for epoch in (2, 4)),
        *(f"Training epoch {epoch}" for epoch in (2, 4, 6)),
    ]


def test_no_progress_is_printed_by_default(X, capsys):
    after(run_of(X, verbose=VaDEClusterer().verbose), train)
    assert capsys.readouterr().out == ""
