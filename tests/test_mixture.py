import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.autograd import gradcheck
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skvade._mixture import (
    MixturePrior,
    average_log_responsibilities,
    expected_log_density,
    log_add_floor,
)


def components(prior):
    return Independent(Normal(prior.means, prior.log_variances.exp().sqrt()), 1)


def as_gaussian_mixture(prior):
    """The same mixture as scikit-learn's."""
    mixture = GaussianMixture(len(prior.logits), covariance_type="diag")
    mixture.weights_ = prior.log_weights.exp().numpy(force=True)
    mixture.means_ = prior.means.numpy(force=True)
    mixture.covariances_ = prior.log_variances.exp().numpy(force=True)
    mixture.precisions_cholesky_ = mixture.covariances_**-0.5
    return mixture


def far_problem(normal, offset):
    """A point, a variance, means and log-variances, all around an offset."""
    means = offset + 2 * normal(4, 3)
    return offset + 2 * normal(50, 3), normal(50, 3).exp(), means, normal(4, 3)


def sum_over_features(mean, variance, means, log_variances):
    """E[log N] without expanding the square, through a (..., K, L) tensor."""
    deviation = mean[..., None, :] - means
    ratio = (variance[..., None, :] + deviation**2) / log_variances.exp()
    return -0.5 * (math.log(2 * math.pi) + log_variances + ratio).sum(-1)


# --- Densities ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_log_joint_is_log_weight_plus_log_density(make_prior, normal, shape):
    prior, z = make_prior(), 2 * normal(*shape)
    weights = Categorical(logits=prior.logits).probs
    expected = weights.log() + components(prior).log_prob(z[..., None, :])
    torch.testing.assert_close(prior.log_joint(z), expected)


def test_log_joint_sums_to_the_density_of_the_mixture(make_prior, normal):
    prior, z = make_prior(), 2 * normal(20, 3)
    mixture = MixtureSameFamily(Categorical(logits=prior.logits), components(prior))
    torch.testing.assert_close(prior.log_joint(z).logsumexp(-1), mixture.log_prob(z))


def test_expected_log_joint_is_the_mean_over_draws(
    make_prior, make_posterior, normal, assert_is_mean
):
    prior, (mean, log_variance) = make_prior(), make_posterior()
    z = mean + log_variance.exp().sqrt() * normal(40_000, *mean.shape)
    draws = prior.log_weights + components(prior).log_prob(z[..., None, :])
    assert_is_mean(prior.expected_log_joint(mean, log_variance.exp()), draws)


def test_softmax_of_log_joint_is_what_gaussian_mixture_predicts(make_prior, normal):
    prior, z = make_prior(), 2 * normal(20, 3)
    expected = as_gaussian_mixture(prior).predict_proba(z.numpy())
    actual = prior.log_joint(z).softmax(-1).numpy(force=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_a_point_is_a_gaussian_without_variance(make_prior, normal):
    prior, z = make_prior(), normal(20, 3)
    narrow = prior.expected_log_joint(z, torch.full_like(z, 1e-14))
    torch.testing.assert_close(narrow, prior.log_joint(z))


# --- Accuracy -----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1e4, 1e7])
def test_float64_keeps_its_accuracy_far_from_the_origin(normal, offset):
    problem = far_problem(normal, offset)
    expected = sum_over_features(*problem)
    actual = expected_log_density(*problem)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 10, 1000])
def test_float32_keeps_its_accuracy_away_from_the_origin(normal, offset):
    problem = [t.float() for t in far_problem(normal, offset)]
    expected = sum_over_features(*(t.double() for t in problem))
    actual = expected_log_density(*problem).double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


def test_log_add_floor_is_the_log_of_the_sum():
    log_excess = torch.linspace(-5, 5, 11, dtype=torch.float64)
    expected = (log_excess.exp() + 0.1).log()
    torch.testing.assert_close(log_add_floor(log_excess, math.log(0.1)), expected)


def test_log_add_floor_holds_at_both_ends():
    ends = torch.tensor([-math.inf, -1e6, 1e6], dtype=torch.float64)
    assert log_add_floor(ends, -7.0).tolist() == [-7.0, -7.0, 1e6]


def test_no_floor_changes_nothing():
    log_excess = torch.tensor([-800.0, 0.0, 800.0], requires_grad=True)
    actual = log_add_floor(log_excess, -math.inf)
    assert torch.equal(actual, log_excess)
    actual.sum().backward()
    assert torch.equal(log_excess.grad, torch.ones(3))


# --- Responsibilities averaged over draws -------------------------------------------


def test_average_log_responsibilities_is_the_log_of_the_average(normal):
    log_joint = normal(7, 5, 4)
    expected = log_joint.softmax(-1).mean(0).log()
    torch.testing.assert_close(average_log_responsibilities(log_joint), expected)


def test_average_log_responsibilities_is_finite_where_the_average_underflows(normal):
    log_joint = 1e4 * normal(2, 5, 4)
    average = average_log_responsibilities(log_joint)
    assert average.isfinite().all()
    assert (average.exp() == 0).any()
    torch.testing.assert_close(average.exp().sum(-1), torch.ones(5).double())


# --- The parameters stay in their domain --------------------------------------------


def shove(prior, normal, size):
    """Move every parameter by a large random step."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(size * normal(*parameter.shape))


@pytest.mark.parametrize("size", [1, 30, 1000])
def test_weights_and_variances_stay_in_their_domain(make_prior, normal, size):
    prior = make_prior(reg_covar=1e-3)
    for _ in range(10):
        shove(prior, normal, size)
        weights, variances = prior.log_weights.exp(), prior.log_variances.exp()
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0).double())
        assert (weights >= 0).all()
        assert (variances >= 1e-3 * (1 - 1e-12)).all()


def test_gradient_steps_keep_a_distribution(make_prior, normal):
    prior, z = make_prior(), normal(20, 3)
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        prior.log_joint(z).sum().backward()
        optimizer.step()
    torch.testing.assert_close(prior.log_weights.exp().sum().item(), 1.0)
    assert (prior.log_variances.exp() >= 1e-3 * (1 - 1e-12)).all()


def test_gradient_ascent_finds_the_moments_of_one_component(normal):
    z = 3 + 2 * normal(200, 2)
    prior = MixturePrior(1, 2, reg_covar=1e-3).double()
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = -prior.log_joint(z).mean()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(prior.means[0], z.mean(0), rtol=1e-4, atol=0)
    variances = prior.log_variances[0].exp()
    torch.testing.assert_close(variances, z.var(0, correction=0), rtol=1e-4, atol=0)


# --- Values from elsewhere ----------------------------------------------------------


@pytest.mark.parametrize("reg_covar", [0, 1e-6, 1e-2])
def test_assign_keeps_the_mixture(normal, reg_covar):
    weights = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    means, variances = normal(3, 2), normal(3, 2).exp() + reg_covar
    prior = MixturePrior(3, 2, reg_covar).double()
    prior.assign(weights, means, variances)
    torch.testing.assert_close(prior.log_weights.exp(), weights)
    torch.testing.assert_close(prior.means.detach(), means)
    torch.testing.assert_close(prior.log_variances.exp(), variances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_assign_raises_variances_to_the_floor(dtype):
    prior = MixturePrior(1, 3, reg_covar=1e-2).to(dtype)
    variances = torch.tensor([[0.0, 1e-3, 1e-2]], dtype=dtype)
    prior.assign(torch.ones(1), torch.zeros(1, 3), variances)
    assert all(parameter.isfinite().all() for parameter in prior.parameters())
    floor = torch.full((1, 3), 1e-2, dtype=dtype)
    torch.testing.assert_close(prior.log_variances.exp(), floor)


def test_permute_renumbers_the_components(make_prior, normal):
    prior, z, order = make_prior(), normal(5, 3), torch.tensor([2, 0, 3, 1])
    before = prior.log_joint(z).detach()
    prior.permute(order)
    torch.testing.assert_close(prior.log_joint(z), before[:, order])


# --- Gradients ----------------------------------------------------------------------


def test_gradient_of_expected_log_density(normal):
    mean, variance, means, log_variances = far_problem(normal, offset=2)
    inputs = (mean[:3], variance[:3], means, log_variances)
    assert gradcheck(expected_log_density, [t.requires_grad_() for t in inputs])


def test_gradient_of_the_prior(make_prior, normal):
    prior, z = make_prior(), normal(3, 3)
    assert gradcheck(lambda *_: prior.log_joint(z), tuple(prior.parameters()))


def test_gradient_of_average_log_responsibilities(normal):
    log_joint = normal(2, 3, 4).requires_grad_()
    assert gradcheck(average_log_responsibilities, log_joint)
