"""The evidence lower bound against torch.distributions, exact marginals and draws."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from skvade._model.elbo import (
    Posterior,
    elbo,
    log_importance_weights,
    log_responsibilities,
    mixture_term,
    posterior_entropy,
    reparameterize,
    squared_error,
)
from skvade._model.likelihoods import gaussian_log_prob
from skvade._model.prior import DiagonalMixturePrior

LOG_NOISE = torch.tensor(-2.0, dtype=torch.float64)


def diagonal(mean, log_variance):
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


def components(prior):
    return diagonal(prior.means, prior.log_variances)


def latent_mixture(prior):
    return MixtureSameFamily(Categorical(logits=prior.logits), components(prior))


def sigma_points(n_samples, latent_dim):
    """Make noise of mean 0 and covariance 1: exact for polynomials of degree two."""
    points = math.sqrt(latent_dim) * torch.eye(latent_dim, dtype=torch.float64)
    return torch.cat([points, -points])[:, None].expand(-1, n_samples, -1)


def bound_at(x, posterior, prior, decode, noise, sampled=False):
    """Compute the ELBO of samples x under N(x | decode(z), exp(LOG_NOISE))."""
    draws = reparameterize(posterior, noise)
    log_likelihood = gaussian_log_prob(x, decode(draws), LOG_NOISE)
    return elbo(log_likelihood, posterior, prior, draws if sampled else None)


# --- Draws of z ---------------------------------------------------------------------


@pytest.mark.parametrize("n_noise_samples", [1, 5])
def test_draws_have_the_moments_of_the_posterior(
    make_posterior, normal, assert_is_mean, n_noise_samples
):
    posterior = make_posterior()
    z = reparameterize(posterior, normal(40_000, n_noise_samples, 3))
    assert z.shape == (40_000, 5, 3)
    assert_is_mean(posterior.mean, z)
    assert_is_mean(posterior.log_variance.exp(), (z - posterior.mean) ** 2)


# --- Each term ----------------------------------------------------------------------


def test_entropy_is_that_of_torch(make_posterior):
    posterior = make_posterior()
    torch.testing.assert_close(
        posterior_entropy(posterior), diagonal(*posterior).entropy()
    )


def test_entropy_is_the_mean_over_draws(make_posterior, normal, assert_is_mean):
    posterior = make_posterior()
    z = reparameterize(posterior, normal(40_000, 5, 3))
    assert_is_mean(posterior_entropy(posterior), -diagonal(*posterior).log_prob(z))


@pytest.mark.parametrize("n_draws", [None, 1, 6])
def test_mixture_term_is_the_mean_over_draws(
    make_prior, make_posterior, normal, assert_is_mean, n_draws
):
    prior, posterior = make_prior(), make_posterior()
    draws = n_draws and reparameterize(posterior, normal(n_draws, 5, 3))
    log_r = log_responsibilities(prior, posterior, draws)
    z = reparameterize(posterior, normal(40_000, 5, 3))
    log_joint = Categorical(logits=prior.logits).logits + components(prior).log_prob(
        z[..., None, :]
    )
    terms = (log_r.exp() * (log_joint - log_r)).sum(-1)
    assert_is_mean(mixture_term(prior, posterior, draws)[0], terms)


def test_reconstruction_is_the_mean_over_draws(make_prior, make_posterior, normal):
    log_likelihood = normal(7, 5)
    terms = elbo(log_likelihood, make_posterior(), make_prior())
    torch.testing.assert_close(terms.reconstruction, log_likelihood.mean(0))


@pytest.mark.parametrize("sampled", [False, True])
def test_total_is_the_sum_of_the_terms(make_prior, make_posterior, normal, sampled):
    prior, posterior = make_prior(), make_posterior()
    draws = reparameterize(posterior, normal(7, 5, 3)) if sampled else None
    terms = elbo(normal(7, 5), posterior, prior, draws)
    mixture, log_r = mixture_term(prior, posterior, draws)
    torch.testing.assert_close(terms.mixture, mixture)
    torch.testing.assert_close(terms.log_responsibilities, log_r)
    torch.testing.assert_close(log_r, log_responsibilities(prior, posterior, draws))
    torch.testing.assert_close(terms.latent, terms.mixture + terms.entropy)
    torch.testing.assert_close(terms.total, terms.reconstruction + terms.latent)


# --- Responsibilities ---------------------------------------------------------------


@pytest.mark.parametrize("n_draws", [None, 1, 6])
def test_responsibilities_sum_to_one(make_prior, make_posterior, normal, n_draws):
    prior, posterior = make_prior(), make_posterior()
    draws = n_draws and reparameterize(posterior, normal(n_draws, 5, 3))
    log_r = log_responsibilities(prior, posterior, draws)
    assert log_r.shape == (5, 4)
    torch.testing.assert_close(log_r.exp().sum(-1), torch.ones(5).double())


def test_sampled_responsibilities_are_posteriors_of_the_mixture(
    make_prior, make_posterior, normal
):
    prior, posterior = make_prior(), make_posterior()
    draws = reparameterize(posterior, normal(6, 5, 3))
    densities = components(prior).log_prob(draws[..., None, :]).exp()
    joint = Categorical(logits=prior.logits).probs * densities
    expected = (joint / joint.sum(-1, keepdim=True)).mean(0)
    actual = log_responsibilities(prior, posterior, draws).exp()
    torch.testing.assert_close(actual, expected)


def test_expected_responsibilities_maximize_the_bound(
    make_prior, make_posterior, normal
):
    prior, posterior = make_prior(), make_posterior()
    log_joint = prior.expected_log_joint(posterior.mean, posterior.log_variance.exp())
    optimum = log_responsibilities(prior, posterior)
    nearby = (optimum + 0.1 * normal(500, 5, 4)).log_softmax(-1)
    anywhere = (3 * normal(500, 5, 4)).log_softmax(-1)
    log_r = torch.cat([nearby, anywhere])
    others = (log_r.exp() * (log_joint - log_r)).sum(-1)
    best = mixture_term(prior, posterior)[0]
    assert (others < best).all()
    at_optimum = (optimum.exp() * (log_joint - optimum)).sum(-1)
    torch.testing.assert_close(at_optimum, best)


@pytest.mark.parametrize("n_draws", [1, 10])
def test_expected_bound_is_tighter_than_the_sampled_one(
    make_prior, make_posterior, normal, n_draws
):
    prior, posterior = make_prior(), make_posterior(n_samples=200)
    draws = reparameterize(posterior, normal(n_draws, 200, 3))
    gain = mixture_term(prior, posterior)[0] - mixture_term(prior, posterior, draws)[0]
    assert (gain >= -1e-12).all()
    assert gain.max() > 0.1


def test_sampled_responsibilities_tend_to_expected_ones_as_the_posterior_narrows(
    make_prior, normal
):
    prior, mean = make_prior(), normal(50, 3)
    differences = []
    for variance in (1e-2, 1e-4, 1e-10):
        posterior = Posterior(mean, torch.full_like(mean, math.log(variance)))
        draws = reparameterize(posterior, normal(1, 50, 3))
        sampled = log_responsibilities(prior, posterior, draws).exp()
        expected = log_responsibilities(prior, posterior).exp()
        differences.append((sampled - expected).abs().max().item())
    assert differences[0] > differences[1] > differences[2]
    assert differences[2] < 1e-3


# --- The bound ----------------------------------------------------------------------


def test_one_component_gives_the_divergence_of_a_plain_vae(make_prior, make_posterior):
    prior, posterior = make_prior(n_components=1), make_posterior()
    terms = elbo(torch.zeros(1, 5), posterior, prior)
    expected = -kl_divergence(diagonal(*posterior), components(prior))
    torch.testing.assert_close(terms.latent, expected)


def test_standard_normal_component_gives_the_textbook_divergence(make_posterior):
    posterior = make_posterior()
    prior = DiagonalMixturePrior(1, 3, reg_covar=0).double()
    mean, log_variance = posterior
    textbook = 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)
    terms = elbo(torch.zeros(1, 5), posterior, prior)
    torch.testing.assert_close(terms.latent, textbook)


def test_latent_terms_are_at_most_minus_the_divergence_from_the_mixture(
    make_prior, make_posterior, normal
):
    prior, posterior = make_prior(), make_posterior()
    z = reparameterize(posterior, normal(20_000, 5, 3))
    log_ratio = latent_mixture(prior).log_prob(z) - diagonal(*posterior).log_prob(z)
    error = log_ratio.std(0) / math.sqrt(len(z))
    latent = elbo(torch.zeros(1, 5), posterior, prior).latent
    assert (latent <= log_ratio.mean(0) + 6 * error).all()


def orthogonal_decoder(normal, n_features=5, latent_dim=3):
    """Make a matrix (L, D) with orthogonal rows of unequal lengths, and an offset."""
    directions = torch.linalg.qr(normal(n_features, latent_dim)).Q.T
    return directions * normal(latent_dim, 1), normal(n_features)


def exact_posterior(x, prior, matrix, offset):
    """Compute p(z|x) of a linear decoder with orthogonal directions: it is diagonal."""
    precision = prior.log_variances[0].neg().exp()
    noise = LOG_NOISE.exp()
    posterior_precision = precision + matrix.square().sum(1) / noise
    pull = precision * prior.means[0] + (x - offset) @ matrix.T / noise
    mean = pull / posterior_precision
    return Posterior(mean, -posterior_precision.log().expand_as(mean))


def marginals(prior, matrix, offset):
    """Compute p(x|c) of a linear decoder, for all components at once."""
    variances = prior.log_variances.exp()
    covariances = matrix.T @ (variances[:, :, None] * matrix)
    noise = LOG_NOISE.exp() * torch.eye(len(offset), dtype=torch.float64)
    return MultivariateNormal(prior.means @ matrix + offset, covariances + noise)


@pytest.mark.parametrize("sampled", [False, True])
def test_bound_is_the_marginal_where_the_posterior_is_exact(
    make_prior, normal, sampled
):
    prior, x = make_prior(n_components=1), 2 * normal(6, 5)
    matrix, offset = orthogonal_decoder(normal)
    posterior = exact_posterior(x, prior, matrix, offset)
    noise = sigma_points(6, 3)
    terms = bound_at(x, posterior, prior, lambda z: z @ matrix + offset, noise, sampled)
    expected = marginals(prior, matrix, offset).log_prob(x[:, None])[:, 0]
    torch.testing.assert_close(terms.total, expected)


@pytest.mark.parametrize("sampled", [False, True])
def test_bound_is_at_most_the_marginal_of_a_mixture(make_prior, normal, sampled):
    prior, x = make_prior(), 2 * normal(100, 5)
    matrix, offset = orthogonal_decoder(normal)
    near_exact = exact_posterior(x, prior, matrix, offset)
    posterior = Posterior(*(t + 0.1 * normal(100, 3) for t in near_exact))
    noise = sigma_points(100, 3)
    terms = bound_at(x, posterior, prior, lambda z: z @ matrix + offset, noise, sampled)
    log_joint = prior.log_weights + marginals(prior, matrix, offset).log_prob(
        x[:, None]
    )
    assert (terms.total < log_joint.logsumexp(-1)).all()


def importance_weights(x, prior, decode, z, proposal):
    """Compute the logarithms of p(x, z) / proposal(z), (S, B)."""
    log_likelihood = diagonal(decode(z), LOG_NOISE.expand(x.shape[1])).log_prob(x)
    return latent_mixture(prior).log_prob(z) + log_likelihood - proposal.log_prob(z)


def best_posterior(x, prior, decode, noise):
    """Find the posterior of the highest bound: the hardest test of an upper limit."""
    start = torch.zeros(2, len(x), 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([start], max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = -bound_at(x, Posterior(*start), prior, decode, noise).total.sum()
        value.backward()
        return value

    optimizer.step(loss)
    return Posterior(*start.detach())


def test_bound_is_at_most_an_importance_weighted_estimate(make_prior, normal):
    """The relative error of the estimate is the weights' deviation over sqrt(S)."""
    prior, x, matrix = make_prior(), normal(5, 6) / 2, normal(3, 6) / 3

    def decode(z):
        return torch.sin(z @ matrix)

    posterior = best_posterior(x, prior, decode, normal(100, 5, 3))
    noise = normal(40_000, 5, 3)
    bound = bound_at(x, posterior, prior, decode, noise).total
    proposal = Independent(Normal(torch.zeros(5, 3).double(), 2.0), 1)
    log_w = importance_weights(x, prior, decode, 2 * noise, proposal)
    estimate = log_w.logsumexp(0) - math.log(len(log_w))
    relative_error = (log_w - estimate).exp().std(0) / math.sqrt(len(log_w))
    assert (relative_error < 0.05).all()
    assert (bound <= estimate + 6 * relative_error).all()
    assert (bound > estimate - 1).all()


@pytest.mark.parametrize("sampled", [False, True])
def test_gradient_of_the_bound(make_prior, make_posterior, normal, sampled):
    prior, x, noise = make_prior(), normal(2, 5), normal(3, 2, 3)
    posterior = [t.requires_grad_() for t in make_posterior(n_samples=2)]
    matrix = normal(3, 5).requires_grad_()

    def total(mean, log_variance, matrix, *_):
        q = Posterior(mean, log_variance)
        return bound_at(x, q, prior, lambda z: z @ matrix, noise, sampled).total

    assert gradcheck(total, (*posterior, matrix, *prior.parameters()))


# --- Squared error ------------------------------------------------------------------


def test_squared_error_is_the_mean_over_features(normal):
    x, output = normal(5, 4), normal(5, 4)
    expected = [nn.functional.mse_loss(a, b) for a, b in zip(x, output, strict=True)]
    torch.testing.assert_close(squared_error(x, output), torch.stack(expected))


def test_squared_error_counts_all_observed_entries_alike(normal):
    x, output = normal(6, 4), normal(6, 4)
    mask = (normal(6, 4) > -0.5).double()
    mask[0] = torch.tensor([1, 0, 0, 0])
    errors = squared_error(x, output, mask)
    expected = (output - x)[mask.bool()].square()
    torch.testing.assert_close(errors.mean(), expected.mean())
    changed = torch.where(mask.bool(), x, 1e6)
    torch.testing.assert_close(squared_error(changed, output, mask), errors)
    complete = squared_error(x, output, torch.ones_like(x))
    torch.testing.assert_close(complete, squared_error(x, output))


# --- Importance weights -------------------------------------------------------------


def test_importance_weights_are_ratios_of_densities(make_prior, make_posterior, normal):
    prior, posterior, log_likelihood = make_prior(), make_posterior(), normal(7, 5)
    noise = normal(7, 5, 3)
    z = reparameterize(posterior, noise)
    expected = (
        log_likelihood
        + latent_mixture(prior).log_prob(z)
        - diagonal(*posterior).log_prob(z)
    )
    actual = log_importance_weights(log_likelihood, noise, posterior, prior)
    torch.testing.assert_close(actual, expected)


def test_importance_weights_are_right_where_the_variance_underflows(
    make_prior, make_posterior, normal
):
    """The variance rounds to zero, its logarithm does not."""
    prior, log_likelihood, noise = make_prior(), normal(7, 5), normal(7, 5, 3)
    mean, log_variance = make_posterior()
    narrow = Posterior(mean, torch.full_like(log_variance, -2000.0))
    log_q = Normal(0.0, 1.0).log_prob(noise).sum(-1) + 0.5 * 2000 * 3
    expected = log_likelihood + latent_mixture(prior).log_prob(mean) - log_q
    actual = log_importance_weights(log_likelihood, noise, narrow, prior)
    torch.testing.assert_close(actual, expected)
