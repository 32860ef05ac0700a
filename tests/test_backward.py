"""The gradients that are written out, against those of torch."""

import numpy as np
import pytest
import torch

from skvade import _training
from skvade._backward import WRITTEN_OUT, Chain
from skvade._fitting import fresh_run
from skvade._networks import ACTIVATIONS, MOST_LOG_VARIANCE
from skvade._objective import elbo, reparameterize, squared_error
from skvade._run import autoencoder_parameters

BETA = 0.7


@pytest.fixture
def started(make_estimator, X_unit):
    """A run whose model went through all stages but the last, with its rows."""

    def start(missing=False, **parameters):
        settings = {"precision": "float64", "pretrain_max_iter": 2, **parameters}
        X = X_unit.copy()
        if missing:
            X[::3, 1] = np.nan
        weight = np.linspace(0.5, 1.5, len(X))
        run = fresh_run(make_estimator(**settings), X, weight)
        _training._start(run)
        return run, run.rows.take(np.arange(len(X)))

    return start


def noise_for(run, batch):
    shape = (run.plan.n_draws, len(batch.x), run.model.prior.means.shape[1])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=batch.x.dtype)


def assert_gradients(found, loss, parameters):
    """The found ones are of exactly these parameters, and those that torch finds."""
    assert found.keys() == set(parameters)
    expected = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[parameter].clone(), gradient)


def loss_of(run, batch, noise):
    model = run.model
    posterior = model.encoder(batch.x)
    decoded = model.decoder(reparameterize(posterior, noise))
    density = model.likelihood.log_density(batch.x, decoded, batch.observed)
    terms = elbo(density, posterior, model.prior)
    weighed = batch.weight * (terms.reconstruction + BETA * terms.latent)
    return terms, -weighed.mean()


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("n_draws", [1, 3])
@pytest.mark.parametrize("activation", sorted(WRITTEN_OUT))
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_bound(started, likelihood, activation, n_draws, missing):
    run, batch = started(
        missing, likelihood=likelihood, activation=activation, n_draws=n_draws
    )
    noise = noise_for(run, batch)
    parameters = [*run.model.parameters()]
    found, gradients = Chain.of(run.model).bound(batch, noise, BETA, parameters)
    terms, loss = loss_of(run, batch, noise)
    for ours, theirs in zip(found, terms, strict=True):
        torch.testing.assert_close(ours.clone(), theirs.detach())
    assert_gradients(gradients, loss, parameters)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.1])
def test_floors_and_caps(started, reg_covar):
    """Near the floor of a component's variance, above the cap of a posterior's."""
    run, batch = started(reg_covar=reg_covar)
    encoder, prior = run.model.encoder, run.model.prior
    with torch.no_grad():
        encoder.log_variance.bias[0] = MOST_LOG_VARIANCE + 1
        prior.log_excess[0] = -8.0
    noise = noise_for(run, batch)
    parameters = [*run.model.parameters()]
    _, gradients = Chain.of(run.model).bound(batch, noise, BETA, parameters)
    _, loss = loss_of(run, batch, noise)
    assert_gradients(gradients, loss, parameters)
    assert gradients[encoder.log_variance.bias][0] == 0


def test_the_new_parts_alone(started):
    run, batch = started()
    noise = noise_for(run, batch)
    new = run.model.encoder.log_variance, run.model.decoder, run.model.likelihood
    parameters = [p for part in new for p in part.parameters()]
    _, gradients = Chain.of(run.model).bound(batch, noise, BETA, parameters)
    _, loss = loss_of(run, batch, noise)
    assert_gradients(gradients, loss, parameters)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_the_squared_error(started, missing):
    run, batch = started(missing)
    model = run.model
    parameters = autoencoder_parameters(model)
    found, gradients = Chain.of(model).squared_error(batch, parameters)
    output = model.decoder(model.encoder.embed(batch.x))
    errors = squared_error(batch.x, output, batch.observed)
    loss = (batch.weight * errors).mean()
    torch.testing.assert_close(found.clone(), loss.detach())
    assert_gradients(gradients, loss, parameters)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_a_fit_is_the_same_by_torch(make_estimator, X, monkeypatch, beta):
    settings = {"precision": "float64", "max_iter": 5, "beta": beta}
    ours = make_estimator(**settings).fit(X)
    monkeypatch.setattr(Chain, "of", lambda model: None)
    by_torch = make_estimator(**settings).fit(X)
    for name in ("pretrain_loss_curve_", "loss_curve_", "lower_bounds_", "means_"):
        one, other = getattr(ours, name), getattr(by_torch, name)
        np.testing.assert_allclose(one, other, rtol=1e-9, err_msg=name)
    assert ours.means_.tobytes() != by_torch.means_.tobytes()  # two ways indeed


def test_no_gradient_is_taken_where_all_is_written_out(make_estimator, X, monkeypatch):
    def taken(*args, **kwargs):
        raise AssertionError("torch was asked for a gradient")

    monkeypatch.setattr(torch.autograd, "grad", taken)
    make_estimator().fit(X)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS.keys() - WRITTEN_OUT))
def test_other_activations_are_left_to_torch(make_estimator, X, activation):
    model = make_estimator(activation=activation).fit(X)
    assert Chain.of(model.to_torch()) is None


def test_another_prior_or_likelihood_is_left_to_torch(fitted):
    """What overrides a formula would inherit the derivative of the old one."""
    for part in ("prior", "likelihood"):
        model = fitted.to_torch()
        assert Chain.of(model) is not None
        kind = type(getattr(model, part))
        getattr(model, part).__class__ = type("Other", (kind,), {})
        assert Chain.of(model) is None


def test_what_else_is_left_to_torch(make_estimator, X, own):
    assert Chain.of(make_estimator(precision="bfloat16").fit(X).to_torch()) is None
    assert Chain.of(own().fit(X).to_torch()) is None
