"""The stage in which the mixture starts on the embedding of the pretrained encoder."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from training_states import all_samples, make_training_state, run_stages

from skvade._inference import embed, mixture_labels, pretrained_embedding
from skvade._training import initialization
from skvade._training.initialization import (
    INIT_COMPONENT_STD,
    INIT_POSTERIOR_VARIANCE,
    initialize_mixture,
)
from skvade._training.pretraining import pretrain


def weights_of(module):
    return module.prior.log_weights.detach().exp()


def test_mixture_starts_from_the_moments_of_the_groups_in_the_embedding(blobs):
    X, y = blobs
    state = run_stages(make_training_state(X, init=y), pretrain, initialize_mixture)
    Z, prior = embed(state.module, state.dataset), state.module.prior
    groups = [Z[y == label] for label in range(3)]
    counts = np.array([len(group) for group in groups])
    within = np.array([group.var(0) for group in groups])
    pooled = np.average(within, axis=0, weights=counts)
    # Every group counts one more point, of average spread.
    variances = (counts[:, None] * within + pooled) / (counts[:, None] + 1)
    assert_allclose(weights_of(state.module), counts / len(X))
    assert_allclose(prior.means.detach(), [group.mean(0) for group in groups])
    assert_allclose(prior.variances.detach(), variances + prior.reg_covar)


def test_given_labels_are_those_of_the_samples_that_are_trained_on(blobs):
    X, y = blobs
    state = make_training_state(X, init=y, n_validation=30)
    run_stages(state, pretrain, initialize_mixture)
    indices = state.dataset.indices
    assert len(indices) == 120
    assert_allclose(weights_of(state.module), np.bincount(y[indices]) / 120)
    assert adjusted_rand_score(y, state.history.init_labels) > 0.9


def test_samples_outside_of_the_partition_get_the_likeliest_component(blobs):
    X, y = blobs
    labels = np.where(np.arange(len(X)) % 3, 2 * y, -1)
    labels[:3] = 0  # not the likeliest component of all of them
    state = make_training_state(X, init=labels)
    run_stages(state, pretrain, initialize_mixture)
    found = state.history.init_labels
    given = labels >= 0
    assert_array_equal(found[given], labels[given] // 2)
    likeliest = mixture_labels(state.module, state.dataset, True)
    assert_array_equal(found[~given], likeliest[~given])
    assert not np.array_equal(found, likeliest)


def test_of_many_samples_some_are_clustered_and_all_get_a_label(X, monkeypatch):
    clustered = []

    class RecordingKMeans(KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            clustered.append(len(X))
            return super().fit_predict(X, sample_weight=sample_weight)

    monkeypatch.setattr(initialization, "MAX_INIT_SAMPLES", 50)
    state = make_training_state(X, init=RecordingKMeans(3))
    run_stages(state, pretrain, initialize_mixture)
    assert clustered == [50]
    assert len(state.history.init_labels) == len(X)


def test_all_given_labels_count_however_many_there_are(blobs, monkeypatch):
    X, y = blobs
    monkeypatch.setattr(initialization, "MAX_INIT_SAMPLES", 50)
    state = run_stages(make_training_state(X, init=y), pretrain, initialize_mixture)
    assert_allclose(weights_of(state.module), np.bincount(y) / len(y))


def test_posterior_variance_starts_small_and_equal_for_all_samples(X):
    state = run_stages(make_training_state(X), pretrain, initialize_mixture)
    with torch.no_grad():
        variance = state.module.encoder(all_samples(state).x).log_variance.exp()
        average = state.module.prior.variances.mean()
    assert_allclose(variance, INIT_POSTERIOR_VARIANCE * average.expand_as(variance))


def test_contrastive_pretraining_starts_at_a_fixed_scale(X):
    state = make_training_state(X, pretraining="neighbors", pretrain_max_iter=2)
    run_stages(state, pretrain, initialize_mixture)
    variances = state.module.prior.variances
    assert variances.mean().sqrt().item() == pytest.approx(INIT_COMPONENT_STD, rel=1e-6)
    Z = pretrained_embedding(state.module, state.dataset, has_decoder=False)
    labels = state.history.init_labels
    weights = np.bincount(labels, minlength=3) / len(X)
    means = np.stack([Z[labels == c].mean(0) for c in range(3) if weights[c]])
    found = state.module.prior.means.detach().numpy()[weights > 0]
    assert_allclose(means, found, atol=0.5)
