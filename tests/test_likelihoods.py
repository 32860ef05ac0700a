"""The likelihoods against torch.distributions, in the units of the data."""

import copy
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multinomial, nbinom, poisson
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
    Multinomial,
    NegativeBinomial,
    Poisson,
    bernoulli_log_prob,
    gaussian_log_prob,
    masked_sum,
    multinomial_log_prob,
    n_observed,
    negative_binomial_log_prob,
    poisson_log_prob,
)

LOCATION = torch.tensor([5.0, -3.0, 0.5, 100.0], dtype=torch.float64)
SCALE = 2.5
MEAN_COUNT = np.array([4.0, 0.5, 20.0, 1.5])

NOT_OF_COUNTS = ["bernoulli", "categorical", "gaussian"]
OF_COUNTS = sorted({*LIKELIHOODS} - {*NOT_OF_COUNTS})


def make_likelihood(kind, location=LOCATION, scale=SCALE, **options):
    """Make a likelihood of data of this location and scale, or of these counts."""
    likelihood = kind(len(location), **options).double()
    location = location.numpy()
    mean_count = MEAN_COUNT if kind.of_counts else None
    scaling = Scaling(location, scale, location + 1, mean_count)
    likelihood.set_scaling(scaling)
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


@pytest.mark.parametrize("name", NOT_OF_COUNTS)
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


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_gaussian_of_a_noise_variance_for_each_feature(normal, missing):
    gaussian = make_likelihood(Gaussian, noise="feature")
    raw = torch.tensor([-4.0, -2.0, 0.0, 1.0])
    gaussian.raw_log_noise_variance.detach().copy_(raw)
    x, output = LOCATION + 3 * normal(5, 4), normal(7, 5, 4)
    mask = (normal(5, 4) > 0).double() if missing else torch.ones(5, 4)
    noise_variance = SCALE**2 * (raw.double().exp() + 1e-6)
    noise = Normal(LOCATION + SCALE * output, noise_variance.sqrt())
    expected = (noise.log_prob(x) * mask).sum(-1)
    actual = gaussian.log_prob(
        gaussian.standardize(x), output, mask if missing else None
    )
    torch.testing.assert_close(actual, expected)
    attributes = gaussian.fitted_attributes()
    assert_allclose(attributes["noise_variance_"], noise_variance)
    loaded = make_likelihood(Gaussian, noise="feature")
    loaded.load_fitted_attributes(attributes)
    assert_allclose(loaded.noise_variance.detach(), noise_variance)


def test_draws_have_the_noise_variance_of_the_feature(
    generator, normal, assert_is_mean
):
    gaussian, output = make_likelihood(Gaussian, noise="feature"), normal(4)
    raw = torch.tensor([-4.0, -2.0, 0.0, 1.0])
    gaussian.raw_log_noise_variance.detach().copy_(raw)
    x = gaussian.sample(output.expand(40_000, 4), generator).detach()
    mean = LOCATION + SCALE * output
    assert_is_mean(SCALE**2 * (raw.double().exp() + 1e-6), (x - mean) ** 2)


def test_the_noise_variance_of_each_feature_starts_at_the_residual(normal):
    gaussian = make_likelihood(Gaussian, noise="feature")
    gaussian.initialize_output(output_layer(normal), 0.03)
    expected = np.full(4, (0.03 + 1e-6) * SCALE**2)
    assert_allclose(gaussian.fitted_attributes()["noise_variance_"], expected, 1e-6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_of_log_prob(name, normal):
    likelihood = make_likelihood(LIKELIHOODS[name])
    x, output = normal(3, 4).sigmoid(), normal(2, 3, 4).requires_grad_()
    inputs = (output, *likelihood.parameters())
    assert gradcheck(lambda output, *_: likelihood.log_prob(x, output), inputs)


# --- Counts -------------------------------------------------------------------------


def log_softmax(output, mask=None):
    """Compute the shares of the observed features, the others relative to these."""
    p = output.exp()
    total = p if mask is None else p * mask
    return (p / total.sum(-1, keepdim=True)).log()


@pytest.fixture
def counts(generator):
    """Samples of 4 features; one has no count."""
    rates = torch.tensor(MEAN_COUNT).expand(5, 4)
    counts = torch.poisson(rates, generator)
    counts[2] = 0
    return counts


def make_negative_binomial(**options):
    """Make one of dispersions between 0.14 and 1.65."""
    likelihood = make_likelihood(NegativeBinomial, **options)
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5])
    likelihood.raw_log_dispersion.detach().copy_(values)
    return likelihood


DISPERSION = np.exp([-2.0, -1.0, 0.0, 0.5]) + 1e-4


def scipy_log_prob(name, counts, rates):
    """Compute the log-probability of each sample of complete counts by SciPy."""
    if name == "poisson":
        return poisson.logpmf(counts, rates).sum(-1)
    if name == "negative_binomial":
        n = 1 / DISPERSION
        return nbinom.logpmf(counts, n, n / (n + rates)).sum(-1)
    rates = rates / rates.sum(-1, keepdims=True)
    return multinomial.logpmf(counts, counts.sum(-1), rates)


def make_of_counts(name, **options):
    if name == "negative_binomial":
        return make_negative_binomial(**options)
    return make_likelihood(LIKELIHOODS[name], **options)


@pytest.mark.parametrize("name", OF_COUNTS)
def test_log_prob_of_counts_is_that_of_scipy(name, counts, normal):
    output = 2 * normal(7, 5, 4)
    actual = make_of_counts(name).log_prob(counts, output)
    totals = counts.sum(1, keepdim=True).clamp_min(1)
    rates = (log_softmax(output).exp() * totals).numpy()
    for draw, row in zip(actual, rates, strict=True):
        assert_allclose(draw.detach(), scipy_log_prob(name, counts.numpy(), row))


@pytest.mark.parametrize("name", ["negative_binomial", "poisson"])
def test_without_a_size_factor_the_output_is_the_log_of_the_rates(name, counts, normal):
    likelihood, output = make_of_counts(name, size_factor=None), 2 * normal(5, 4)
    rates = output.exp().numpy()
    expected = scipy_log_prob(name, counts.numpy(), rates)
    assert_allclose(likelihood.log_prob(counts, output).detach(), expected)
    assert_allclose(likelihood.mean(output), rates)
    assert_allclose(likelihood.reconstruct(output, counts), rates)
    torch.testing.assert_close(likelihood.transform(counts), torch.log1p(counts))


@pytest.mark.parametrize("name", OF_COUNTS)
def test_missing_counts_leave_those_that_are_observed(name, counts, normal):
    """The log-probability is that of a model of the observed features alone."""
    likelihood, output = make_of_counts(name), normal(5, 4)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(5, 4)
    actual = likelihood.log_prob(counts * mask, output, mask)
    kept = [0, 2, 3]
    part = LIKELIHOODS[name](3).double()
    if name == "negative_binomial":
        values = likelihood.raw_log_dispersion.detach()[kept]
        part.raw_log_dispersion.detach().copy_(values)
    expected = part.log_prob(counts[:, kept], output[:, kept])
    torch.testing.assert_close(actual, expected)
    rates = likelihood.reconstruct(output, counts * mask, mask)
    torch.testing.assert_close(
        rates[:, kept], part.reconstruct(output[:, kept], counts[:, kept])
    )
    torch.testing.assert_close(rates / rates[:, :1], (output - output[:, :1]).exp())


def test_poisson_counts_of_given_totals_are_multinomial(counts, normal):
    """The two differ by what does not depend on the output."""
    outputs = normal(7, 5, 4)
    poisson_counts, shares = make_of_counts("poisson"), make_of_counts("multinomial")
    difference = poisson_counts.log_prob(counts, outputs)
    difference = difference - shares.log_prob(counts, outputs)
    torch.testing.assert_close(difference, difference[:1].expand(7, 5))


def test_the_multinomial_probabilities_of_all_counts_sum_to_one(normal):
    log_share = torch.log_softmax(normal(3), 0)
    counts = torch.cartesian_prod(*[torch.arange(5.0, dtype=torch.float64)] * 3)
    counts = counts[counts.sum(1) == 4]
    total = multinomial_log_prob(counts, log_share).exp().sum()
    torch.testing.assert_close(total.item(), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_prob_of_extreme_counts_and_rates_is_finite(dtype):
    x = torch.tensor([0.0, 1.0, 1e7], dtype=dtype)
    for log_rate in torch.tensor([-1e4, 0.0, 30.0], dtype=dtype):
        assert poisson_log_prob(x, log_rate).isfinite()
        for log_dispersion in torch.tensor([math.log(1e-4), 0.0, 30.0], dtype=dtype):
            assert negative_binomial_log_prob(x, log_rate, log_dispersion).isfinite()
    log_share = torch.tensor([-1e4, -1e4, 0.0], dtype=dtype)
    assert multinomial_log_prob(x, log_share).isfinite()


@pytest.mark.parametrize("name", OF_COUNTS)
@pytest.mark.parametrize("size", [-1e5, 1e5])
def test_gradients_of_extreme_outputs_are_finite(name, size, counts):
    likelihood = make_of_counts(name)
    output = torch.tensor([0.0, size, 0.0, 1.0], dtype=torch.float64)
    output = output.expand(5, 4).clone().requires_grad_()
    mask = torch.ones(5, 4)
    mask[:, 1] = 0
    for observed in (None, mask):
        log_prob = likelihood.log_prob(counts, output, observed)
        assert log_prob.isfinite().all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), output)
        assert gradient.isfinite().all()


def test_little_dispersed_counts_are_those_of_a_poisson_distribution(normal):
    x, log_mean = torch.arange(20.0).double(), normal(20)
    expected = poisson_log_prob(x[:, None], log_mean[:, None])
    for dtype in (torch.float64, torch.float32):
        log_dispersion = torch.tensor([math.log(1e-4)], dtype=dtype)
        actual = negative_binomial_log_prob(
            x[:, None].to(dtype), log_mean[:, None].to(dtype), log_dispersion
        )
        # To the first order they differ by a ((x - mean)^2 - x) / 2.
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", OF_COUNTS)
def test_means_are_counts_of_the_average_total(name, normal):
    output = normal(7, 5, 4)
    mean = make_of_counts(name).mean(output)
    expected = log_softmax(output).exp() * MEAN_COUNT.sum()
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("name", OF_COUNTS)
def test_reconstructions_have_the_total_of_the_sample(name, counts, normal):
    output = normal(5, 4)
    rates = make_of_counts(name).reconstruct(output, counts)
    totals = counts.sum(1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(rates, log_softmax(output).exp() * totals)


def test_moments_of_poisson_draws(generator, normal, assert_is_mean):
    output = normal(4)
    x = make_of_counts("poisson").sample(output.expand(40_000, 4), generator)
    mean = log_softmax(output).exp() * MEAN_COUNT.sum()
    assert torch.equal(x, x.round())
    assert_is_mean(mean, x)
    assert_is_mean(mean, (x - mean) ** 2)


def test_moments_of_negative_binomial_draws(generator, normal, assert_is_mean):
    output, likelihood = normal(4), make_negative_binomial()
    x = likelihood.sample(output.expand(40_000, 4), generator).detach()
    mean = log_softmax(output).exp() * MEAN_COUNT.sum()
    assert torch.equal(x, x.round())
    assert_is_mean(mean, x)
    variance = mean + torch.tensor(DISPERSION) * mean**2
    assert_is_mean(variance, (x - mean) ** 2)


def test_moments_of_multinomial_draws(generator, normal, assert_is_mean):
    output, total = normal(4), MEAN_COUNT.sum()
    x = make_of_counts("multinomial").sample(output.expand(40_000, 4), generator)
    assert set(x.sum(1).tolist()) == {total}
    share = log_softmax(output).exp()
    assert_is_mean(total * share, x)
    covariance = total * (share.diag() - share[:, None] * share)
    deviation = x - total * share
    for column in range(4):
        products = deviation * deviation[:, [column]]
        assert_is_mean(covariance[column], products)


def test_dispersions_round_trip():
    likelihood = make_negative_binomial()
    attributes = likelihood.fitted_attributes()
    assert_allclose(attributes["dispersion_"], DISPERSION)
    loaded = make_likelihood(NegativeBinomial)
    loaded.load_fitted_attributes(attributes)
    assert_allclose(loaded.fitted_attributes()["dispersion_"], DISPERSION)
    loaded.load_fitted_attributes({"dispersion_": np.full(4, 1e-4)})
    assert_allclose(loaded.fitted_attributes()["dispersion_"], 1e-4)


# --- Units --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_OF_COUNTS)
def test_unstandardize_inverts_standardize(name, normal):
    likelihood, x = make_likelihood(LIKELIHOODS[name]), normal(5, 4)
    torch.testing.assert_close(likelihood.standardize(x), (x - LOCATION.to(x)) / SCALE)
    torch.testing.assert_close(likelihood.unstandardize(likelihood.standardize(x)), x)


@pytest.mark.parametrize("name", NOT_OF_COUNTS)
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
    for kind in (Poisson, NegativeBinomial, Multinomial):
        assert kind.support == (0, math.inf)
        assert kind.centered


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


@pytest.mark.parametrize("name", OF_COUNTS)
def test_rates_start_at_the_mean_counts_where_the_reconstruction_is_average(name):
    likelihood, layer = make_likelihood(LIKELIHOODS[name]), nn.Linear(3, 4).double()
    layer.weight.detach().zero_()
    # The mean of each feature is its location plus one.
    layer.bias.detach().fill_(1 / SCALE)
    likelihood.initialize_output(layer, 0.03)
    hidden = torch.ones(2, 3, dtype=torch.float64)
    expected = torch.tensor(MEAN_COUNT).expand(2, 4)
    torch.testing.assert_close(likelihood.mean(layer(hidden)), expected)


@pytest.mark.parametrize("name", OF_COUNTS)
def test_initial_log_rates_rise_as_the_reconstruction_of_log1p(name, normal):
    likelihood, layer = make_likelihood(LIKELIHOODS[name]), output_layer(normal)
    hidden = normal(20, 3)
    reconstruction = likelihood.unstandardize(layer(hidden))
    likelihood.initialize_output(layer, 0.03)
    output = layer(hidden)
    rise = reconstruction - reconstruction[0]
    torch.testing.assert_close(output - output[0], rise)


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
