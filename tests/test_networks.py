"""Layers of encoder and decoder, their initial weights and their precision."""

import math

import pytest
import torch
from torch import nn

from skvade._model.networks import (
    ACTIVATIONS,
    MAX_LOG_VARIANCE,
    MLP,
    Linear,
    reset_parameters,
)

FUNCTIONS = {
    "relu": lambda x: x.clamp_min(0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "tanh": torch.tanh,
    "logistic": lambda x: 1 / (1 + (-x).exp()),
    "identity": lambda x: x,
}


def linear_layers(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def linear_shapes(module):
    return [(layer.in_features, layer.out_features) for layer in linear_layers(module)]


# --- Layers -------------------------------------------------------------------------


def test_decoder_mirrors_the_encoder(make_module):
    module = make_module()
    mean_and_variance = [(5, 3), (5, 3)]
    assert linear_shapes(module.encoder) == [(6, 8), (8, 5), *mean_and_variance]
    assert linear_shapes(module.decoder) == [(3, 5), (5, 8), (8, 6)]


@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 7, 6)])
def test_shapes(make_module, normal, shape):
    module = make_module()
    posterior = module.encoder(normal(*shape))
    assert posterior.mean.shape == posterior.log_variance.shape == (*shape[:-1], 3)
    assert module.decoder(posterior.mean).shape == shape


def test_activations_are_the_functions_of_their_names(normal):
    x = normal(50)
    assert set(ACTIVATIONS) == set(FUNCTIONS)
    for name, activation in ACTIVATIONS.items():
        torch.testing.assert_close(activation()(x), FUNCTIONS[name](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_hidden_layer_is_activated_and_no_output_layer_is(
    make_module, normal, name
):
    module, z, act = make_module(activation=name), normal(7, 3), FUNCTIONS[name]
    first, second, output = linear_layers(module.decoder)
    expected = output(act(second(act(first(z)))))
    torch.testing.assert_close(module.decoder(z), expected)

    x = normal(7, 6)
    first, second, mean, log_variance = linear_layers(module.encoder)
    hidden = act(second(act(first(x))))
    torch.testing.assert_close(module.encoder(x), (mean(hidden), log_variance(hidden)))
    torch.testing.assert_close(module.encoder.encode_mean(x), mean(hidden))


# --- Initial weights ----------------------------------------------------------------


def test_initial_weights_fill_the_range_of_their_fan_in(generator):
    mlp = MLP([100, 300, 200], "relu", bfloat16=False)
    reset_parameters(mlp, generator)
    for layer in linear_layers(mlp):
        bound = layer.in_features**-0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.mean()) < 0.05 * bound
        assert layer.bias.abs().max() <= bound


def test_the_generator_decides_about_initial_weights(make_module):
    modules = [make_module() for _ in range(3)]
    for module, seed in zip(modules, (0, 0, 1), strict=True):
        reset_parameters(module, torch.Generator().manual_seed(seed))
    first, again, other = (module.encoder.mean.weight for module in modules)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_a_module_leaves_the_global_generator_alone(make_module, generator):
    before = torch.get_rng_state()
    reset_parameters(make_module(), generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_reset_variance_makes_every_posterior_variance_equal(make_module, normal):
    module, x = make_module(), 10 * normal(7, 6)
    mean = module.encoder.encode_mean(x)
    module.encoder.reset_variance(torch.tensor(0.03))
    posterior = module.encoder(x)
    torch.testing.assert_close(
        posterior.log_variance.exp(), torch.full((7, 3), 0.03).double()
    )
    assert torch.equal(posterior.mean, mean)


def test_the_layers_of_custom_networks_keep_their_weights(generator):
    custom, default = nn.Linear(3, 2), Linear(3, 2)
    nn.init.ones_(custom.weight)
    reset_parameters(nn.Sequential(custom, default), generator)
    assert (custom.weight == 1).all()
    assert default.weight.std() > 0


def test_reset_variance_takes_one_value_per_dimension(make_module, normal):
    module, variance = make_module(), torch.tensor([0.03, 0.1, 2.0]).double()
    module.encoder.reset_variance(variance)
    actual = module.encoder(normal(7, 6)).log_variance.exp()
    torch.testing.assert_close(actual, variance.expand(7, 3))


def test_posterior_variances_are_capped(make_module, normal):
    """Above the cap the gradient is zero, below it goes through."""
    module, x = make_module(), normal(7, 6)
    with torch.no_grad():
        module.encoder.log_variance.bias[0] = MAX_LOG_VARIANCE + 1e3
    log_variance = module.encoder(x).log_variance
    assert (log_variance[:, 0] == MAX_LOG_VARIANCE).all()
    assert (log_variance[:, 1:] < MAX_LOG_VARIANCE).all()
    log_variance.sum().backward()
    assert module.encoder.log_variance.bias.grad.tolist() == [0, 7, 7]


# --- Precision ----------------------------------------------------------------------


def test_bfloat16_is_the_dtype_of_hidden_layers_alone(make_module, normal):
    module = make_module(torch.float32, bfloat16=True)
    x, dtypes = normal(7, 6).float(), []
    first_layer = module.encoder.backbone[0]
    first_layer.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    posterior = module.encoder(x)
    assert dtypes == [torch.bfloat16]
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32
    assert module.decoder(posterior.mean).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_bfloat16_rounds_to_three_digits(generator, normal):
    exact, rounded = (MLP([6, 8, 5], "relu", bfloat16) for bfloat16 in (False, True))
    reset_parameters(exact, generator)
    rounded.load_state_dict(exact.state_dict())
    x = normal(200, 6).float()
    error = (exact(x) - rounded(x)).abs().max()
    assert 0 < error < 0.02
