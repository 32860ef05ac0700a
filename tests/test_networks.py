import math

import pytest
import torch
from torch import nn

from skvade._likelihoods import LIKELIHOODS
from skvade._networks import ACTIVATIONS, MLP, initialize
from skvade._objective import log_responsibilities

FUNCTIONS = {
    "relu": lambda x: x.clamp_min(0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "tanh": torch.tanh,
    "logistic": lambda x: 1 / (1 + (-x).exp()),
    "identity": lambda x: x,
}


def linear_shapes(module):
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in layers]


def linear_layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


# --- Layers -------------------------------------------------------------------------


def test_decoder_mirrors_the_encoder(make_module):
    model = make_module()
    heads = [(5, 3), (5, 3)]
    assert linear_shapes(model.encoder) == [(6, 8), (8, 5), *heads]
    assert linear_shapes(model.decoder) == [(3, 5), (5, 8), (8, 6)]


@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 7, 6)])
def test_shapes(make_module, normal, shape):
    model = make_module()
    posterior = model.encoder(normal(*shape))
    assert posterior.mean.shape == posterior.log_variance.shape == (*shape[:-1], 3)
    assert model.decoder(posterior.mean).shape == shape


def test_activations_are_the_named_ones(normal):
    x = normal(50)
    assert set(ACTIVATIONS) == set(FUNCTIONS)
    for name, activation in ACTIVATIONS.items():
        torch.testing.assert_close(activation()(x), FUNCTIONS[name](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_hidden_layer_is_activated_and_no_head_is(make_module, normal, name):
    model, z, act = make_module(activation=name), normal(7, 3), FUNCTIONS[name]
    first, second, output = linear_layers(model.decoder)
    expected = output(act(second(act(first(z)))))
    torch.testing.assert_close(model.decoder(z), expected)

    x = normal(7, 6)
    first, second, mean, log_variance = linear_layers(model.encoder)
    hidden = act(second(act(first(x))))
    torch.testing.assert_close(model.encoder(x), (mean(hidden), log_variance(hidden)))
    torch.testing.assert_close(model.encoder.embed(x), mean(hidden))


# --- Initial weights ----------------------------------------------------------------


def test_initial_weights_fill_the_range_of_their_fan_in(generator):
    mlp = MLP([100, 300, 200], "relu", bfloat16=False)
    initialize(mlp, generator)
    for layer in linear_layers(mlp):
        bound = layer.in_features**-0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.mean()) < 0.05 * bound
        assert layer.bias.abs().max() <= bound


def test_initial_weights_follow_the_generator(make_module):
    models = [make_module() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialize(model, torch.Generator().manual_seed(seed))
    first, again, other = (model.encoder.mean.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_a_model_leaves_the_global_generator_alone(make_module, generator):
    before = torch.get_rng_state()
    initialize(make_module(), generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_reset_variance_makes_every_posterior_variance_equal(make_module, normal):
    model, x = make_module(), 10 * normal(7, 6)
    mean = model.encoder.embed(x)
    model.encoder.reset_variance(torch.tensor(0.03))
    posterior = model.encoder(x)
    torch.testing.assert_close(
        posterior.log_variance.exp(), torch.full((7, 3), 0.03).double()
    )
    assert torch.equal(posterior.mean, mean)


# --- Precision ----------------------------------------------------------------------


def test_bfloat16_stays_inside_the_hidden_layers(make_module, normal):
    model = make_module(torch.float32, bfloat16=True)
    x, seen = normal(7, 6).float(), []
    hidden = model.encoder.hidden[0]
    hidden.register_forward_hook(lambda *arguments: seen.append(arguments[-1].dtype))
    posterior = model.encoder(x)
    assert seen == [torch.bfloat16]
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32
    assert model.decoder(posterior.mean).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_bfloat16_rounds_to_three_digits(generator, normal):
    exact, rounded = (MLP([6, 8, 5], "relu", bfloat16) for bfloat16 in (False, True))
    initialize(exact, generator)
    rounded.load_state_dict(exact.state_dict())
    x = normal(200, 6).float()
    error = (exact(x) - rounded(x)).abs().max()
    assert 0 < error < 0.02


# --- The whole model, in the units of the data --------------------------------------


@pytest.fixture(params=LIKELIHOODS)
def placed(request, make_module):
    """A model of data that lie around 5 with a scale of 2.5."""
    model = make_module(likelihood=request.param)
    model.likelihood.location.fill_(5)
    model.likelihood.scale.fill_(2.5)
    return model


def test_encode_standardizes(placed, normal):
    standardized = normal(7, 6)
    actual = placed.encode(5 + 2.5 * standardized)
    torch.testing.assert_close(actual, placed.encoder(standardized))


def test_decode_gives_the_mean_of_the_data(placed, normal):
    z = normal(7, 3)
    output = placed.decoder(z)
    gaussian = placed.likelihood.noise_variance is not None
    expected = 5 + 2.5 * output if gaussian else output.sigmoid()
    torch.testing.assert_close(placed.decode(z), expected)


def test_forward_gives_log_responsibilities(placed, normal):
    x = 5 + 2.5 * normal(7, 6)
    expected = log_responsibilities(placed.prior, placed.encode(x))
    torch.testing.assert_close(placed(x), expected)
    torch.testing.assert_close(placed(x).exp().sum(1), torch.ones(7).double())


def test_all_parts_travel_together(placed):
    names = {name.split(".")[0] for name in placed.state_dict()}
    assert names == {"encoder", "decoder", "prior", "likelihood"}
    assert {"likelihood.location", "likelihood.scale"} <= set(placed.state_dict())
    assert all(t.dtype == torch.float32 for t in placed.float().state_dict().values())


def test_every_part_gets_a_gradient(placed, normal):
    x = normal(7, 6).sigmoid()
    z = placed.encode(x).mean
    density = placed.likelihood.log_density(x, placed.decoder(z))
    (density.sum() + placed(x)[:, 0].sum()).backward()
    assert all(p.grad.isfinite().all() for p in placed.parameters())
    assert not [n for n, p in placed.named_parameters() if not p.grad.any()]


def test_model_needs_a_known_likelihood_and_activation(make_module):
    with pytest.raises(KeyError, match="poisson"):
        make_module(likelihood="poisson")
    with pytest.raises(KeyError, match="sine"):
        make_module(activation="sine")
