"""The epoch loop: steps, means of the terms, epochs and what is printed of them."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from training_states import make_training_state, run_stages

from skvade import VaDEClusterer
from skvade._data.scaling import normalize_weights
from skvade._model.module import LossOutput
from skvade._training.optim import SGD
from skvade._training.stages import train
from skvade._training.state import FitTask, Progress
from skvade._training.trainer import (
    check_finite_loss,
    iter_epochs,
    log_epoch,
    stage,
    train_epoch,
)


class RecordingTask(FitTask):
    """Record the tasks that begin and end; stop after so many epochs."""

    def __init__(self, name="fit", calls=None, stop_after=math.inf):
        self.name, self.stop_after = name, stop_after
        self.calls = [] if calls is None else calls

    def subtask(self, name, max_subtasks=0):
        self.calls.append(f"+{name} {max_subtasks}")
        return RecordingTask(name, self.calls, self.stop_after)

    def end(self):
        self.calls.append(f"-{self.name}")
        return self.calls.count("-epoch") >= self.stop_after


@pytest.fixture
def linear_state(X):
    """A state whose module is a linear model of one parameter: no VaDE at all."""
    state = make_training_state(X)
    state.module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        state.module.weight.fill_(1.0)
    return state


def sgd(module, lr):
    groups = [(lr, [*module.parameters()])]
    return SGD(groups, False, momentum=0.0, max_norm=1e9)


# --- One epoch ----------------------------------------------------------------------


def test_epoch_takes_a_step_for_every_batch(linear_state):
    """A loss of gradient one: each step changes the parameter by the learning rate."""
    sizes, indices = [], []

    def loss(state, batch):
        sizes.append(len(batch.x))
        indices.extend(batch.indices.tolist())
        weight = state.module.weight.sum()
        return LossOutput(weight, {"loss": weight.detach() * len(batch.x)})

    module = linear_state.module
    train_epoch(linear_state, loss, sgd(module, 0.01), "")
    assert len(sizes) == math.ceil(150 / 16)
    assert max(sizes) - min(sizes) <= 1
    assert_array_equal(np.sort(indices), np.arange(150))
    assert module.weight.item() == pytest.approx(1 - 0.01 * len(sizes))
    assert module.weight.grad is None


@pytest.mark.parametrize("min_steps, n_visits", [(1, 1), (3, 1), (4, 2), (8, 3)])
def test_epoch_visits_few_samples_repeatedly(linear_state, min_steps, n_visits):
    linear_state.config.batch_size = 50
    counts = np.zeros(150)

    def loss(state, batch):
        counts[batch.indices] += 1
        value = 0.0 * state.module.weight.sum()
        terms = {"loss": value.detach(), "samples": torch.tensor(float(len(batch.x)))}
        return LossOutput(value, terms)

    optimizer = sgd(linear_state.module, 0.1)
    means = train_epoch(linear_state, loss, optimizer, "", min_steps)
    assert (counts == n_visits).all()
    assert means["samples"] == pytest.approx(1)


@pytest.mark.parametrize("n_validation", [0, 40])
def test_means_of_terms_are_weighted_by_the_samples(X, n_validation):
    """Any names of terms are averaged, over the weights of the samples trained on."""
    weight = np.random.default_rng(0).uniform(0.1, 3, len(X))
    state = make_training_state(
        X,
        sample_weight=normalize_weights(weight, weight.mean()),
        n_validation=n_validation,
    )

    def loss(state, batch):
        terms = {
            "index": batch.sample_weight @ batch.indices.double(),
            "loss": batch.sample_weight.sum(),
        }
        zero = sum(p.sum() for p in state.module.decoder.parameters()) * 0
        return LossOutput(zero, terms)

    means = train_epoch(state, loss, sgd(state.module.decoder, 0.0), "")
    counted = weight[state.dataset.indices]
    assert [*means] == ["index", "loss"]
    expected = np.average(np.arange(len(counted)), weights=counted)
    assert_allclose(means["index"], expected)
    assert_allclose(means["loss"], 1)


# --- Epochs of a stage --------------------------------------------------------------


def test_epochs_are_counted_and_reported(linear_state):
    task = linear_state.task = RecordingTask()
    with stage(linear_state, "train", 2):
        assert [*iter_epochs(linear_state, 2)] == [0, 1]
    epochs = ["+epoch 0", "-epoch"]
    assert task.calls == ["+train 2", *epochs, *epochs, "-train"]
    assert linear_state.task is task


def test_epochs_end_where_a_callback_stops_them(linear_state):
    task = linear_state.task = RecordingTask(stop_after=2)
    with stage(linear_state, "train", 5):
        assert [*iter_epochs(linear_state, 5)] == [0, 1]
        assert linear_state.task.stopped
    assert not task.stopped


def test_epochs_end_at_convergence(linear_state):
    task = linear_state.task = RecordingTask()
    epochs = []
    for epoch in iter_epochs(linear_state, 5):
        epochs.append(epoch)
        linear_state.history.converged = epoch == 1
    assert epochs == [0, 1]
    assert task.calls[-1] == "-epoch"


class Count:
    """A number that is a state."""

    value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict["value"]


def test_a_resumed_stage_goes_on_with_its_epochs(linear_state):
    task, first, second = RecordingTask(), Count(), Count()
    linear_state.task = task
    saved = {"count": {"value": 9}}
    linear_state.progress = progress = Progress(saved_epoch=7, saved_objects=saved)
    with stage(linear_state, "pretrain", 10):
        assert [*iter_epochs(linear_state, 5, count=first)] == []
        for epoch in iter_epochs(linear_state, 5, count=second):
            assert progress.stage == "pretrain"
            assert progress.objects == {"count": second}
            assert progress.epoch == 5 + epoch
        assert epoch == 4
    assert (first.value, second.value) == (0, 9)
    assert task.calls[0] == "+pretrain 3"
    assert task.calls.count("-epoch") == 3
    with stage(linear_state, "train", 2):
        assert [*iter_epochs(linear_state, 2, count=first)] == [0, 1]
    assert first.value == 0


@pytest.mark.parametrize("saved_epoch", [5, 10])
def test_a_stage_is_resumed_at_the_end_of_the_loop_that_was_saved(
    linear_state, saved_epoch
):
    saved = {"count": {"value": 9}}
    linear_state.progress = Progress(saved_epoch=saved_epoch, saved_objects=saved)
    counts = Count(), Count()
    epochs = [[*iter_epochs(linear_state, 5, count=count)] for count in counts]
    assert epochs == [[], [*range(10 - saved_epoch)]]
    assert [count.value for count in counts] == ([9, 0] if saved_epoch == 5 else [0, 9])


# --- Losses that are not finite -----------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "elbo"])
def test_a_mean_that_is_not_finite_is_an_error(value, name):
    means = {"loss": 1.0, "elbo": -1.0}
    check_finite_loss(means, "Lower it")
    with pytest.raises(
        ValueError, match=r"a loss of .* not finite\. Lower it, or resc"
    ):
        check_finite_loss({**means, name: value}, "Lower it")


# --- Printed lines ------------------------------------------------------------------


def test_a_line_is_printed_every_verbose_epochs(linear_state, capsys):
    linear_state.config.verbose = 3
    for n_epochs in range(1, 8):
        log_epoch(linear_state, "Training", [0.0] * (n_epochs - 1) + [1 / 3], "ELBO")
    assert capsys.readouterr().out.splitlines() == [
        "Training epoch 3, ELBO = 0.333333",
        "Training epoch 6, ELBO = 0.333333",
    ]


def test_the_stages_of_a_fit_print_their_epochs(X, capsys):
    state = make_training_state(X, pretrain_max_iter=4, max_iter=6, verbose=2)
    run_stages(state, train)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split(",")[0] for line in lines]
    assert epochs == [
        *(f"Pretraining epoch {epoch}" for epoch in (2, 4)),
        *(f"Training epoch {epoch}" for epoch in (2, 4, 6)),
    ]


def test_nothing_is_printed_by_default(X, capsys):
    run_stages(make_training_state(X, verbose=VaDEClusterer().verbose), train)
    assert capsys.readouterr().out == ""
