"""The encoder x -> q(z|x) and the decoder z -> parameter of p(x|z)."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from skvade._data.device import bfloat16_autocast
from skvade._model.elbo import Posterior
from skvade._model.likelihoods import AffineOutput

__all__ = ["ACTIVATIONS", "MLP", "Decoder", "Encoder", "Linear", "reset_parameters"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}

# Far from the training samples the encoder extrapolates; exp of it must stay finite.
MAX_LOG_VARIANCE = 30.0


class Linear(nn.Linear):
    """A linear layer whose values are not drawn when it is built.

    They are loaded, or drawn by `reset_parameters` from a generator of ours. They are
    of float32, whatever torch's default dtype is.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, dtype=torch.float32)

    def reset_parameters(self) -> None:
        pass


def reset_parameters(module: nn.Module, generator: Generator) -> None:
    """Draw the linear layers uniformly from +-1/sqrt(fan_in), torch's default.

    The small start lets pretraining learn simple features first. Only `generator` is
    consumed: the global generator belongs to the user. Layers of custom networks stay
    as they are.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class MLP(nn.Sequential):
    """Linear layers, each followed by the activation, in bfloat16 where asked to."""

    def __init__(self, sizes: Sequence[int], activation: str, bfloat16: bool) -> None:
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [Linear(n_in, n_out), ACTIVATIONS[activation]()]
        super().__init__(*layers)
        self.use_bfloat16 = bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if not self.use_bfloat16:
            return super().forward(x)
        with bfloat16_autocast(x.device):
            return super().forward(x).to(x.dtype)


class Encoder(nn.Module):
    """q(z|x) = N(mean(x), diag exp(log_variance(x))): (B, D) to two (B, L).

    Parameters
    ----------
    backbone : Module
        Hidden layers, (B, D) to (B, width).
    width : int
        Number of features that the backbone gives.
    latent_dim : int
        Dimension of the latent space, L.
    """

    def __init__(self, backbone: nn.Module, width: int, latent_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean = Linear(width, latent_dim)
        self.log_variance = Linear(width, latent_dim)

    def forward(self, x: Tensor) -> Posterior:
        hidden = self.backbone(x)
        log_variance = self.log_variance(hidden).clamp_max(MAX_LOG_VARIANCE)
        return Posterior(self.mean(hidden), log_variance)

    def encode_mean(self, x: Tensor) -> Tensor:
        """Compute the posterior mean alone, (B, L)."""
        return self.mean(self.backbone(x))

    @torch.no_grad()
    def reset_variance(self, variance: Tensor) -> None:
        """Make every posterior variance `variance`, (L,) or (), whatever the sample."""
        self.log_variance.weight.zero_()
        self.log_variance.bias.copy_(variance.log())


class Decoder(nn.Module):
    """The D numbers per sample that the likelihood reads: (..., L) to (..., D)."""

    def __init__(self, backbone: nn.Module, output: nn.Linear | AffineOutput) -> None:
        super().__init__()
        self.backbone = backbone
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.backbone(z))
