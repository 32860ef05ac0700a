"""The likelihood p(x|z): what the decoder's output says about a sample.

A likelihood is one subclass of `Likelihood`, registered in `LIKELIHOODS`. It says all
about itself: its log-density, mean and samples for a decoder output, the values of X
that it accepts, whether X is centered, what the encoder gets of a sample, and its
fitted attributes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from skvade._data.scaling import Scaling
from skvade._model.prior import LOG_2PI, logaddexp_floor

__all__ = [
    "LIKELIHOODS",
    "AffineOutput",
    "Bernoulli",
    "Gaussian",
    "Likelihood",
    "bernoulli_log_prob",
    "gaussian_log_prob",
    "masked_sum",
    "n_observed",
]

# Least noise variance of standardized samples. Without one, data that can be
# reconstructed exactly would have an infinite likelihood.
LOG_MIN_NOISE_VARIANCE = math.log(1e-6)


def masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over features, (..., D) to (...,), over all or where the mask is one."""
    if mask is None:
        return values.sum(-1)
    return values.masked_fill(mask == 0, 0).sum(-1)


def n_observed(x: Tensor, mask: Tensor | None) -> Tensor | int:
    """Count the observed features of each sample."""
    return x.shape[-1] if mask is None else mask.sum(-1)


def bernoulli_log_prob(x: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log Bern(x | sigmoid(logits)) over features: (..., D) to (...,)."""
    x = x.expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -masked_sum(loss, mask)


def gaussian_log_prob(
    x: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    mask: Tensor | None = None,
    log_scale: Tensor | float = 0.0,
) -> Tensor:
    """Sum log N(x | mean, exp(log_variance)) over features: (..., D) to (...,).

    `log_variance` is a single number, (). With `log_scale`, the density is that of x
    times exp(log_scale).
    """
    squared_error = masked_sum((x - mean).square(), mask)
    constant = n_observed(x, mask) * (log_variance + (LOG_2PI + 2 * log_scale))
    return -0.5 * (constant + squared_error * torch.exp(-log_variance))


class AffineOutput(nn.Module):
    """A scale and an offset in the place of a decoder's output layer, 1 and 0 at first.

    It follows the output of a custom decoder: `Likelihood.initialize_output` rescales
    it as it would rescale a linear layer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones((), dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(n_features, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class Likelihood(nn.Module, ABC):
    """A distribution of samples given the decoder's output.

    The networks work on standardized samples, (x - location) / scale. A missing entry
    counts for nothing: `mask`, of the shape of the samples, is one where an entry is
    observed and zero where it is missing, or None where all are observed. The decoder
    gives D numbers per sample. In pretraining they are a standardized reconstruction;
    from `initialize_output` on they parameterize p(x|z).

    Parameters
    ----------
    n_features : int
        Number of features, D.

    Attributes
    ----------
    centered : bool
        Whether the mean of each feature is subtracted from X.
    support : tuple of float
        Least and largest value that X may have.
    location, feature_mean : Tensor of shape (D,)
        See :class:`~skvade._data.scaling.Scaling`.
    scale : Tensor of shape ()
        See there.
    """

    centered: ClassVar[bool] = True
    support: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    location: Tensor
    scale: Tensor
    feature_mean: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        zeros = torch.zeros(n_features, dtype=torch.float32)
        self.register_buffer("location", zeros)
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("feature_mean", zeros.clone())

    # --- What a likelihood defines --------------------------------------------------

    @abstractmethod
    def log_prob(
        self, standardized: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Compute log p(x|z), in the units of the data: (..., D) to (...,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], in the units of the data."""

    @abstractmethod
    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        """Draw a sample from p(x|z), in the units of the data."""

    @abstractmethod
    def initialize_output(
        self, output_layer: nn.Linear | AffineOutput, residual_variance: float
    ) -> None:
        """Make the decoder's output the parameter of p(x|z) from now on.

        Pretraining left `residual_variance` of the standardized samples unexplained.
        """

    def encoder_input(self, standardized: Tensor) -> Tensor:
        """Compute what the encoder gets of standardized samples, (B, D)."""
        return standardized

    def fitted_attributes(self) -> dict[str, Any]:
        """Give the learned parameters, in the units of the data, by attribute name."""
        return {}

    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set the learned parameters from fitted attributes of the estimator."""

    # --- What all share -------------------------------------------------------------

    def set_scaling(self, scaling: Scaling) -> None:
        """Set how the data were standardized."""
        self.location.copy_(torch.tensor(scaling.location))
        self.feature_mean.copy_(torch.tensor(scaling.feature_mean))
        self.scale.fill_(float(scaling.scale))

    def standardize(self, x: Tensor) -> Tensor:
        """Standardize samples, the mean of the feature in the place of NaN."""
        x = torch.where(x.isnan(), self.feature_mean, x)
        return (x - self.location) / self.scale

    def unstandardize(self, standardized: Tensor) -> Tensor:
        """Invert `standardize`."""
        return self.location + self.scale * standardized

    def standardized_mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], standardized."""
        return (self.mean(output) - self.location) / self.scale


class Gaussian(Likelihood):
    """N(x | unstandardize(output), noise variance), one variance for all features.

    Attributes
    ----------
    raw_log_noise_variance : Parameter of shape ()
        Log of what the noise variance of standardized samples exceeds its floor by.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.raw_log_noise_variance = nn.Parameter(torch.zeros((), dtype=torch.float32))

    @property
    def log_noise_variance(self) -> Tensor:
        """Log of the noise variance of standardized samples."""
        return logaddexp_floor(self.raw_log_noise_variance, LOG_MIN_NOISE_VARIANCE)

    @property
    def noise_variance(self) -> Tensor:
        """Noise variance in the squared unit of the data."""
        return self.log_noise_variance.exp() * self.scale.square()

    def log_prob(
        self, standardized: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        log_variance = self.log_noise_variance
        log_scale = self.scale.log()
        return gaussian_log_prob(standardized, output, log_variance, mask, log_scale)

    def mean(self, output: Tensor) -> Tensor:
        return self.unstandardize(output)

    def standardized_mean(self, output: Tensor) -> Tensor:
        return output

    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(output)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + self.noise_variance.sqrt() * noise

    @torch.no_grad()
    def initialize_output(
        self, output_layer: nn.Linear | AffineOutput, residual_variance: float
    ) -> None:
        """Start with the residual that pretraining left as noise variance."""
        self.raw_log_noise_variance.fill_(residual_variance).log_()

    def fitted_attributes(self) -> dict[str, Any]:
        return {"noise_variance_": self.noise_variance.item()}

    @torch.no_grad()
    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        scale = self.scale.double().cpu()
        noise_variance = attributes["noise_variance_"] / scale.square()
        excess = noise_variance - math.exp(LOG_MIN_NOISE_VARIANCE)
        smallest = torch.finfo(self.raw_log_noise_variance.dtype).tiny
        self.raw_log_noise_variance.copy_(excess.clamp_min(smallest).log())


class Bernoulli(Likelihood):
    """prod_d Bern(x_d | sigmoid(output_d)) for x in [0, 1]."""

    # Zero is a value of its own in an image or a table of [0, 1].
    centered = False
    support = (0.0, 1.0)

    def log_prob(
        self, standardized: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return bernoulli_log_prob(self.unstandardize(standardized), output, mask)

    def mean(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        return torch.bernoulli(self.mean(output), generator=generator)

    @torch.no_grad()
    def initialize_output(
        self, output_layer: nn.Linear | AffineOutput, residual_variance: float
    ) -> None:
        """Turn a linear reconstruction into logits.

        The line through (1/2, 0) with the slope that the logit has there. An output
        layer left in another unit would throw away what pretraining learned.
        """
        output_layer.weight.mul_(4 * self.scale)
        output_layer.bias.copy_(4 * (self.unstandardize(output_layer.bias) - 0.5))


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
