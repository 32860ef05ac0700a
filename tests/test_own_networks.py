"""Networks of the user's own: what they give, and what is left to chance."""

import copy

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from own_networks import (
    PlainDecoder,
    assert_same_model,
    house_decoder,
    house_encoder,
    run_of,
)
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from torch import nn
from torch.nn import functional

from skvade._networks import Linear
from skvade._own_networks import lend


def conv_encoder(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def conv_decoder(latent_dim, n_features_in):
    return nn.Sequential(
        nn.Linear(latent_dim, 64),
        nn.ReLU(),
        nn.Unflatten(1, (4, 4, 4)),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
        nn.Flatten(),
    )


class ByKeyword(nn.Module):
    def __init__(self, n_features_in, latent_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.full((6, n_features_in), 0.1))

    def forward(self, x):
        return functional.linear(input=x, weight=self.weight)


# --- What they give -----------------------------------------------------------------


def test_a_network_may_name_the_arguments_of_its_products(own, X):
    assert own(encoder=ByKeyword).fit(X).predict(X).shape == (150,)


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_the_networks_of_the_house_give_the_results_of_the_house(
    make_estimator, own, X, responsibilities
):
    """But for rounding: gradients are torch's in one, written out in the other."""
    parameters = {
        "responsibilities": responsibilities,
        "n_draws": 2,
        "precision": "float64",
    }
    default = make_estimator(**parameters).fit(X)
    model = own(encoder=house_encoder, decoder=house_decoder, **parameters).fit(X)
    for one, other in (
        (model.predict_proba(X), default.predict_proba(X)),
        (model.reconstruct(X), default.reconstruct(X)),
        (model.lower_bounds_, default.lower_bounds_),
    ):
        assert_allclose(one, other, rtol=1e-7)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_one_of_the_two_may_be_the_default(make_estimator, X, name):
    factory = {"encoder": house_encoder, "decoder": house_decoder}[name]
    default = make_estimator(activation="tanh", **{name: factory}).fit(X)
    assert default.predict_proba(X).shape == (150, 3)
    other = {"encoder": "decoder", "decoder": "encoder"}[name]
    body = getattr(default.to_torch(), other).hidden
    assert [type(layer) for layer in body] == [Linear, nn.Tanh]


@pytest.mark.parametrize(
    "likelihood, pretraining", [("gaussian", "autoencoder"), ("bernoulli", "vae")]
)
def test_a_convolutional_pair_learns_digits(own, likelihood, pretraining):
    X = load_digits(n_class=3)["data"][:150] / 16
    model = own(
        encoder=conv_encoder,
        decoder=conv_decoder,
        likelihood=likelihood,
        pretraining=pretraining,
        pretrain_max_iter=20,
        learning_rate_init=5e-3,
        latent_dim=5,
    )
    model.fit(X)
    assert model.pretrain_loss_curve_[-1] < 0.8
    unexplained = (
        np.square(X - model.reconstruct(X)).sum() / np.square(X - X.mean(0)).sum()
    )
    assert unexplained < 0.8
    assert model.transform(X).shape == (150, 5)
    assert model.cluster_centers_.shape == (3, 64)
    assert model.sample(4)[0].shape == (4, 64)
    assert_array_equal(model.fit_predict(X), model.predict(X))
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.filterwarnings("ignore:pretrain_.* has no effect")
@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_rows_with_gaps_and_an_embedding_to_imitate(own, X):
    X = np.where(np.arange(X.size).reshape(X.shape) % 7 == 0, np.nan, X)
    model = own(embedding=PCA(2), embedding_max_iter=5).fit(X)
    assert np.isfinite(model.impute(X)).all()


def test_a_network_sees_rows_alone(own, X):
    shapes, training = set(), set()

    class Spy(PlainDecoder):
        def forward(self, z):
            shapes.add(z.shape[1:])
            training.add((self.training, torch.is_grad_enabled()))
            return super().forward(z)

    model = own(decoder=Spy, n_draws=3, early_stopping=True).fit(X)
    assert shapes == {(2,)}
    # Learning in training mode, answering and being tried in evaluation mode.
    assert training == {(True, True), (False, False)}
    z = torch.zeros(4, 3, 2)
    assert model.to_torch().decode(z).shape == (4, 3, 5)
    assert model.to_torch().decode(z[0, 0]).shape == (5,)


@pytest.mark.filterwarnings("ignore:Pretraining learned next to nothing")
def test_lazy_layers(own, X):
    def lazy(n_in, n_out):
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(n_out))

    model = own(encoder=lazy, decoder=lazy).fit(X)
    assert_array_equal(clone(model).fit(X).predict_proba(X), model.predict_proba(X))
    assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize("precision, most", [("float64", 1e-4), ("bfloat16", 0.05)])
def test_precision(X, fitted_own, precision, most):
    model = copy.deepcopy(fitted_own).set_params(precision=precision)
    error = np.abs(model.transform(X) - fitted_own.transform(X)).max()
    assert 0 < error < most
    assert_array_equal(model.fit(X).predict(X), model.labels_)


# --- Chance -------------------------------------------------------------------------


def test_the_seed_decides_about_weights_and_dropout(own, X, fitted_own):
    with torch.random.fork_rng():
        torch.manual_seed(123)
        same = own().fit(X)
    assert_same_model(same, fitted_own)
    other = own(random_state=1).fit(X)
    assert not np.array_equal(other.means_, fitted_own.means_)


def test_initial_weights_are_the_layers_own(own, X):
    run = run_of(own(random_state=0), X)
    weight = run.model.encoder.hidden.network[0].weight
    other = run_of(own(random_state=1), X).model.encoder.hidden.network[0].weight
    assert not torch.equal(weight, other)

    def constant(n_in, n_out):
        body = nn.Linear(n_in, 8)
        nn.init.constant_(body.weight, 0.25)
        return body

    model = run_of(own(encoder=constant), X).model
    assert (model.encoder.hidden.network.weight == 0.25).all()
    assert model.encoder.mean.weight.std() > 0


def test_a_generator_that_is_lent_goes_on_where_it_was(generator):
    expected = torch.rand(4, generator=generator)
    generator.manual_seed(0)
    drawn = []
    for _ in range(2):
        with lend(generator):
            drawn.append(torch.rand(2))
    assert torch.equal(torch.cat(drawn), expected)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "to_torch"])
def test_the_global_generators_stay_as_they_are(fitted_own, X, method):
    model = copy.deepcopy(fitted_own)
    torches, seed = torch.get_rng_state(), torch.initial_seed()
    numpys = repr(check_random_state(None).get_state())
    getattr(model, method)(*[X][: method != "to_torch"])
    assert torch.equal(torch.get_rng_state(), torches)
    assert torch.initial_seed() == seed
    assert repr(check_random_state(None).get_state()) == numpys


def test_fits_in_threads_do_not_share_their_chance(own, X, fitted_own):
    fits = [delayed(own().fit)(X) for _ in range(2)]
    for model in Parallel(n_jobs=2, backend="threading")(fits):
        assert_same_model(model, fitted_own)


def test_the_global_generator_stays_when_a_factory_or_training_fails(own, X):
    def failing(n_in, n_out):
        nn.Linear(n_in, n_out)
        raise RuntimeError("no such network")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no such network"):
        own(encoder=failing).fit(X)
    with pytest.raises(ValueError, match="not finite"):
        own(learning_rate_init=1e30).fit(X)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_dtype_does_not_reach_the_networks(own, X, fitted_own):
    torch.set_default_dtype(torch.float64)
    try:
        labels, model = fitted_own.predict(X), own().fit(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_array_equal(labels, fitted_own.labels_)
    assert model.to_torch().encoder.mean.weight.dtype == torch.float32


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_switched_off_gradients_do_not_matter(own, X, fitted_own, context):
    with context():
        assert_array_equal(fitted_own.predict(X), fitted_own.labels_)
        model = own().fit(X)
    assert_same_model(model, fitted_own)
