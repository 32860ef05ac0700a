"""p(x|z): what the decoder's output says about a row, in the units of the data."""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from skvade._mixture import LOG_2PI, log_add_floor

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Gaussian",
    "Likelihood",
    "bernoulli_log_density",
    "gaussian_log_density",
]

# Least noise variance of standardized rows. Without one, data that can be reconstructed
# exactly would have an infinite likelihood.
LOG_LEAST_NOISE = math.log(1e-6)


def bernoulli_log_density(x: Tensor, logits: Tensor) -> Tensor:
    """Sum over features of log Bern(x | sigmoid(logits)): (..., D) to (...,)."""
    x = x.expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -loss.sum(-1)


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Sum over features of log N(x | mean, exp(log_variance)): (..., D) to (...,)."""
    squared_error = (x - mean).square().sum(-1)
    constant = x.shape[-1] * (LOG_2PI + log_variance)
    return -0.5 * (constant + squared_error * torch.exp(-log_variance))


class Likelihood(nn.Module):
    """Ties the networks' standardized rows (x - location) / scale to the data.

    The decoder's output has D numbers a row. Pretraining reads them as a standardized
    reconstruction; from `adopt` on they are the natural parameter of p(x|z).
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(()))

    def standardize(self, x: Tensor) -> Tensor:
        return (x - self.location) / self.scale

    def restore(self, standardized: Tensor) -> Tensor:
        return self.location + self.scale * standardized


class Gaussian(Likelihood):
    """N(x | restore(output), noise variance), one learned variance for all features."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_excess_noise = nn.Parameter(torch.zeros(()))

    @property
    def log_noise(self) -> Tensor:
        """Log of the noise variance of standardized rows."""
        return log_add_floor(self.log_excess_noise, LOG_LEAST_NOISE)

    @property
    def noise_variance(self) -> Tensor:
        """Noise variance in the squared unit of the data."""
        return self.log_noise.exp() * self.scale.square()

    def log_density(self, standardized: Tensor, output: Tensor) -> Tensor:
        jacobian = standardized.shape[-1] * self.scale.log()
        return gaussian_log_density(standardized, output, self.log_noise) - jacobian

    def mean(self, output: Tensor) -> Tensor:
        return self.restore(output)

    def draw(self, output: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(output)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + self.noise_variance.sqrt() * noise

    @torch.no_grad()
    def adopt(self, output_layer: nn.Linear, residual_variance: float) -> None:
        """Start from the residual that pretraining left."""
        self.log_excess_noise.copy_(torch.tensor(residual_variance).log())


class Bernoulli(Likelihood):
    """prod_d Bern(x_d | sigmoid(output_d)) for x in [0, 1]."""

    noise_variance = None

    def log_density(self, standardized: Tensor, output: Tensor) -> Tensor:
        return bernoulli_log_density(self.restore(standardized), output)

    def mean(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def draw(self, output: Tensor, generator: Generator) -> Tensor:
        return torch.bernoulli(self.mean(output), generator=generator)

    @torch.no_grad()
    def adopt(self, output_layer: nn.Linear, residual_variance: float) -> None:
        """Turn a linear reconstruction into logits.

        The line through (1/2, 0) with the slope that the logit has there. An output
        layer left in another unit would throw away what pretraining learned.
        """
        output_layer.weight.mul_(4 * self.scale)
        output_layer.bias.copy_(4 * (self.restore(output_layer.bias) - 0.5))


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
