"""The mixture prior against torch.distributions, scikit-learn and NumPy."""

import math

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture
from torch.autograd import gradcheck
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from skvade._model.prior import (
    PRIORS,
    DiagonalMixturePrior,
    average_log_responsibilities,
    expected_log_joint,
    logaddexp_floor,
)


def components(prior):
    return Independent(Normal(prior.means, prior.variances.sqrt()), 1)


def as_gaussian_mixture(prior):
    """Make the same mixture of scikit-learn."""
    mixture = GaussianMixture(len(prior.logits), covariance_type="diag")
    mixture.weights_ = prior.log_weights.exp().numpy(force=True)
    mixture.means_ = prior.means.numpy(force=True)
    mixture.covariances_ = prior.variances.numpy(force=True)
    mixture.precisions_cholesky_ = mixture.covariances_**-0.5
    return mixture


def far_problem(normal, offset):
    """Make means, variances, weights and components, all around an offset."""
    mean, variance = offset + 2 * normal(50, 3), normal(50, 3).exp()
    log_weights = normal(4).log_softmax(0)
    return mean, variance, log_weights, offset + 2 * normal(4, 3), normal(4, 3)


def sum_over_features(mean, variance, log_weights, means, log_variances):
    """Compute the same without expanding the square, through a (..., K, L) tensor."""
    deviation = mean[..., None, :] - means
    ratio = (variance[..., None, :] + deviation**2) / log_variances.exp()
    terms = math.log(2 * math.pi) + log_variances + ratio
    return log_weights - 0.5 * terms.sum(-1)


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


def test_expected_log_joint_is_log_weight_minus_cross_entropy(
    make_prior, make_posterior
):
    prior, (mean, log_variance) = make_prior(), make_posterior()
    std = (log_variance / 2).exp()
    posterior = Independent(Normal(mean[:, None], std[:, None]), 1)
    cross_entropy = kl_divergence(posterior, components(prior)) + posterior.entropy()
    expected = Categorical(logits=prior.logits).probs.log() - cross_entropy
    actual = prior.expected_log_joint(mean, log_variance.exp())
    torch.testing.assert_close(actual, expected)


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
    assert_allclose(actual, expected, rtol=1e-10)


def test_a_point_is_a_gaussian_without_variance(make_prior, normal):
    prior, z = make_prior(), normal(20, 3)
    narrow = prior.expected_log_joint(z, torch.full_like(z, 1e-14))
    torch.testing.assert_close(narrow, prior.log_joint(z))


def test_squared_distance_is_that_of_mahalanobis(make_prior, normal):
    prior, z, component = make_prior(), 2 * normal(20, 3), torch.arange(20) % 4
    deviation = (z - prior.means[component]).numpy(force=True)
    precisions = [np.diag(1 / v) for v in prior.variances.numpy(force=True)]
    expected = [
        d @ precisions[c] @ d for d, c in zip(deviation, component, strict=True)
    ]
    distance = prior.squared_distance(z, component).numpy(force=True)
    assert_allclose(distance, expected, rtol=1e-12)


# --- Accuracy -----------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1e4, 1e7])
def test_float64_keeps_its_accuracy_far_from_the_origin(normal, offset):
    problem = far_problem(normal, offset)
    expected = sum_over_features(*problem)
    actual = expected_log_joint(*problem)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 10, 1000])
def test_float32_keeps_its_accuracy_away_from_the_origin(normal, offset):
    problem = [t.float() for t in far_problem(normal, offset)]
    expected = sum_over_features(*(t.double() for t in problem))
    actual = expected_log_joint(*problem).double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


def test_logaddexp_floor_is_the_log_of_the_sum():
    log_excess = torch.linspace(-5, 5, 11, dtype=torch.float64)
    expected = (log_excess.exp() + 0.1).log()
    torch.testing.assert_close(logaddexp_floor(log_excess, math.log(0.1)), expected)


def test_logaddexp_floor_holds_at_both_ends():
    ends = torch.tensor([-math.inf, -1e6, 1e6], dtype=torch.float64)
    assert logaddexp_floor(ends, -7.0).tolist() == [-7.0, -7.0, 1e6]


def test_no_floor_changes_nothing():
    log_excess = torch.tensor([-800.0, 0.0, 800.0], requires_grad=True)
    actual = logaddexp_floor(log_excess, -math.inf)
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


@pytest.mark.parametrize("size", [1, 30, 1000])
def test_weights_and_variances_stay_in_their_domain(make_prior, normal, size):
    prior = make_prior(reg_covar=1e-3)
    for _ in range(10):
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(size * normal(*parameter.shape))
        weights, variances = prior.log_weights.exp(), prior.variances
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
    assert (prior.variances >= 1e-3 * (1 - 1e-12)).all()


def test_gradient_ascent_finds_the_moments_of_one_component(normal):
    z = 3 + 2 * normal(200, 2)
    prior = DiagonalMixturePrior(1, 2, reg_covar=1e-3).double()
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = -prior.log_joint(z).mean()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(prior.means[0], z.mean(0), rtol=1e-4, atol=0)
    variances = prior.variances[0]
    torch.testing.assert_close(variances, z.var(0, correction=0), rtol=1e-4, atol=0)


# --- Given parameters ---------------------------------------------------------------


@pytest.mark.parametrize("reg_covar", [0, 1e-6, 1e-2])
def test_set_parameters_keeps_the_mixture(normal, reg_covar):
    weights = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    means, variances = normal(3, 2), normal(3, 2).exp() + reg_covar
    prior = DiagonalMixturePrior(3, 2, reg_covar).double()
    prior.set_parameters(weights, means, variances)
    torch.testing.assert_close(prior.log_weights.exp(), weights)
    torch.testing.assert_close(prior.means.detach(), means)
    torch.testing.assert_close(prior.variances, variances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_set_parameters_raises_variances_to_the_floor(dtype):
    prior = DiagonalMixturePrior(1, 3, reg_covar=1e-2).to(dtype)
    variances = torch.tensor([[0.0, 1e-3, 1e-2]], dtype=dtype)
    prior.set_parameters(torch.ones(1), torch.zeros(1, 3), variances)
    assert all(parameter.isfinite().all() for parameter in prior.parameters())
    floor = torch.full((1, 3), 1e-2, dtype=dtype)
    torch.testing.assert_close(prior.variances, floor)


def test_permute_renumbers_the_components(make_prior, normal):
    prior, z, order = make_prior(), normal(5, 3), torch.tensor([2, 0, 3, 1])
    before = prior.log_joint(z).detach()
    prior.permute(order)
    torch.testing.assert_close(prior.log_joint(z), before[:, order])


def test_fitted_attributes_are_weights_means_and_variances(make_prior):
    prior = make_prior()
    attributes = prior.fitted_attributes()
    assert set(attributes) == {"weights_", "means_", "covariances_"}
    assert all(type(values) is np.ndarray for values in attributes.values())
    assert_allclose(attributes["weights_"].sum(), 1)
    expected = as_gaussian_mixture(prior)
    for name, values in attributes.items():
        assert_array_equal(values, getattr(expected, name))
        values[:] = 0  # they share no memory with the parameters
    assert prior.means.any()


@pytest.mark.parametrize(
    "dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
def test_fitted_attributes_round_trip(make_prior, dtype, rtol):
    prior = make_prior().to(dtype)
    attributes = prior.fitted_attributes()
    loaded = DiagonalMixturePrior(4, 3, reg_covar=1e-3).to(dtype)
    loaded.load_fitted_attributes(attributes)
    assert all(p.dtype == dtype for p in loaded.parameters())
    for name, values in loaded.fitted_attributes().items():
        assert_allclose(values, attributes[name], rtol=rtol, err_msg=name)


def test_loading_does_not_alias_the_attributes(make_prior):
    prior = make_prior()
    attributes = prior.fitted_attributes()
    before = {name: values.copy() for name, values in attributes.items()}
    prior.load_fitted_attributes(attributes)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(1)
    for name, values in attributes.items():
        assert_array_equal(values, before[name])


def test_a_component_of_weight_zero_is_responsible_for_nothing(make_prior, normal):
    prior = make_prior()
    attributes = prior.fitted_attributes()
    attributes["weights_"] = np.array([0.5, 0.0, 0.2, 0.3])
    prior.load_fitted_attributes(attributes)
    responsibilities = prior.log_joint(normal(20, 3)).softmax(-1)
    assert (responsibilities[:, 1] == 0).all()
    torch.testing.assert_close(responsibilities.sum(1), torch.ones(20).double())


# --- Draws --------------------------------------------------------------------------


@pytest.mark.parametrize("component", range(4))
def test_moments_of_draws(make_prior, generator, assert_is_mean, component):
    prior = make_prior()
    z = prior.sample(torch.full((40_000,), component), generator).detach()
    assert_is_mean(prior.means[component], z)
    deviation = z - prior.means[component].detach()
    expected = torch.diag(prior.variances[component])
    assert_is_mean(expected, deviation[:, :, None] * deviation[:, None])


def test_draws_use_the_given_generator_alone(make_prior):
    prior, component = make_prior(), torch.arange(20) % 4
    before = torch.get_rng_state()
    first, again, other = (
        prior.sample(component, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- From a partition ---------------------------------------------------------------


@pytest.fixture(scope="module")
def groups():
    """An embedding of 3 groups with 60, 30 and 10 samples, and their labels."""
    return make_blobs([60, 30, 10], 4, random_state=0, cluster_std=[1, 0.5, 2])


def from_partition(Z, labels, n_components=3, sample_weight=None, reg_covar=0.0):
    """Give the fitted attributes of a prior that starts from the partition."""
    prior = DiagonalMixturePrior(n_components, Z.shape[1], reg_covar).double()
    weight = np.ones(len(Z)) if sample_weight is None else sample_weight
    prior.initialize_from_partition(Z, labels, weight, RandomState(0))
    return prior.fitted_attributes()


def assert_same_mixture(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        assert_allclose(values, expected[name], rtol=1e-12, err_msg=name)


def test_weights_and_means_of_a_partition_are_those_of_numpy(groups):
    Z, labels = groups
    mixture = from_partition(Z, labels)
    assert_allclose(mixture["weights_"], [0.6, 0.3, 0.1])
    assert_allclose(mixture["means_"], [Z[labels == c].mean(0) for c in range(3)])


@pytest.mark.parametrize("reg_covar", [0, 1e-2])
def test_each_group_counts_one_more_sample_of_average_variance(groups, reg_covar):
    Z, labels = groups
    variances = from_partition(Z, labels, reg_covar=reg_covar)["covariances_"]
    within = np.array([Z[labels == c].var(0) for c in range(3)])
    pooled = np.average(within, axis=0, weights=[60, 30, 10])
    for c, n in enumerate([60, 30, 10]):
        expected = (n * within[c] + pooled) / (n + 1) + reg_covar
        assert_allclose(variances[c], expected)


def test_a_weight_counts_as_copies_of_the_sample(groups):
    Z, labels = groups
    repeats = 1 + np.arange(len(Z)) % 3
    weighted = from_partition(Z, labels, sample_weight=repeats.astype(float))
    copies = from_partition(Z.repeat(repeats, axis=0), labels.repeat(repeats))
    assert_same_mixture(weighted, copies)


def test_names_of_the_groups_do_not_matter(groups):
    Z, labels = groups
    renamed = from_partition(Z, 100 + 7 * labels)
    assert_same_mixture(renamed, from_partition(Z, labels))


def test_noise_belongs_to_no_group(groups):
    Z, labels = groups
    keep = np.arange(len(Z)) % 3 > 0
    with_noise = from_partition(Z, np.where(keep, labels, -1))
    assert_same_mixture(with_noise, from_partition(Z[keep], labels[keep]))


@pytest.mark.parametrize("n_equal", [1, 10])
def test_a_group_of_equal_samples_keeps_a_variance(groups, n_equal):
    Z, labels = groups
    Z = np.where(labels[:, None] == 2, 9.0, Z)
    keep = (labels != 2) | (np.cumsum(labels == 2) <= n_equal)
    variances = from_partition(Z[keep], labels[keep])["covariances_"]
    pooled = np.average(variances[:2], axis=0, weights=[60, 30])
    assert (variances[2] > pooled / 20).all()


def test_equal_samples_alone_have_a_positive_variance():
    mixture = from_partition(np.ones((6, 2)), np.arange(6) % 3)
    assert (mixture["covariances_"] > 0).all()
    assert np.isfinite(mixture["covariances_"]).all()


def test_missing_groups_start_at_random_samples_with_a_warning(groups):
    Z, labels = groups
    with pytest.warns(UserWarning, match="holds 3 of 5 clusters; the others start"):
        mixture = from_partition(Z, labels, n_components=5)
    weights, means, variances = mixture.values()
    assert_allclose(weights, np.array([60, 30, 10, 1, 1]) / 102)
    positions = [np.flatnonzero((mean == Z).all(1)) for mean in means[3:]]
    assert [len(found) for found in positions] == [1, 1]
    assert positions[0] != positions[1]
    within = [Z[labels == c].var(0) for c in range(3)]
    pooled = np.average(within, axis=0, weights=[60, 30, 10])
    assert_allclose(variances[3:], [pooled, pooled])


def test_more_missing_groups_than_samples(groups):
    Z = groups[0][:3]
    with pytest.warns(UserWarning, match="1 of 9 clusters; the others start"):
        mixture = from_partition(Z, np.zeros(3, int), n_components=9)
    assert mixture["means_"].shape == (9, 4)
    assert_allclose(mixture["weights_"].sum(), 1)


def test_the_seed_chooses_the_samples_of_missing_groups(groups):
    Z, labels = groups
    means = []
    for seed in (0, 0, 1):
        prior = DiagonalMixturePrior(5, 4, 0.0).double()
        with pytest.warns(UserWarning, match="holds 3 of 5 clusters"):
            prior.initialize_from_partition(
                Z, labels, np.ones(len(Z)), RandomState(seed)
            )
        means.append(prior.means.numpy(force=True))
    assert_array_equal(means[0], means[1])
    assert not np.array_equal(means[0], means[2])


def test_a_prior_in_float32_starts_from_a_partition(groups):
    Z, labels = groups
    prior = DiagonalMixturePrior(3, 4, 1e-6)
    prior.initialize_from_partition(Z, labels, np.ones(len(Z)), RandomState(0))
    assert all(p.dtype == torch.float32 for p in prior.parameters())
    expected = from_partition(Z, labels, reg_covar=1e-6)
    for name, values in prior.fitted_attributes().items():
        assert_allclose(values, expected[name], rtol=1e-5)


# --- Gradients ----------------------------------------------------------------------


def test_gradient_of_expected_log_joint(normal):
    mean, variance, *parameters = far_problem(normal, offset=2)
    inputs = [mean[:3], variance[:3], *parameters]
    assert gradcheck(expected_log_joint, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("name", PRIORS)
def test_gradient_of_a_prior(normal, name):
    prior = PRIORS[name](4, 3, 1e-3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(normal(*parameter.shape))
    mean, variance = normal(3, 3).requires_grad_(), normal(3, 3).exp()
    inputs = (mean, variance.requires_grad_(), *prior.parameters())
    assert gradcheck(lambda m, v, *_: prior.expected_log_joint(m, v), inputs)


def test_gradient_of_average_log_responsibilities(normal):
    log_joint = normal(2, 3, 4).requires_grad_()
    assert gradcheck(average_log_responsibilities, log_joint)
