"""Networks of the user's own: built by a factory, tried, and fitted into the model."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Generator, Tensor, nn

from skvade._batching import in_bfloat16
from skvade._warnings import noting

__all__ = ["Factory", "OwnNetwork", "lend", "own_decoder", "own_encoder"]

Factory = Callable[[int, int], nn.Module]

TRIED_ROWS = 2  # one could be taken for a missing axis

_LENDING = threading.RLock()


@contextmanager
def lend(generator: Generator) -> Iterator[None]:
    """Let what draws from torch's global generator draw from this one instead.

    Layers take no generator, be it for their weights or for dropout. Afterwards the
    global one is as it was. It is one for all threads, so they take turns.
    """
    device = generator.device
    on_cuda = device.type == "cuda"
    with _LENDING, torch.random.fork_rng([device] if on_cuda else []):
        if on_cuda:
            torch.cuda.set_rng_state(generator.get_state(), device)
        else:
            torch.set_rng_state(generator.get_state())
        yield
        drawn = torch.cuda.get_rng_state(device) if on_cuda else torch.get_rng_state()
        generator.set_state(drawn)


class OwnNetwork(nn.Module):
    """Shows a network rows alone, (B, n), whatever axes stand before, in their dtype.

    A network of which nothing learns is in evaluation mode while the others train: its
    dropout would be noise, and its batches would move a frozen embedding.
    """

    def __init__(self, network: nn.Module, bfloat16: bool) -> None:
        super().__init__()
        self.network = network
        self.in_bfloat16 = bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            return self(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        if not self.in_bfloat16:
            return self.network(x)
        with in_bfloat16(x.device):
            return self.network(x).to(x.dtype)

    def train(self, mode: bool = True) -> "OwnNetwork":
        learns = any(parameter.requires_grad for parameter in self.parameters())
        return super().train(mode and learns)


def own_encoder(
    factory: Factory,
    n_features_in: int,
    latent_dim: int,
    bfloat16: bool,
    generator: Generator,
) -> tuple[nn.Module, int]:
    """The body of the encoder, (B, n_features_in) to (B, H), and the width H.

    Not to the latent space: the heads for mean and variance share the body, and the one
    can learn while body and mean are frozen.

    Raises
    ------
    TypeError
        If the factory gives something else than a module.
    ValueError
        If the module gives anything but one row of features per row.
    """
    call = f"encoder(n_features_in={n_features_in}, latent_dim={latent_dim})"
    with lend(generator):
        network = _build("encoder", factory, call, n_features_in, latent_dim)
        given = _try(network, call, n_features_in)
    if given[:-1] != (TRIED_ROWS,) or not given[-1]:
        raise ValueError(
            f"{call} must build a module that takes rows of shape (B, {n_features_in}) "
            "to features of shape (B, H), H of your choice: the layers for mean and "
            f"variance come on top. With B={TRIED_ROWS} it gave the shape {given} "
            "instead. Flatten the features, for instance with torch.nn.Flatten()."
        )
    return OwnNetwork(network, bfloat16), given[-1]


def own_decoder(
    factory: Factory,
    latent_dim: int,
    n_features_in: int,
    bfloat16: bool,
    generator: Generator,
) -> nn.Module:
    """The decoder up to its unit, (B, latent_dim) to (B, n_features_in).

    Raises
    ------
    TypeError
        If the factory gives something else than a module.
    ValueError
        If the module gives anything but `n_features_in` numbers per row.
    """
    call = f"decoder(latent_dim={latent_dim}, n_features_in={n_features_in})"
    with lend(generator):
        network = _build("decoder", factory, call, latent_dim, n_features_in)
        given = _try(network, call, latent_dim)
    if given != (TRIED_ROWS, n_features_in):
        raise ValueError(
            f"{call} must build a module that takes points of shape (B, {latent_dim}) "
            f"to rows of shape (B, {n_features_in}). With B={TRIED_ROWS} it gave the "
            f"shape {given} instead. Make it give one number per feature of X, "
            "flattened, for instance with torch.nn.Flatten()."
        )
    return OwnNetwork(network, bfloat16)


def _build(name: str, factory: Factory, call: str, n_in: int, n_out: int) -> nn.Module:
    """A network to keep: a copy, should the factory give the same one again and again.

    It would carry what one fit learned into the next.
    """
    with noting(f"This came from {call}, with {name}={factory!r}."):
        network = deepcopy(factory(n_in, n_out))
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"{call} must return a torch.nn.Module. Got {network!r} of type "
                f"{type(network).__name__} instead."
            )
    return network.to("cpu", torch.float32).eval()


@torch.no_grad()
def _try(network: nn.Module, call: str, n_in: int) -> tuple[int, ...]:
    """Shape of what a network gives for a few rows, which also makes lazy layers."""
    rows = torch.zeros(TRIED_ROWS, n_in, dtype=torch.float32, device="cpu")
    with noting(f"The module from {call} was tried on the shape {tuple(rows.shape)}."):
        answers = network(rows)
        if not isinstance(answers, Tensor):
            raise TypeError(
                f"The module from {call} must give a tensor. It gave an object of type "
                f"{type(answers).__name__} instead."
            )
    return tuple(answers.shape)
