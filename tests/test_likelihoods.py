"""The likelihoods against torch.distributions, in the units of the data."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Independent, Normal

from skvade._data.scaling import Scaling
from skvade._model.likelihoods import (
    LIKELIHOODS,
    AffineOutput,
    Bernoulli,
    Gaussian,
    bernoulli_log_prob,
    gaussian_log_prob,
    masked_sum,
    n_observed,
)

LOCATION = torch.tensor([5.0, -3.0, 0.5, 100.0], dtype=torch.float64)
SCALE = 2.5


def make_likelihood(kind, location=LOCATION, scale=SCALE):
    """Make a likelihood of data of this location and scale."""
    likelihood = kind(len(location)).double()
    location = location.numpy()
    likelihood.set_scaling(Scaling(location, scale, feature_mean=location + 1))
    return likelihood


def make_gaussian(**scaling):
    """Make one of noise variance exp(-1) + 1e-6 in standardized units."""
    gaussian = make_likelihood(Gaussian, **scaling)
    gaussian.raw_log_noise_variance.detach().fill_(-1.0)
    return gaussian


def make_bernoulli(scale):
    return make_likelihood(Bernoulli, torch.zeros(4), scale)


def data_distribution(gaussian, output):
    """Make p(x|z) in the units of the data, by torch."""
    noise = math.exp(-1.0) + 1e-6
    mean = gaussian.location + gaussian.scale * output
    return Independent(Normal(mean, gaussian.scale * math.sqrt(noise)), 1)


# --- Densities ----------------------------------------------------------------------


def test_bernoulli_log_prob_of_bits(normal):
    logits, x = 3 * normal(7, 5, 4), (normal(5, 4) > 0).double()
    expected = Independent(BernoulliDistribution(logits=logits), 1).log_prob(x)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), expected)


def test_bernoulli_log_prob_of_soft_targets(normal):
    logits, x = 3 * normal(7, 5, 4), normal(5, 4).sigmoid()
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), expected)


def test_bernoulli_log_prob_is_finite_where_the_probability_underflows():
    x, logits = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-1000.0, 1000.0, 1000.0])
    assert bernoulli_log_prob(x, logits) == -2000


def test_gaussian_log_prob(normal):
    x, mean, log_variance = normal(5, 4), normal(7, 5, 4), torch.tensor(-1.3)
    deviation = math.exp(-1.3 / 2)
    expected = Independent(Normal(mean, deviation), 1).log_prob(x)
    actual = gaussian_log_prob(x, mean, log_variance.double())
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_gaussian_log_prob_is_a_density_of_the_data(normal):
    gaussian, output = make_gaussian(), normal(7, 5, 4)
    x = LOCATION + 3 * normal(5, 4)
    actual = gaussian.log_prob(gaussian.standardize(x), output)
    expected = data_distribution(gaussian, output).log_prob(x)
    torch.testing.assert_close(actual, expected)


def test_gaussian_density_of_the_data_integrates_to_one():
    gaussian = make_gaussian(location=torch.tensor([7.0]), scale=3.0)
    x = torch.linspace(-20, 40, 10_001, dtype=torch.float64)
    output = torch.full((len(x), 1), 0.4, dtype=torch.float64)
    density = gaussian.log_prob(gaussian.standardize(x[:, None]), output).exp()
    torch.testing.assert_close(torch.trapezoid(density, x).item(), 1.0)


def test_bernoulli_log_prob_is_of_the_data_in_their_own_units(normal):
    bernoulli, logits = make_bernoulli(scale=1.2), normal(5, 4)
    x = normal(5, 4).sigmoid()
    actual = bernoulli.log_prob(bernoulli.standardize(x), logits)
    torch.testing.assert_close(actual, bernoulli_log_prob(x, logits))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_sums_over_the_observed_entries(name, normal):
    likelihood, output = make_likelihood(LIKELIHOODS[name]), normal(7, 5, 4)
    x, mask = normal(5, 4).sigmoid(), (normal(5, 4) > 0).double()
    # One feature at a time: the others are left out of the sample.
    one_hot = torch.eye(4, dtype=torch.float64)[:, None, None]
    each = torch.stack([likelihood.log_prob(x, output, row) for row in one_hot], -1)
    torch.testing.assert_close(each.sum(-1), likelihood.log_prob(x, output))
    expected = (each * mask).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x, output, mask), expected)


def test_masked_sum_ignores_what_is_missing():
    values = torch.tensor([[1.0, math.nan, 2.0], [math.inf, 4.0, 8.0]])
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert masked_sum(values, mask).tolist() == [3, 12]
    assert masked_sum(values[:, 2:], None).tolist() == [2, 8]


def test_n_observed_counts_the_features_of_each_sample():
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert n_observed(torch.zeros(2, 3), mask).tolist() == [2, 1]
    assert n_observed(torch.zeros(2, 3), None) == 3


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_of_log_prob(name, normal):
    likelihood = make_likelihood(LIKELIHOODS[name])
    x, output = normal(3, 4).sigmoid(), normal(2, 3, 4).requires_grad_()
    inputs = (output, *likelihood.parameters())
    assert gradcheck(lambda output, *_: likelihood.log_prob(x, output), inputs)


# --- Units --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_unstandardize_inverts_standardize(name, normal):
    likelihood, x = make_likelihood(LIKELIHOODS[name]), normal(5, 4)
    torch.testing.assert_close(likelihood.standardize(x), (x - LOCATION.to(x)) / SCALE)
    torch.testing.assert_close(likelihood.unstandardize(likelihood.standardize(x)), x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_standardize_puts_the_mean_of_the_feature_in_the_place_of_nan(name, normal):
    likelihood, x = make_likelihood(LIKELIHOODS[name]), normal(5, 4)
    expected = likelihood.standardize(x)
    expected[1, 2] = 1 / SCALE  # the mean of each feature is its location plus one
    x[1, 2] = math.nan
    torch.testing.assert_close(likelihood.standardize(x), expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_standardized_mean_is_the_mean_standardized(name, normal):
    likelihood, output = make_likelihood(LIKELIHOODS[name]), normal(2, 5, 4)
    expected = likelihood.standardize(likelihood.mean(output))
    torch.testing.assert_close(likelihood.standardized_mean(output), expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_encoder_gets_standardized_samples(name, normal):
    x = normal(5, 4)
    assert torch.equal(make_likelihood(LIKELIHOODS[name]).encoder_input(x), x)


def test_support_and_centering():
    assert Gaussian.support == (-math.inf, math.inf)
    assert Gaussian.centered
    assert Bernoulli.support == (0, 1)
    assert not Bernoulli.centered


def test_means_are_in_the_units_of_the_data(normal):
    output = normal(5, 4)
    expected = LOCATION + SCALE * output
    torch.testing.assert_close(make_likelihood(Gaussian).mean(output), expected)
    torch.testing.assert_close(
        make_likelihood(Bernoulli).mean(output), output.sigmoid()
    )


def test_noise_variance_is_in_the_squared_unit_of_the_data():
    noise = math.exp(-1.0) + 1e-6
    assert make_gaussian(scale=1.0).noise_variance.item() == pytest.approx(noise)
    expected = pytest.approx(100 * noise)
    assert make_gaussian(scale=10.0).noise_variance.item() == expected


def test_bernoulli_has_no_parameters():
    assert Bernoulli(3).fitted_attributes() == {}
    assert not list(Bernoulli(3).parameters())


def test_noise_variance_has_a_floor(normal):
    gaussian, x = make_likelihood(Gaussian, scale=1.0), normal(5, 4)
    gaussian.raw_log_noise_variance.detach().fill_(-1e6)
    assert gaussian.noise_variance.item() == pytest.approx(1e-6)
    best = -0.5 * 4 * math.log(2 * math.pi * 1e-6)
    torch.testing.assert_close(gaussian.log_prob(x, x).mean().item(), best)


@pytest.mark.parametrize(
    "dtype, rtol", [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str
)
def test_fitted_attributes_round_trip(dtype, rtol):
    gaussian = make_gaussian().to(dtype)
    attributes = gaussian.fitted_attributes()
    assert set(attributes) == {"noise_variance_"}
    assert type(attributes["noise_variance_"]) is float
    loaded = make_likelihood(Gaussian).to(dtype)
    loaded.load_fitted_attributes(attributes)
    assert loaded.raw_log_noise_variance.dtype == dtype
    noise_variance = loaded.fitted_attributes()["noise_variance_"]
    assert noise_variance == pytest.approx(attributes["noise_variance_"], rel=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_noise_variance_at_its_floor_is_loaded(dtype):
    gaussian = make_likelihood(Gaussian).to(dtype)
    gaussian.load_fitted_attributes({"noise_variance_": 1e-6 * SCALE**2})
    assert gaussian.raw_log_noise_variance.isfinite()
    assert gaussian.noise_variance.item() == pytest.approx(1e-6 * SCALE**2)


# --- Draws --------------------------------------------------------------------------


def test_moments_of_gaussian_draws(generator, normal, assert_is_mean):
    gaussian, output = make_gaussian(), normal(4)
    x = gaussian.sample(output.expand(40_000, 4), generator)
    expected = data_distribution(gaussian, output)
    assert_is_mean(expected.mean, x)
    assert_is_mean(expected.variance, (x - expected.mean) ** 2)


def test_moments_of_bernoulli_draws(generator, normal, assert_is_mean):
    output = normal(4)
    x = make_likelihood(Bernoulli).sample(output.expand(40_000, 4), generator)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert_is_mean(output.sigmoid(), x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_use_the_given_generator_alone(name, normal):
    likelihood, output = make_likelihood(LIKELIHOODS[name]), normal(50, 4)
    before = torch.get_rng_state()
    first, again, other = (
        likelihood.sample(output, torch.Generator().manual_seed(seed))
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


def test_gaussian_starts_with_the_residual_variance(normal):
    gaussian, layer, hidden = (
        make_likelihood(Gaussian),
        output_layer(normal),
        normal(5, 3),
    )
    before = layer(hidden)
    gaussian.initialize_output(layer, 0.03)
    assert gaussian.noise_variance.item() == pytest.approx((0.03 + 1e-6) * SCALE**2)
    assert torch.equal(layer(hidden), before)


def test_bernoulli_starts_with_the_reconstruction_near_one_half(normal):
    bernoulli, layer = make_bernoulli(scale=1.6), output_layer(normal)
    layer.bias.detach().mul_(0.1).add_(0.5 / 1.6)
    hidden = 0.1 * normal(20, 3)
    reconstruction = bernoulli.unstandardize(layer(hidden))
    bernoulli.initialize_output(layer, 0.03)
    distance = (reconstruction - 0.5).abs()
    assert 0.02 < distance.max() < 0.2
    # The logistic function leaves its tangent at one half by at most 4/3 of the cube.
    error = (bernoulli.mean(layer(hidden)) - reconstruction).abs()
    assert (error <= 4 / 3 * distance**3 + 1e-12).all()


def test_initial_logits_are_four_times_the_distance_from_one_half(normal):
    bernoulli, layer = make_bernoulli(scale=1.6), output_layer(normal)
    hidden = normal(20, 3)
    reconstruction = bernoulli.unstandardize(layer(hidden))
    bernoulli.initialize_output(layer, 0.03)
    torch.testing.assert_close(layer(hidden), 4 * (reconstruction - 0.5))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_an_affine_output_is_rescaled_as_the_layer_below_it_would_be(normal, name):
    likelihood, layer = make_likelihood(LIKELIHOODS[name]), output_layer(normal)
    below, affine, hidden = (
        copy.deepcopy(layer),
        AffineOutput(4).double(),
        normal(20, 3),
    )
    assert torch.equal(affine(below(hidden)), layer(hidden))
    likelihood.initialize_output(layer, 0.03)
    likelihood.initialize_output(affine, 0.03)
    torch.testing.assert_close(affine(below(hidden)), layer(hidden))
    assert not list(affine.parameters())
