from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import seuclidean
from scipy.stats import chi2, entropy
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from skvade import _inference
from skvade._batching import Placement, Rows
from skvade._matrix import Standardization
from skvade._objective import elbo, log_responsibilities, mixture_term, reparameterize

LOCATION, SCALE = 3.0, 1.7


def rows_of(X, dtype=torch.float64, location=0.0, scale=1.0):
    location = np.full(X.shape[1], location)
    standardization = Standardization(location, scale, location)
    return Rows.of(X, standardization, Placement(torch.device("cpu"), dtype))


def exact_likelihood(model):
    return deepcopy(model.likelihood).double()


def reconstruct(model, rows):
    return _inference.reconstruct(model, rows, exact_likelihood(model))


def terms_per_row(model, rows, responsibilities):
    elbo_of = _inference.elbo_of(model, responsibilities)
    return _inference.over_batches(model, rows, elbo_of)


ANSWERS = {
    "embed": _inference.embed,
    "mixture_labels": _inference.mixture_labels,
    "reconstruct": reconstruct,
    "expected": lambda model, rows: _inference.log_responsibilities_per_row(
        model, rows, "expected"
    ),
    "sampled": lambda model, rows: _inference.log_responsibilities_per_row(
        model, rows, "sampled"
    ),
    "elbo": lambda model, rows: terms_per_row(model, rows, "expected"),
    "sampled elbo": lambda model, rows: terms_per_row(model, rows, "sampled"),
    "weighted": lambda model, rows: _inference.importance_weighted_per_row(
        model, rows, 5
    ),
}


@pytest.fixture
def placed(make_module):
    """A model of data that lie around 3 with a scale of 1.7."""
    model = make_module()
    model.likelihood.location.fill_(LOCATION)
    model.likelihood.scale.fill_(SCALE)
    model.encoder.reset_variance(torch.tensor(0.3))
    return model


@pytest.fixture
def data(normal):
    return LOCATION + SCALE * normal(300, 6).numpy()


@pytest.fixture
def rows(data):
    return rows_of(data, location=LOCATION, scale=SCALE)


# --- Independent of the other rows --------------------------------------------------


def assert_rows_are_independent(answer, model, X):
    """One alone, few, more than a chunk, in another order: each row as in all."""
    together = answer(model, rows_of(X, torch.float32))
    order = np.random.default_rng(0).permutation(len(X))
    for some in ([len(X) - 1], np.arange(7), np.arange(300) + 100, order):
        alone = answer(model, rows_of(X[some], torch.float32))
        np.testing.assert_array_equal(alone, together[some])


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("X_dtype", [np.float32, np.float64])
def test_answers_do_not_depend_on_the_other_rows(
    make_module, name, activation, X_dtype
):
    model = make_module(torch.float32, n_features=13, activation=activation)
    X = np.random.default_rng(0).normal(size=(1000, 13)).astype(X_dtype)
    assert_rows_are_independent(ANSWERS[name], model, X)


@pytest.mark.parametrize("name", ["expected", "reconstruct"])
def test_answers_of_a_large_model_do_not_depend_on_the_other_rows(make_module, name):
    architecture = {"n_features": 784, "latent_dim": 10, "n_clusters": 10}
    sizes = {"hidden_layer_sizes": (500, 500, 2000), "activation": "relu"}
    model = make_module(torch.float32, likelihood="bernoulli", **architecture, **sizes)
    X = np.random.default_rng(0).random((1000, 784), dtype=np.float32)
    assert_rows_are_independent(ANSWERS[name], model, X)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_deterministic_and_leave_the_model_as_it_was(placed, data, name):
    model, rows = placed.float(), rows_of(data, torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, again = (ANSWERS[name](model, rows) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert {v.dtype for v in after.values()} == {torch.float32}


# --- What each answer is ------------------------------------------------------------


def test_embed_is_the_posterior_mean(placed, rows, data):
    expected = placed.encode(torch.from_numpy(data)).mean.numpy(force=True)
    np.testing.assert_allclose(_inference.embed(placed, rows), expected, rtol=1e-9)


def test_decode_and_reconstruct_are_in_the_units_of_the_data(placed, rows, data):
    z = _inference.embed(placed, rows)
    expected = placed.decode(torch.from_numpy(z)).numpy(force=True)
    decoded = _inference.decode(placed, rows_of(z), exact_likelihood(placed))
    np.testing.assert_allclose(decoded, expected)
    np.testing.assert_allclose(reconstruct(placed, rows), expected)


def test_mixture_labels_are_what_gaussian_mixture_predicts(placed, rows):
    mixture = GaussianMixture(4, covariance_type="diag")
    mixture.weights_ = placed.prior.log_weights.exp().numpy(force=True)
    mixture.means_ = placed.prior.means.numpy(force=True)
    variances = placed.prior.log_variances.exp().numpy(force=True)
    mixture.covariances_, mixture.precisions_cholesky_ = variances, variances**-0.5
    labels = _inference.mixture_labels(placed, rows)
    expected = mixture.predict(_inference.embed(placed, rows))
    np.testing.assert_array_equal(labels, expected)
    assert len(set(labels)) > 1


def test_expected_responsibilities(placed, rows, data):
    expected = placed(torch.from_numpy(data)).numpy(force=True)
    actual = ANSWERS["expected"](placed, rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def rms(difference):
    return float(difference.detach().square().mean().sqrt())


@pytest.fixture
def with_many_draws(placed, data, normal):
    """Densities at many draws of z, and log q(c|x) and the bound that they give."""
    x = torch.from_numpy(data)
    standardized, posterior = placed.likelihood.standardize(x), placed.encode(x)
    draws = reparameterize(posterior, normal(2000, 300, 3))
    density = placed.likelihood.log_density(standardized, placed.decoder(draws))
    log_r = log_responsibilities(placed.prior, posterior, draws)
    return density, log_r, elbo(density, posterior, placed.prior, draws)


def test_sampled_responsibilities_average_over_the_posterior(
    placed, rows, with_many_draws
):
    _, log_r, _ = with_many_draws
    sampled, expected = (
        rms(torch.from_numpy(ANSWERS[name](placed, rows)).exp() - log_r.exp())
        for name in ("sampled", "expected")
    )
    assert sampled < 0.8 * expected


def test_sampled_bound_is_the_looser_one(placed, rows, with_many_draws):
    _, _, terms = with_many_draws
    sampled, expected = (
        torch.from_numpy(ANSWERS[name](placed, rows)[:, 1])
        for name in ("sampled elbo", "elbo")
    )
    assert (sampled <= expected + 1e-9).all()
    assert rms(sampled - terms.mixture) < 0.8 * rms(expected - terms.mixture)


def test_elbo_agrees_with_many_draws(placed, rows, data, with_many_draws):
    """Its draws are balanced: they err less than eight independent ones."""
    density, _, terms = with_many_draws
    actual = torch.from_numpy(ANSWERS["elbo"](placed, rows))
    error_of_independent_draws = rms(density.std(0)) / 8**0.5
    assert rms(actual[:, 0] - terms.reconstruction) < error_of_independent_draws
    posterior = placed.encode(torch.from_numpy(data))
    torch.testing.assert_close(actual[:, 1], mixture_term(placed.prior, posterior))
    torch.testing.assert_close(actual[:, 2], terms.entropy)


def test_float32_networks_lose_little(make_module, normal):
    model, X = make_module(), normal(300, 6).numpy()
    exact = ANSWERS["elbo"](model, rows_of(X))
    rounded = ANSWERS["elbo"](model.float(), rows_of(X, torch.float32))
    np.testing.assert_allclose(rounded, exact, rtol=1e-4, atol=1e-4)


def test_elbo_is_exact_for_a_linear_decoder(make_module, normal):
    """The mean of a quadratic needs draws of covariance one, not only of variances."""
    model, x = make_module(activation="identity"), normal(200, 6)
    model.encoder.reset_variance(torch.tensor(0.3))
    at_mean = model.likelihood.log_density(x, model.decoder(model.encoder.embed(x)))
    origin, axes = torch.zeros(3).double(), torch.eye(3).double()
    columns = model.decoder(axes) - model.decoder(origin)
    spread = 0.3 * columns.square().sum() / model.likelihood.log_noise.exp()
    actual = torch.from_numpy(ANSWERS["elbo"](model, rows_of(x.numpy()))[:, 0])
    torch.testing.assert_close(actual, at_mean - spread / 2)


@pytest.mark.parametrize(
    "latent_dim, n_draws", [(1, 8), (2, 9), (3, 8), (10, 11), (500, 64)]
)
def test_draws_are_centered_and_as_wide_as_a_normal(make_module, latent_dim, n_draws):
    draws = _inference._fixed_noise(make_module(latent_dim=latent_dim))
    assert draws.shape == (n_draws, 1, latent_dim)
    torch.testing.assert_close(draws.sum(0), torch.zeros(1, latent_dim).double())
    norms = draws.square().sum(-1)
    torch.testing.assert_close(norms, torch.full_like(norms, latent_dim))


# --- Importance weights -------------------------------------------------------------


@pytest.fixture
def linear(make_module):
    """A model whose log p(x) is known, since its decoder is linear.

    Its encoder says the same of every row, much wider than the prior.
    """
    model = make_module(activation="identity").requires_grad_(False)
    model.likelihood.log_excess_noise.fill_(1.0)
    model.encoder.mean.weight.zero_()
    model.encoder.mean.bias.zero_()
    model.encoder.reset_variance(torch.tensor(6.0))
    return model


def marginal(model):
    """p(x) of a linear decoder W z + b: a mixture of correlated Gaussians."""
    latent_dim = model.prior.means.shape[1]
    identity = torch.eye(latent_dim, dtype=torch.float64)
    offset = model.decoder(torch.zeros(1, latent_dim).double())
    W = (model.decoder(identity) - offset).mT
    noise = model.likelihood.noise_variance / model.likelihood.scale**2
    spread = W @ torch.diag_embed(model.prior.log_variances.exp()) @ W.mT
    covariances = spread + noise * torch.eye(len(W), dtype=torch.float64)
    parts = MultivariateNormal(model.decoder(model.prior.means), covariances)
    return MixtureSameFamily(Categorical(logits=model.prior.logits), parts)


def test_importance_weights_approach_the_likelihood_of_a_linear_model(linear, normal):
    x = normal(300, 6)
    rows, exact = rows_of(x.numpy()), marginal(linear).log_prob(x).numpy()
    gaps = [
        np.mean(exact - _inference.importance_weighted_per_row(linear, rows, n_draws))
        for n_draws in (8, 64, 4096)
    ]
    assert np.mean(exact - ANSWERS["elbo"](linear, rows).sum(1)) > 2 * gaps[0]
    assert gaps[0] > 2 * gaps[1] > 20 * abs(gaps[2])


def test_any_draw_from_the_exact_posterior_tells_the_likelihood(linear, normal):
    """No row says anything of z, and q(z|x) is the prior of one component."""
    linear.prior.logits[1:] = -1e4
    linear.decoder.output.weight.zero_()
    linear.encoder.mean.bias.copy_(linear.prior.means[0])
    linear.encoder.log_variance.bias.copy_(linear.prior.log_variances[0])
    x = normal(10, 6)
    exact = marginal(linear).log_prob(x).numpy()
    for n_draws in (1, 7):
        bound = _inference.importance_weighted_per_row(
            linear, rows_of(x.numpy()), n_draws
        )
        np.testing.assert_allclose(bound, exact, rtol=1e-6)


@pytest.mark.parametrize("n_draws", [1, 2, 5, 64, 100])
def test_table_of_normal_draws(make_module, n_draws):
    table = _inference._normal_table(make_module(), n_draws)
    assert table.shape == (n_draws, 1, 3)
    assert table.isfinite().all()
    if n_draws >= 64:
        assert table.mean().abs() < 0.05
        assert abs(table.var() - 1) < 0.1


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_survey_sums_up_what_is_said_of_each_row(placed, rows, responsibilities):
    weight = np.random.default_rng(0).integers(0, 3, len(rows)).astype(float)
    rows = replace(rows, weight_of_all=weight)
    r = np.exp(ANSWERS[responsibilities](placed, rows))
    found = _inference.survey(placed, rows, responsibilities)
    np.testing.assert_array_equal(found.labels, r.argmax(1))
    np.testing.assert_allclose(found.mean, np.average(r, axis=0, weights=weight))
    entropies = entropy(r, axis=1)
    np.testing.assert_allclose(
        found.mean_entropy, np.average(entropies, weights=weight)
    )
    labels = _inference.labels_per_row(placed, rows, responsibilities)
    np.testing.assert_array_equal(labels, found.labels)


@pytest.mark.parametrize("rare", [2, 5, 10])
def test_survey_finds_the_rows_far_from_their_component(
    placed, rows, monkeypatch, rare
):
    monkeypatch.setattr(_inference, "RARE", rare)
    found = _inference.survey(placed, rows, "expected")
    means = placed.prior.means.numpy(force=True)[found.labels]
    variances = placed.prior.log_variances.exp().numpy(force=True)[found.labels]
    z = _inference.embed(placed, rows)
    distances = [seuclidean(*row) for row in zip(z, means, variances, strict=True)]
    chances = chi2.sf(np.square(distances), z.shape[1])
    assert 0 < found.far.sum() < len(rows)
    np.testing.assert_array_equal(found.far, chances < 1 / rare)


def test_elbo_of_a_row_is_the_sum_of_its_terms(placed, rows):
    bounds = _inference.elbo_per_row(placed, rows, "expected")
    np.testing.assert_array_equal(bounds, ANSWERS["elbo"](placed, rows).sum(1))
