"""Space: the encoder x -> q(z|x), the decoder z -> p(x|z), and the whole model."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from skvade._likelihoods import LIKELIHOODS
from skvade._mixture import MixturePrior
from skvade._objective import Posterior, log_responsibilities

__all__ = ["ACTIVATIONS", "MLP", "Decoder", "Encoder", "VaDE", "initialize"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


# Far from the training rows the encoder extrapolates; exp of it must stay finite.
MOST_LOG_VARIANCE = 30.0


def initialize(module: nn.Module, generator: Generator) -> None:
    """Draw the linear layers uniformly from +-1/sqrt(fan_in), as torch does by default.

    The small start lets pretraining learn simple features first. Only `generator` is
    consumed: the global generator belongs to the user.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class Linear(nn.Linear):
    """A linear layer whose values are not drawn: they are loaded, or `initialize`d."""

    def reset_parameters(self) -> None:
        pass


class MLP(nn.Sequential):
    """Linear layers, each followed by the activation, in bfloat16 where asked to."""

    def __init__(self, sizes: Sequence[int], activation: str, bfloat16: bool) -> None:
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [Linear(n_in, n_out), ACTIVATIONS[activation]()]
        super().__init__(*layers)
        self.in_bfloat16 = bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if not self.in_bfloat16:
            return super().forward(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().forward(x).to(x.dtype)


class Encoder(nn.Module):
    """q(z|x) = N(mean(x), diag exp(log_variance(x))): (B, D) to two (B, L)."""

    def __init__(
        self, sizes: Sequence[int], latent_dim: int, activation: str, bfloat16: bool
    ) -> None:
        super().__init__()
        self.hidden = MLP(sizes, activation, bfloat16)
        self.mean = Linear(sizes[-1], latent_dim)
        self.log_variance = Linear(sizes[-1], latent_dim)

    def forward(self, x: Tensor) -> Posterior:
        hidden = self.hidden(x)
        log_variance = self.log_variance(hidden).clamp_max(MOST_LOG_VARIANCE)
        return Posterior(self.mean(hidden), log_variance)

    def embed(self, x: Tensor) -> Tensor:
        """The posterior mean alone, (B, L)."""
        return self.mean(self.hidden(x))

    @torch.no_grad()
    def reset_variance(self, variance: float) -> None:
        """Make every posterior variance `variance`, whatever the row."""
        self.log_variance.weight.zero_()
        self.log_variance.bias.fill_(math.log(variance))


class Decoder(nn.Module):
    """The D numbers that the likelihood reads: (..., L) to (..., D)."""

    def __init__(self, sizes: Sequence[int], activation: str, bfloat16: bool) -> None:
        super().__init__()
        self.hidden = MLP(sizes[:-1], activation, bfloat16)
        self.output = Linear(sizes[-2], sizes[-1])

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.hidden(z))


class VaDE(nn.Module):
    """Encoder, decoder, mixture prior and likelihood: the whole generative model.

    `encoder` and `decoder` work on standardized rows; `encode`, `decode` and `forward`
    take and give rows in the units of the data.

    Parameters
    ----------
    n_features, latent_dim, n_clusters : int
        D, L and K.
    hidden_layer_sizes : sequence of int
        Widths of the encoder, mirrored by the decoder.
    activation : str
        A key of `ACTIVATIONS`.
    likelihood : {"gaussian", "bernoulli"}
        What the decoder's output parameterizes.
    reg_covar : float
        Least variance of a component.
    bfloat16 : bool, default=False
        Whether the hidden layers run in bfloat16.
    """

    def __init__(
        self,
        *,
        n_features: int,
        latent_dim: int,
        n_clusters: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        likelihood: str,
        reg_covar: float,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        sizes = [n_features, *hidden_layer_sizes]
        mirrored = [latent_dim, *reversed(sizes)]
        self.encoder = Encoder(sizes, latent_dim, activation, bfloat16)
        self.decoder = Decoder(mirrored, activation, bfloat16)
        self.prior = MixturePrior(n_clusters, latent_dim, reg_covar)
        self.likelihood = LIKELIHOODS[likelihood](n_features)

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x), two tensors (B, L)."""
        return self.encoder(self.likelihood.standardize(x))

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z]: (..., L) to (..., D)."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """log q(c|x): (B, D) to (B, K)."""
        return log_responsibilities(self.prior, self.encode(x))
