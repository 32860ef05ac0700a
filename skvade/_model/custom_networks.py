"""Custom encoders and decoders: built by the user's callable, checked, and wrapped."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Generator, Tensor, nn

from skvade._data.device import bfloat16_autocast

__all__ = [
    "CustomNetwork",
    "ModuleFactory",
    "add_note_on_error",
    "build_custom_decoder",
    "build_custom_encoder",
    "float32_by_default",
    "training_mode",
    "use_generator",
]

ModuleFactory = Callable[[int, int], nn.Module]

PROBE_BATCH_SIZE = 2  # a batch of one could be taken for a missing axis

# torch's global generator is one for all threads: they take turns in changing it.
_GLOBAL_GENERATOR_LOCK = threading.RLock()

# So is its default dtype: the first thread to change it notes what it was before.
_DEFAULT_DTYPE_LOCK = threading.Lock()
_former_default_dtypes: list[torch.dtype] = []


@contextmanager
def add_note_on_error(note: str) -> Iterator[None]:
    """Add a note to an exception of the user's code."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


@contextmanager
def use_generator(generator: Generator) -> Iterator[None]:
    """Let what draws from torch's global generator draw from this one instead.

    Layers take no generator, be it for their weights or for dropout. Afterwards the
    global generator is as it was.
    """
    device = generator.device
    on_cuda = device.type == "cuda"
    devices = [device] if on_cuda else []
    with _GLOBAL_GENERATOR_LOCK, torch.random.fork_rng(devices):
        if on_cuda:
            torch.cuda.set_rng_state(generator.get_state(), device)
        else:
            torch.set_rng_state(generator.get_state())
        yield
        drawn = torch.cuda.get_rng_state(device) if on_cuda else torch.get_rng_state()
        generator.set_state(drawn)


@contextmanager
def float32_by_default(module: nn.Module | None = None) -> Iterator[None]:
    """Let custom networks make tensors of float32, whatever torch's default dtype is.

    It is set back by the last thread that needs it. With a `module`, nothing happens
    unless custom networks are a part of it.
    """
    if module is not None and not _has_custom_networks(module):
        yield
        return
    with _DEFAULT_DTYPE_LOCK:
        _former_default_dtypes.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _DEFAULT_DTYPE_LOCK:
            # All but the first are float32.
            former = _former_default_dtypes.pop()
            if not _former_default_dtypes:
                torch.set_default_dtype(former)


class CustomNetwork(nn.Module):
    """Call a network on samples of shape (B, n) alone, in their dtype.

    Axes that stand before are flattened and restored. A network of which no parameter
    is trained stays in evaluation mode while the others train: its dropout would be
    noise, and its batch statistics would move a frozen embedding.
    """

    def __init__(self, network: nn.Module, bfloat16: bool) -> None:
        super().__init__()
        self.network = network
        self.use_bfloat16 = bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            return self(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        if not self.use_bfloat16:
            return self.network(x)
        with bfloat16_autocast(x.device):
            return self.network(x).to(x.dtype)

    def train(self, mode: bool = True) -> "CustomNetwork":
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        return super().train(mode and is_trained)


@contextmanager
def training_mode(module: nn.Module, generator: Generator) -> Iterator[None]:
    """Put custom networks into training mode, their dropout drawn from `generator`.

    The default networks have no modes and draw nothing.
    """
    if not _has_custom_networks(module):
        yield
        return
    module.train()
    try:
        with use_generator(generator), float32_by_default():
            yield
    finally:
        module.eval()


def _has_custom_networks(module: nn.Module) -> bool:
    return any(isinstance(part, CustomNetwork) for part in module.modules())


def build_custom_encoder(
    factory: ModuleFactory,
    n_features_in: int,
    latent_dim: int,
    bfloat16: bool,
    generator: Generator,
) -> tuple[nn.Module, int]:
    """Build the backbone of the encoder, (B, n_features_in) to (B, H), and give H.

    The layers for mean and variance come on top of it: one can learn while the backbone
    and the other are frozen.

    Raises
    ------
    TypeError
        If the factory does not return a module, or the module no tensor.
    ValueError
        If the module's output is not of shape (B, H).
    """
    call = f"encoder(n_features_in={n_features_in}, latent_dim={latent_dim})"
    with use_generator(generator), float32_by_default():
        network = _build("encoder", factory, call, n_features_in, latent_dim)
        shape = _infer_output_shape(network, call, n_features_in)
    if shape[:-1] != (PROBE_BATCH_SIZE,) or not shape[-1]:
        raise ValueError(
            f"{call} must build a module that takes samples of shape "
            f"(B, {n_features_in}) to features of shape (B, H), H of your choice: the "
            f"layers for mean and variance come on top. With B={PROBE_BATCH_SIZE} it "
            f"gave the shape {shape} instead. Flatten the features, for instance with "
            "torch.nn.Flatten()."
        )
    return CustomNetwork(network, bfloat16), shape[-1]


def build_custom_decoder(
    factory: ModuleFactory,
    latent_dim: int,
    n_features_in: int,
    bfloat16: bool,
    generator: Generator,
) -> nn.Module:
    """Build the decoder but for its scale, (B, latent_dim) to (B, n_features_in).

    Raises
    ------
    TypeError
        If the factory does not return a module, or the module no tensor.
    ValueError
        If the module's output is not of shape (B, n_features_in).
    """
    call = f"decoder(latent_dim={latent_dim}, n_features_in={n_features_in})"
    with use_generator(generator), float32_by_default():
        network = _build("decoder", factory, call, latent_dim, n_features_in)
        shape = _infer_output_shape(network, call, latent_dim)
    if shape != (PROBE_BATCH_SIZE, n_features_in):
        raise ValueError(
            f"{call} must build a module that takes points of shape (B, {latent_dim}) "
            f"to samples of shape (B, {n_features_in}). With B={PROBE_BATCH_SIZE} it "
            f"gave the shape {shape} instead. Make it give one number per feature of "
            "X, flattened, for instance with torch.nn.Flatten()."
        )
    return CustomNetwork(network, bfloat16)


def _build(
    name: str, factory: ModuleFactory, call: str, n_in: int, n_out: int
) -> nn.Module:
    """Call the factory and copy its module.

    A factory that returns the same module each time would carry what one fit has
    learned into the next.
    """
    with add_note_on_error(f"This came from {call}, with {name}={factory!r}."):
        network = deepcopy(factory(n_in, n_out))
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"{call} must return a torch.nn.Module. Got {network!r} of type "
                f"{type(network).__name__} instead."
            )
    return network.to("cpu", torch.float32).eval()


@torch.no_grad()
def _infer_output_shape(network: nn.Module, call: str, n_in: int) -> tuple[int, ...]:
    """Call the network on a few samples, which also initializes lazy layers."""
    x = torch.zeros(PROBE_BATCH_SIZE, n_in, dtype=torch.float32, device="cpu")
    with add_note_on_error(
        f"The module from {call} was called on a tensor of shape {tuple(x.shape)}."
    ):
        output = network(x)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"The module from {call} must return a tensor. It returned an object "
                f"of type {type(output).__name__} instead."
            )
    return tuple(output.shape)
