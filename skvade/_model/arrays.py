"""Parameters of modules and states of optimizers as NumPy arrays."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

__all__ = [
    "OptimizerState",
    "load_optimizer_state",
    "load_state_dict",
    "optimizer_state_to_numpy",
    "state_dict_to_numpy",
]

# The state of an optimizer by the name of the parameter.
OptimizerState = dict[str, dict[str, NDArray]]


def state_dict_to_numpy(module: nn.Module) -> dict[str, NDArray]:
    """Copy parameters and buffers into arrays."""
    return {
        name: values.numpy(force=True).copy()
        for name, values in module.state_dict().items()
    }


def load_state_dict(module: nn.Module, arrays: dict[str, NDArray]) -> None:
    """Copy arrays into parameters and buffers, in the dtype that these have.

    Raises
    ------
    KeyError
        If the arrays are not those of the module.
    """
    missing = module.state_dict(keep_vars=True)
    for name, array in arrays.items():
        values = missing.pop(name)
        # The memory that a module is built with may be untouched: do not fill it.
        values.data = torch.tensor(array, dtype=values.dtype, device=values.device)
    if missing:
        raise KeyError(f"There are no values for {[*missing]}.")


def optimizer_state_to_numpy(module: nn.Module, optimizer: Any) -> OptimizerState:
    """Copy the state of an optimizer of the module into arrays."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[parameter]: {k: v.numpy(force=True).copy() for k, v in state.items()}
        for parameter, state in optimizer.state.items()
    }


def load_optimizer_state(
    module: nn.Module, optimizer: Any, arrays: OptimizerState
) -> None:
    """Let an optimizer go on from the state of another one, if there is any."""
    for name, parameter in module.named_parameters():
        if name in arrays:
            state = optimizer.state_of(parameter)
            for key, array in arrays[name].items():
                state[key].copy_(torch.tensor(array))
