"""Extensions of the model: each is one class or function, registered in one place.

A user of the internals would write them as they stand here. No module of skvade is
changed for them, and the estimator fits with them.
"""

import copy
import math
import pickle
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from custom_modules import make_state
from numpy.testing import assert_allclose, assert_array_equal
from recorders import Snapshots
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Categorical, MultivariateNormal, kl_divergence
from torch.distributions import Laplace as LaplaceDistribution
from torch.nn.modules.module import register_module_forward_pre_hook

from skvade import VaDEClusterer
from skvade._data.dataset import Batch
from skvade._data.scaling import Scaling
from skvade._model.likelihoods import LIKELIHOODS, Likelihood, masked_sum
from skvade._model.module import LOSS_TERMS
from skvade._model.networks import Decoder
from skvade._model.prior import PRIORS, MixturePrior
from skvade._training.stages import train
from skvade.plotting import ClusterSamplesDisplay, LatentSpaceDisplay


def predictions(model, X):
    return {
        "predict_proba": model.predict_proba(X),
        "reconstruct": model.reconstruct(X),
        "score_samples": model.score_samples(X),
        "sample": model.sample(20, random_state=0)[0],
    }


def assert_same_predictions(model, other, X):
    expected = predictions(other, X)
    for name, values in predictions(model, X).items():
        assert_array_equal(values, expected[name], err_msg=name)


def assert_usable(model, X):
    """Assert that methods, copies and export work as for any fitted model."""
    for name, values in predictions(model, X).items():
        assert np.isfinite(values).all(), name
    assert model.score(X) == pytest.approx(model.lower_bound_)
    assert model.cluster_centers_.shape == (3, X.shape[1])
    assert_same_predictions(pickle.loads(pickle.dumps(model)), model, X)
    assert_array_equal(model.predict(X), model.labels_)
    with torch.no_grad():
        module = model.to_torch("cpu")
        log_proba = module(torch.tensor(X, dtype=torch.float32))
    assert_allclose(log_proba.exp(), model.predict_proba(X), atol=1e-4)


def assert_snapshots_predict(estimator, X):
    """Assert that the last model that a callback gets predicts as the fitted one."""
    snapshots = Snapshots()
    model = estimator.set_callbacks(snapshots).fit(X)
    last = snapshots.at_epochs()[-1]
    assert_allclose(last.score_samples(X), model.score_samples(X))
    assert_allclose(last.reconstruct(X), model.reconstruct(X))


def assert_continues(model, X):
    """Assert that partial_fit and a warm start go on from the model."""
    streamed = copy.deepcopy(model).partial_fit(X)
    assert len(streamed.lower_bounds_) == len(model.lower_bounds_) + 1
    assert streamed.lower_bound_ > model.lower_bound_ - 1
    resumed = copy.deepcopy(model).set_params(warm_start=True).fit(X)
    assert resumed.lower_bound_ > model.lower_bound_ - 1


@contextmanager
def recorded_inputs(kind):
    """Record the inputs of all modules of a class."""
    inputs = []

    def record(module, arguments):
        if isinstance(module, kind):
            inputs.append(arguments[0].detach())

    hook = register_module_forward_pre_hook(record)
    try:
        yield inputs
    finally:
        hook.remove()


# --- A likelihood -------------------------------------------------------------------


class Laplace(Likelihood):
    """Laplace(x | unstandardize(output), scale), with a learned scale of each feature.

    Attributes
    ----------
    log_noise_scale : Parameter of shape (D,)
        Log of the scale of standardized samples.
    """

    def __init__(self, n_features):
        super().__init__(n_features)
        self.log_noise_scale = nn.Parameter(torch.zeros(n_features))

    @property
    def noise_scale(self):
        """Scale in the unit of the data."""
        return self.log_noise_scale.exp() * self.scale

    def log_prob(self, standardized, output, mask=None):
        noise = LaplaceDistribution(self.unstandardize(output), self.noise_scale)
        return masked_sum(noise.log_prob(self.unstandardize(standardized)), mask)

    def mean(self, output):
        return self.unstandardize(output)

    def sample(self, output, generator):
        """Invert the distribution function: torch's object takes no generator."""
        mean = self.mean(output)
        uniform = torch.empty_like(mean).uniform_(-0.5, 0.5, generator=generator)
        noise = -uniform.sign() * torch.log1p(-2 * uniform.abs())
        return mean + self.noise_scale * noise

    def encoder_input(self, standardized):
        """Bound extreme values, which are to be expected."""
        return torch.tanh(standardized)

    @torch.no_grad()
    def initialize_output(self, output_layer, residual_variance):
        self.log_noise_scale.fill_(0.5 * math.log(residual_variance / 2))

    def fitted_attributes(self):
        return {"scale_": self.noise_scale.numpy(force=True)}

    @torch.no_grad()
    def load_fitted_attributes(self, attributes):
        scale = torch.tensor(attributes["scale_"], dtype=torch.float64)
        self.log_noise_scale.copy_((scale / self.scale.double().cpu()).log())


@pytest.fixture
def laplace(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "laplace", Laplace)


@pytest.fixture
def make_laplace(normal):
    """Likelihoods of data around 5 with a scale of 2.5, their noise scales unequal."""

    def make(n_features=4, dtype=torch.float64):
        likelihood = Laplace(n_features).to(dtype)
        location = np.full(n_features, 5.0)
        likelihood.set_scaling(Scaling(location, 2.5, location))
        likelihood.log_noise_scale.detach().copy_(normal(n_features))
        return likelihood

    return make


@pytest.fixture(scope="module")
def X_laplace(X):
    """The groups of X with Laplace noise, of another scale for each feature."""
    noise = np.random.default_rng(0).laplace(size=X.shape)
    return X + np.linspace(0.1, 1.0, X.shape[1]) * noise


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_laplace_log_prob_is_that_of_torch(make_laplace, normal, missing):
    likelihood = make_laplace()
    x, output = 5 + 2 * normal(5, 4), normal(7, 5, 4)
    mask = (normal(5, 4) > 0).double() if missing else None
    actual = likelihood.log_prob(likelihood.standardize(x), output, mask)
    scale = 2.5 * likelihood.log_noise_scale.exp()
    log_prob = LaplaceDistribution(5 + 2.5 * output, scale).log_prob(x)
    expected = (log_prob if mask is None else log_prob * mask).sum(-1)
    torch.testing.assert_close(actual, expected)


def test_laplace_gradient(make_laplace, normal):
    likelihood, x = make_laplace(), normal(3, 4)
    inputs = normal(2, 3, 4).requires_grad_(), likelihood.log_noise_scale
    assert gradcheck(lambda output, _: likelihood.log_prob(x, output), inputs)


def test_laplace_mean_and_draws(make_laplace, normal, generator, assert_is_mean):
    likelihood, output = make_laplace(), normal(4)
    distribution = LaplaceDistribution(5 + 2.5 * output, likelihood.noise_scale)
    torch.testing.assert_close(likelihood.mean(output), distribution.mean)
    x = likelihood.sample(output.expand(40_000, 4), generator).detach()
    assert_is_mean(distribution.mean, x)
    assert_is_mean(distribution.variance.detach(), (x - distribution.mean) ** 2)
    mean_distance = distribution.scale.detach()
    assert_is_mean(mean_distance, (x - distribution.mean).abs())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_laplace_fitted_attributes_round_trip(make_laplace, dtype):
    likelihood = make_laplace(dtype=dtype)
    attributes = likelihood.fitted_attributes()
    assert attributes["scale_"].shape == (4,)
    loaded = make_laplace(dtype=dtype)
    loaded.load_fitted_attributes(attributes)
    assert_allclose(loaded.fitted_attributes()["scale_"], attributes["scale_"], 1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_laplace_likelihood_is_fitted(
    laplace, make_estimator, blobs, X_laplace, precision
):
    model = make_estimator(
        likelihood="laplace", precision=precision, pretrain_max_iter=30, max_iter=20
    ).fit(X_laplace)
    assert model.scale_.shape == (5,)
    assert type(model.scale_) is np.ndarray
    assert not hasattr(model, "noise_variance_")
    residual = np.abs(X_laplace - model.reconstruct(X_laplace)).mean(0)
    assert np.corrcoef(model.scale_, residual)[0, 1] > 0.9
    assert adjusted_rand_score(blobs[1], model.labels_) > 0.9
    assert_usable(model, X_laplace)
    assert_continues(model, X_laplace)


def test_laplace_snapshots_predict(laplace, make_estimator, X_laplace):
    assert_snapshots_predict(make_estimator(likelihood="laplace"), X_laplace)


def test_editing_the_fitted_attribute_changes_all_results(
    laplace, make_estimator, X_laplace
):
    model = make_estimator(likelihood="laplace").fit(X_laplace)
    before = predictions(model, X_laplace)
    model.scale_ = 3 * model.scale_
    after = predictions(model, X_laplace)
    assert_array_equal(after["predict_proba"], before["predict_proba"])
    assert_allclose(after["reconstruct"], before["reconstruct"])
    assert not np.allclose(after["score_samples"], before["score_samples"])
    expected = model.inverse_transform(model.transform(X_laplace))
    assert_allclose(after["reconstruct"], expected)
    module = model.to_torch("cpu")
    assert_allclose(module.likelihood.noise_scale.detach(), model.scale_, rtol=1e-5)


def test_laplace_with_missing_entries(laplace, make_estimator, X_missing):
    model = make_estimator(likelihood="laplace").fit(X_missing)
    assert np.isfinite(model.impute(X_missing)).all()
    assert np.isfinite(model.score_samples(X_missing)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "parameters",
    [
        {"pretraining": "autoencoder"},
        {"pretraining": "stacked"},
        {"pretraining": "vae"},
        {"embedding": PCA(2), "embedding_input": "autoencoder"},
    ],
)
def test_the_encoder_gets_nothing_but_its_input_from_the_likelihood(
    laplace, make_estimator, X, monkeypatch, parameters
):
    monkeypatch.setattr(Laplace, "encoder_input", lambda self, x: x.clamp(0, 0.1))
    estimator = make_estimator(
        likelihood="laplace", hidden_layer_sizes=(8, 4), **parameters
    )
    with recorded_inputs(nn.Linear) as inputs:
        estimator.fit(X).predict(X)
    of_encoder = [x for x in inputs if x.shape[1] == X.shape[1]]
    assert len(of_encoder) > 50
    assert all(x.min() >= 0 and x.max() <= 0.1 for x in of_encoder)


def test_values_outside_the_support_are_rejected(
    laplace, make_estimator, X, monkeypatch
):
    estimator = make_estimator(likelihood="laplace")
    monkeypatch.setattr(Laplace, "support", (0.0, math.inf))
    with pytest.raises(ValueError, match=r"likelihood='laplace' needs X in \[0, inf\]"):
        estimator.fit(X)
    positive = X - X.min() + 1
    model = estimator.fit(positive)
    with pytest.warns(UserWarning, match="score of likelihood='laplace' is no"):
        model.score(positive - 2)


def test_a_likelihood_that_does_not_center_gets_samples_with_their_origin(
    laplace, make_estimator, X, monkeypatch
):
    monkeypatch.setattr(Laplace, "centered", False)
    model = make_estimator(likelihood="laplace").fit(X)
    assert not model.to_torch("cpu").likelihood.location.any()


def test_an_unregistered_likelihood_is_an_invalid_parameter(make_estimator, X):
    with pytest.raises(ValueError, match=r"'likelihood' parameter .* Got 'laplace'"):
        make_estimator(likelihood="laplace").fit(X)


# --- A prior ------------------------------------------------------------------------


class SharedMixturePrior(MixturePrior):
    """K Gaussians that share one full covariance, factor factor^T + reg_covar I.

    The free parameter is a lower triangular matrix with the logarithms of the factor's
    diagonal on its own.
    """

    def __init__(self, n_components, latent_dim, reg_covar):
        super().__init__(n_components, latent_dim, reg_covar)
        self.raw_factor = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def _ridge(self):
        return self.reg_covar * torch.eye(len(self.raw_factor)).to(self.raw_factor)

    @property
    def covariances(self):
        diagonal = self.raw_factor.diagonal().exp()
        factor = self.raw_factor.tril(-1) + torch.diag(diagonal)
        return factor @ factor.T + self._ridge()

    @property
    def cholesky(self):
        return torch.linalg.cholesky(self.covariances)

    @property
    def variances(self):
        return self.covariances.diagonal().expand_as(self.means)

    @torch.no_grad()
    def set_covariances(self, covariances):
        factor = torch.linalg.cholesky(covariances - self._ridge().double().cpu())
        logarithms = torch.diag(factor.diagonal().log())
        self.raw_factor.copy_(factor.tril(-1) + logarithms)

    def estimate_covariances(self, residuals, labels, sample_weight):
        scatter = (sample_weight[:, None] * residuals).T @ residuals
        ridge = (self.reg_covar + 1e-10) * np.eye(len(scatter))
        return scatter / sample_weight.sum() + ridge

    def expected_log_joint(self, mean, variance):
        components = MultivariateNormal(self.means, scale_tril=self.cholesky)
        log_prob = components.log_prob(mean[..., None, :])
        precisions = torch.cholesky_inverse(self.cholesky).diagonal()
        trace = (variance * precisions.expand_as(mean)).sum(-1, keepdim=True)
        return self.log_weights + log_prob - 0.5 * trace

    def squared_distance(self, z, component):
        deviation = (z - self.means[component])[..., None]
        scaled = torch.linalg.solve_triangular(self.cholesky, deviation, upper=False)
        return scaled.square().sum((1, 2))

    def sample(self, component, generator):
        means = self.means[component]
        noise = torch.empty_like(means).normal_(generator=generator)
        return means + noise @ self.cholesky.T

    @torch.no_grad()
    def permute(self, order):
        for parameter in (self.logits, self.means):
            parameter.copy_(parameter[order])


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setitem(PRIORS, "shared", SharedMixturePrior)


@pytest.fixture
def make_shared_prior(normal):
    """Mixtures of unequal weights and means, the covariance far from diagonal."""

    def make(dtype=torch.float64, reg_covar=1e-3):
        prior = SharedMixturePrior(4, 3, reg_covar).double()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.copy_(normal(*parameter.shape))
        return prior.to(dtype)

    return make


@pytest.fixture(scope="module")
def X_correlated():
    """Two groups, far longer than wide, whose long axes are parallel."""
    rng = np.random.default_rng(0)
    along = rng.normal(size=(300, 1)) * 4
    labels = np.arange(300) % 3
    across = 3.0 * labels[:, None] + 0.3 * rng.normal(size=(300, 1))
    return np.hstack([along + across, along - across, along]), labels


def test_shared_expected_log_joint_is_log_weight_minus_cross_entropy(
    make_shared_prior, make_posterior
):
    prior, (mean, log_variance) = make_shared_prior(), make_posterior()
    variance = log_variance.exp()
    posterior = MultivariateNormal(mean[:, None], torch.diag_embed(variance)[:, None])
    components = MultivariateNormal(prior.means, prior.covariances)
    cross_entropy = kl_divergence(posterior, components) + posterior.entropy()
    expected = Categorical(logits=prior.logits).probs.log() - cross_entropy
    torch.testing.assert_close(prior.expected_log_joint(mean, variance), expected)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_shared_log_joint_is_log_weight_plus_log_density(
    make_shared_prior, normal, shape
):
    prior, z = make_shared_prior(), 2 * normal(*shape)
    components = MultivariateNormal(prior.means, prior.covariances)
    expected = prior.log_weights + components.log_prob(z[..., None, :])
    torch.testing.assert_close(prior.log_joint(z), expected)


def test_shared_gradient(make_shared_prior, make_posterior):
    prior, (mean, log_variance) = make_shared_prior(), make_posterior(n_samples=2)
    inputs = mean.requires_grad_(), log_variance.exp().requires_grad_()
    assert gradcheck(
        lambda m, v, *_: prior.expected_log_joint(m, v), (*inputs, *prior.parameters())
    )


def test_shared_moments_of_draws(make_shared_prior, generator, assert_is_mean):
    prior = make_shared_prior()
    z = prior.sample(torch.full((40_000,), 2), generator).detach()
    assert_is_mean(prior.means[2], z)
    deviation = z - prior.means[2].detach()
    assert_is_mean(prior.covariances, deviation[:, :, None] * deviation[:, None])


def test_shared_squared_distance_is_that_of_mahalanobis(make_shared_prior, normal):
    prior, z, component = make_shared_prior(), 2 * normal(20, 3), torch.arange(20) % 4
    deviation = z - prior.means[component]
    precision = torch.linalg.inv(prior.covariances)
    expected = torch.einsum("bi,ij,bj->b", deviation, precision, deviation)
    torch.testing.assert_close(prior.squared_distance(z, component), expected)


def test_shared_covariance_of_a_partition_is_that_within_the_groups():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    mixing = rng.normal(size=(4, 4))
    Z = 5 * labels[:, None] + rng.normal(size=(100, 4)) @ mixing
    weight = rng.uniform(0.5, 1.5, 100)
    prior = SharedMixturePrior(3, 4, 0.0).double()
    prior.initialize_from_partition(Z, labels, weight, np.random.RandomState(0))
    attributes = prior.fitted_attributes()
    means = [np.average(Z[labels == c], 0, weight[labels == c]) for c in range(3)]
    assert_allclose(attributes["means_"], means)
    within = np.cov((Z - np.array(means)[labels]).T, aweights=weight, bias=True)
    assert_allclose(attributes["covariances_"], within, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype, rtol", [(torch.float32, 1e-4), (torch.float64, 1e-12)], ids=str
)
def test_shared_fitted_attributes_round_trip(make_shared_prior, dtype, rtol):
    attributes = make_shared_prior(dtype).fitted_attributes()
    assert attributes["covariances_"].shape == (3, 3)
    loaded = make_shared_prior(dtype)
    loaded.load_fitted_attributes(attributes)
    for name, values in loaded.fitted_attributes().items():
        assert_allclose(values, attributes[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_a_shared_prior_is_fitted(shared, make_estimator, blobs, responsibilities):
    X, y = blobs
    model = make_estimator(
        covariance_type="shared", responsibilities=responsibilities, max_iter=10
    ).fit(X)
    assert model.covariances_.shape == (2, 2)
    assert model.covariances_[0, 1] == pytest.approx(model.covariances_[1, 0])
    assert model.covariances_[0, 1] != 0
    assert (np.linalg.eigvalsh(model.covariances_) > 0).all()
    assert adjusted_rand_score(y, model.labels_) > 0.9
    assert_usable(model, X)
    assert_continues(model, X)


def test_the_modes_of_shared_clusters_are_those_of_the_matrix(
    make_estimator, X_correlated, monkeypatch
):
    """By their marginal variances alone these clusters share a mode, falsely."""
    X, labels = X_correlated
    settings = {"init": labels, "max_iter": 1, "latent_dim": 2}
    message = "Clusters share a mode"
    with pytest.warns(ConvergenceWarning, match=message):
        make_estimator(**settings).fit(X)
    monkeypatch.setitem(PRIORS, "shared", SharedMixturePrior)
    settings["covariance_type"] = "shared"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message)
        make_estimator(**settings).fit(X)


def test_plots_do_not_draw_shared_components(shared, make_estimator, X):
    model = make_estimator(covariance_type="shared").fit(X)
    message = r"Got covariance_type='shared' and shape \(2, 2\) instead"
    with pytest.raises(ValueError, match=message):
        ClusterSamplesDisplay.from_estimator(model)
    with pytest.raises(ValueError, match=message):
        LatentSpaceDisplay.from_estimator(model, X)


def test_shared_snapshots_predict(shared, make_estimator, X):
    assert_snapshots_predict(make_estimator(covariance_type="shared"), X)


def test_an_unregistered_prior_is_an_invalid_parameter(make_estimator, X):
    with pytest.raises(ValueError, match=r"'covariance_type' .* Got 'shared'"):
        make_estimator(covariance_type="shared").fit(X)


def test_the_shared_prior_is_the_tied_one_of_another_parametrization(
    make_shared_prior, make_posterior
):
    prior, (mean, log_variance) = make_shared_prior(), make_posterior()
    tied = PRIORS["tied"](4, 3, prior.reg_covar).double()
    tied.load_fitted_attributes(prior.fitted_attributes())
    torch.testing.assert_close(
        tied.expected_log_joint(mean, log_variance.exp()),
        prior.expected_log_joint(mean, log_variance.exp()),
    )


def test_a_shared_prior_follows_correlated_groups(shared, make_estimator, X_correlated):
    """The components lie along the groups, which no diagonal covariance does."""
    X, y = X_correlated
    model = make_estimator(
        covariance_type="shared", init=y, max_iter=10, pretrain_max_iter=30
    ).fit(X)
    Z = model.transform(X)
    within = np.cov((Z - model.means_[model.labels_]).T, bias=True)
    correlation = within[0, 1] / np.sqrt(np.prod(np.diag(within)))
    fitted = model.covariances_
    fitted_correlation = fitted[0, 1] / np.sqrt(np.prod(np.diag(fitted)))
    assert abs(correlation) > 0.5
    assert fitted_correlation == pytest.approx(correlation, abs=0.2)


def test_samples_are_drawn_from_the_shared_prior(shared, make_estimator, X):
    model = make_estimator(covariance_type="shared").fit(X)
    with recorded_inputs(Decoder) as inputs:
        _, c = model.sample(20_000, random_state=0)
    covariance = np.cov((inputs[0].numpy() - model.means_[c]).T)
    assert_allclose(covariance, model.covariances_, atol=0.05 * np.trace(covariance))


# --- A loss term --------------------------------------------------------------------


def latent_norm(module, batch, posterior, config):
    """Draw the embedding to the origin, by as much as the parameter says."""
    strength = getattr(config, "latent_penalty", 1.0)
    return strength * posterior.mean.square().sum(1)


class PenalizedClusterer(VaDEClusterer):
    """An estimator with a parameter of the term."""

    def __init__(self, latent_penalty=1.0, **params):
        super().__init__(**params)
        self.latent_penalty = latent_penalty


@pytest.fixture
def penalty(monkeypatch):
    monkeypatch.setitem(LOSS_TERMS, "latent_norm", latent_norm)


def trained_state(estimator, X):
    state = make_state(estimator, X)
    train(state)
    return state


def test_a_loss_term_has_a_curve_of_its_name(penalty, make_estimator, X):
    curves = trained_state(make_estimator(max_iter=5), X).history.training
    assert set(curves) == {"loss", "elbo", "reconstruction", "latent_norm"}
    assert {len(curve) for curve in curves.values()} == {5}
    assert all(value > 0 for value in curves["latent_norm"])
    expected = np.subtract(curves["latent_norm"], curves["elbo"])
    assert_allclose(curves["loss"], expected, rtol=1e-5)


def test_a_loss_term_is_weighted_by_sample_and_averaged(penalty, make_module, normal):
    module, noise = make_module(), normal(1, 7, 3)
    batch = Batch(normal(7, 6), normal(7).exp(), torch.arange(7), None)
    config = SimpleNamespace(beta=1.0, responsibilities="expected")
    loss, terms = module.loss(batch, noise, config)
    norms = module.encoder(batch.x).mean.square().sum(1)
    expected = (batch.sample_weight * norms).sum()
    torch.testing.assert_close(terms["latent_norm"], expected.detach())
    torch.testing.assert_close(loss, (expected - terms["elbo"]) / 7)
    assert not terms["latent_norm"].requires_grad


@pytest.mark.parametrize("name", ["loss", "elbo", "reconstruction"])
def test_a_loss_term_of_a_taken_name_is_rejected(make_estimator, X, monkeypatch, name):
    model = make_estimator().fit(X)
    before = dict(vars(model))
    monkeypatch.setitem(LOSS_TERMS, name, latent_norm)
    with pytest.raises(ValueError, match=f"Got '{name}' in LOSS_TERMS as well"):
        model.fit(X)
    assert vars(model) == before


def test_a_loss_term_changes_the_fit(make_estimator, X, monkeypatch):
    settings = {"max_iter": 20, "learning_rate_init": 5e-3}
    plain = make_estimator(**settings).fit(X)
    monkeypatch.setitem(LOSS_TERMS, "latent_norm", latent_norm)
    penalized = make_estimator(**settings).fit(X)

    def mean_norm(model):
        return np.square(model.transform(X)).sum(1).mean()

    assert mean_norm(penalized) < 0.9 * mean_norm(plain)
    assert len(penalized.loss_curve_) == 20
    assert penalized.score(X) == pytest.approx(penalized.lower_bound_)


def test_a_loss_term_is_recorded_over_calls_of_partial_fit(penalty, make_estimator, X):
    model = make_estimator().partial_fit(X).partial_fit(X)
    curves = model._training_state["training"]
    assert {len(curve) for curve in curves.values()} == {2}
    assert curves["latent_norm"][0] > 0


def test_a_loss_term_reads_a_parameter_of_a_subclass(penalty, make_estimator, X):
    settings = make_estimator().get_params()
    losses = []
    for strength in (0.0, 1.0, 2.0):
        model = PenalizedClusterer(strength, **settings).fit(X)
        losses.append(model._training_state["training"]["latent_norm"][0])
    assert losses[0] == 0
    assert losses[2] > losses[1] > 0
