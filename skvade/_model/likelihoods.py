"""The likelihood p(x|z): what the decoder's output says about a sample.

A likelihood is one subclass of `Likelihood`, registered in `LIKELIHOODS`. It says all
about itself: its log-density, mean and samples for a decoder output, the values of X
that it accepts, how X is scaled, what the encoder gets of a sample, and its fitted
attributes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from skvade._data.counts import count_scaling, log1p_normalized, network_input
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.scaling import (
    TARGET_STD,
    DataSummary,
    Scaling,
    check_no_empty_features,
)
from skvade._data.table import CATEGORICAL, Part
from skvade._model.prior import LOG_2PI, logaddexp_floor

__all__ = [
    "LIKELIHOODS",
    "AffineOutput",
    "Bernoulli",
    "Categorical",
    "CountLikelihood",
    "Gaussian",
    "Likelihood",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "bernoulli_log_prob",
    "gaussian_log_prob",
    "make_likelihood",
    "masked_sum",
    "multinomial_log_prob",
    "n_observed",
    "negative_binomial_log_prob",
    "poisson_log_prob",
]

# Least noise variance of standardized samples. Without one, data that can be
# reconstructed exactly would have an infinite likelihood.
LOG_MIN_NOISE_VARIANCE = math.log(1e-6)

# Least dispersion of counts: below it they are those of a Poisson distribution, and
# the logarithms of the gamma function differ by less than float32 can express.
LOG_MIN_DISPERSION = math.log(1e-4)

# Of counts, missing ones included: the exponential of it must stay finite.
MAX_LOG_RATE = 30.0

# The logarithm of the share of a category that only samples of weight zero have.
MIN_SHARE = 1e-6

# Squared distance of two samples of different category, in the unit in which that of
# two random samples is 2 on average in a column of numbers.
CATEGORY_DISTANCE = 2.0

# Of the logarithm of a category's share by a reconstruction of its indicator: that of
# one of two equally frequent categories, as in `Bernoulli`.
SHARE_SLOPE = 2.0


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

    `log_variance` is a single number, (), or one for each feature, (D,). With
    `log_scale`, of either shape, the density is that of x times exp(log_scale).
    """
    constants = log_variance + (LOG_2PI + 2 * log_scale)
    if constants.ndim:
        squares = (x - mean).square() * torch.exp(-log_variance)
        return -0.5 * masked_sum(constants + squares, mask)
    squared_error = masked_sum((x - mean).square(), mask)
    constant = n_observed(x, mask) * constants
    return -0.5 * (constant + squared_error * torch.exp(-log_variance))


def sum_over_counts(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Sum a function of counts and of their features, (..., D) to (...,).

    The function must be zero at zero: it is computed where there are counts alone. Most
    counts of genes or words are zero, and the gamma function takes long.
    """
    counts = x if mask is None else x.masked_fill(mask == 0, 0)
    samples = counts.reshape(-1, x.shape[-1])
    rows, features = (samples > 0).nonzero(as_tuple=True)
    values = function(samples[rows, features], features)
    # Sums of rows, unlike `index_add`, add in the same order on every device.
    terms = values.new_zeros(samples.shape).index_put((rows, features), values)
    return terms.sum(-1).reshape(counts.shape[:-1])


def sum_log_factorials(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log(x!) over features: (..., D) to (...,)."""
    return sum_over_counts(lambda count, _: torch.lgamma(count + 1), x, mask)


def poisson_log_prob(x: Tensor, log_rate: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log Poisson(x | exp(log_rate)) over features: (..., D) to (...,)."""
    log_prob = masked_sum(x * log_rate - log_rate.exp(), mask)
    return log_prob - sum_log_factorials(x, mask)


def negative_binomial_log_prob(
    x: Tensor, log_mean: Tensor, log_dispersion: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Sum the log-probability of negative binomial counts: (..., D) to (...,).

    With the dispersion a = exp(log_dispersion), (D,), the variance is mean + a mean^2.
    """
    log_concentration = -log_dispersion
    concentration = log_concentration.exp()

    def log_coefficient(count: Tensor, feature: Tensor) -> Tensor:
        shape = concentration.expand(x.shape[-1])[feature]
        rising = torch.lgamma(count + shape) - torch.lgamma(shape)
        return rising - torch.lgamma(count + 1)

    log_ratio = log_mean - log_concentration
    log_prob = x * log_ratio - (x + concentration) * F.softplus(log_ratio)
    return masked_sum(log_prob, mask) + sum_over_counts(log_coefficient, x, mask)


def multinomial_log_prob(
    x: Tensor, log_share: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Compute log Multinomial(x | total of x, exp(log_share)): (..., D) to (...,).

    With a `mask` the total and the shares are those of the observed features.
    """
    total = masked_sum(x, mask)
    log_prob = masked_sum(x * log_share, mask) - sum_log_factorials(x, mask)
    return torch.lgamma(total + 1) + log_prob


def log_normalize(output: Tensor, mask: Tensor | None = None) -> Tensor:
    """Make logarithms of shares that sum to one over the observed features.

    A feature that is missing gets its share relative to these; where none is observed,
    the shares are those of all features.
    """
    observed = output
    if mask is not None:
        is_left_out = (mask == 0) & mask.any(-1, keepdim=True)
        observed = output.masked_fill(is_left_out, -math.inf)
    return output - observed.logsumexp(-1, keepdim=True)


class AffineOutput(nn.Module):
    """Scales and offsets in the place of a decoder's output layer, 1 and 0 at first.

    It follows the output of a custom decoder: `Likelihood.initialize_output` rescales
    it as it would rescale a linear layer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(n_features, 1, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(n_features, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, 0] * x + self.bias


class OutputRows(NamedTuple):
    """A part of the rows of an output layer, which share its memory."""

    weight: Tensor
    bias: Tensor


OutputLayer = nn.Linear | AffineOutput | OutputRows


class Likelihood(nn.Module, ABC):
    """A distribution of samples given the decoder's output.

    The networks work on standardized samples, (transform(x) - location) / scale. The
    density is of these, but of the samples themselves where they are counts: `target`
    stands for either, see :class:`~skvade._data.dataset.Batch`. A missing entry
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
    of_counts : bool
        Whether X must be of counts. They are then the `target`.
    options : tuple of str
        Parameters of the estimator that the constructor takes.
    support : tuple of float
        Least and largest value that X may have.
    location, feature_mean : Tensor of shape (D,)
        See :class:`~skvade._data.scaling.Scaling`.
    scale : Tensor of shape () or (D,)
        See there. One for each feature only in a part of `Mixed`.
    table : tuple of Part
        The columns of each likelihood of `Mixed`; empty if there is a single one.
    """

    centered: ClassVar[bool] = True
    of_counts: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
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
        self.table: tuple[Part, ...] = ()

    # --- What a likelihood defines --------------------------------------------------

    @abstractmethod
    def log_prob(
        self, target: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Compute log p(x|z), in the units of the data: (..., D) to (...,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], in the units of the data.

        Counts are those of a sample of the average total.
        """

    @abstractmethod
    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        """Draw a sample from p(x|z), in the units of the data."""

    @abstractmethod
    def initialize_output(
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Make the decoder's output the parameter of p(x|z) from now on.

        Pretraining left `residual_variance` of the standardized samples unexplained.
        """

    def make_scaling(
        self,
        X: NDArray | csr_array,
        sample_weight: NDArray,
        summary: DataSummary,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Scaling:
        """Derive how X is standardized; `summary` is that of X, in all processes."""
        return summary.scaling(self.centered)

    def transform(self, x: Tensor) -> Tensor:
        """Compute what is standardized for the networks, (B, D); NaN stays."""
        return x

    def reconstruct(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Compute E[x|z] of the samples `target`: counts are of their own totals."""
        return self.mean(output)

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
        self.scale.copy_(torch.tensor(np.asarray(scaling.scale)))

    def standardize(self, x: Tensor) -> Tensor:
        """Standardize samples, the mean of the feature in the place of NaN."""
        x = self.transform(x)
        x = torch.where(x.isnan(), self.feature_mean, x)
        return (x - self.location) / self.scale

    def unstandardize(self, standardized: Tensor) -> Tensor:
        """Invert the scaling: give what `transform` gave."""
        return self.location + self.scale * standardized

    def standardized_mean(self, output: Tensor) -> Tensor:
        """Compute E[x|z], standardized."""
        return (self.transform(self.mean(output)) - self.location) / self.scale


class Gaussian(Likelihood):
    """N(x | unstandardize(output), noise variance).

    Parameters
    ----------
    n_features : int
        Number of features, D.
    noise : {"scalar", "feature"}, default="scalar"
        Whether there is one noise variance, or one for each feature.

    Attributes
    ----------
    raw_log_noise_variance : Parameter of shape () or (D,)
        Log of what the noise variance of standardized samples exceeds its floor by.
    """

    options = ("noise",)

    def __init__(self, n_features: int, noise: str = "scalar") -> None:
        super().__init__(n_features)
        shape = () if noise == "scalar" else (n_features,)
        zeros = torch.zeros(shape, dtype=torch.float32)
        self.raw_log_noise_variance = nn.Parameter(zeros)

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
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Start with the residual that pretraining left as noise variance."""
        self.raw_log_noise_variance.fill_(residual_variance).log_()

    def fitted_attributes(self) -> dict[str, Any]:
        noise_variance: Any = self.noise_variance.numpy(force=True)
        is_scalar = not noise_variance.ndim
        return {
            "noise_variance_": noise_variance.item() if is_scalar else noise_variance
        }

    @torch.no_grad()
    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        scale = self.scale.double().cpu()
        noise_variance = torch.tensor(
            attributes["noise_variance_"], dtype=torch.float64
        )
        excess = noise_variance / scale.square() - math.exp(LOG_MIN_NOISE_VARIANCE)
        if not self.raw_log_noise_variance.ndim:
            excess = excess.mean()  # the same share of each feature's variance
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
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Turn a linear reconstruction into logits.

        The line through (1/2, 0) with the slope that the logit has there. An output
        layer left in another unit would throw away what pretraining learned.
        """
        output_layer.weight.mul_((4 * self.scale).unsqueeze(-1))
        output_layer.bias.copy_(4 * (self.unstandardize(output_layer.bias) - 0.5))


class CountLikelihood(Likelihood):
    """Counts, whose rates are the exponential of the decoder's output.

    The networks get log1p of the counts. With a size factor, the counts are divided by
    it there, and the rates of a sample are shares of its own total: a softmax of the
    output, over the observed features. Without one, the output is the log of the rates.

    Parameters
    ----------
    n_features : int
        Number of features, D.
    size_factor : {"total", None}, default="total"
        The total of a sample relative to that of an average one, or no size factor.

    Attributes
    ----------
    mean_count : Tensor of shape (D,)
        Mean count of each feature.
    reference_count : Tensor of shape (D,)
        That in a sample of the total that the counts are scaled to, for the networks.
    """

    of_counts = True
    options: ClassVar[tuple[str, ...]] = ("size_factor",)
    support = (0.0, math.inf)

    mean_count: Tensor
    reference_count: Tensor

    def __init__(self, n_features: int, size_factor: str | None = "total") -> None:
        super().__init__(n_features)
        self.size_factor = size_factor
        ones = torch.ones(n_features, dtype=torch.float32)
        self.register_buffer("mean_count", ones)
        self.register_buffer("reference_count", ones.clone())

    @abstractmethod
    def sample_counts(self, rate: Tensor, generator: Generator) -> Tensor:
        """Draw counts of these means."""

    def log_rate(
        self, output: Tensor, counts: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the log of the expected counts of some samples, (..., D).

        A sample without any count has the rates of one with a single count; one of
        which no count is known has those of an average one.
        """
        log_rate = output
        if self.size_factor is not None:
            total = masked_sum(counts, mask).clamp_min(1)
            if mask is not None:
                total = torch.where(mask.any(-1), total, self.mean_count.sum())
            log_rate = log_normalize(output, mask) + total.log()[..., None]
        return log_rate.clamp_max(MAX_LOG_RATE)

    def mean(self, output: Tensor) -> Tensor:
        return self.log_rate(output, self.mean_count).exp()

    def reconstruct(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return self.log_rate(output, target, mask).exp()

    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        return self.sample_counts(self.mean(output), generator)

    def transform(self, x: Tensor) -> Tensor:
        if self.size_factor is None:
            return torch.log1p(x)
        return log1p_normalized(x, self.reference_count)

    def make_scaling(
        self,
        X: NDArray | csr_array,
        sample_weight: NDArray,
        summary: DataSummary,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Scaling:
        feature_mean = summary.scaling(self.centered).feature_mean
        return count_scaling(X, sample_weight, feature_mean, self.size_factor, group)

    def set_scaling(self, scaling: Scaling) -> None:
        super().set_scaling(scaling)
        assert scaling.mean_count is not None
        self.mean_count.copy_(torch.tensor(scaling.mean_count))
        if scaling.reference_count is not None:
            self.reference_count.copy_(torch.tensor(scaling.reference_count))

    @torch.no_grad()
    def initialize_output(
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Turn a reconstruction of log1p of counts into the log of rates.

        A sample of average reconstruction gets the mean count of each feature. From
        there the log of a large count rises as log1p of it does.
        """
        average = (self.feature_mean - self.location) / self.scale
        output_layer.weight.mul_(self.scale.unsqueeze(-1))
        output_layer.bias.copy_(
            self.mean_count.log() + self.scale * (output_layer.bias - average)
        )


class Poisson(CountLikelihood):
    """prod_d Poisson(x_d | rate_d)."""

    def log_prob(
        self, target: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return poisson_log_prob(target, self.log_rate(output, target, mask), mask)

    def sample_counts(self, rate: Tensor, generator: Generator) -> Tensor:
        return torch.poisson(rate, generator)


class NegativeBinomial(CountLikelihood):
    """Counts of mean rate_d and variance rate_d + dispersion_d rate_d^2.

    Attributes
    ----------
    raw_log_dispersion : Parameter of shape (D,)
        Log of what the dispersion of a feature exceeds its floor by.
    """

    def __init__(self, n_features: int, size_factor: str | None = "total") -> None:
        super().__init__(n_features, size_factor)
        zeros = torch.zeros(n_features, dtype=torch.float32)
        self.raw_log_dispersion = nn.Parameter(zeros)

    @property
    def log_dispersion(self) -> Tensor:
        return logaddexp_floor(self.raw_log_dispersion, LOG_MIN_DISPERSION)

    def log_prob(
        self, target: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        log_rate = self.log_rate(output, target, mask)
        return negative_binomial_log_prob(target, log_rate, self.log_dispersion, mask)

    def sample_counts(self, rate: Tensor, generator: Generator) -> Tensor:
        """Draw Poisson counts whose rates are gamma distributed."""
        dispersion = self.log_dispersion.exp()
        concentration = dispersion.reciprocal().expand_as(rate).contiguous()
        gamma = torch._standard_gamma(concentration, generator)
        return torch.poisson(gamma * dispersion * rate, generator)

    def fitted_attributes(self) -> dict[str, Any]:
        return {"dispersion_": self.log_dispersion.exp().numpy(force=True)}

    @torch.no_grad()
    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        dispersion = torch.tensor(attributes["dispersion_"], dtype=torch.float64)
        excess = dispersion - math.exp(LOG_MIN_DISPERSION)
        smallest = torch.finfo(self.raw_log_dispersion.dtype).tiny
        self.raw_log_dispersion.copy_(excess.clamp_min(smallest).log())


class Multinomial(CountLikelihood):
    """Multinomial(x | total of x, shares), which says nothing about the total."""

    options = ()

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, size_factor="total")

    def log_prob(
        self, target: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return multinomial_log_prob(target, log_normalize(output, mask), mask)

    def sample_counts(self, rate: Tensor, generator: Generator) -> Tensor:
        """Draw by NumPy, from a seed of the generator: torch keeps no total."""
        rates = rate.double().numpy(force=True)
        totals = rates.sum(-1, keepdims=True)
        device = generator.device
        seed = torch.randint(2**31 - 1, (), generator=generator, device=device)
        n_draws = np.maximum(totals[..., 0].round(), 1).astype(np.int64)
        counts = np.random.default_rng(int(seed)).multinomial(n_draws, rates / totals)
        return torch.tensor(counts).to(rate)


class Categorical(Likelihood):
    """prod_c Categorical(x_c | softmax(output_c)), a block of features per column c.

    A feature is the indicator of a category. Where an entry is missing, so is the
    whole block.

    Parameters
    ----------
    n_features : int
        Number of features, D: the sum of `n_categories`.
    n_categories : sequence of int or None, default=None
        Number of categories of each column. None for a single column.

    Attributes
    ----------
    block : Tensor of shape (D,)
        The column of each feature.
    position : Tensor of shape (n_columns, max(n_categories))
        The features of each column, padded with D.
    """

    options = ("n_categories",)
    support = (0.0, 1.0)

    block: Tensor
    position: Tensor

    def __init__(
        self, n_features: int, n_categories: Sequence[int] | None = None
    ) -> None:
        super().__init__(n_features)
        sizes = torch.tensor(n_categories or [n_features])
        starts = sizes.cumsum(0) - sizes
        within = torch.arange(int(sizes.max()))
        position = starts[:, None] + within
        position = position.masked_fill(within >= sizes[:, None], n_features)
        block = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer("block", block, persistent=False)
        self.register_buffer("position", position, persistent=False)

    def _gather(self, values: Tensor, padding: float) -> Tensor:
        """Give the values by column, (..., D) to (..., n_columns, n_most)."""
        padded = F.pad(values, (0, 1), value=padding)
        gathered = padded.index_select(-1, self.position.flatten())
        return gathered.unflatten(-1, self.position.shape)

    def log_share(self, output: Tensor) -> Tensor:
        """Compute the log-probability of each category, (..., D)."""
        log_normalizer = self._gather(output, -math.inf).logsumexp(-1)
        return output - log_normalizer.index_select(-1, self.block)

    def log_prob(
        self, standardized: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        is_category = self.unstandardize(standardized)
        return masked_sum(is_category * self.log_share(output), mask)

    def mean(self, output: Tensor) -> Tensor:
        """Compute the probability of each category."""
        return self.log_share(output).exp()

    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        shares = self._gather(self.mean(output), 0.0)
        drawn = torch.multinomial(shares.flatten(0, -2), 1, generator=generator)
        features = self.position[:, 0] + drawn.reshape(shares.shape[:-1])
        return torch.zeros_like(output).scatter_(-1, features, 1.0)

    @torch.no_grad()
    def initialize_output(
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Turn a reconstruction of indicators into log-probabilities.

        A sample of average reconstruction gets the frequency of each category. From
        there the logarithm rises as that of one of two equally frequent categories.
        """
        log_share = self.feature_mean.clamp_min(MIN_SHARE).log()
        average = (self.feature_mean - self.location) / self.scale
        slope = SHARE_SLOPE * self.scale
        output_layer.weight.mul_(slope.unsqueeze(-1))
        output_layer.bias.copy_(log_share + slope * (output_layer.bias - average))


class Mixed(Likelihood):
    """The likelihoods of the parts of a table, whose features lie side by side.

    For the networks columns of numbers have the same variance, so two random samples
    differ in one by a squared distance of 2 on average, in units of it. Two samples of
    different category have `CATEGORY_DISTANCE`. The dissimilarity is that of
    k-prototypes (Huang, "Extensions to the k-means algorithm for clustering large data
    sets with categorical values", Data Mining and Knowledge Discovery 2, 1998).

    Fitted attributes have one number for each column of the table, NaN where its
    likelihood has no such parameter.

    Parameters
    ----------
    table : sequence of Part
        The columns of each likelihood, which hold every column once.
    parameters : mapping of str to object
        Parameters of the estimator, for the likelihoods that take them.

    Attributes
    ----------
    parts : ModuleList
        The likelihood of each part.
    """

    parts: Any  # its type knows modules alone

    def __init__(self, table: Sequence[Part], parameters: Mapping[str, Any]) -> None:
        widths = [len(part.feature_columns) for part in table]
        super().__init__(sum(widths))
        self.table = tuple(table)
        self.widths = widths
        self.n_columns = sum(len(part.columns) for part in table)
        is_indicator = [bool(part.n_categories) for part in table]
        self.is_indicator = np.repeat(is_indicator, self.widths)
        self.scale = torch.ones_like(self.location)
        self.parts = nn.ModuleList()
        for part, width in zip(table, self.widths, strict=True):
            options = {**parameters, "n_categories": part.n_categories}
            likelihood = _make_single(part.likelihood, width, options)
            likelihood.scale = torch.ones_like(likelihood.location)
            self.parts.append(likelihood)

    def _by_part(self, method: str, *tensors: Tensor | None) -> list[Tensor]:
        """Call a method of each part with its features of some tensors, (..., D)."""
        pieces = [
            [None] * len(self.parts)
            if tensor is None
            else tensor.split(self.widths, -1)
            for tensor in tensors
        ]
        return [
            getattr(part, method)(*arguments)
            for part, *arguments in zip(self.parts, *pieces, strict=True)
        ]

    def log_prob(
        self, target: Tensor, output: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return torch.stack(self._by_part("log_prob", target, output, mask)).sum(0)

    def mean(self, output: Tensor) -> Tensor:
        return torch.cat(self._by_part("mean", output), -1)

    def standardized_mean(self, output: Tensor) -> Tensor:
        return torch.cat(self._by_part("standardized_mean", output), -1)

    def reconstruct(
        self, output: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return torch.cat(self._by_part("reconstruct", output, target, mask), -1)

    def sample(self, output: Tensor, generator: Generator) -> Tensor:
        outputs = output.split(self.widths, -1)
        samples = [
            part.sample(rows, generator)
            for part, rows in zip(self.parts, outputs, strict=True)
        ]
        return torch.cat(samples, -1)

    def transform(self, x: Tensor) -> Tensor:
        return torch.cat(self._by_part("transform", x), -1)

    def encoder_input(self, standardized: Tensor) -> Tensor:
        return torch.cat(self._by_part("encoder_input", standardized), -1)

    @torch.no_grad()
    def initialize_output(
        self, output_layer: OutputLayer, residual_variance: float
    ) -> None:
        """Let each part do it; numbers vary more than the average feature."""
        feature_mean = self.feature_mean.double().numpy(force=True)
        of_numbers = residual_variance / self._mean_variance(feature_mean)
        weights = output_layer.weight.split(self.widths)
        biases = output_layer.bias.split(self.widths)
        for part, *rows in zip(self.parts, weights, biases, strict=True):
            part.initialize_output(OutputRows(*rows), of_numbers)

    def _mean_variance(self, feature_mean: NDArray) -> float:
        """Average the variances of the features, relative to that of numbers."""
        share = np.where(self.is_indicator, feature_mean, 0.0)
        of_indicators = share * (1 - share) * CATEGORY_DISTANCE / 2
        mean = np.where(self.is_indicator, of_indicators, 1.0).mean()
        return float(mean) if mean > 0 else 1.0

    def make_scaling(
        self,
        X: NDArray | csr_array,
        sample_weight: NDArray,
        summary: DataSummary,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Scaling:
        assert summary.feature_mean is not None
        check_no_empty_features(np.isnan(summary.feature_mean), summary.names)
        scalings = []
        for part, features in zip(self.parts, self._slices(), strict=True):
            of_part = summary._replace(feature_mean=summary.feature_mean[features])
            scaling = part.make_scaling(X[:, features], sample_weight, of_part, group)
            scalings.append(scaling)
        scaling = Scaling.join(scalings)
        moments = DataSummary.from_array(
            X, sample_weight, group, lambda chunk: network_input(chunk, scaling)
        )
        assert moments.feature_std is not None
        of_indicators = math.sqrt(2 / CATEGORY_DISTANCE)
        units = np.where(self.is_indicator, of_indicators, moments.feature_std)
        # The average feature then has the standard deviation TARGET_STD.
        target = TARGET_STD / math.sqrt(self._mean_variance(scaling.feature_mean))
        return scaling._replace(scale=np.where(units > 0, units / target, 1.0))

    def _slices(self) -> list[slice]:
        ends = np.cumsum(self.widths).tolist()
        return [slice(e - w, e) for e, w in zip(ends, self.widths, strict=True)]

    def set_scaling(self, scaling: Scaling) -> None:
        super().set_scaling(scaling)
        for part, (_, of_part) in zip(self.parts, scaling.split(), strict=True):
            part.set_scaling(of_part)

    def fitted_attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for part, likelihood in zip(self.table, self.parts, strict=True):
            for name, values in likelihood.fitted_attributes().items():
                of_table = attributes.setdefault(name, np.full(self.n_columns, np.nan))
                of_table[[*part.columns]] = values
        return attributes

    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        for part, likelihood in zip(self.table, self.parts, strict=True):
            names = likelihood.fitted_attributes()
            of_part = {name: attributes[name][[*part.columns]] for name in names}
            likelihood.load_fitted_attributes(of_part)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    CATEGORICAL: Categorical,
    "gaussian": Gaussian,
    "multinomial": Multinomial,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
}


def make_likelihood(
    likelihood: Any, n_features: int, parameters: Mapping[str, Any]
) -> Likelihood:
    """Build the likelihood of X.

    Parameters
    ----------
    likelihood : str or object
        A key of `LIKELIHOODS`. Has no effect if X is a table.
    n_features : int
        Number of features, D.
    parameters : mapping of str to object
        Parameters of the estimator, for the likelihoods that take them, and the
        parts of a table as "table"; that is None if X is none.
    """
    table, size_factor = parameters["table"], parameters["size_factor"]
    if size_factor == "auto":
        size_factor = "total" if table is None and n_features > 1 else None
    parameters = {**parameters, "size_factor": size_factor}
    if table is not None:
        return Mixed(table, parameters)
    return _make_single(likelihood, n_features, parameters)


def _make_single(
    name: str, n_features: int, parameters: Mapping[str, Any]
) -> Likelihood:
    """Build the likelihood of a name, with those of the parameters that it takes."""
    kind = LIKELIHOODS[name]
    return kind(n_features, **{name: parameters[name] for name in kind.options})
