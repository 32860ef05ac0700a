import copy
import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Independent, Normal

from skvade._likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Gaussian,
    Unit,
    bernoulli_log_density,
    gaussian_log_density,
)

LOCATION = torch.tensor([5.0, -3.0, 0.5, 100.0], dtype=torch.float64)
SCALE = 2.5


def tied(likelihood, location=LOCATION, scale=SCALE):
    """A likelihood for rows of this place and scale."""
    likelihood = likelihood(len(location)).double()
    likelihood.location.copy_(location)
    likelihood.scale.fill_(scale)
    return likelihood


def noisy_gaussian(**place):
    gaussian = tied(Gaussian, **place)
    gaussian.log_excess_noise.detach().fill_(-1.0)
    return gaussian


def data_distribution(gaussian, output):
    """p(x|z) in the units of the data, from torch."""
    noise = math.exp(-1.0) + 1e-6
    mean = gaussian.location + gaussian.scale * output
    return Independent(Normal(mean, gaussian.scale * math.sqrt(noise)), 1)


# --- Densities ----------------------------------------------------------------------


def test_bernoulli_log_density_of_bits(normal):
    logits, x = 3 * normal(7, 5, 4), (normal(5, 4) > 0).double()
    expected = Independent(BernoulliDistribution(logits=logits), 1).log_prob(x)
    torch.testing.assert_close(bernoulli_log_density(x, logits), expected)


def test_bernoulli_log_density_of_soft_targets(normal):
    logits, x = 3 * normal(7, 5, 4), normal(5, 4).sigmoid()
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(bernoulli_log_density(x, logits), expected)


def test_bernoulli_log_density_is_finite_where_the_probability_underflows():
    x, logits = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-1000.0, 1000.0, 1000.0])
    assert bernoulli_log_density(x, logits) == -2000


def test_gaussian_log_density(normal):
    x, mean, log_variance = normal(5, 4), normal(7, 5, 4), torch.tensor(-1.3)
    deviation = math.exp(-1.3 / 2)
    expected = Independent(Normal(mean, deviation), 1).log_prob(x)
    actual = gaussian_log_density(x, mean, log_variance.double())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_gaussian_density_is_one_of_the_data(normal):
    gaussian, output = noisy_gaussian(), normal(7, 5, 4)
    x = LOCATION + 3 * normal(5, 4)
    actual = gaussian.log_density(gaussian.standardize(x), output)
    expected = data_distribution(gaussian, output).log_prob(x)
    torch.testing.assert_close(actual, expected)


def test_gaussian_density_integrates_to_one_over_the_data():
    gaussian = noisy_gaussian(location=torch.tensor([7.0]), scale=3.0)
    x = torch.linspace(-20, 40, 10_001, dtype=torch.float64)
    output = torch.full((len(x), 1), 0.4, dtype=torch.float64)
    density = gaussian.log_density(gaussian.standardize(x[:, None]), output).exp()
    torch.testing.assert_close(torch.trapezoid(density, x).item(), 1.0)


def test_bernoulli_density_reads_the_data_in_their_own_unit(normal):
    bernoulli, logits = tied(Bernoulli, torch.zeros(4), scale=1.2), normal(5, 4)
    x = normal(5, 4).sigmoid()
    actual = bernoulli.log_density(bernoulli.standardize(x), logits)
    torch.testing.assert_close(actual, bernoulli_log_density(x, logits))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient(name, normal):
    likelihood = tied(LIKELIHOODS[name])
    x, output = normal(3, 4).sigmoid(), normal(2, 3, 4).requires_grad_()
    inputs = (output, *likelihood.parameters())
    assert gradcheck(lambda output, *_: likelihood.log_density(x, output), inputs)


# --- Units --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_restore_undoes_standardize(name, normal):
    likelihood, x = tied(LIKELIHOODS[name]), normal(5, 4)
    torch.testing.assert_close(likelihood.standardize(x), (x - LOCATION.to(x)) / SCALE)
    torch.testing.assert_close(likelihood.restore(likelihood.standardize(x)), x)


def test_means_are_in_the_units_of_the_data(normal):
    output = normal(5, 4)
    expected = LOCATION + SCALE * output
    torch.testing.assert_close(tied(Gaussian).mean(output), expected)
    torch.testing.assert_close(tied(Bernoulli).mean(output), output.sigmoid())


def test_noise_variance_is_in_the_squared_unit_of_the_data():
    noise = math.exp(-1.0) + 1e-6
    assert noisy_gaussian(scale=1.0).noise_variance.item() == pytest.approx(noise)
    expected = pytest.approx(100 * noise)
    assert noisy_gaussian(scale=10.0).noise_variance.item() == expected


def test_bernoulli_has_no_noise_variance():
    assert Bernoulli(3).noise_variance is None
    assert not list(Bernoulli(3).parameters())


def test_noise_has_a_floor(normal):
    gaussian, x = tied(Gaussian, scale=1.0), normal(5, 4)
    gaussian.log_excess_noise.detach().fill_(-1e6)
    assert gaussian.noise_variance.item() == pytest.approx(1e-6)
    best = -0.5 * 4 * math.log(2 * math.pi * 1e-6)
    torch.testing.assert_close(gaussian.log_density(x, x).mean().item(), best)


# --- Draws --------------------------------------------------------------------------


def test_moments_of_gaussian_draws(generator, normal, assert_is_mean):
    gaussian, output = noisy_gaussian(), normal(4)
    x = gaussian.draw(output.expand(40_000, 4), generator)
    expected = data_distribution(gaussian, output)
    assert_is_mean(expected.mean, x)
    assert_is_mean(expected.variance, (x - expected.mean) ** 2)


def test_moments_of_bernoulli_draws(generator, normal, assert_is_mean):
    output = normal(4)
    x = tied(Bernoulli).draw(output.expand(40_000, 4), generator)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert_is_mean(output.sigmoid(), x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_come_from_the_given_generator_alone(name, normal):
    likelihood, output = tied(LIKELIHOODS[name]), normal(50, 4)
    before = torch.get_rng_state()
    first, again, other = (
        likelihood.draw(output, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- From pretraining to the likelihood ---------------------------------------------


def output_layer(normal):
    layer = nn.Linear(3, 4).double()
    layer.weight.detach().copy_(0.1 * normal(4, 3))
    layer.bias.detach().copy_(0.1 * normal(4))
    return layer


def test_gaussian_adopts_the_residual_variance(normal):
    gaussian, layer, hidden = tied(Gaussian), output_layer(normal), normal(5, 3)
    before = layer(hidden)
    gaussian.adopt(layer, 0.03)
    assert gaussian.noise_variance.item() == pytest.approx((0.03 + 1e-6) * SCALE**2)
    assert torch.equal(layer(hidden), before)


def test_bernoulli_adopts_a_reconstruction_near_one_half(normal):
    bernoulli, layer = tied(Bernoulli, torch.zeros(4), scale=1.6), output_layer(normal)
    layer.bias.detach().mul_(0.1).add_(0.5 / 1.6)
    hidden = 0.1 * normal(20, 3)
    reconstruction = bernoulli.restore(layer(hidden))
    bernoulli.adopt(layer, 0.03)
    distance = (reconstruction - 0.5).abs()
    assert 0.02 < distance.max() < 0.2
    # The logistic function leaves its tangent at one half by at most 4/3 of the cube.
    error = (bernoulli.mean(layer(hidden)) - reconstruction).abs()
    assert (error <= 4 / 3 * distance**3 + 1e-12).all()


def test_logits_adopted_are_four_times_the_distance_from_one_half(normal):
    bernoulli, layer = tied(Bernoulli, torch.zeros(4), scale=1.6), output_layer(normal)
    hidden = normal(20, 3)
    reconstruction = bernoulli.restore(layer(hidden))
    bernoulli.adopt(layer, 0.03)
    torch.testing.assert_close(layer(hidden), 4 * (reconstruction - 0.5))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_unit_is_adopted_as_the_layer_below_it_would_be(normal, name):
    likelihood, layer = tied(LIKELIHOODS[name]), output_layer(normal)
    below, unit, hidden = copy.deepcopy(layer), Unit(4).double(), normal(20, 3)
    assert torch.equal(unit(below(hidden)), layer(hidden))
    likelihood.adopt(layer, 0.03)
    likelihood.adopt(unit, 0.03)
    torch.testing.assert_close(unit(below(hidden)), layer(hidden))
    assert not list(unit.parameters())
