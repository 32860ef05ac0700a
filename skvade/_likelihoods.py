"""p(x|z): what the decoder's output says about a row, in the units of the data."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from skvade._mixture import LOG_2PI, log_add_floor

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Gaussian",
    "Likelihood",
    "LikelihoodSlopes",
    "Unit",
    "bernoulli_log_density",
    "gaussian_log_density",
    "n_observed",
]

# Least noise variance of standardized rows. Without one, data that can be reconstructed
# exactly would have an infinite likelihood.
LOG_LEAST_NOISE = math.log(1e-6)


def sum_observed(values: Tensor, observed: Tensor | None) -> Tensor:
    """Sum over features, (..., D) to (...,), of all or where `observed` is one."""
    if observed is None:
        return values.sum(-1)
    return values.masked_fill(observed == 0, 0).sum(-1)


def n_observed(x: Tensor, observed: Tensor | None) -> Tensor | int:
    """Number of observed features of each row."""
    return x.shape[-1] if observed is None else observed.sum(-1)


def bernoulli_log_density(
    x: Tensor, logits: Tensor, observed: Tensor | None = None
) -> Tensor:
    """Sum over features of log Bern(x | sigmoid(logits)): (..., D) to (...,)."""
    x = x.expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -sum_observed(loss, observed)


def gaussian_log_density(
    x: Tensor, mean: Tensor, log_variance: Tensor, observed: Tensor | None = None
) -> Tensor:
    """Sum over features of log N(x | mean, exp(log_variance)): (..., D) to (...,)."""
    squared_error = sum_observed((x - mean).square(), observed)
    constant = n_observed(x, observed) * (LOG_2PI + log_variance)
    return -0.5 * (constant + squared_error * torch.exp(-log_variance))


class Unit(nn.Module):
    """A fixed change of unit in the place of a decoder's output layer, none at first.

    `Likelihood.adopt` rescales it as it would a linear layer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("bias", torch.zeros(n_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class LikelihoodSlopes(NamedTuple):
    """log p(x|z), (...,), and what it rises by with what it depends on."""

    log_density: Tensor
    output: Tensor  # (..., D)
    parameters: dict[Tensor, Tensor]  # (...,) each


class Likelihood(nn.Module, ABC):
    """Ties the networks' standardized rows (x - location) / scale to the data.

    An entry that is missing counts for nothing: `observed` has the shape of the rows,
    one where there is an entry and zero where not, or is None where nothing is missing.
    The decoder's output has D numbers a row. Pretraining reads them as a standardized
    reconstruction; from `adopt` on they are the natural parameter of p(x|z).
    """

    location: Tensor
    scale: Tensor
    average: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("average", torch.zeros(n_features))

    def standardize(self, x: Tensor) -> Tensor:
        """Rows in the unit of the networks, the average in the place of NaN."""
        return (torch.where(x.isnan(), self.average, x) - self.location) / self.scale

    def restore(self, standardized: Tensor) -> Tensor:
        return self.location + self.scale * standardized

    @property
    def noise_variance(self) -> Tensor | None:
        """Noise variance in the squared unit of the data, if there is noise."""
        return None

    @abstractmethod
    def log_density(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        """log p(x|z) of rows, in the units of the data: (..., D) to (...,)."""

    @abstractmethod
    def slopes(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> LikelihoodSlopes:
        """`log_density` and its derivatives."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x|z], in the units of the data."""

    @abstractmethod
    def standardized_mean(self, output: Tensor) -> Tensor:
        """E[x|z], in the unit of the networks."""

    @abstractmethod
    def draw(self, output: Tensor, generator: Generator) -> Tensor:
        """A row drawn from p(x|z), in the units of the data."""

    @abstractmethod
    def adopt(self, output_layer: nn.Linear | Unit, residual_variance: float) -> None:
        """Read the decoder's output as the natural parameter from now on.

        Pretraining left `residual_variance` of the standardized rows unexplained.
        """


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

    def log_density(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        jacobian = n_observed(standardized, observed) * self.scale.log()
        density = gaussian_log_density(standardized, output, self.log_noise, observed)
        return density - jacobian

    def slopes(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> LikelihoodSlopes:
        log_noise = self.log_noise
        residual = standardized - output
        if observed is not None:
            residual = residual * observed
        by_output = residual * torch.exp(-log_noise)
        excess = (residual * by_output).sum(-1) - n_observed(standardized, observed)
        by_noise = 0.5 * excess * torch.exp(self.log_excess_noise - log_noise)
        density = self.log_density(standardized, output, observed)
        return LikelihoodSlopes(density, by_output, {self.log_excess_noise: by_noise})

    def mean(self, output: Tensor) -> Tensor:
        return self.restore(output)

    def standardized_mean(self, output: Tensor) -> Tensor:
        return output

    def draw(self, output: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(output)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + self.noise_variance.sqrt() * noise

    @torch.no_grad()
    def adopt(self, output_layer: nn.Linear | Unit, residual_variance: float) -> None:
        """Start from the residual that pretraining left."""
        self.log_excess_noise.copy_(torch.tensor(residual_variance).log())


class Bernoulli(Likelihood):
    """prod_d Bern(x_d | sigmoid(output_d)) for x in [0, 1]."""

    def log_density(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> Tensor:
        return bernoulli_log_density(self.restore(standardized), output, observed)

    def slopes(
        self, standardized: Tensor, output: Tensor, observed: Tensor | None = None
    ) -> LikelihoodSlopes:
        by_output = self.restore(standardized) - torch.sigmoid(output)
        if observed is not None:
            by_output = by_output * observed
        density = self.log_density(standardized, output, observed)
        return LikelihoodSlopes(density, by_output, {})

    def mean(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def standardized_mean(self, output: Tensor) -> Tensor:
        return (self.mean(output) - self.location) / self.scale

    def draw(self, output: Tensor, generator: Generator) -> Tensor:
        return torch.bernoulli(self.mean(output), generator=generator)

    @torch.no_grad()
    def adopt(self, output_layer: nn.Linear | Unit, residual_variance: float) -> None:
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
