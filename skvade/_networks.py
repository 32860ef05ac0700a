"""Space: the encoder x -> q(z|x), the decoder z -> p(x|z), and the whole model."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from skvade._batching import in_bfloat16, make_generator
from skvade._likelihoods import LIKELIHOODS, Unit
from skvade._mixture import MixturePrior
from skvade._objective import Posterior, log_responsibilities
from skvade._own_networks import Factory, own_decoder, own_encoder

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
    consumed: the global generator belongs to the user. Layers of networks of the user's
    own stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
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
        self.activation = activation
        self.in_bfloat16 = bfloat16

    def forward(self, x: Tensor) -> Tensor:
        if not self.in_bfloat16:
            return super().forward(x)
        with in_bfloat16(x.device):
            return super().forward(x).to(x.dtype)


class Encoder(nn.Module):
    """q(z|x) = N(mean(x), diag exp(log_variance(x))): (B, D) to two (B, L)."""

    def __init__(self, hidden: nn.Module, width: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.mean = Linear(width, latent_dim)
        self.log_variance = Linear(width, latent_dim)

    def forward(self, x: Tensor) -> Posterior:
        hidden = self.hidden(x)
        log_variance = self.log_variance(hidden).clamp_max(MOST_LOG_VARIANCE)
        return Posterior(self.mean(hidden), log_variance)

    def embed(self, x: Tensor) -> Tensor:
        """The posterior mean alone, (B, L)."""
        return self.mean(self.hidden(x))

    @torch.no_grad()
    def reset_variance(self, variance: Tensor) -> None:
        """Make every posterior variance `variance`, (L,) or (), whatever the row."""
        self.log_variance.weight.zero_()
        self.log_variance.bias.copy_(variance.log())


class Decoder(nn.Module):
    """The D numbers that the likelihood reads: (..., L) to (..., D)."""

    def __init__(self, hidden: nn.Module, output: nn.Linear | Unit) -> None:
        super().__init__()
        self.hidden = hidden
        self.output = output

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
    encoder, decoder : callable or None, default=None
        What builds a network of the user's own in the place of the default one.
    bfloat16 : bool, default=False
        Whether the hidden layers run in bfloat16.
    generator : torch.Generator or None, default=None
        Where networks of the user's own draw their initial weights from; None for a
        fixed one, where others are loaded.
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
        encoder: Factory | None = None,
        decoder: Factory | None = None,
        bfloat16: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [n_features, *hidden_layer_sizes]
        up = [latent_dim, *reversed(hidden_layer_sizes)]
        how = bfloat16, generator or make_generator(0)
        if encoder is not None:
            body, width = own_encoder(encoder, n_features, latent_dim, *how)
        else:
            body, width = MLP(sizes, activation, bfloat16), sizes[-1]
        self.encoder = Encoder(body, width, latent_dim)
        output: nn.Linear | Unit
        if decoder is not None:
            hidden = own_decoder(decoder, latent_dim, n_features, *how)
            output = Unit(n_features)
        else:
            hidden, output = MLP(up, activation, bfloat16), Linear(up[-1], n_features)
        self.decoder = Decoder(hidden, output)
        self.prior = MixturePrior(n_clusters, latent_dim, reg_covar)
        self.likelihood = LIKELIHOODS[likelihood](n_features)
        self.has_own_networks = encoder is not None or decoder is not None
        if self.has_own_networks:
            self.eval()  # but for the epochs of training

    def complete(self, x: Tensor, observed: Tensor, pretrains: bool = False) -> Tensor:
        """Standardized rows, the expected entry in the place of each missing one.

        Expected is what the model reconstructs of the row as it is, with an average
        there; nothing is learned from it. As long as it pretrains, the decoder gives
        standardized rows themselves.
        """
        with torch.no_grad():
            expected = self.decoder(self.encoder.embed(x))
            if not pretrains:
                expected = self.likelihood.standardized_mean(expected)
        return torch.where(observed.bool(), x, expected)

    def seen(self, x: Tensor) -> Tensor:
        """What the encoder sees of rows, NaN among them: (B, D), standardized."""
        return self.complete(self.likelihood.standardize(x), ~x.isnan())

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x), two tensors (B, L)."""
        return self.encoder(self.seen(x))

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z]: (..., L) to (..., D)."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """log q(c|x): (B, D) to (B, K)."""
        return log_responsibilities(self.prior, self.encode(x))
