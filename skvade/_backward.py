"""Backwards: the gradient of a step, written out where it can be, else by torch.

Where networks are small, torch's automatic differentiation takes longer to keep its
books than to calculate. The derivatives of likelihood and mixture are beside their
formulas; here is the chain rule through the networks. Left to torch are networks of the
user's own, two activations, bfloat16, sampled responsibilities, and among the stages
imitation, the variational pretraining and the pairs of layers of the stacked one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from skvade._batching import Batch
from skvade._likelihoods import LIKELIHOODS
from skvade._mixture import MixturePrior
from skvade._networks import MLP, MOST_LOG_VARIANCE, VaDE
from skvade._objective import (
    Elbo,
    Posterior,
    elbo,
    latent_entropy,
    reparameterize,
    squared_error,
    squared_error_slope,
)
from skvade._optimizers import differentiate

__all__ = ["WRITTEN_OUT", "ByTorch", "Chain", "way_back"]

Gradients = dict[Tensor, Tensor]  # by the parameter
Parameters = Sequence[nn.Parameter]


class _Activation(NamedTuple):
    """A function of each number whose derivative follows from its value."""

    in_place: Callable[[Tensor], Tensor]
    # From the gradient by the value, and the value.
    pull_back: Callable[[Tensor, Tensor], Tensor]


WRITTEN_OUT = {
    "relu": _Activation(
        torch.relu_, lambda g, y: torch.ops.aten.threshold_backward(g, y, 0)
    ),
    "tanh": _Activation(torch.tanh_, torch.ops.aten.tanh_backward),
    "logistic": _Activation(torch.sigmoid_, torch.ops.aten.sigmoid_backward),
    "identity": _Activation(lambda x: x, lambda g, y: g),
}


class _Layer:
    """A linear layer, x to x W^T + b."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight, layer.bias

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.t())

    def learn(self, gradient: Tensor, x: Tensor, gradients: Gradients) -> None:
        """Note the gradient of weight and bias, from that of what came out for x."""
        gradients[self.weight] = gradient.t() @ x
        gradients[self.bias] = gradient.sum(0)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """The gradient of what went in, from that of what came out."""
        return gradient @ self.weight


class _Body:
    """The hidden layers of a network."""

    def __init__(self, mlp: MLP) -> None:
        self.layers = [_Layer(part) for part in mlp if isinstance(part, nn.Linear)]
        self.activation = WRITTEN_OUT[mlp.activation]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """What each layer sees, and last what comes out."""
        seen = [x]
        for layer in self.layers:
            seen.append(self.activation.in_place(layer(seen[-1])))
        return seen

    def learn(
        self,
        gradient: Tensor,
        seen: list[Tensor],
        gradients: Gradients,
        to_input: bool = False,
    ) -> Tensor:
        """Note the gradients of all layers, from that of what came out of the last.

        Gives that of what the first layer saw, if it is asked for.
        """
        for depth, layer in reversed([*enumerate(self.layers)]):
            gradient = self.activation.pull_back(gradient, seen[depth + 1])
            layer.learn(gradient, seen[depth], gradients)
            if depth or to_input:
                gradient = layer.pull_back(gradient)
        return gradient


class Chain:
    """A model's networks, to go through forwards and then backwards.

    What comes out are tensors of inference mode: to read, and to step by.
    """

    def __init__(self, model: VaDE, down: MLP, up: MLP, output: nn.Linear) -> None:
        self.prior, self.likelihood = model.prior, model.likelihood
        self.down, self.up, self.output = _Body(down), _Body(up), _Layer(output)
        self.mean = _Layer(model.encoder.mean)
        self.log_variance = _Layer(model.encoder.log_variance)

    @classmethod
    def of(cls, model: VaDE) -> Self | None:
        """None if there is a part whose derivative is not written out."""
        if type(model.prior) is not MixturePrior:
            return None
        if type(model.likelihood) not in LIKELIHOODS.values():
            return None
        down, up = model.encoder.hidden, model.decoder.hidden
        output = model.decoder.output
        if not isinstance(down, MLP) or not isinstance(up, MLP):
            return None
        if down.in_bfloat16 or down.activation not in WRITTEN_OUT:
            return None
        assert isinstance(output, nn.Linear)  # as above an MLP
        return cls(model, down, up, output)

    @torch.inference_mode()
    def squared_error(
        self, batch: Batch, parameters: Parameters
    ) -> tuple[Tensor, Gradients]:
        """The weighted mean squared error of the reconstruction, and its gradient.

        The parameters are those of an autoencoder.
        """
        x, weight, _, observed = batch
        seen = self.down(x)
        z = self.mean(seen[-1])
        seen_up = self.up(z)
        output = self.output(seen_up[-1])
        error = (weight * squared_error(x, output, observed)).mean()
        slope = squared_error_slope(x, output, observed)
        gradients: Gradients = {}
        by_z = self._decoder(slope * (weight / len(x))[:, None], seen_up, gradients)
        self.mean.learn(by_z, seen[-1], gradients)
        self.down.learn(self.mean.pull_back(by_z), seen, gradients)
        return error, gradients

    @torch.inference_mode()
    def bound(
        self, batch: Batch, noise: Tensor, beta: float, parameters: Parameters
    ) -> tuple[Elbo, Gradients]:
        """The ELBO of each row, and the gradient of the loss.

        The loss is the weighted mean of the negative ELBO, its latent terms times
        `beta`. z is drawn at `noise`, (S, B, L). The parameters are all, or those of
        decoder, likelihood and log-variance head alone.
        """
        x, weight, _, observed = batch
        weight = weight / len(x)
        gradients: Gradients = {}
        seen = self.down(x)
        mean, free = self.mean(seen[-1]), self.log_variance(seen[-1])
        log_variance = free.clamp_max(MOST_LOG_VARIANCE)
        deviation = torch.exp(0.5 * log_variance)
        variance, moved = deviation.square(), deviation * noise

        reconstruction, by_z = self._likelihood(
            x, mean + moved, weight, observed, gradients
        )
        mixture = self.prior.slopes(mean, variance, -beta * weight)
        entropy = latent_entropy(Posterior(mean, log_variance))

        by_log_variance = 0.5 * ((by_z * moved).sum(0) - (beta * weight)[:, None])
        by_log_variance += mixture.variance * variance
        by_log_variance.masked_fill_(free > MOST_LOG_VARIANCE, 0)
        self.log_variance.learn(by_log_variance, seen[-1], gradients)
        if any(p is self.mean.weight for p in parameters):
            self._encoder(mixture.mean + by_z.sum(0), by_log_variance, seen, gradients)
            gradients |= mixture.parameters
        return Elbo(reconstruction, mixture.log_sum, entropy), gradients

    def _encoder(
        self,
        by_mean: Tensor,
        by_log_variance: Tensor,
        seen: list[Tensor],
        gradients: Gradients,
    ) -> None:
        """Note the gradients of the encoder, but for the log-variance head."""
        self.mean.learn(by_mean, seen[-1], gradients)
        by_hidden = self.mean.pull_back(by_mean)
        by_hidden += self.log_variance.pull_back(by_log_variance)
        self.down.learn(by_hidden, seen, gradients)

    def _likelihood(
        self,
        x: Tensor,
        z: Tensor,
        weight: Tensor,
        observed: Tensor | None,
        gradients: Gradients,
    ) -> tuple[Tensor, Tensor]:
        """E[log p(x|z)] over the draws, and the gradient of its loss by them."""
        n_draws, n_rows, _ = z.shape
        seen = self.up(z.flatten(0, 1))
        output = self.output(seen[-1]).unflatten(0, (n_draws, n_rows))
        slopes = self.likelihood.slopes(x, output, observed)
        share = -weight / n_draws
        for parameter, slope in slopes.parameters.items():
            gradients[parameter] = (share * slope).sum()
        by_output = (share[:, None] * slopes.output).flatten(0, 1)
        by_z = self._decoder(by_output, seen, gradients).view_as(z)
        return slopes.log_density.mean(0), by_z

    def _decoder(
        self, by_output: Tensor, seen: list[Tensor], gradients: Gradients
    ) -> Tensor:
        """Note the decoder's gradients; gives that of the points it was given."""
        self.output.learn(by_output, seen[-1], gradients)
        by_hidden = self.output.pull_back(by_output)
        return self.up.learn(by_hidden, seen, gradients, to_input=True)


class ByTorch:
    """The same as `Chain`, by torch's automatic differentiation, for any model."""

    def __init__(self, model: VaDE, sampled: bool) -> None:
        self.model, self.sampled = model, sampled

    def squared_error(
        self, batch: Batch, parameters: Parameters
    ) -> tuple[Tensor, Gradients]:
        output = self.model.decoder(self.model.encoder.embed(batch.x))
        errors = squared_error(batch.x, output, batch.observed)
        loss = (batch.weight * errors).mean()
        return loss.detach(), differentiate(loss, parameters)

    def bound(
        self, batch: Batch, noise: Tensor, beta: float, parameters: Parameters
    ) -> tuple[Elbo, Gradients]:
        x, weight, _, observed = batch
        posterior = self.model.encoder(x)
        draws = reparameterize(posterior, noise)
        density = self.model.likelihood.log_density(
            x, self.model.decoder(draws), observed
        )
        sampled = draws if self.sampled else None
        terms = elbo(density, posterior, self.model.prior, sampled)
        loss = -(weight * (terms.reconstruction + beta * terms.latent)).mean()
        gradients = differentiate(loss, parameters)
        return Elbo(*(term.detach() for term in terms)), gradients


def way_back(model: VaDE, sampled: bool = False) -> Chain | ByTorch:
    """How a step finds its gradient; `sampled` is the kind of responsibilities."""
    written_out = None if sampled else Chain.of(model)
    return written_out or ByTorch(model, sampled)
