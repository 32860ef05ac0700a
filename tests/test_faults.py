"""Faults of other implementations, one test each.

Each test also computes the faulty formula, and shows that it differs from ours.
"""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm
from sklearn.mixture import GaussianMixture
from torch.nn.modules.module import register_module_forward_pre_hook

from skvade._model import module as vade_module
from skvade._model.elbo import Posterior, elbo, posterior_entropy, reparameterize
from skvade._model.likelihoods import bernoulli_log_prob, gaussian_log_prob
from skvade._model.networks import Decoder
from skvade._model.prior import DiagonalMixturePrior

WEIGHTS = np.array([0.8, 0.15, 0.05])


@pytest.fixture
def mixture(normal):
    """Give means (K, L) and variances (K, L) of a mixture with the weights above."""
    return normal(3, 4).numpy(), normal(3, 4).exp().numpy()


@pytest.fixture(scope="module")
def fitted(make_estimator, X):
    """An estimator whose clusters are well separated."""
    return make_estimator(pretrain_max_iter=50, max_iter=20).fit(X)


def log_components(z, means, variances):
    """Compute log N(z | c) by SciPy, (B, K)."""
    return norm.logpdf(z[:, None], means, np.sqrt(variances)).sum(-1)


def our_responsibilities(z, means, variances):
    prior = DiagonalMixturePrior(*means.shape, reg_covar=0).double()
    prior.set_parameters(*map(torch.from_numpy, (WEIGHTS, means, variances)))
    return prior.log_joint(torch.from_numpy(z)).softmax(-1).numpy(force=True)


# --- Responsibilities ---------------------------------------------------------------


@pytest.mark.parametrize("scale, contrast_left", [(1, 1), (3, 0), (30, 0)])
def test_responsibilities_do_not_depend_on_the_scale_of_z(normal, scale, contrast_left):
    """Beside the densities, which do, an epsilon would hide them."""
    means, z = 0.7 * normal(3, 10).numpy(), normal(100, 10).numpy()
    right = softmax(np.log(WEIGHTS) + log_components(z, means, 1.0), axis=1)
    problem = scale * z, scale * means, np.full((3, 10), scale**2.0)
    np.testing.assert_allclose(our_responsibilities(*problem), right)

    faulty = WEIGHTS * np.exp(log_components(*problem)) + 1e-10
    faulty /= faulty.sum(1, keepdims=True)
    contrast = (faulty.max(1) - 1 / 3).mean() / (right.max(1) - 1 / 3).mean()
    assert contrast == pytest.approx(contrast_left, abs=0.1)


def test_weights_count_once_and_not_per_latent_dimension(mixture, normal):
    z = normal(200, 4).numpy()
    log_density = log_components(z, *mixture)
    ours = our_responsibilities(z, *mixture)
    np.testing.assert_allclose(ours, softmax(np.log(WEIGHTS) + log_density, axis=1))

    faulty = softmax(4 * np.log(WEIGHTS) + log_density, axis=1)
    assert (faulty.argmax(1) != ours.argmax(1)).mean() > 0.1


def test_responsibilities_are_a_softmax_of_log_densities(mixture, normal):
    z = normal(200, 4).numpy()
    log_joint = np.log(WEIGHTS) + log_components(z, *mixture)
    ours = our_responsibilities(z, *mixture)
    np.testing.assert_allclose(ours, softmax(log_joint, axis=1))

    faulty = softmax(softmax(log_joint, axis=1), axis=1)
    assert faulty.max() <= np.e / (np.e + 2) < 0.9 < ours.max()


# --- The parameters of the mixture --------------------------------------------------


def test_weights_sum_to_one_after_a_step(normal):
    log_density = 3 * normal(50, 3)
    raw = torch.full((3,), 1 / 3, dtype=torch.float64, requires_grad=True)
    prior = DiagonalMixturePrior(3, 1, reg_covar=0).double()
    for log_weights, parameter in (
        (lambda: raw.log(), raw),
        (lambda: prior.log_weights, prior.logits),
    ):
        (log_weights() + log_density).logsumexp(1).mean().backward()
        parameter.data += 0.5 * parameter.grad

    assert raw.sum() > 1.1
    torch.testing.assert_close(prior.log_weights.exp().sum().item(), 1.0)
    right = log_density.softmax(1).mean(0)  # where the ascent has to go
    moved = prior.log_weights.exp() - 1 / 3
    assert torch.equal(moved.sign(), (right - 1 / 3).sign())


def test_variances_are_positive_after_a_step():
    z, step = torch.zeros(1, 1).double(), 1.0
    raw = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
    (-0.5 * (raw.log() + z**2 / raw)).sum().backward()
    assert raw + step * raw.grad < 0

    prior = DiagonalMixturePrior(1, 1, reg_covar=1e-3).double()
    prior.set_parameters(torch.ones(1), z, raw.detach())
    prior.log_joint(z).sum().backward()
    prior.raw_log_variances.data += step * prior.raw_log_variances.grad
    assert 1e-3 <= prior.variances < 0.5


def test_log_variances_count_half():
    log_variance = torch.full((1, 1), np.log(9.0)).double()
    posterior = Posterior(torch.zeros(1, 1).double(), log_variance)
    one = torch.ones(1, 1, 1).double()
    torch.testing.assert_close(reparameterize(posterior, one).item(), 3.0)
    assert log_variance.exp().item() == pytest.approx(9)  # the faulty deviation

    right = norm(0, 3).entropy()
    faulty = 0.5 * (np.log(2 * np.pi) + 1) + np.log(9.0)
    torch.testing.assert_close(posterior_entropy(posterior).item(), right)
    assert faulty - right > 1

    density = gaussian_log_prob(one[0], 0 * one[0], log_variance[0, 0]).item()
    torch.testing.assert_close(density, norm.logpdf(1, 0, 3))
    assert density - norm.logpdf(1, 0, 9) > 0.5


def test_covariances_are_variances_and_not_their_logarithms(fitted):
    prior = fitted.to_torch("cpu").prior
    faulty = prior.log_variances.numpy(force=True)
    np.testing.assert_allclose(fitted.covariances_, np.exp(faulty), rtol=1e-6)
    assert faulty.min() < 0 < fitted.covariances_.min()


def responsibilities_from_attributes(estimator, X, covariances):
    """Compute q(c|x) from fitted attributes and the variances of the posterior."""
    model, m = estimator.to_torch("cpu"), estimator.transform(X)
    posterior = model.encode(torch.tensor(X, dtype=torch.float32))
    v = posterior.log_variance.exp().numpy(force=True)
    spread = (v[:, None] / covariances).sum(-1) / 2
    log_density = log_components(m, estimator.means_, covariances) - spread
    return softmax(np.log(estimator.weights_) + log_density, axis=1)


def test_predictions_follow_from_the_fitted_attributes(fitted, X):
    expected = responsibilities_from_attributes(fitted, X, fitted.covariances_)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, atol=1e-4)
    deviations = responsibilities_from_attributes(
        fitted, X, np.sqrt(fitted.covariances_)
    )
    assert np.abs(deviations - expected).max() > 0.01


# --- Predictions --------------------------------------------------------------------


def test_predictions_use_no_draw_of_z(fitted, X):
    between = fitted.inverse_transform(fitted.means_[:2].mean(0, keepdims=True))
    X = np.vstack([X, np.repeat(between, 200, axis=0)])
    labels = fitted.predict(X)
    np.testing.assert_array_equal(fitted.predict(X), labels)
    assert len(set(labels[-200:])) == 1

    model = fitted.to_torch("cpu")
    model.encoder.reset_variance(torch.tensor(fitted.covariances_.mean()))
    posterior = model.encode(torch.from_numpy(X).float())
    noise = torch.randn(1, *posterior.mean.shape, generator=torch.manual_seed(0))
    faulty = model.prior.log_joint(reparameterize(posterior, noise)[0]).argmax(1)
    assert len(faulty[-200:].unique()) > 1


def test_labels_are_those_of_the_trained_mixture(fitted, X):
    joint = responsibilities_from_attributes(fitted, X, fitted.covariances_)
    np.testing.assert_array_equal(fitted.labels_, joint.argmax(1))
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(X))

    Z = fitted.transform(X)
    faulty = [
        GaussianMixture(3, covariance_type="diag", random_state=seed).fit_predict(Z)
        for seed in range(5)
    ]
    assert not all(np.array_equal(labels, fitted.labels_) for labels in faulty)


def test_predictions_do_not_depend_on_the_other_samples(fitted, X):
    far = np.vstack([X, np.full((1, X.shape[1]), 1e3)])
    proba, embedding = fitted.predict_proba(X), fitted.transform(X)
    np.testing.assert_array_equal(fitted.predict_proba(far)[:-1], proba)
    np.testing.assert_array_equal(fitted.transform(far)[:-1], embedding)
    np.testing.assert_array_equal(fitted.predict_proba(X[:1]), proba[:1])

    def by_batch(X):
        return fitted.transform((X - X.mean(0)) / X.std(0))

    assert np.abs(by_batch(far)[:-1] - by_batch(X)).max() > 0.1


# --- The two halves of the bound ----------------------------------------------------


def test_all_terms_are_averaged_over_the_batch(make_prior, make_posterior, normal):
    posterior, prior, log_likelihood = make_posterior(), make_prior(), normal(2, 5)
    once = elbo(log_likelihood, posterior, prior)
    doubled = Posterior(*(torch.cat([t, t]) for t in posterior))
    twice = elbo(log_likelihood.repeat(1, 2), doubled, prior)
    for term, term_of_twice in zip(once, twice, strict=True):
        assert term.shape[0] == 5
        torch.testing.assert_close(term_of_twice, torch.cat([term, term]))

    def faulty(terms):
        return terms.reconstruction.sum() + terms.latent.mean()

    assert abs(faulty(twice) - faulty(once)) > 0.1
    torch.testing.assert_close(twice.total.mean(), once.total.mean())


def test_loss_does_not_depend_on_the_batch_size(make_estimator, X_unit):
    losses = [
        make_estimator(
            likelihood="bernoulli",
            learning_rate_init=1e-12,
            pretrain_max_iter=0,
            max_iter=1,
            batch_size=size,
        )
        .fit(X_unit)
        .loss_curve_[0]
        for size in (10, 150)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[1] > 1  # a sum over the batch would make this 15 times the other


@pytest.mark.parametrize("n_copies", [2, 100])
def test_log_likelihood_is_a_sum_over_features(normal, n_copies):
    x, output = normal(5, 3).sigmoid(), normal(5, 3)
    for density in (
        bernoulli_log_prob,
        lambda x, mean: gaussian_log_prob(x, mean, torch.tensor(0.3)),
    ):
        once, copies = density(x, output), [t.repeat(1, n_copies) for t in (x, output)]
        torch.testing.assert_close(density(*copies), n_copies * once)
        assert (once < -1).all()  # a mean would not grow with the features


@contextmanager
def decoded():
    """Record all z that any decoder is called on."""
    recorded = []

    def record(module, arguments):
        if isinstance(module, Decoder):
            recorded.append(*arguments)

    hook = register_module_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        hook.remove()


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_both_halves_of_the_bound_have_the_same_draws_of_z(
    make_estimator, X, monkeypatch
):
    in_latent_terms = []

    def recording_elbo(log_likelihood, posterior, prior, draws=None):
        in_latent_terms.append(draws)
        return elbo(log_likelihood, posterior, prior, draws)

    monkeypatch.setattr(vade_module, "elbo", recording_elbo)
    estimator = make_estimator(
        responsibilities="sampled", n_draws=2, pretrain_max_iter=0
    )
    with decoded() as recorded:
        estimator.fit(X)
    in_reconstruction = [z for z in recorded if z.requires_grad]
    assert len(in_latent_terms) == len(in_reconstruction) > 10
    for draws, z in zip(in_latent_terms, in_reconstruction, strict=True):
        assert torch.equal(draws.flatten(0, 1), z)
        assert not torch.equal(draws[0], draws[1])


# --- What the model can say ---------------------------------------------------------


def test_the_likelihood_can_represent_the_data(make_estimator, X):
    X = (X - X.mean(0)) / X.std(0)
    fitted = make_estimator(pretrain_max_iter=30, max_iter=10).fit(X)
    residual = np.square(fitted.reconstruct(X) - X).mean()
    through_a_sigmoid = np.square(np.clip(X, 0, 1) - X).mean()  # at the very best
    assert residual < 0.5 * through_a_sigmoid
    assert fitted.reconstruct(X).min() < 0
    assert fitted.reconstruct(X).max() > 1
    with pytest.raises(ValueError, match=r"needs X in \[0, 1\]"):
        make_estimator(likelihood="bernoulli").fit(X)


def test_samples_are_drawn_from_the_mixture(fitted, assert_is_mean):
    with decoded() as recorded:
        _, c = fitted.sample(4000, random_state=0)
    assert_is_mean(torch.from_numpy(fitted.weights_), torch.from_numpy(np.eye(3)[c]))
    z = recorded[0].numpy()
    noise = torch.from_numpy((z - fitted.means_[c]) / np.sqrt(fitted.covariances_[c]))
    assert_is_mean(torch.zeros(2), noise)
    assert_is_mean(torch.ones(2), noise**2)
    assert np.square(z).mean() < 0.5  # a standard normal would have 1


@pytest.mark.parametrize("label", range(3))
def test_samples_of_a_cluster_belong_to_it(fitted, normal, label):
    samples, c = fitted.sample(300, label=label, random_state=0)
    assert set(c) == {label}
    assert (fitted.predict(samples) == label).mean() > 0.9
    faulty = fitted.predict(fitted.inverse_transform(normal(300, 2).numpy()))
    assert (faulty == label).mean() < 0.8


# --- Training -----------------------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_every_parameter_of_the_mixture_is_trained(make_estimator, X, responsibilities):
    """An optimizer built before the mixture was replaced would leave it behind."""
    before, after = (
        make_estimator(responsibilities=responsibilities, learning_rate_init=rate).fit(
            X
        )
        for rate in (1e-12, 1e-2)
    )
    assert after.weights_.sum() == pytest.approx(1, rel=1e-12)
    for name in ("weights_", "means_", "covariances_"):
        start, end = getattr(before, name), getattr(after, name)
        assert np.abs(end / start - 1).max() > 1e-3, name


def global_generators():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), repr(numpy_state), torch.get_rng_state().tolist()


@pytest.mark.parametrize("random_state", [0, np.random.RandomState(0)])
def test_global_generators_are_left_alone(make_estimator, X, random_state):
    before = global_generators()
    estimator = make_estimator(random_state=random_state, early_stopping=True).fit(X)
    estimator.predict(X)
    estimator.score(X)
    estimator.sample(5)
    assert global_generators() == before

    with torch.random.fork_rng():
        torch.manual_seed(0)  # the fault
        assert global_generators() != before
