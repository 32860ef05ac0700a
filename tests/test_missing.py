"""Missing entries, NaN: they count for nothing in training and can be imputed."""

import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from missing_data import mean_imputed, remove_entries
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from starts import one_start
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skvade._data.dataset import Dataset
from skvade._data.device import make_generator, resolve_device
from skvade._data.scaling import TARGET_STD, DataSummary, uniform_weights
from skvade._inference import qmc_normal_samples, simplex_nodes
from skvade._model.elbo import Posterior, reparameterize, squared_error
from skvade._model.likelihoods import bernoulli_log_prob, gaussian_log_prob
from skvade._model.module import VaDE

# A few epochs on such samples may end without clusters, and the warning is right.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = ["predict_log_proba", "transform", "reconstruct", "score_samples"]


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def fitted_and_X(request, make_estimator, X_unit):
    """A model in float64 that was fitted to incomplete samples, and these."""
    X_missing = remove_entries(X_unit)
    params = {"likelihood": request.param, "precision": "float64"}
    return make_estimator(**params).fit(X_missing), X_missing


def fit_scaling(X, center, sample_weight=None):
    if sample_weight is None:
        sample_weight = uniform_weights(len(X))
    return DataSummary.from_array(X, sample_weight).scaling(center)


def make_dataset(X, center=True):
    scaling, weights = fit_scaling(X, center), uniform_weights(len(X))
    device_config = resolve_device("cpu", "float64")
    has_missing = bool(np.isnan(X).any())
    return Dataset.from_array(X, scaling, device_config, weights, has_missing)


# --- Densities and errors -----------------------------------------------------------


def test_log_prob_is_that_of_the_observed_features(normal):
    x, output, observed = normal(4, 6), normal(3, 4, 6), normal(4, 6) > 0
    mask, log_variance = observed.double(), normal()
    gaussian = gaussian_log_prob(x, output, log_variance, mask)
    bernoulli = bernoulli_log_prob(x.sigmoid(), output, mask)
    for i, features in enumerate(observed):
        x_i, output_i = x[i, features], output[:, i, features]
        expected = gaussian_log_prob(x_i, output_i, log_variance)
        torch.testing.assert_close(gaussian[:, i], expected)
        expected = bernoulli_log_prob(x_i.sigmoid(), output_i)
        torch.testing.assert_close(bernoulli[:, i], expected)


def test_squared_error_has_no_gradient_at_missing_entries(normal):
    output, observed = normal(4, 6).requires_grad_(), normal(4, 6) > 0
    squared_error(normal(4, 6), output, observed.double()).sum().backward()
    assert ((output.grad != 0) == observed).all()


def test_squared_error_counts_observed_entries_alike(normal):
    x, output, observed = normal(9, 6), normal(9, 6), normal(9, 6) > 0
    mean = squared_error(x, output, observed.double()).mean()
    torch.testing.assert_close(mean, (x - output)[observed].square().mean())
    complete = squared_error(x, output, torch.ones(9, 6, dtype=torch.float64))
    torch.testing.assert_close(complete, squared_error(x, output))


# --- Scaling ------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [40, 50_000])
def test_scaling_is_estimated_from_the_observed_entries(n_samples):
    X = remove_entries(np.random.default_rng(1).normal(5, [1, 4, 9], (n_samples, 3)))
    location, scale, feature_mean, *_ = fit_scaling(X, center=True)
    assert_allclose(location, np.nanmean(X, axis=0), rtol=1e-12)
    deviations = (X - location)[~np.isnan(X)]
    std = np.sqrt(np.square(deviations).mean())
    assert_allclose(scale, std / TARGET_STD, rtol=1e-9)
    assert_array_equal(feature_mean, location)
    uncentered = fit_scaling(X, center=False)
    assert_array_equal(uncentered.location, np.zeros(3))
    assert_array_equal(uncentered.feature_mean, feature_mean)


def test_scaling_of_weighted_samples_is_that_of_repeated_ones():
    X = remove_entries(np.random.default_rng(1).normal(5, [1, 4, 9], (60, 3)))
    weight = np.arange(60) % 4
    weighted = fit_scaling(X, True, weight.astype(float))
    repeated = fit_scaling(np.repeat(X, weight, axis=0), True)
    assert_allclose(weighted.location, repeated.location)
    assert_allclose(weighted.scale, repeated.scale)


def test_incomplete_constant_data_have_scale_one():
    assert fit_scaling(remove_entries(np.full((5000, 3), 0.1)), True).scale == 1


# --- Batches ------------------------------------------------------------------------


@pytest.mark.parametrize("center", [True, False])
def test_batches_hold_the_feature_mean_at_missing_entries(X_missing, center):
    dataset = make_dataset(X_missing, center)
    location, scale, *_ = dataset.scaling
    imputed = mean_imputed(X_missing)
    for batch in dataset.iter_batches(40, make_generator(0)):
        expected = (imputed[batch.indices] - location) / scale
        assert_allclose(batch.x, expected, atol=1e-12)
        assert_array_equal(batch.mask, ~np.isnan(X_missing[batch.indices]))
        assert batch.mask.dtype == torch.float64


def test_batches_of_complete_samples_have_no_mask(X):
    dataset = make_dataset(X)
    assert dataset.get_batch(np.arange(3)).mask is None
    assert all(batch.mask is None for batch, _ in dataset.iter_padded_batches(256))


# --- Predictions --------------------------------------------------------------------


def test_predictions_are_those_of_the_imputed_samples(fitted_and_X):
    """Imputed by the reconstruction from the mean in the place of missing entries."""
    model, X_missing = fitted_and_X
    reconstructed = model.reconstruct(mean_imputed(X_missing))
    X_imputed = np.where(np.isnan(X_missing), reconstructed, X_missing)
    for method in METHODS[:3]:
        result = getattr(model, method)(X_missing)
        assert_allclose(result, getattr(model, method)(X_imputed), atol=1e-9)
        of_means = getattr(model, method)(mean_imputed(X_missing))
        assert abs(result - of_means).max() > 1e-3
    scores = model.score_samples(X_missing)
    assert (scores != model.score_samples(X_imputed)).sum() > 100


def entry_log_prob(x, decoded, model):
    """Compute log p(x|z) of each entry from E[x|z]."""
    if model.likelihood == "gaussian":
        return Normal(decoded, model.noise_variance_**0.5).log_prob(x)
    return x * decoded.log() + (1 - x) * (1 - decoded).log()


def test_elbo_lacks_the_log_prob_of_a_missing_entry(fitted_and_X):
    """The posterior is that of the imputed sample, so all other terms cancel."""
    model, X_missing = fitted_and_X
    x = np.nanmean(X_missing, axis=0)[None]
    missing = x.copy()
    missing[0, 2] = np.nan
    x[0, 2] = model.reconstruct(x)[0, 2]
    difference = model.score_samples(x) - model.score_samples(missing)

    module = model.to_torch()
    with torch.no_grad():
        posterior = Posterior(*module.encode(torch.from_numpy(x)))
        draws = reparameterize(posterior, simplex_nodes(model.latent_dim))
        decoded = module.decode(draws)[..., 2]
    log_prob = entry_log_prob(torch.tensor(x[0, 2]), decoded, model)
    assert_allclose(difference, log_prob.mean(), rtol=1e-6)


def test_importance_weighted_bound_is_that_of_the_observed_entries(fitted_and_X):
    model, X_missing = fitted_and_X
    sample, n_draws = X_missing[np.isnan(X_missing).any(1)][:1], 16
    observed = ~np.isnan(sample[0])
    module = model.to_torch()
    with torch.no_grad():
        posterior = Posterior(*module.encode(torch.from_numpy(sample)))
        noise = qmc_normal_samples(n_draws, model.latent_dim)
        z = reparameterize(posterior, noise)
        decoded = module.decode(z)[:, 0, observed]
    x = torch.from_numpy(sample[0, observed])
    log_likelihood = entry_log_prob(x, decoded, model).sum(1)
    parameters = model.weights_, model.means_, np.sqrt(model.covariances_)
    weights, means, deviations = map(torch.from_numpy, parameters)
    components = Independent(Normal(means, deviations), 1)
    prior = MixtureSameFamily(Categorical(weights), components)
    q = Normal(posterior.mean, (posterior.log_variance / 2).exp())
    log_ratios = log_likelihood + (prior.log_prob(z) - q.log_prob(z).sum(-1))[:, 0]
    expected = log_ratios.logsumexp(0) - np.log(n_draws)
    bound = model.score_samples(sample, n_draws=n_draws)
    assert_allclose(bound, expected, rtol=1e-6)


def test_effective_clusters_are_those_of_the_predicted_responsibilities(fitted_and_X):
    model, X_missing = fitted_and_X
    predicted, of_means = (
        np.exp(entropy(model.predict_proba(X).mean(0)))
        for X in (X_missing, mean_imputed(X_missing))
    )
    assert model.n_effective_clusters_ == pytest.approx(predicted, rel=1e-9)
    assert abs(of_means - predicted) > 1e-4


def test_score_of_an_extreme_incomplete_sample_is_minus_infinity(fitted):
    assert fitted.score_samples(np.array([[1e25, np.nan, 0, 0, 0]])) == -np.inf


def test_imputation_is_exact_far_from_the_origin(make_estimator, X_missing):
    """In float32 it must not be rounded in the units of the data."""
    near, far = make_estimator().fit(X_missing), make_estimator().fit(X_missing + 1e6)
    expected = near.transform(X_missing)
    assert_allclose(far.transform(X_missing + 1e6), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_do_not_depend_on_the_other_samples(fitted_and_X, method):
    model, X_missing = fitted_and_X
    complete = np.where(np.isnan(X_missing), 0.5, X_missing)
    X = np.where(np.arange(len(X_missing))[:, None] % 2, X_missing, complete)
    together = getattr(model, method)(X)
    for i in (0, 1, 6, 7):
        assert_array_equal(getattr(model, method)(X[i : i + 1]), together[i : i + 1])


# --- The module ---------------------------------------------------------------------


def test_module_accepts_missing_entries(fitted_and_X):
    model, X_missing = fitted_and_X
    with torch.no_grad():
        log_responsibilities = model.to_torch()(torch.from_numpy(X_missing))
    expected = model.predict_log_proba(X_missing)
    assert_allclose(log_responsibilities, expected, atol=1e-6)


def test_imputed_entries_carry_no_gradient(fitted_and_X):
    model, X_missing = fitted_and_X
    grads = []
    for impute_first in (False, True):
        module, x = model.to_torch(), torch.from_numpy(X_missing)
        if impute_first:
            x = module.likelihood.unstandardize(module.preprocess(x).detach())
        module(x)[:, 0].sum().backward()
        grads.append(module.encoder.mean.weight.grad)
    torch.testing.assert_close(*grads)


def test_module_can_be_vectorized_and_exported(fitted_and_X):
    """No branch depends on the samples."""
    model, X_missing = fitted_and_X
    module, x = model.to_torch(), torch.from_numpy(X_missing)
    mapped = torch.vmap(lambda sample: module(sample[None])[0])(x)
    torch.testing.assert_close(mapped, module(x))
    exported = torch.export.export(module, (x,)).module()
    for samples in (x, x.nan_to_num(0.5)):
        torch.testing.assert_close(exported(samples), module(samples))


# --- Fitting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"likelihood": "bernoulli"},
        {"early_stopping": True},
        {"responsibilities": "sampled"},
        {"init": "gmm"},
        {"precision": "float64"},
    ],
)
def test_incomplete_samples_are_clustered(make_estimator, blobs, X_unit, params, start):
    n_epochs = 40 if start == "autoencoder" else 8
    model = make_estimator(pretrain_max_iter=n_epochs, **params)
    assert_clusters_incomplete_samples(model, X_unit, blobs[1])


@one_start
@pytest.mark.parametrize(
    "params",
    [
        {"pretraining": "stacked", "pretrain_max_iter": 40},
        {"embedding": PCA(2), "pretrain_max_iter": 0},
    ],
)
def test_incomplete_samples_are_clustered_from_other_starts(
    make_estimator, blobs, X_unit, params
):
    assert_clusters_incomplete_samples(make_estimator(**params), X_unit, blobs[1])


def assert_clusters_incomplete_samples(model, X_unit, y):
    X_missing = remove_entries(X_unit, 0.2)
    model.fit(X_missing)
    assert adjusted_rand_score(y, model.labels_) > 0.7
    assert_array_equal(model.predict(X_missing), model.labels_)
    assert model.score(X_missing) == pytest.approx(model.lower_bound_, rel=1e-12)
    assert np.isfinite(model.cluster_centers_).all()
    assert np.isfinite(model.lower_bounds_).all()


@one_start
@pytest.mark.parametrize("pretraining", ["autoencoder", "stacked", "vae"])
def test_pretraining_learns_the_observed_entries(
    make_estimator, X_missing, pretraining
):
    model = make_estimator(pretraining=pretraining, pretrain_max_iter=30).fit(X_missing)
    curve = model.pretrain_loss_curve_
    assert curve[-1] < 0.97 * curve[0]


class ModeRecorder(nn.Linear):
    """A backbone that records in which mode it is called."""

    modes: ClassVar[list[bool]] = []

    def forward(self, x):
        self.modes.append(self.training)
        return super().forward(x)


@one_start
@pytest.mark.parametrize(
    "params",
    [
        {"pretraining": "autoencoder"},
        {"pretraining": "vae"},
        {"embedding": PCA(2), "pretrain_max_iter": 0},
    ],
)
def test_training_imputes_in_evaluation_mode(make_estimator, X, X_missing, params):
    """In every stage, so without the dropout of the step itself."""
    model = make_estimator(
        encoder=lambda n_features_in, _: ModeRecorder(n_features_in, 9), **params
    )
    for samples, expected in ((X_missing, {False}), (X, {False, True})):
        ModeRecorder.modes.clear()
        model.fit(samples)
        modes = ModeRecorder.modes
        steps = [i for i, is_training in enumerate(modes) if is_training]
        assert {modes[i - 1] for i in steps} == expected


@pytest.mark.parametrize(
    "params",
    [
        {"pretrain_max_iter": 0},
        {},
        {"pretraining": "stacked"},
        {"pretraining": "vae"},
        {"embedding": PCA(2), "embedding_input": "autoencoder"},
    ],
)
def test_imputation_uses_the_likelihood_after_the_mixture_is_initialized(
    make_estimator, X_unit, monkeypatch, params, start
):
    """Before, the decoder's output is a standardized reconstruction."""
    calls, impute = [], VaDE.impute

    def record(module, x, mask, pretraining=False):
        calls.append(pretraining)
        return impute(module, x, mask, pretraining)

    monkeypatch.setattr(VaDE, "impute", record)
    make_estimator(likelihood="bernoulli", **params).fit(remove_entries(X_unit))
    n_before = sum(calls)
    assert calls == [True] * n_before + [False] * (len(calls) - n_before)
    if start == "neighbors" and not {*params} & {"pretraining", "embedding"}:
        assert not n_before  # The decoder has learned nothing yet.
        return
    assert n_before == 2 if params == {"pretrain_max_iter": 0} else n_before > 2


def test_incomplete_samples_in_partial_fit_and_a_warm_start(
    make_estimator, X, X_missing
):
    model = make_estimator(warm_start=True).partial_fit(X_missing).partial_fit(X)
    model.partial_fit(remove_entries(X, 0.5)).fit(X_missing)
    assert np.isfinite(model.score(X_missing))
    assert model.n_iter_ == 3


@one_start
def test_memory_map_with_missing_entries(make_estimator, X_missing, tmp_path):
    np.save(tmp_path / "X.npy", X_missing)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(
        make_estimator().fit(mapped).means_, make_estimator().fit(X_missing).means_
    )


# --- Imputation ---------------------------------------------------------------------


def test_impute_fills_missing_entries_alone(fitted_and_X):
    model, X_missing = fitted_and_X
    before = X_missing.copy()
    imputed = model.impute(X_missing)
    missing = np.isnan(X_missing)
    assert_array_equal(imputed[~missing], X_missing[~missing])
    assert_array_equal(imputed[missing], model.reconstruct(X_missing)[missing])
    assert_array_equal(X_missing, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impute_keeps_the_dtype(fitted, X_missing, dtype):
    assert fitted.impute(X_missing.astype(dtype)).dtype == dtype


def test_impute_copies_complete_samples(fitted, X):
    for samples in (X, sparse.csr_array(X)):
        imputed = fitted.impute(samples)
        assert type(imputed) is type(samples)
        assert not np.shares_memory(imputed.data, samples.data)
        assert abs(imputed - samples).max() == 0


@one_start
def test_impute_accepts_a_dataframe(make_estimator, X_missing):
    frame = pd.DataFrame(X_missing, columns=list("abcde"))
    model = make_estimator().fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(
            model.impute(frame), make_estimator().fit(X_missing).impute(X_missing)
        )


def test_impute_is_better_than_the_mean(make_estimator, X, X_missing, start):
    missing = np.isnan(X_missing)
    stages = {"pretrain_max_iter": 40, "max_iter": 20}
    if start == "neighbors":  # The decoder learns from the warm-up on.
        stages = {"pretrain_max_iter": 4, "warmup_max_iter": 5, "max_iter": 30}
    model = make_estimator(**stages, learning_rate_init=5e-3).fit(X_missing)
    error = np.square(model.impute(X_missing) - X)[missing].mean()
    of_means = np.square(np.nanmean(X_missing, axis=0) - X)[missing].mean()
    assert error < 0.5 * of_means


@one_start
def test_fit_does_not_count_imputed_entries(make_estimator, X_missing):
    """After an imputer they would count as if they had been observed."""
    imputed = make_pipeline(SimpleImputer(), make_estimator()).fit(X_missing)
    model = make_estimator().fit(X_missing)
    assert model.noise_variance_ != pytest.approx(imputed[-1].noise_variance_, rel=0.02)
