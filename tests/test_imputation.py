"""Imputation by the nearest donors, before any network is trained."""

import numpy as np
import pytest
import torch
from missing_data import remove_entries
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics.pairwise import nan_euclidean_distances
from training_states import make_training_state

from skvade._data import imputation
from skvade._data.imputation import NeighborImputer, mean_squared_differences


def impute(X):
    """Impute all samples; give them and the variances, in the units of X."""
    dataset = make_training_state(X).dataset
    imputer = NeighborImputer(dataset, RandomState(0))
    imputed, variance = imputer.impute(dataset.get_batch(np.arange(len(X))))
    location, scale, *_ = dataset.scaling
    return imputed.numpy() * scale + location, variance.double().numpy() * scale**2


def differences(x, y, expected):
    """The same in plain NumPy, from distances that scikit-learn computes."""
    common = (~np.isnan(x)).astype(float) @ (~np.isnan(y)).T
    means = np.square(nan_euclidean_distances(x, y)) / x.shape[1]
    return (np.where(common, means, 0) * common + expected) / (common + 1)


def test_differences_are_those_of_scikit_learn_and_of_one_more_feature():
    rng = RandomState(0)
    x, y = (remove_entries(rng.normal(size=(n, 5)), 0.4) for n in (20, 30))
    tensors = [torch.from_numpy(a) for x_ in (x, y) for a in zero_and_mask(x_)]
    found = mean_squared_differences(*tensors, torch.tensor(1.7, dtype=torch.float64))
    assert_allclose(found, differences(x, y, 1.7), atol=1e-12)


def zero_and_mask(x):
    return np.nan_to_num(x), (~np.isnan(x)).astype(float)


def test_samples_without_a_common_feature_differ_as_any_two():
    x, y = np.array([[3.0, np.nan]]), np.array([[np.nan, 9.0]])
    tensors = [torch.from_numpy(a) for x_ in (x, y) for a in zero_and_mask(x_)]
    found = mean_squared_differences(*tensors, torch.tensor(1.7, dtype=torch.float64))
    assert found.item() == 1.7


def expected_imputation(X):
    """Mean and variance of the 15 nearest samples, in plain NumPy."""
    deviations = X - np.nanmean(X, axis=0)
    squares = np.square(deviations)
    distances = differences(deviations, deviations, 2 * np.nanmean(squares))
    means, variances = np.zeros_like(X), np.zeros_like(X)
    for i, j in np.argwhere(np.isnan(X)):
        nearest = X[distances[i].argsort()[:15], j]
        nearest = nearest[~np.isnan(nearest)]
        means[i, j] = nearest.mean() if len(nearest) else np.nanmean(X[:, j])
        spread = len(nearest) > 1
        variances[i, j] = nearest.var(ddof=1) if spread else np.nanmean(squares[:, j])
    return np.where(np.isnan(X), means, X), variances


@pytest.mark.parametrize("fraction", [0.2, 0.5])
@pytest.mark.parametrize("block", [100, 10**6])
def test_missing_entries_get_the_mean_of_the_nearest(X, fraction, block, monkeypatch):
    monkeypatch.setattr(imputation, "MAX_BLOCK_VALUES", block)
    X_missing = remove_entries(X, fraction)
    imputed, variance = impute(X_missing)
    means, variances = expected_imputation(X_missing)
    assert_allclose(imputed, means, rtol=1e-4, atol=1e-4)
    assert_allclose(variance, variances, rtol=1e-3, atol=1e-4)


def test_entries_that_no_donor_has_get_the_mean_of_the_feature(monkeypatch):
    """Two groups, each with a feature that the other lacks."""
    X = np.full((40, 3), np.nan)
    X[:, 0] = np.repeat([0.0, 100.0], 20)
    X[:20, 1], X[20:, 2] = RandomState(0).normal(size=(2, 20))
    monkeypatch.setattr(imputation, "N_NEAREST", 5)
    imputed, variance = impute(X)
    for rows, j in ((slice(0, 20), 2), (slice(20, 40), 1)):
        assert_allclose(imputed[rows, j], np.full(20, np.nanmean(X[:, j])), atol=1e-5)
        assert_allclose(variance[rows, j], np.full(20, np.nanvar(X[:, j])), rtol=1e-4)


def test_imputation_is_better_than_the_mean(X, X_missing):
    imputed, _ = impute(X_missing)
    missing = np.isnan(X_missing)
    error = np.square(imputed - X)[missing].mean()
    of_means = np.square(np.nanmean(X_missing, axis=0) - X)[missing].mean()
    assert error < 0.25 * of_means


def test_observed_entries_are_kept_and_the_batch_is_not_changed(X_missing):
    dataset = make_training_state(X_missing).dataset
    imputer = NeighborImputer(dataset, RandomState(0))
    batch = dataset.get_batch(np.arange(150))
    before, observed = batch.x.clone(), batch.mask.bool()
    imputed, variance = imputer.impute(batch)
    assert_array_equal(batch.x, before)
    assert_array_equal(imputed[observed], before[observed].float())
    assert (variance[observed] == 0).all()
    assert (variance[~observed] > 0).all()


def test_number_of_donors_is_bounded(X_missing, monkeypatch):
    monkeypatch.setattr(imputation, "MAX_DONOR_VALUES", 100)
    dataset = make_training_state(X_missing).dataset
    imputer = NeighborImputer(dataset, RandomState(0))
    assert imputer.x.shape == (20, 5)
    assert imputer.n_nearest == 7
    assert imputer.impute(dataset.get_batch(np.arange(150))).x.isfinite().all()


def test_imputation_is_finite_beside_an_outlier(X_missing):
    X = X_missing.copy()
    X[0] = [1e25, np.nan, 0, 0, 0]
    imputed, variance = impute(X)
    assert np.isfinite(imputed).all()
    assert not np.isnan(variance).any()
