"""Warm starts: fits that go on from the fitted state."""

import copy
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from torch import nn


def test_warm_start_goes_on_training(make_estimator, X):
    model = make_estimator(warm_start=True, max_iter=2).fit(X)
    bound, means = model.lower_bound_, model.means_
    model.set_params(max_iter=30).fit(X)
    assert model.lower_bound_ > bound
    assert model.n_iter_ == len(model.lower_bounds_) == 30
    assert model.pretrain_loss_curve_ == []
    assert not np.array_equal(model.means_, means)


def test_warm_start_starts_from_the_fitted_state(make_estimator, X, fitted):
    model = make_estimator(warm_start=True).fit(X)
    model.set_params(learning_rate_init=1e-12, max_iter=1).fit(X)
    assert_array_equal(model.init_labels_, fitted.labels_)
    assert_allclose(model.transform(X), fitted.transform(X), atol=1e-5)


def test_first_fit_with_warm_start_is_a_plain_fit(make_estimator, X, fitted):
    assert_array_equal(make_estimator(warm_start=True).fit(X).means_, fitted.means_)


def test_warm_start_takes_other_samples(make_estimator, X, X_new):
    model = make_estimator(warm_start=True).fit(X).fit(X_new)
    assert len(model.labels_) == len(model.init_labels_) == 700


def test_warm_start_ignores_init(make_estimator, blobs, X_new):
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
        {"covariance_type": "full"},
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


def encoder_with(n_features_in, latent_dim, **values):
    return nn.Linear(n_features_in, 4)


VALUES = {
    "arrays": (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
    "arrays of other shapes": (np.ones(3), np.ones(2)),
    "tensors": (torch.ones(3), torch.zeros(3)),
    "tensors of other shapes": (torch.ones(3), torch.zeros(2)),
    "frames": (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
    "frames of other columns": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "sparse arrays": (csr_array(np.eye(3)), csr_array(2 * np.eye(3))),
    "nested": ([{"a": np.ones(2)}, 1], [{"a": np.zeros(2)}, 1]),
    "partial functions": (partial(max, np.ones(2)), partial(max, np.zeros(2))),
}


@pytest.mark.parametrize("kind", VALUES)
def test_parameters_that_hold_arrays_are_compared(make_estimator, X, kind):
    value, other = VALUES[kind]
    encoder = partial(encoder_with, value=value)
    model = make_estimator(warm_start=True, encoder=encoder).fit(X)
    same = partial(encoder_with, value=copy.deepcopy(value))
    model.set_params(encoder=same).fit(X)
    model.set_params(encoder=partial(encoder_with, value=other))
    with pytest.raises(ValueError, match="warm_start=True continues a model with enc"):
        model.fit(X)


def test_warm_start_with_other_features_is_an_error(make_estimator, X):
    model = make_estimator(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 4 features, but VaDEClusterer is exp"):
        model.fit(X[:, :4])
    assert_array_equal(model.predict(X), model.labels_)


def test_warm_start_outside_the_support_is_an_error(make_estimator, X_unit):
    model = make_estimator(warm_start=True, likelihood="bernoulli").fit(X_unit)
    with pytest.raises(ValueError, match=r"needs X in \[0, 1\]. Got values from"):
        model.fit(X_unit + 1)
    assert_array_equal(model.predict(X_unit), model.labels_)


def test_warm_start_goes_on_from_partial_fit(make_estimator, X, X_new):
    model = make_estimator(warm_start=True, learning_rate_init=1e-12)
    for chunk in np.array_split(X_new, 7):
        model.partial_fit(chunk)
    means = model.means_
    model.fit(X)
    assert_allclose(model.means_, means, atol=1e-6)
    assert model.n_iter_ == 3
    assert model.n_samples_seen_ == 150


def test_warm_start_goes_on_from_edited_attributes(make_estimator, X):
    """Two components are exchanged; the fit starts from what the attributes say."""
    model = make_estimator(learning_rate_init=1e-12, max_iter=1).fit(X)
    labels, order = model.labels_, [1, 0, 2]
    for name in ("weights_", "means_", "covariances_"):
        setattr(model, name, getattr(model, name)[order])
    means = model.means_
    model.set_params(warm_start=True).fit(X)
    assert_array_equal(model.init_labels_, np.array(order)[labels])
    assert_allclose(
        model.means_[np.argsort(model.means_[:, 0])],
        means[np.argsort(means[:, 0])],
        atol=1e-6,
    )
