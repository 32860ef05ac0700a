"""Warm starts and interrupts: fits that begin or end in the middle."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal


def interrupt_at(monkeypatch, line):
    """Press Ctrl-C as soon as a line that starts so is printed."""

    def print_or_interrupt(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", print_or_interrupt)


# --- Warm start ---------------------------------------------------------------------


def test_warm_start_continues(make_estimator, X):
    model = make_estimator(warm_start=True, max_iter=2).fit(X)
    bound, means = model.lower_bound_, model.means_
    model.set_params(max_iter=30).fit(X)
    assert model.lower_bound_ > bound
    assert model.n_iter_ == len(model.lower_bounds_) == 30
    assert model.pretrain_loss_curve_ == []
    assert not np.array_equal(model.means_, means)


def test_warm_start_begins_where_the_last_fit_ended(make_estimator, X, fitted):
    model = make_estimator(warm_start=True).fit(X)
    model.set_params(learning_rate_init=1e-12, max_iter=1).fit(X)
    assert_array_equal(model.init_labels_, fitted.labels_)
    assert_allclose(model.transform(X), fitted.transform(X), atol=1e-5)


def test_first_fit_with_warm_start_is_a_fit_like_any_other(make_estimator, X, fitted):
    assert_array_equal(make_estimator(warm_start=True).fit(X).means_, fitted.means_)


def test_warm_start_takes_other_rows(make_estimator, X, X_new):
    model = make_estimator(warm_start=True).fit(X).fit(X_new)
    assert len(model.labels_) == len(model.init_labels_) == 700


def test_warm_start_has_no_use_for_init(make_estimator, blobs, X_new):
    X, y = blobs
    assert len(make_estimator(warm_start=True, init=y).fit(X).fit(X_new).labels_) == 700


@pytest.mark.parametrize(
    "change",
    [
        {"n_clusters": 4},
        {"latent_dim": 3},
        {"hidden_layer_sizes": (16, 8)},
        {"activation": "tanh"},
        {"likelihood": "bernoulli"},
        {"reg_covar": 1e-3},
    ],
)
def test_warm_start_cannot_change_the_architecture(make_estimator, X_unit, change):
    model = make_estimator(warm_start=True).fit(X_unit)
    labels = model.labels_
    name, value = next(iter(change.items()))
    message = f"a model with {name}=.*. Got {name}={re.escape(repr(value))} instead"
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(X_unit)
    assert_array_equal(model.predict(X_unit), labels)
    model.set_params(warm_start=False).fit(X_unit)


def test_warm_start_with_other_features_is_an_error(make_estimator, X):
    model = make_estimator(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 4 features, but VaDEClusterer is exp"):
        model.fit(X[:, :4])
    assert_array_equal(model.predict(X), model.labels_)


# --- Interrupts ---------------------------------------------------------------------


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


def test_interrupt_with_rows_held_out_keeps_the_best(make_estimator, X, monkeypatch):
    interrupt_at(monkeypatch, "Training epoch 3")
    with pytest.warns(UserWarning, match="Interrupted after 3 epochs"):
        model = make_estimator(verbose=1, max_iter=9, early_stopping=True).fit(X)
    assert len(model.validation_scores_) == 2
    assert_array_equal(model.predict(X), model.labels_)


def test_interrupt_in_pretraining_restores_the_old_state(
    make_estimator, X, X_new, monkeypatch
):
    model = make_estimator(verbose=1).fit(X)
    before = dict(vars(model))
    interrupt_at(monkeypatch, "Pretraining epoch 2")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X_new)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    assert_array_equal(model.predict(X), model.labels_)


def test_interrupt_in_pretraining_leaves_an_unfitted_estimator(
    make_estimator, X, monkeypatch
):
    model = make_estimator(verbose=1)
    before = dict(vars(model))
    interrupt_at(monkeypatch, "Pretraining epoch 2")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert vars(model) == before
