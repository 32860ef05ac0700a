"""Parameters of modules and states of optimizers as NumPy arrays."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skvade._model.arrays import (
    load_optimizer_state,
    load_state_dict,
    optimizer_state_to_numpy,
    state_dict_to_numpy,
)
from skvade._training.optim import Adam


@pytest.fixture
def make_network():
    """Networks with parameters and buffers, each of other random weights."""

    def make():
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        network[0].register_buffer("scalar", torch.tensor(2.5))
        return network.requires_grad_(True)

    with torch.random.fork_rng():
        yield make


def take_step(network, optimizer):
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3)
    optimizer.step()


def test_parameters_and_buffers_survive_the_round_trip(make_network):
    source, target = make_network(), make_network()
    arrays = state_dict_to_numpy(source)
    load_state_dict(target, arrays)
    assert arrays.keys() == source.state_dict().keys()
    for name, values in source.state_dict().items():
        assert type(arrays[name]) is np.ndarray
        assert torch.equal(target.state_dict()[name], values)


def test_arrays_of_parameters_are_copies(make_network):
    network = make_network()
    arrays = state_dict_to_numpy(network)
    before = network[0].weight.detach().clone()
    arrays["0.weight"][:] = 7
    assert torch.equal(network[0].weight, before)


def test_loaded_parameters_are_copies_in_the_dtype_of_the_module(make_network):
    network = make_network().double()
    arrays = state_dict_to_numpy(network)
    load_state_dict(network.float(), arrays)
    assert network[0].weight.dtype == torch.float32
    with torch.no_grad():
        network[0].weight.fill_(7)
    assert not (arrays["0.weight"] == 7).any()


def test_parameters_load_from_read_only_arrays(make_network):
    network = make_network()
    arrays = state_dict_to_numpy(network)
    for array in arrays.values():
        array.setflags(write=False)
    load_state_dict(network, arrays)
    assert_array_equal(network[0].weight.detach(), arrays["0.weight"])


def test_loaded_parameters_can_be_trained(make_network):
    network = make_network()
    load_state_dict(network, state_dict_to_numpy(make_network()))
    network(torch.ones(2, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_arrays_of_another_module_raise(make_network, change):
    network, arrays = make_network(), state_dict_to_numpy(make_network())
    values = arrays.pop("0.bias")
    if change == "unknown":
        arrays |= {"0.bias": values, "2.bias": values}
    with pytest.raises(KeyError, match="0.bias" if change == "missing" else "2.bias"):
        load_state_dict(network, arrays)


@pytest.mark.parametrize("fused", [True, False])
def test_the_state_of_an_optimizer_survives_the_round_trip(make_network, fused):
    """It goes by the names of the parameters, whatever their order or dtype."""
    network, other = make_network(), make_network().double()
    optimizer = Adam([(1e-3, [*network.parameters()])], fused)
    for _ in range(7):
        take_step(network, optimizer)
    arrays = optimizer_state_to_numpy(network, optimizer)
    assert arrays.keys() == dict(network.named_parameters()).keys()
    expected = {name: optimizer.state[p] for name, p in network.named_parameters()}

    resumed = Adam([(1e-3, [*reversed([*other.parameters()])])], fused)
    load_optimizer_state(other, resumed, arrays)
    for name, parameter in other.named_parameters():
        state = resumed.state[parameter]
        assert state["step"] == 7
        for key in ("exp_avg", "exp_avg_sq"):
            assert state[key].dtype == torch.float64
            assert torch.equal(state[key], expected[name][key].double())

    load_optimizer_state(other, resumed, {})
    assert all(state["step"] == 7 for state in resumed.state.values())


def test_arrays_of_an_optimizer_state_are_copies(make_network):
    network = make_network()
    optimizer = Adam([(1e-3, [*network.parameters()])], fused=True)
    take_step(network, optimizer)
    arrays = optimizer_state_to_numpy(network, optimizer)
    before = arrays["0.weight"]["exp_avg"].copy()
    take_step(network, optimizer)
    assert_array_equal(arrays["0.weight"]["exp_avg"], before)
    assert arrays["0.weight"]["step"] == 1

    load_optimizer_state(network, optimizer, arrays)
    take_step(network, optimizer)
    assert_array_equal(arrays["0.weight"]["exp_avg"], before)


def test_a_resumed_optimizer_takes_the_same_steps(make_network):
    network = make_network()
    optimizer = Adam([(1e-3, [*network.parameters()])], fused=True)
    take_step(network, optimizer)
    other = make_network()
    load_state_dict(other, state_dict_to_numpy(network))
    resumed = Adam([(1e-3, [*other.parameters()])], fused=True)
    load_optimizer_state(other, resumed, optimizer_state_to_numpy(network, optimizer))
    take_step(network, optimizer)
    take_step(other, resumed)
    for values, expected in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(values, expected)
