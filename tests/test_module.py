"""The loss of the whole module against torch.distributions, and its other methods."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from skvade._data.dataset import Batch
from skvade._data.scaling import Scaling
from skvade._model.elbo import log_responsibilities, reparameterize

LOCATION, SCALE = 5.0, 2.5


# What the modules get of counts is tested in test_likelihoods and test_counts.
@pytest.fixture(params=["bernoulli", "gaussian"])
def likelihood(request):
    return request.param


@pytest.fixture
def make_scaled_module(make_module):
    """Modules of data around 5 with a scale of 2.5; of data in [0, 1] for Bernoulli."""

    def make(likelihood, **params):
        module = make_module(likelihood=likelihood, **params)
        bernoulli = likelihood == "bernoulli"
        location, scale = (0.0, 1.6) if bernoulli else (LOCATION, SCALE)
        feature_mean = LOCATION + np.arange(len(module.likelihood.location))
        module.likelihood.set_scaling(Scaling(np.array(location), scale, feature_mean))
        return module

    return make


@pytest.fixture
def make_batch(normal):
    """Batches of unequal weights, for Bernoulli of samples in [0, 1]."""

    def make(module, n_samples=7, missing=False):
        n_features = len(module.likelihood.location)
        x = normal(n_samples, n_features)
        x = module.likelihood.standardize(x.sigmoid())
        weight = normal(n_samples).exp()
        mask = None
        if missing:
            mask = (normal(n_samples, n_features) > -0.5).double()
            mask[:, 0] = 1
        return Batch(x, weight, torch.arange(n_samples), mask)

    return make


# --- The loss -----------------------------------------------------------------------


def independent_terms(module, batch, noise, responsibilities):
    """Compute E[log p(x|z)] and the latent terms of each sample by torch's objects."""
    mean, log_variance = module.encoder(batch.x)
    std = log_variance.exp().sqrt()
    draws = [mean + std * eps for eps in noise]
    likelihood, prior = module.likelihood, module.prior

    x = likelihood.location + likelihood.scale * batch.x
    if hasattr(likelihood, "noise_variance"):
        noise_std = likelihood.noise_variance.sqrt()
        means = [
            likelihood.location + likelihood.scale * module.decoder(z) for z in draws
        ]
        log_prob = [Normal(mean, noise_std).log_prob(x) for mean in means]
    else:
        p = [module.decoder(z).sigmoid() for z in draws]
        log_prob = [x * p.log() + (1 - x) * (1 - p).log() for p in p]
    mask = torch.ones_like(x) if batch.mask is None else batch.mask
    reconstruction = torch.stack([(values * mask).sum(1) for values in log_prob])

    weights = Categorical(logits=prior.logits).probs
    variances = prior.raw_log_variances.exp() + prior.reg_covar
    components = Independent(Normal(prior.means, variances.sqrt()), 1)
    posterior = Independent(Normal(mean[:, None], std[:, None]), 1)
    cross_entropy = kl_divergence(posterior, components) + posterior.entropy()
    log_joint = weights.log() - cross_entropy
    if responsibilities == "expected":
        log_r = Categorical(logits=log_joint).logits
    else:
        densities = [components.log_prob(z[:, None]).exp() * weights for z in draws]
        each = torch.stack([d / d.sum(1, keepdim=True) for d in densities])
        log_r = each.mean(0).log()
    latent = (log_r.exp() * (log_joint - log_r)).sum(1) + posterior.entropy()[:, 0]
    return reconstruction.mean(0), latent


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_labels_add_their_cross_entropy_to_the_latent_terms(
    make_scaled_module, make_batch, normal, responsibilities
):
    module = make_scaled_module("gaussian")
    batch, noise = make_batch(module), normal(2, 7, 3)
    config = SimpleNamespace(
        beta=0.3, init_weight=2.0, responsibilities=responsibilities
    )
    n_clusters = len(module.prior.logits)
    labels = torch.arange(7) % n_clusters
    loss, terms = module.loss(batch._replace(labels=labels), noise, config)

    posterior = module.encoder(batch.x)
    draws = reparameterize(posterior, noise)
    sampled = draws if responsibilities == "sampled" else None
    log_r = log_responsibilities(module.prior, posterior, sampled)
    log_prob = torch.stack([Categorical(logits=log_r).log_prob(labels)])[0]
    cross_entropy = -(batch.sample_weight * log_prob).sum()
    free, free_terms = module.loss(batch, noise, config)
    torch.testing.assert_close(loss, free + 0.3 * 2.0 * cross_entropy / 7)
    torch.testing.assert_close(terms["init_cross_entropy"], cross_entropy.detach())
    assert terms["elbo"] == free_terms["elbo"]
    assert "init_cross_entropy" not in free_terms


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
@pytest.mark.parametrize("beta, n_draws", [(1.0, 1), (0.3, 3)])
def test_loss_is_the_weighted_negative_bound_by_torchs_distributions(
    make_scaled_module,
    make_batch,
    normal,
    likelihood,
    beta,
    n_draws,
    responsibilities,
    missing,
):
    module = make_scaled_module(likelihood)
    batch, noise = make_batch(module, missing=missing), normal(n_draws, 7, 3)
    config = SimpleNamespace(beta=beta, responsibilities=responsibilities)
    loss, terms = module.loss(batch, noise, config)

    reconstruction, latent = independent_terms(module, batch, noise, responsibilities)
    weight = batch.sample_weight
    expected = -(weight * (reconstruction + beta * latent)).sum()
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected / 7)
    sums = {
        "loss": expected,
        "elbo": (weight * (reconstruction + latent)).sum(),
        "reconstruction": (weight * reconstruction).sum(),
    }
    assert terms.keys() == sums.keys()
    for name, value in terms.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, sums[name].detach(), msg=name)

    parameters = [*module.parameters()]
    gradients = torch.autograd.grad(loss, parameters)
    expected_gradients = torch.autograd.grad(expected / 7, parameters)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.1])
def test_loss_with_a_component_near_the_floor_of_its_variance(
    make_scaled_module, make_batch, normal, reg_covar
):
    module = make_scaled_module("gaussian", reg_covar=reg_covar)
    with torch.no_grad():
        module.prior.raw_log_variances[0] = -8.0
    batch, noise = make_batch(module), normal(2, 7, 3)
    config = SimpleNamespace(beta=1.0, responsibilities="expected")
    loss = module.loss(batch, noise, config).loss
    terms = independent_terms(module, batch, noise, "expected")
    expected = -(batch.sample_weight * sum(terms)).mean()
    torch.testing.assert_close(loss, expected)
    parameters = [*module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
    )


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_gradient_of_the_loss(
    make_scaled_module, make_batch, normal, likelihood, responsibilities
):
    module = make_scaled_module(
        likelihood, n_features=3, latent_dim=2, n_clusters=2, hidden_layer_sizes=(3,)
    )
    batch, noise = make_batch(module, n_samples=3, missing=True), normal(2, 3, 2)
    config = SimpleNamespace(beta=0.5, responsibilities=responsibilities)
    parameters = tuple(module.parameters())
    assert gradcheck(lambda *_: module.loss(batch, noise, config).loss, parameters)


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_loss_reaches_every_parameter(
    make_scaled_module, make_batch, normal, likelihood, responsibilities
):
    module = make_scaled_module(likelihood)
    config = SimpleNamespace(beta=1.0, responsibilities=responsibilities)
    module.loss(make_batch(module), normal(1, 7, 3), config).loss.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert not [n for n, p in module.named_parameters() if not p.grad.any()]


def test_missing_entries_enter_the_loss_through_the_encoder_alone(
    make_scaled_module, make_batch, normal, likelihood
):
    module = make_scaled_module(likelihood)
    batch, noise = make_batch(module, missing=True), normal(2, 7, 3)
    module.encoder.backbone[0].weight.detach().zero_()
    config = SimpleNamespace(beta=1.0, responsibilities="expected")
    changed = batch._replace(x=torch.where(batch.mask.bool(), batch.x, 0.25))
    one, other = (module.loss(b, noise, config).loss for b in (batch, changed))
    torch.testing.assert_close(one, other)


# --- Missing entries ----------------------------------------------------------------


@pytest.mark.parametrize("pretraining", [False, True])
def test_impute_puts_the_reconstruction_in_the_place_of_missing_entries(
    make_scaled_module, make_batch, likelihood, pretraining
):
    module = make_scaled_module(likelihood)
    x, _, _, mask, *_ = make_batch(module, missing=True)
    imputed = module.impute(x, mask, pretraining)
    expected = module.decoder(module.encoder(x).mean)
    if not pretraining:
        mean = module.likelihood.mean(expected)
        expected = module.likelihood.standardize(mean)
    observed = mask.bool()
    assert not observed.all()
    assert torch.equal(imputed[observed], x[observed])
    torch.testing.assert_close(imputed[~observed], expected.detach()[~observed])
    assert not imputed.requires_grad


def test_impute_batch_leaves_a_complete_batch(make_module, make_batch):
    module = make_module()
    batch = make_batch(module)
    assert module.impute_batch(batch) is batch


@pytest.mark.parametrize("training", [False, True])
def test_impute_batch_predicts_in_evaluation_mode(make_module, make_batch, training):
    module = make_module().train(training)
    batch = make_batch(module, missing=True)
    modes = []
    module.encoder.register_forward_hook(lambda *_: modes.append(module.training))
    module.decoder.register_forward_hook(lambda *_: modes.append(module.training))
    imputed = module.impute_batch(batch)
    assert set(modes) == {False}
    assert module.training is training
    torch.testing.assert_close(imputed.x, module.impute(batch.x, batch.mask))
    assert imputed[1:] == batch[1:]


def test_impute_batch_restores_the_mode_after_an_error(make_module, make_batch):
    module = make_module().train()
    batch = make_batch(module, missing=True)
    module.decoder.backbone = nn.Linear(1, 1).double()
    with pytest.raises(RuntimeError):
        module.impute_batch(batch)
    assert module.training


# --- In the units of the data -------------------------------------------------------


def as_data(module, standardized):
    return module.likelihood.location + module.likelihood.scale * standardized


def test_preprocess_standardizes_and_imputes(
    make_scaled_module, make_batch, likelihood
):
    module = make_scaled_module(likelihood)
    standardized, _, _, mask, *_ = make_batch(module, missing=True)
    x = as_data(module, standardized)
    torch.testing.assert_close(module.preprocess(x), standardized)

    x = torch.where(mask.bool(), x, math.nan)
    mean = LOCATION + torch.arange(6)
    guess = (mean - module.likelihood.location) / module.likelihood.scale
    guessed = torch.where(mask.bool(), standardized, guess)
    torch.testing.assert_close(module.preprocess(x), module.impute(guessed, mask))


def test_encode_standardizes(make_scaled_module, normal, likelihood):
    module, standardized = make_scaled_module(likelihood), normal(7, 6)
    actual = module.encode(as_data(module, standardized))
    torch.testing.assert_close(actual, module.encoder(standardized))


def test_decode_gives_the_mean_of_the_data(make_scaled_module, normal, likelihood):
    module, z = make_scaled_module(likelihood), normal(2, 7, 3)
    output = module.decoder(z)
    gaussian = likelihood == "gaussian"
    expected = LOCATION + SCALE * output if gaussian else output.sigmoid()
    torch.testing.assert_close(module.decode(z), expected)


def test_forward_gives_log_responsibilities(make_scaled_module, normal, likelihood):
    module = make_scaled_module(likelihood)
    x = as_data(module, normal(7, 6))
    expected = log_responsibilities(module.prior, module.encode(x))
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x).exp().sum(1), torch.ones(7).double())


def test_every_parameter_gets_a_gradient_from_the_public_methods(
    make_scaled_module, normal, likelihood
):
    module = make_scaled_module(likelihood)
    x = normal(7, 6).sigmoid()
    z = module.encode(x).mean
    log_prob = module.likelihood.log_prob(x, module.decoder(z))
    (log_prob.sum() + module(x)[:, 0].sum()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert not [n for n, p in module.named_parameters() if not p.grad.any()]


# --- Parameters ---------------------------------------------------------------------


def test_state_dict_holds_all_parts(make_scaled_module, likelihood):
    module = make_scaled_module(likelihood)
    names = {name.split(".")[0] for name in module.state_dict()}
    assert names == {"encoder", "decoder", "prior", "likelihood"}
    assert {"likelihood.location", "likelihood.scale"} <= set(module.state_dict())
    assert all(t.dtype == torch.float32 for t in module.float().state_dict().values())


def test_unknown_keys_are_rejected(make_module):
    with pytest.raises(KeyError, match="student"):
        make_module(likelihood="student")
    with pytest.raises(KeyError, match="sine"):
        make_module(activation="sine")
    with pytest.raises(KeyError, match="banded"):
        make_module(covariance_type="banded")


@pytest.mark.parametrize(
    "dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
def test_fitted_attributes_round_trip(make_scaled_module, likelihood, dtype, rtol):
    module = make_scaled_module(likelihood).to(dtype)
    attributes = module.fitted_attributes()
    expected = {"weights_", "means_", "covariances_"}
    if likelihood == "gaussian":
        expected.add("noise_variance_")
    assert set(attributes) == expected
    assert {np.asarray(v).dtype for v in attributes.values()} == {np.dtype(np.float64)}

    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in (*other.prior.parameters(), *other.likelihood.parameters()):
            parameter.zero_()
    other.load_fitted_attributes(attributes)
    assert all(p.dtype == dtype for p in other.parameters())
    for name, values in other.fitted_attributes().items():
        assert_allclose(values, attributes[name], rtol=rtol, err_msg=name)


def test_copies_in_float64_leave_the_module_as_it_is(make_scaled_module, likelihood):
    module = make_scaled_module(likelihood).float()
    prior, copied = module.prior_float64(), module.likelihood_float64()
    for part in (prior, copied):
        assert all(t.dtype == torch.float64 for t in part.state_dict().values())
    assert all(t.dtype == torch.float32 for t in module.state_dict().values())
    prior.means.detach().zero_()
    assert module.prior.means.any()
