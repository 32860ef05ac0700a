"""The order of the stages, and the calls between `fit` and the loss."""

import traceback
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from training_states import (
    changed_parameters,
    copy_parameters,
    make_training_state,
    run_stages,
)

import skvade
from skvade._inference import predict_labels
from skvade._model.module import VaDE
from skvade._training.initialization import initialize_mixture
from skvade._training.joint import (
    maximize_elbo,
    partial_fit_epoch,
    sort_components,
    warm_up,
)
from skvade._training.pretraining import pretrain
from skvade._training.stages import first_partial_fit, stage_names, train
from skvade._training.state import FitTask

# --- Order --------------------------------------------------------------------------


class NamingTask(FitTask):
    """Record the names of the stages and the epochs that they announce."""

    def __init__(self, stages):
        self.stages = stages

    def subtask(self, name, max_subtasks=0):
        if name != "epoch":
            self.stages.append((name, max_subtasks))
        return self


PRETRAIN, EMBEDDING, TRAIN = ("pretrain", 20), ("embedding", 4), ("train", 3)
INIT, WARMUP = ("init", 0), ("warmup", 2)
PCA_EMBEDDING = {"embedding": PCA(2), "embedding_max_iter": 4}
STAGES = {
    "default": ({}, [PRETRAIN, INIT, WARMUP, TRAIN]),
    "stacked": (
        {"pretraining": "stacked"},
        [("pretrain", 60), INIT, WARMUP, TRAIN],
    ),
    "no epochs": (
        {"pretrain_max_iter": 0, "warmup_max_iter": 0},
        [("pretrain", 0), INIT, ("warmup", 0), TRAIN],
    ),
    "embedding of the data": (PCA_EMBEDDING, [EMBEDDING, INIT, WARMUP, TRAIN]),
    "embedding of an embedding": (
        {**PCA_EMBEDDING, "embedding_input": "autoencoder"},
        [PRETRAIN, EMBEDDING, INIT, WARMUP, TRAIN],
    ),
}


@pytest.mark.parametrize("params, expected", STAGES.values(), ids=[*STAGES])
def test_stages_come_in_order_and_as_many_as_announced(X, params, expected):
    state, stages = make_training_state(X, **params), []
    state.task = NamingTask(stages)
    train(state)
    assert stages == expected
    assert stage_names(state.config) == [name for name, _ in expected]


def test_a_warm_start_has_the_last_stage_only(X):
    state, stages = make_training_state(X), []
    run_stages(state, pretrain, initialize_mixture)
    state.task = NamingTask(stages)
    train(state, "train")
    assert stages == [TRAIN]
    assert stage_names(state.config, "train") == ["train"]


def test_training_is_its_stages_one_after_the_other(X):
    state = run_stages(make_training_state(X), train)
    expected = run_stages(
        make_training_state(X),
        pretrain,
        initialize_mixture,
        warm_up,
        maximize_elbo,
        sort_components,
    )
    parameters = copy_parameters(expected.module)
    assert not changed_parameters(parameters, state.module)
    assert state.history.training == expected.history.training
    assert_array_equal(state.history.init_labels, expected.history.init_labels)


def test_training_finds_the_clusters_and_numbers_them_by_size(blobs):
    X, y = blobs
    kept = np.r_[np.flatnonzero(y == 0)[:10], np.flatnonzero(y > 0)]
    state = run_stages(make_training_state(X[kept]), train)
    labels = predict_labels(state.module, state.dataset, "expected")
    assert adjusted_rand_score(y[kept], labels) > 0.9
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_first_partial_fit_numbers_the_components_before_its_epoch(X):
    """Later calls keep the numbers, and the state of the optimizer."""
    state = run_stages(make_training_state(X), first_partial_fit)
    expected = run_stages(
        make_training_state(X),
        pretrain,
        initialize_mixture,
        warm_up,
        sort_components,
        partial_fit_epoch,
    )
    parameters = copy_parameters(expected.module)
    assert not changed_parameters(parameters, state.module)
    assert len(state.history.training["elbo"]) == 1
    assert state.optimizer_state["prior.means"]["step"] == 10


# --- The calls from fit to the loss -------------------------------------------------


@pytest.fixture
def fit_to_loss(monkeypatch):
    """Record the functions of skvade between `fit` and `VaDE.loss`, at each call."""
    calls, loss = [], VaDE.loss
    package = Path(skvade.__file__).parent

    def recording_loss(*args):
        stack = traceback.extract_stack()[:-1]  # without this function
        names = [f.name for f in stack if package in Path(f.filename).parents]
        assert names[0] == "fit"
        calls.append(names[1:])
        return loss(*args)

    monkeypatch.setattr(VaDE, "loss", recording_loss)
    return calls


def test_few_calls_lead_from_fit_to_the_loss(make_estimator, X, fit_to_loss):
    make_estimator(batch_size=150, warmup_max_iter=1, max_iter=2).fit(X)
    last_stage = [
        "_train",
        "train",
        "maximize_elbo",
        "_joint_epoch",
        "train_epoch",
        "elbo_loss",
    ]
    # Eight steps of the warm-up, and one per epoch of the last stage.
    assert len(fit_to_loss) == 8 + 2
    for calls in fit_to_loss:
        assert len(calls) <= len(last_stage)
    for calls in fit_to_loss[-2:]:
        assert calls == [name for name in last_stage if name in calls]


# --- Interrupts ---------------------------------------------------------------------


@pytest.fixture
def interrupt_pretraining(monkeypatch):
    """Press Ctrl-C in the second epoch of the coming fits."""

    def print_or_interrupt(text):
        if text.startswith("Pretraining epoch 2"):
            raise KeyboardInterrupt

    return lambda: monkeypatch.setattr("builtins.print", print_or_interrupt)


def test_interrupt_in_pretraining_restores_the_fitted_state(
    make_estimator, X, X_new, interrupt_pretraining
):
    model = make_estimator(verbose=1).fit(X)
    before = dict(vars(model))
    interrupt_pretraining()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X_new)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    assert_array_equal(model.predict(X), model.labels_)


def test_interrupt_in_pretraining_leaves_an_unfitted_estimator_unfitted(
    make_estimator, X, interrupt_pretraining
):
    model = make_estimator(verbose=1)
    before = dict(vars(model))
    interrupt_pretraining()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert vars(model) == before
