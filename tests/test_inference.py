from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import seuclidean
from scipy.stats import chi2, entropy
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from skvade import _inference
from skvade._data.dataset import Dataset
from skvade._data.device import DeviceConfig
from skvade._data.scaling import Scaling, uniform_weights
from skvade._model.elbo import (
    elbo,
    log_responsibilities,
    mixture_term,
    reparameterize,
)

LOCATION, SCALE = 3.0, 1.7


def make_dataset(X, dtype=torch.float64, location=0.0, scale=1.0):
    location = np.full(X.shape[1], location)
    return Dataset.from_array(
        X,
        Scaling(location, scale, location),
        DeviceConfig(torch.device("cpu"), dtype),
        uniform_weights(len(X)),
        has_missing=bool(np.isnan(X).any()),
    )


def reconstruct(module, dataset):
    return _inference.reconstruct(module, dataset, module.likelihood_float64())


def elbo_terms(module, dataset, responsibilities):
    terms = _inference.make_elbo_terms(module, responsibilities)
    return _inference.map_batches(module, dataset, terms)


FUNCTIONS = {
    "embed": _inference.embed,
    "mixture_labels": partial(_inference.mixture_labels, has_decoder=True),
    "reconstruct": reconstruct,
    "expected": lambda module, dataset: _inference.predict_log_responsibilities(
        module, dataset, "expected"
    ),
    "sampled": lambda module, dataset: _inference.predict_log_responsibilities(
        module, dataset, "sampled"
    ),
    "elbo": lambda module, dataset: elbo_terms(module, dataset, "expected"),
    "sampled elbo": lambda module, dataset: elbo_terms(module, dataset, "sampled"),
    "importance weighted": lambda module, dataset: (
        _inference.importance_weighted_samples(module, dataset, 5)
    ),
}


@pytest.fixture
def module(make_module):
    """A module of data around 3 with a scale of 1.7."""
    module = make_module()
    module.likelihood.location.fill_(LOCATION)
    module.likelihood.scale.fill_(SCALE)
    module.encoder.reset_variance(torch.tensor(0.3))
    return module


@pytest.fixture
def data(normal):
    return LOCATION + SCALE * normal(300, 6).numpy()


@pytest.fixture
def dataset(data):
    return make_dataset(data, location=LOCATION, scale=SCALE)


# --- Independence of the other samples ----------------------------------------------


def assert_samples_are_independent(function, module, X, dtype=torch.float32):
    """Compare one sample, a few, more than a chunk and a permutation with all."""
    expected = function(module, make_dataset(X, dtype))
    permutation = np.random.default_rng(0).permutation(len(X))
    for indices in ([len(X) - 1], np.arange(7), np.arange(300) + 100, permutation):
        actual = function(module, make_dataset(X[indices], dtype))
        np.testing.assert_array_equal(actual, expected[indices])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("X_dtype", [np.float32, np.float64])
def test_results_do_not_depend_on_the_other_samples(
    make_module, name, activation, X_dtype
):
    module = make_module(torch.float32, n_features=13, activation=activation)
    X = np.random.default_rng(0).normal(size=(1000, 13)).astype(X_dtype)
    assert_samples_are_independent(FUNCTIONS[name], module, X)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "params",
    [
        {"n_features": 5, "hidden_layer_sizes": (21, 7)},
        {"n_features": 13, "hidden_layer_sizes": (3, 1), "latent_dim": 1},
    ],
    ids=str,
)
def test_results_of_odd_widths_do_not_depend_on_the_other_samples(
    make_module, name, dtype, params
):
    module = make_module(dtype, **params)
    X = np.random.default_rng(0).normal(size=(1000, params["n_features"]))
    assert_samples_are_independent(FUNCTIONS[name], module, X, dtype)


@pytest.mark.parametrize("name", ["expected", "reconstruct"])
def test_results_of_a_large_module_do_not_depend_on_the_other_samples(
    make_module, name
):
    module = make_module(
        torch.float32,
        n_features=784,
        latent_dim=10,
        n_clusters=10,
        hidden_layer_sizes=(500, 500, 2000),
        activation="relu",
        likelihood="bernoulli",
    )
    X = np.random.default_rng(0).random((1000, 784), dtype=np.float32)
    assert_samples_are_independent(FUNCTIONS[name], module, X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_deterministic_and_leave_the_module_as_it_was(module, data, name):
    module, dataset = module.float(), make_dataset(data, torch.float32)
    before = deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    first, second = (FUNCTIONS[name](module, dataset) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), random_state)
    after = module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert {v.dtype for v in after.values()} == {torch.float32}


# --- The latent space ---------------------------------------------------------------


def test_embed_gives_the_posterior_mean(module, dataset, data):
    expected = module.encode(torch.from_numpy(data)).mean.numpy(force=True)
    np.testing.assert_allclose(_inference.embed(module, dataset), expected, rtol=1e-9)


def test_decode_and_reconstruct_are_in_the_units_of_the_data(module, dataset, data):
    z = _inference.embed(module, dataset)
    expected = module.decode(torch.from_numpy(z)).numpy(force=True)
    likelihood = module.likelihood_float64()
    decoded = _inference.decode(module, make_dataset(z), likelihood)
    np.testing.assert_allclose(decoded, expected)
    np.testing.assert_allclose(reconstruct(module, dataset), expected)


# --- Clusters -----------------------------------------------------------------------


def test_mixture_labels_are_what_gaussian_mixture_predicts(module, dataset):
    mixture = GaussianMixture(4, covariance_type="diag")
    mixture.weights_ = module.prior.log_weights.exp().numpy(force=True)
    mixture.means_ = module.prior.means.numpy(force=True)
    variances = module.prior.variances.numpy(force=True)
    mixture.covariances_, mixture.precisions_cholesky_ = variances, variances**-0.5
    labels = _inference.mixture_labels(module, dataset, True)
    expected = mixture.predict(_inference.embed(module, dataset))
    np.testing.assert_array_equal(labels, expected)
    assert len(set(labels)) > 1


def test_expected_responsibilities_are_those_of_the_module(module, dataset, data):
    expected = module(torch.from_numpy(data)).numpy(force=True)
    actual = FUNCTIONS["expected"](module, dataset)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def rms(difference):
    return float(difference.detach().square().mean().sqrt())


@pytest.fixture
def with_many_draws(module, data, normal):
    """log p(x|z) at many draws of z, and the log q(c|x) and the ELBO they give."""
    x = torch.from_numpy(data)
    standardized, posterior = module.likelihood.standardize(x), module.encode(x)
    draws = reparameterize(posterior, normal(2000, 300, 3))
    log_likelihood = module.likelihood.log_prob(standardized, module.decoder(draws))
    log_r = log_responsibilities(module.prior, posterior, draws)
    return log_likelihood, log_r, elbo(log_likelihood, posterior, module.prior, draws)


def test_sampled_responsibilities_average_over_the_posterior(
    module, dataset, with_many_draws
):
    _, log_r, _ = with_many_draws
    sampled, expected = (
        rms(torch.from_numpy(FUNCTIONS[name](module, dataset)).exp() - log_r.exp())
        for name in ("sampled", "expected")
    )
    assert sampled < 0.8 * expected


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_summary_of_the_assignments(module, dataset, responsibilities):
    weight = np.random.default_rng(0).integers(0, 3, len(dataset)).astype(float)
    dataset = replace(dataset, sample_weight=weight)
    r = np.exp(FUNCTIONS[responsibilities](module, dataset))
    summary = _inference.summarize_assignments(module, dataset, responsibilities)
    np.testing.assert_array_equal(summary.labels, r.argmax(1))
    mean = np.average(r, axis=0, weights=weight)
    np.testing.assert_allclose(summary.mean_responsibilities, mean)
    mean_entropy = np.average(entropy(r, axis=1), weights=weight)
    np.testing.assert_allclose(summary.mean_entropy, mean_entropy)
    np.testing.assert_allclose(summary.normalized_entropy, mean_entropy / np.log(4))
    labels = _inference.predict_labels(module, dataset, responsibilities)
    np.testing.assert_array_equal(labels, summary.labels)


def test_normalized_entropy_of_a_single_component_is_zero(make_module, normal):
    dataset = make_dataset(normal(10, 6).numpy())
    module = make_module(n_clusters=1)
    summary = _inference.summarize_assignments(module, dataset, "expected")
    assert summary.normalized_entropy == 0


@pytest.mark.parametrize("inverse_probability", [2, 5, 10])
def test_outliers_are_improbably_far_from_their_component(
    module, dataset, monkeypatch, inverse_probability
):
    monkeypatch.setattr(_inference, "INVERSE_OUTLIER_PROBABILITY", inverse_probability)
    summary = _inference.summarize_assignments(module, dataset, "expected")
    means = module.prior.means.numpy(force=True)[summary.labels]
    variances = module.prior.variances.numpy(force=True)[summary.labels]
    z = _inference.embed(module, dataset)
    distances = [seuclidean(*args) for args in zip(z, means, variances, strict=True)]
    probabilities = chi2.sf(np.square(distances), z.shape[1])
    assert 0 < summary.is_outlier.sum() < len(dataset)
    np.testing.assert_array_equal(
        summary.is_outlier, probabilities < 1 / inverse_probability
    )


# --- The ELBO -----------------------------------------------------------------------


def test_sampled_bound_is_the_looser_one(module, dataset, with_many_draws):
    _, _, terms = with_many_draws
    sampled, expected = (
        torch.from_numpy(FUNCTIONS[name](module, dataset)[:, 1])
        for name in ("sampled elbo", "elbo")
    )
    assert (sampled <= expected + 1e-9).all()
    assert rms(sampled - terms.mixture) < 0.8 * rms(expected - terms.mixture)


def test_elbo_agrees_with_many_draws(module, dataset, data, with_many_draws):
    """Its draws are balanced: their error is less than that of eight random ones."""
    log_likelihood, _, terms = with_many_draws
    actual = torch.from_numpy(FUNCTIONS["elbo"](module, dataset))
    error_of_random_draws = rms(log_likelihood.std(0)) / 8**0.5
    assert rms(actual[:, 0] - terms.reconstruction) < error_of_random_draws
    posterior = module.encode(torch.from_numpy(data))
    mixture, _ = mixture_term(module.prior, posterior)
    torch.testing.assert_close(actual[:, 1], mixture)
    torch.testing.assert_close(actual[:, 2], terms.entropy)


def test_float32_changes_the_elbo_little(make_module, normal):
    module, X = make_module(), normal(300, 6).numpy()
    expected = FUNCTIONS["elbo"](module, make_dataset(X))
    actual = FUNCTIONS["elbo"](module.float(), make_dataset(X, torch.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_elbo_is_exact_for_a_linear_decoder(make_module, normal):
    """The mean of a quadratic needs draws of covariance one, not only of variances."""
    module, x = make_module(activation="identity"), normal(200, 6)
    module.encoder.reset_variance(torch.tensor(0.3))
    output = module.decoder(module.encoder.encode_mean(x))
    at_mean = module.likelihood.log_prob(x, output)
    origin, axes = torch.zeros(3).double(), torch.eye(3).double()
    columns = module.decoder(axes) - module.decoder(origin)
    noise_variance = module.likelihood.log_noise_variance.exp()
    spread = 0.3 * columns.square().sum() / noise_variance
    actual = FUNCTIONS["elbo"](module, make_dataset(x.numpy()))[:, 0]
    torch.testing.assert_close(torch.from_numpy(actual), at_mean - spread / 2)


def test_elbo_of_a_sample_is_the_sum_of_its_terms(module, dataset):
    bounds = _inference.elbo_samples(module, dataset, "expected")
    expected = FUNCTIONS["elbo"](module, dataset).sum(1)
    np.testing.assert_array_equal(bounds, expected)


@pytest.mark.parametrize(
    "latent_dim, n_draws", [(1, 8), (2, 9), (3, 8), (10, 11), (500, 64)]
)
def test_simplex_nodes_have_mean_zero_and_the_norm_of_a_normal(latent_dim, n_draws):
    nodes = _inference.simplex_nodes(latent_dim)
    assert nodes.shape == (n_draws, 1, latent_dim)
    torch.testing.assert_close(nodes.sum(0), torch.zeros(1, latent_dim).double())
    norms = nodes.square().sum(-1)
    torch.testing.assert_close(norms, torch.full_like(norms, latent_dim))


# --- Importance weights -------------------------------------------------------------


@pytest.fixture
def linear(make_module):
    """A module whose log p(x) is known, since its decoder is linear.

    Its q(z|x) is the same for every sample, and much wider than the prior.
    """
    module = make_module(activation="identity").requires_grad_(False)
    module.likelihood.raw_log_noise_variance.fill_(1.0)
    module.encoder.mean.weight.zero_()
    module.encoder.mean.bias.zero_()
    module.encoder.reset_variance(torch.tensor(6.0))
    return module


def marginal(module):
    """Make p(x) of a linear decoder W z + b: a mixture of correlated Gaussians."""
    latent_dim = module.prior.means.shape[1]
    identity = torch.eye(latent_dim, dtype=torch.float64)
    offset = module.decoder(torch.zeros(1, latent_dim).double())
    W = (module.decoder(identity) - offset).mT
    noise_variance = module.likelihood.noise_variance / module.likelihood.scale**2
    spread = W @ torch.diag_embed(module.prior.variances) @ W.mT
    covariances = spread + noise_variance * torch.eye(len(W), dtype=torch.float64)
    parts = MultivariateNormal(module.decoder(module.prior.means), covariances)
    return MixtureSameFamily(Categorical(logits=module.prior.logits), parts)


def test_importance_weighted_bound_approaches_the_likelihood(linear, normal):
    x = normal(300, 6)
    dataset, expected = make_dataset(x.numpy()), marginal(linear).log_prob(x).numpy()
    gaps = [
        np.mean(
            expected - _inference.importance_weighted_samples(linear, dataset, n_draws)
        )
        for n_draws in (8, 64, 4096)
    ]
    assert np.mean(expected - FUNCTIONS["elbo"](linear, dataset).sum(1)) > 2 * gaps[0]
    assert gaps[0] > 2 * gaps[1] > 20 * abs(gaps[2])


def test_any_draw_from_the_exact_posterior_gives_the_likelihood(linear, normal):
    """p(x|z) does not depend on z, and q(z|x) is the prior of one component."""
    linear.prior.logits[1:] = -1e4
    linear.decoder.output.weight.zero_()
    linear.encoder.mean.bias.copy_(linear.prior.means[0])
    linear.encoder.log_variance.bias.copy_(linear.prior.log_variances[0])
    x = normal(10, 6)
    expected = marginal(linear).log_prob(x).numpy()
    for n_draws in (1, 7):
        bound = _inference.importance_weighted_samples(
            linear, make_dataset(x.numpy()), n_draws
        )
        np.testing.assert_allclose(bound, expected, rtol=1e-6)


@pytest.mark.parametrize("n_draws", [1, 2, 5, 64, 100])
def test_quasi_random_draws_are_standard_normal(n_draws):
    draws = _inference.qmc_normal_samples(n_draws, 3)
    assert draws.shape == (n_draws, 1, 3)
    assert draws.isfinite().all()
    if n_draws >= 64:
        assert draws.mean().abs() < 0.05
        assert abs(draws.var() - 1) < 0.1
