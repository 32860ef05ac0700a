"""The mixture prior against torch.distributions, scikit-learn and NumPy."""

import math

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import (
    _compute_precision_cholesky,
    _estimate_log_gaussian_prob,
)
from torch.autograd import gradcheck
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    kl_divergence,
)

from skvade._model.elbo import Posterior, mixture_term
from skvade._model.prior import (
    PRIORS,
    DiagonalMixturePrior,
    FullMixturePrior,
    average_log_responsibilities,
    expected_log_joint,
    expected_log_joint_full,
    logaddexp_floor,
    sequential_regressions,
)

SHAPES = {"diag": (4, 3), "full": (4, 3, 3), "tied": (3, 3), "spherical": (4,)}


@pytest.fixture(params=PRIORS)
def covariance_type(request):
    return request.param


@pytest.fixture
def any_prior(make_prior, covariance_type):
    """A mixture of 4 components in 3 dimensions, of each structure."""
    return make_prior(covariance_type=covariance_type)


def covariance_matrices(prior):
    """Give the covariance matrix of each component, (K, L, L)."""
    if prior.is_diagonal:
        return torch.diag_embed(prior.variances)
    return prior.covariances.expand(len(prior.means), -1, -1)


def components(prior):
    return MultivariateNormal(prior.means, covariance_matrices(prior))


def as_gaussian_mixture(prior, covariance_type="diag"):
    """Make the same mixture of scikit-learn."""
    mixture = GaussianMixture(len(prior.logits), covariance_type=covariance_type)
    mixture.weights_ = prior.log_weights.exp().numpy(force=True)
    mixture.means_ = prior.means.numpy(force=True)
    mixture.covariances_ = prior.covariances.numpy(force=True)
    mixture.precisions_cholesky_ = _compute_precision_cholesky(
        mixture.covariances_, covariance_type
    )
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
def test_log_joint_is_log_weight_plus_log_density(any_prior, normal, shape):
    prior, z = any_prior, 2 * normal(*shape)
    weights = Categorical(logits=prior.logits).probs
    expected = weights.log() + components(prior).log_prob(z[..., None, :])
    torch.testing.assert_close(prior.log_joint(z), expected)


def test_log_joint_sums_to_the_density_of_the_mixture(any_prior, normal):
    prior, z = any_prior, 2 * normal(20, 3)
    mixture = MixtureSameFamily(Categorical(logits=prior.logits), components(prior))
    torch.testing.assert_close(prior.log_joint(z).logsumexp(-1), mixture.log_prob(z))


def test_expected_log_joint_is_log_weight_minus_cross_entropy(
    any_prior, make_posterior
):
    prior, (mean, log_variance) = any_prior, make_posterior()
    variance = torch.diag_embed(log_variance.exp())
    posterior = MultivariateNormal(mean[:, None], variance[:, None])
    cross_entropy = kl_divergence(posterior, components(prior)) + posterior.entropy()
    expected = Categorical(logits=prior.logits).probs.log() - cross_entropy
    actual = prior.expected_log_joint(mean, log_variance.exp())
    torch.testing.assert_close(actual, expected)


def test_expected_log_joint_is_the_mean_over_draws(
    any_prior, make_posterior, normal, assert_is_mean
):
    prior, (mean, log_variance) = any_prior, make_posterior(n_samples=2)
    z = mean + log_variance.exp().sqrt() * normal(40_000, *mean.shape)
    draws = prior.log_weights + components(prior).log_prob(z[..., None, :])
    assert_is_mean(prior.expected_log_joint(mean, log_variance.exp()), draws)


def test_softmax_of_log_joint_is_what_gaussian_mixture_predicts(
    any_prior, covariance_type, normal
):
    z = 2 * normal(20, 3)
    mixture = as_gaussian_mixture(any_prior, covariance_type)
    actual = any_prior.log_joint(z).softmax(-1).numpy(force=True)
    assert_allclose(actual, mixture.predict_proba(z.numpy()), rtol=1e-10, atol=1e-300)


def test_log_densities_are_those_of_gaussian_mixture(
    any_prior, covariance_type, normal
):
    z = 2 * normal(20, 3)
    mixture = as_gaussian_mixture(any_prior, covariance_type)
    expected = _estimate_log_gaussian_prob(
        z.numpy(), mixture.means_, mixture.precisions_cholesky_, covariance_type
    )
    actual = any_prior.log_joint(z) - any_prior.log_weights
    assert_allclose(actual.numpy(force=True), expected, rtol=1e-10)


def test_a_point_is_a_gaussian_without_variance(any_prior, normal):
    prior, z = any_prior, normal(20, 3)
    narrow = prior.expected_log_joint(z, torch.full_like(z, 1e-14))
    torch.testing.assert_close(narrow, prior.log_joint(z))


def test_squared_distance_is_that_of_mahalanobis(any_prior, normal):
    prior, z, component = any_prior, 2 * normal(20, 3), torch.arange(20) % 4
    deviation = (z - prior.means[component]).numpy(force=True)
    precisions = np.linalg.inv(covariance_matrices(prior).numpy(force=True))
    expected = [
        d @ precisions[c] @ d for d, c in zip(deviation, component, strict=True)
    ]
    distance = prior.squared_distance(z, component).numpy(force=True)
    assert_allclose(distance, expected, rtol=1e-10)


def test_variances_are_marginal_and_conditional_ones(any_prior):
    matrices = covariance_matrices(any_prior)
    diagonals = matrices.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(any_prior.variances, diagonals)
    precisions = torch.linalg.inv(matrices).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(any_prior.conditional_variances, 1 / precisions)


# --- One structure within another ---------------------------------------------------


def assert_same_log_joint(prior, other, mean, variance):
    torch.testing.assert_close(
        prior.expected_log_joint(mean, variance),
        other.expected_log_joint(mean, variance),
    )


def test_diagonal_matrices_are_the_diagonal_structure(make_prior, make_posterior):
    prior, (mean, log_variance) = make_prior(), make_posterior()
    full = FullMixturePrior(4, 3, prior.reg_covar).double()
    matrices = torch.diag_embed(prior.variances).detach()
    full.set_parameters(prior.log_weights.exp(), prior.means, matrices)
    assert_same_log_joint(full, prior, mean, log_variance.exp())


def test_equal_variances_are_the_spherical_structure(make_prior, make_posterior):
    prior = make_prior(covariance_type="spherical")
    mean, log_variance = make_posterior()
    diagonal = DiagonalMixturePrior(4, 3, prior.reg_covar).double()
    variances = prior.covariances.detach()[:, None].expand(4, 3)
    diagonal.set_parameters(prior.log_weights.exp(), prior.means, variances)
    assert_same_log_joint(diagonal, prior, mean, log_variance.exp())


@pytest.mark.parametrize("n_components", [1, 4])
def test_equal_matrices_are_the_tied_structure(
    make_prior, make_posterior, n_components
):
    prior = make_prior(n_components, covariance_type="tied")
    mean, log_variance = make_posterior()
    full = FullMixturePrior(n_components, 3, prior.reg_covar).double()
    matrices = prior.covariances.detach().expand(n_components, 3, 3)
    full.set_parameters(prior.log_weights.exp(), prior.means, matrices)
    assert_same_log_joint(full, prior, mean, log_variance.exp())


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


def whitened_problem(normal, offset, narrow=1.0):
    """Make the same with whitening matrices: narrow along (1, 1, 1) in each component.

    The points are as far from the means in that direction as the components are wide.
    """
    mean, variance, log_weights, means, _ = far_problem(normal, 0)
    direction = torch.ones(3, 1).double() / math.sqrt(3)
    project = torch.eye(3).double() - (1 - narrow) * direction @ direction.T
    factors = torch.eye(3).double() + 0.3 * normal(4, 3, 3)
    factors = project @ factors
    whitening = torch.linalg.inv(torch.linalg.cholesky(factors @ factors.mT))
    variance = (narrow**2 * variance).expand_as(mean)
    return (
        offset + mean @ project,
        variance,
        log_weights,
        offset + means @ project,
        (whitening),
    )


def multivariate(mean, variance, log_weights, means, whitening):
    """Compute the same by torch's distribution, about the center of the means."""
    center = means.mean(0)
    factors = torch.linalg.inv(whitening)
    normals = MultivariateNormal(means - center, scale_tril=factors.tril())
    precisions = (whitening.mT @ whitening).diagonal(dim1=1, dim2=2)
    log_density = normals.log_prob((mean - center)[..., None, :])
    return log_weights + log_density - 0.5 * variance @ precisions.T


@pytest.mark.parametrize("offset", [0, 1e4, 1e7])
def test_full_float64_keeps_its_accuracy_far_from_the_origin(normal, offset):
    problem = whitened_problem(normal, offset)
    actual = expected_log_joint_full(*problem)
    torch.testing.assert_close(actual, multivariate(*problem), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("narrow, offset", [(1, 0), (1, 1000), (1e-3, 0)])
def test_full_float32_keeps_its_accuracy(normal, narrow, offset):
    """Also where all components are a thousandth as wide in an oblique direction."""
    problem = [t.float() for t in whitened_problem(normal, offset, narrow)]
    expected = multivariate(*(t.double() for t in problem))
    actual = expected_log_joint_full(*problem).double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_correlated_priors_far_from_the_origin(make_prior, normal, covariance_type):
    prior = make_prior(covariance_type=covariance_type)
    z, variance = 2 * normal(20, 3), normal(20, 3).exp()
    expected = prior.expected_log_joint(z, variance)
    prior.means.data += 1e7
    actual = prior.expected_log_joint(z + 1e7, variance)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


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
def test_weights_and_variances_stay_in_their_domain(any_prior, normal, size):
    prior = any_prior
    for _ in range(10):
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(size * normal(*parameter.shape))
        weights = prior.log_weights.exp()
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0).double())
        assert (weights >= 0).all()
        if prior.is_diagonal:
            variances = prior.variances
        else:
            variances = prior.log_residual_variances.exp()
        assert (variances >= 1e-3 * (1 - 1e-12)).all()
        # No density is higher than at the floor, the log of (2 pi 1e-3)^(-3 / 2).
        log_density = prior.log_joint(prior.means) - prior.log_weights
        assert (log_density <= -1.5 * math.log(2e-3 * math.pi) + 1e-4).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_covariances_stay_positive_definite_in_wild_steps(
    make_prior, normal, covariance_type, dtype
):
    """Adam at a hundred times the default rate, on points with a flat direction."""
    prior = make_prior(covariance_type=covariance_type).to(dtype)
    points = (normal(50, 3) @ normal(3, 3)).to(dtype)
    points[:, 1] = points[:, 0]
    variance = torch.full_like(points, 1e-4)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -prior.expected_log_joint(points, variance).logsumexp(1).mean()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    matrices = covariance_matrices(prior.double()).detach()
    assert (torch.linalg.eigvalsh(matrices) > 0).all()
    assert (prior.variances >= 1e-3 * (1 - 1e-9)).all()


def test_float32_gradients_of_many_full_components_are_those_of_float64(make_prior):
    """At 10 latent dimensions and 100 components, as far as float32 goes."""
    prior = make_prior(100, 10, 1e-6, covariance_type="full")
    with torch.no_grad():
        prior.coefficients.mul_(0.3)
        prior.raw_log_variances.sub_(2)
    generator = torch.Generator().manual_seed(1)
    mean = 2 * torch.randn(64, 10, generator=generator, dtype=torch.float64)
    posterior = Posterior(mean, torch.full_like(mean, -4))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        prior.zero_grad()
        inputs = Posterior(*(t.to(dtype) for t in posterior))
        mixture_term(prior.to(dtype), inputs)[0].mean().backward()
        gradients.append([p.grad.double() for p in prior.parameters()])
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() <= 1e-4 * exact.norm()


def test_gradient_steps_keep_a_distribution(make_prior, normal):
    prior, z = make_prior(), normal(20, 3)
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        prior.log_joint(z).sum().backward()
        optimizer.step()
    torch.testing.assert_close(prior.log_weights.exp().sum().item(), 1.0)
    assert (prior.variances >= 1e-3 * (1 - 1e-12)).all()


def test_gradient_ascent_finds_the_moments_of_one_component(normal, covariance_type):
    z = 3 + 2 * normal(200, 2) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()
    prior = PRIORS[covariance_type](1, 2, reg_covar=1e-3).double()
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = -prior.log_joint(z).mean()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(prior.means[0], z.mean(0), rtol=1e-4, atol=0)
    moments = z.T.cov(correction=0)
    if prior.is_diagonal:
        moments = moments.diagonal().diag()
    if covariance_type == "spherical":
        moments = moments.trace() / 2 * torch.eye(2).double()
    actual = covariance_matrices(prior)[0]
    torch.testing.assert_close(actual, moments, rtol=1e-3, atol=1e-9)


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


@pytest.mark.parametrize("reg_covar", [0, 1e-6, 1e-2])
def test_set_parameters_keeps_the_covariances(make_prior, covariance_type, reg_covar):
    prior = make_prior(reg_covar=0.1, covariance_type=covariance_type)
    other = PRIORS[covariance_type](4, 3, reg_covar).double()
    parameters = prior.log_weights.exp(), prior.means, prior.covariances
    other.set_parameters(*(values.detach() for values in parameters))
    torch.testing.assert_close(other.covariances, prior.covariances)
    torch.testing.assert_close(other.means, prior.means)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_equations_of_the_documentation(make_prior, make_posterior, covariance_type):
    """Equations (regressions) and (full) of docs/model.rst, as they stand there."""
    prior = make_prior(covariance_type=covariance_type)
    C = prior.coefficients.tril(-1).expand(4, 3, 3)
    s2 = prior.log_residual_variances.exp().expand(4, 3)
    W = torch.diag_embed(1 / s2.sqrt()) @ (torch.eye(3).double() - C)
    precision = W.mT @ W
    covariances = prior.covariances.expand(4, 3, 3)
    torch.testing.assert_close(torch.linalg.inv(precision), covariances)
    torch.testing.assert_close(torch.linalg.det(covariances), s2.prod(1))
    m, log_variance = make_posterior()
    v, mu = log_variance.exp(), prior.means
    log_det = torch.logdet(2 * math.pi * covariances)
    trace = torch.einsum("bj,cjj->bc", v, precision)
    square = torch.einsum("cij,bcj->bci", W, m[:, None] - mu).square().sum(-1)
    expected = prior.log_weights - 0.5 * (log_det + trace + square)
    torch.testing.assert_close(prior.expected_log_joint(m, v), expected)
    # A dimension, given those before it, has the mean and variance of its regression.
    j = 2
    before, c = covariances[:, :j, :j], covariances[:, :j, j]
    slopes = torch.linalg.solve(before, c)
    torch.testing.assert_close(slopes, C[:, j, :j])
    residual = covariances[:, j, j] - (slopes * c).sum(1)
    torch.testing.assert_close(residual, s2[:, j])


def test_sequential_regressions_are_those_of_least_squares(normal):
    """Of the points whose moments they are given."""
    points = normal(50, 4) @ normal(4, 4)
    points -= points.mean(0)
    covariance = points.T @ points / 50
    coefficients, variances = sequential_regressions(covariance, 0.0)
    for j in range(4):
        solution = torch.linalg.lstsq(points[:, :j], points[:, j, None]).solution
        torch.testing.assert_close(coefficients[j, :j], solution[:, 0])
        residuals = points[:, j] - points[:, :j] @ solution[:, 0]
        torch.testing.assert_close(variances[j], residuals.square().mean())
    assert not coefficients.triu().any()
    factor = torch.linalg.cholesky(covariance)
    torch.testing.assert_close(variances, factor.diagonal() ** 2)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-2])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_any_symmetric_matrix_gives_a_positive_definite_one(covariance_type, reg_covar):
    """Singular and indefinite ones, as diagonals raise variances to the floor."""
    singular = torch.ones(3, 3).double()
    indefinite = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    for matrix in (singular, indefinite.double(), torch.zeros(3, 3).double()):
        prior = PRIORS[covariance_type](2, 3, reg_covar).double()
        given = matrix if covariance_type == "tied" else matrix.expand(2, 3, 3)
        prior.set_covariances(given)
        assert all(parameter.isfinite().all() for parameter in prior.parameters())
        assert prior.covariances.isfinite().all()
        residual_variances = prior.log_residual_variances.exp()
        assert (residual_variances >= reg_covar * (1 - 1e-9)).all()
        assert (residual_variances > 0).all()


def test_permute_renumbers_the_components(any_prior, normal):
    prior, z, order = any_prior, normal(5, 3), torch.tensor([2, 0, 3, 1])
    before = prior.log_joint(z).detach()
    prior.permute(order)
    torch.testing.assert_close(prior.log_joint(z), before[:, order])


def test_fitted_attributes_are_weights_means_and_covariances(
    any_prior, covariance_type
):
    prior = any_prior
    attributes = prior.fitted_attributes()
    assert set(attributes) == {"weights_", "means_", "covariances_"}
    assert all(type(values) is np.ndarray for values in attributes.values())
    assert_allclose(attributes["weights_"].sum(), 1)
    assert attributes["covariances_"].shape == SHAPES[covariance_type]
    expected = as_gaussian_mixture(prior, covariance_type)
    for name, values in attributes.items():
        assert_array_equal(values, getattr(expected, name))
        values[:] = 0  # they share no memory with the parameters
    assert prior.means.any()


@pytest.mark.parametrize(
    "dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
def test_fitted_attributes_round_trip(any_prior, covariance_type, dtype, rtol):
    attributes = any_prior.fitted_attributes()
    loaded = PRIORS[covariance_type](4, 3, reg_covar=1e-3).to(dtype)
    loaded.load_fitted_attributes(attributes)
    assert all(p.dtype == dtype for p in loaded.parameters())
    for name, values in loaded.double().fitted_attributes().items():
        atol = 10 * rtol * np.abs(attributes[name]).max()
        assert_allclose(values, attributes[name], rtol, atol, err_msg=name)


def test_loading_does_not_alias_the_attributes(any_prior):
    prior = any_prior
    attributes = prior.fitted_attributes()
    before = {name: values.copy() for name, values in attributes.items()}
    prior.load_fitted_attributes(attributes)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(1)
    for name, values in attributes.items():
        assert_array_equal(values, before[name])


def test_a_component_of_weight_zero_is_responsible_for_nothing(any_prior, normal):
    prior = any_prior
    attributes = prior.fitted_attributes()
    attributes["weights_"] = np.array([0.5, 0.0, 0.2, 0.3])
    prior.load_fitted_attributes(attributes)
    responsibilities = prior.log_joint(normal(20, 3)).softmax(-1)
    assert (responsibilities[:, 1] == 0).all()
    torch.testing.assert_close(responsibilities.sum(1), torch.ones(20).double())


# --- Draws --------------------------------------------------------------------------


def test_moments_of_draws(any_prior, generator, assert_is_mean):
    drawn = torch.arange(80_000) % 4
    z = any_prior.sample(drawn, generator).detach()
    for component, covariance in enumerate(covariance_matrices(any_prior).detach()):
        mean, points = any_prior.means[component].detach(), z[drawn == component]
        assert_is_mean(mean, points)
        deviation = points - mean
        assert_is_mean(covariance, deviation[:, :, None] * deviation[:, None])


def test_draws_use_the_given_generator_alone(any_prior):
    prior, component = any_prior, torch.arange(20) % 4
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


def from_partition(
    Z,
    labels,
    n_components=3,
    sample_weight=None,
    reg_covar=0.0,
    covariance_type="diag",
):
    """Give the fitted attributes of a prior that starts from the partition."""
    prior = PRIORS[covariance_type](n_components, Z.shape[1], reg_covar).double()
    weight = np.ones(len(Z)) if sample_weight is None else sample_weight
    prior.initialize_from_partition(Z, labels, weight, RandomState(0))
    return prior.fitted_attributes()


def assert_same_mixture(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        assert_allclose(values, expected[name], rtol=1e-9, err_msg=name)


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


@pytest.mark.parametrize("reg_covar", [0, 1e-2])
def test_each_group_counts_as_many_more_samples_as_dimensions(groups, reg_covar):
    Z, labels = groups
    mixture = from_partition(Z, labels, reg_covar=reg_covar, covariance_type="full")
    within = np.array([np.cov(Z[labels == c].T, bias=True) for c in range(3)])
    pooled = np.average(within, axis=0, weights=[60, 30, 10])
    for c, n in enumerate([60, 30, 10]):
        expected = (n * within[c] + 4 * pooled) / (n + 4) + reg_covar * np.eye(4)
        assert_allclose(mixture["covariances_"][c], expected, rtol=1e-6)


@pytest.mark.parametrize("reg_covar", [0, 1e-2])
def test_tied_covariance_of_a_partition_is_that_within_the_groups(groups, reg_covar):
    Z, labels = groups
    mixture = from_partition(Z, labels, reg_covar=reg_covar, covariance_type="tied")
    within = np.cov((Z - mixture["means_"][labels]).T, bias=True)
    expected = within + reg_covar * np.eye(4)
    assert_allclose(mixture["covariances_"], expected, rtol=1e-6)


def test_spherical_variances_of_a_partition_are_average_ones(groups):
    diagonal = from_partition(*groups)["covariances_"]
    spherical = from_partition(*groups, covariance_type="spherical")["covariances_"]
    assert_allclose(spherical, diagonal.mean(1))


def test_a_weight_counts_as_copies_of_the_sample(groups, covariance_type):
    Z, labels = groups
    repeats = 1 + np.arange(len(Z)) % 3
    weighted = from_partition(
        Z,
        labels,
        sample_weight=repeats.astype(float),
        covariance_type=covariance_type,
    )
    copies = from_partition(
        Z.repeat(repeats, axis=0),
        labels.repeat(repeats),
        covariance_type=covariance_type,
    )
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


def test_equal_samples_alone_have_a_positive_variance(covariance_type):
    prior = PRIORS[covariance_type](3, 2, 0.0).double()
    labels = np.arange(6) % 3
    prior.initialize_from_partition(np.ones((6, 2)), labels, np.ones(6), RandomState(0))
    matrices = covariance_matrices(prior).numpy(force=True)
    assert np.isfinite(matrices).all()
    assert (np.linalg.eigvalsh(matrices) > 0).all()


@pytest.mark.parametrize("n_points", [1, 3])
def test_a_group_of_few_samples_keeps_a_full_covariance(groups, n_points):
    """Fewer than it takes to determine a matrix; the others give what is missing."""
    Z, labels = groups
    keep = (labels != 2) | (np.cumsum(labels == 2) <= n_points)
    mixture = from_partition(Z[keep], labels[keep], covariance_type="full")
    variances = np.linalg.eigvalsh(mixture["covariances_"])
    assert variances[2].min() > variances[:2].min() / 20


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


def test_a_prior_in_float32_starts_from_a_partition(groups, covariance_type):
    Z, labels = groups
    prior = PRIORS[covariance_type](3, 4, 1e-6)
    prior.initialize_from_partition(Z, labels, np.ones(len(Z)), RandomState(0))
    assert all(p.dtype == torch.float32 for p in prior.parameters())
    expected = from_partition(
        Z, labels, reg_covar=1e-6, covariance_type=covariance_type
    )
    for name, values in prior.fitted_attributes().items():
        assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_a_flat_embedding_in_float32_keeps_its_width(covariance_type, normal):
    """Of points in a plane that no axis lies in: the third variance is the floor."""
    points = (normal(200, 2) @ normal(2, 3)).numpy()
    prior = PRIORS[covariance_type](2, 3, 1e-6)
    labels = np.arange(200) % 2
    prior.initialize_from_partition(points, labels, np.ones(200), RandomState(0))
    matrices = covariance_matrices(prior.double()).numpy(force=True)
    assert_allclose(np.linalg.eigvalsh(matrices)[:, 0], 1e-6, rtol=0.1)


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
