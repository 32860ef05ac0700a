"""Evaluation of a module on a dataset: deterministic, and the same for any batch.

The networks run in the module's own dtype; latents, mixture and sums are float64 on the
CPU.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from scipy.stats.qmc import MultivariateNormalQMC, Sobol
from torch import Tensor, nn
from torch.nn.functional import pad

from skvade._data.dataset import Batch, Dataset
from skvade._data.device import make_generator
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._model.custom_networks import float32_by_default
from skvade._model.elbo import (
    Posterior,
    elbo,
    log_importance_weights,
    log_responsibilities,
    reparameterize,
)
from skvade._model.likelihoods import Likelihood
from skvade._model.module import VaDE

__all__ = [
    "INVERSE_OUTLIER_PROBABILITY",
    "AssignmentSummary",
    "decode",
    "elbo_samples",
    "embed",
    "importance_weighted_samples",
    "make_elbo_terms",
    "make_log_responsibilities",
    "map_batches",
    "mean_elbo",
    "mixture_labels",
    "predict_labels",
    "predict_log_responsibilities",
    "pretrained_embedding",
    "reconstruct",
    "summarize_assignments",
]

# Draws at which the ELBO of a sample is taken.
MIN_DRAWS, MAX_DRAWS = 8, 64

# An outlier is so far from its component that one in so many of its own would be.
INVERSE_OUTLIER_PROBABILITY = 1_000_000

# Entries of X in a chunk, within the limits of its samples: samples of few features go
# through small networks, where each chunk costs more than its arithmetic.
CHUNK_SIZE = 65_536
MIN_CHUNK_SAMPLES, MAX_CHUNK_SAMPLES = 256, 512

N_MEDIAN_SAMPLES = 512

ALIGNMENT = 16  # bytes of a vector register


# --- Fixed draws of z ---------------------------------------------------------------


def simplex_nodes(latent_dim: int) -> Tensor:
    """Make the draws at which every ELBO is taken, (S, 1, L).

    All samples share their error, so they must not have one where it counts: the L + 1
    corners of a regular simplex, rotated at random, have mean zero and covariance one,
    which makes the average exact for a decoder that is linear where q(z|x) lies. In few
    dimensions it takes more than one simplex; in more than `MAX_DRAWS`, for the time,
    one that spans a random subspace.
    """
    n_corners = min(latent_dim + 1, MAX_DRAWS)
    n_simplices, span = math.ceil(MIN_DRAWS / n_corners), n_corners - 1
    generator = make_generator(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(
            n_simplices, *shape, generator=generator, dtype=torch.float64
        )

    ones = torch.ones(n_simplices, n_corners, 1, dtype=torch.float64)
    # Orthonormal columns that the first, of ones, leaves with mean zero.
    columns = torch.cat([ones, normal(n_corners, span)], 2)
    corners = torch.linalg.qr(columns).Q[..., 1:] * math.sqrt(n_corners)
    axes = torch.linalg.qr(normal(latent_dim, span)).Q * math.sqrt(latent_dim / span)
    return (corners @ axes.mT).reshape(-1, 1, latent_dim)


def qmc_normal_samples(n_draws: int, latent_dim: int) -> Tensor:
    """Make standard normal draws of a low-discrepancy sequence, (S, 1, L).

    Importance weights want draws whose norms vary as a normal's do, which corners of a
    simplex do not. All samples share the error of the draws, and a low-discrepancy
    sequence makes it less than that of random ones.
    """
    engine = MultivariateNormalQMC(
        np.zeros(latent_dim), engine=Sobol(latent_dim, seed=0)
    )
    draws = engine.random(2 ** (n_draws - 1).bit_length())[:n_draws]
    return torch.from_numpy(draws)[:, None]


# --- Over batches -------------------------------------------------------------------


def _to_float64(values: Tensor) -> Tensor:
    """Move to the CPU, in float64, which not every device has."""
    return values.cpu().double()


def _encode(module: VaDE, x: Tensor) -> Posterior:
    """Compute q(z|x) of standardized samples, in float64."""
    posterior = module.encoder(module.likelihood.encoder_input(x))
    return Posterior(*(_to_float64(t) for t in posterior))


def _encode_mean(module: VaDE, x: Tensor) -> Tensor:
    """Compute the mean of q(z|x) of standardized samples, in float64."""
    return _to_float64(module.encoder.encode_mean(module.likelihood.encoder_input(x)))


def _chunk_length(module: VaDE) -> int:
    """Choose how many samples go through the networks together."""
    n_samples = CHUNK_SIZE // len(module.likelihood.location)
    return min(MAX_CHUNK_SAMPLES, max(MIN_CHUNK_SAMPLES, n_samples))


def _align(x: Tensor) -> Tensor:
    """Copy x such that every sample starts at a multiple of `ALIGNMENT` bytes."""
    n_features = x.shape[-1]
    n_padding = -n_features % (ALIGNMENT // x.element_size())
    return pad(x, (0, n_padding))[..., :n_features] if n_padding else x


@contextmanager
def _evaluation(module: VaDE) -> Iterator[None]:
    """Evaluate without gradients, each sample alike wherever it stands in a batch.

    Matrix products add in another order where a sample is not aligned in memory, as
    every second one of 5 features in float64 is not. So linear layers, custom ones
    included, get aligned inputs.
    """
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: tuple(map(_align, inputs)))
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.inference_mode(), float32_by_default(module):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def map_batches(
    module: VaDE, dataset: Dataset, function: Callable[[Batch], Tensor]
) -> NDArray:
    """Concatenate the results of a function of the batches of a dataset."""
    results = np.empty(0)
    n_done = 0
    with _evaluation(module):
        for batch, n in dataset.iter_padded_batches(_chunk_length(module)):
            values = function(batch)[:n].numpy(force=True)
            if not n_done:
                results = np.empty((len(dataset), *values.shape[1:]), values.dtype)
            results[n_done : n_done + n] = values
            n_done += n
    return results


def _map_inputs(
    module: VaDE, dataset: Dataset, function: Callable[[Tensor], Tensor]
) -> NDArray:
    """Do the same with a function of standardized and imputed samples."""
    return map_batches(
        module, dataset, lambda batch: function(module.impute_batch(batch).x)
    )


def _weighted_mean(
    module: VaDE,
    dataset: Dataset,
    function: Callable[[Batch], Tensor],
    group: ProcessGroup,
) -> Tensor:
    """Average the results for the samples of all processes, not holding all of them."""
    total: Any = 0.0
    total_weight: Any = 0.0
    with _evaluation(module):
        for batch, n in dataset.iter_padded_batches(_chunk_length(module)):
            chunk = dataset.subset(batch.indices[:n].numpy())
            weight, values = torch.tensor(chunk.weights), function(batch)[:n]
            if (weight == 0).any():  # zero times an infinite value would be NaN
                weight, values = weight[weight > 0], values[weight > 0]
            total = total + weight @ values
            total_weight = total_weight + weight.sum()
    return group.sum(total) / group.sum(total_weight)


# --- The latent space ---------------------------------------------------------------


def embed(module: VaDE, dataset: Dataset) -> NDArray:
    """Compute posterior means, (n, L)."""
    return _map_inputs(module, dataset, lambda x: _encode_mean(module, x))


def pretrained_embedding(module: VaDE, dataset: Dataset, has_decoder: bool) -> NDArray:
    """Compute posterior means after pretraining, (n, L).

    Missing entries are imputed only where pretraining has trained the decoder.
    """
    return map_batches(
        module, dataset, lambda batch: _pretrained_mean(module, batch, has_decoder)
    )


def _pretrained_mean(module: VaDE, batch: Batch, has_decoder: bool) -> Tensor:
    if has_decoder:
        batch = module.impute_batch(batch, pretraining=True)
    return _encode_mean(module, batch.x)


def decode(module: VaDE, dataset: Dataset, likelihood: Likelihood) -> NDArray:
    """Compute E[x|z] of latent points, (n, L) to (n, D), in the units of the data.

    `likelihood` is the module's own in float64: the data may lie far from the origin.
    """
    return _map_inputs(
        module, dataset, lambda z: likelihood.mean(_to_float64(module.decoder(z)))
    )


def reconstruct(module: VaDE, dataset: Dataset, likelihood: Likelihood) -> NDArray:
    """Compute E[x|z] at the posterior mean of each sample, (n, D).

    `likelihood` is as for `decode`. Counts are those of the sample's own total.
    """

    def function(batch: Batch) -> Tensor:
        batch = module.impute_batch(batch)
        z = module.encoder.encode_mean(module.likelihood.encoder_input(batch.x))
        output, target = _to_float64(module.decoder(z)), _to_float64(batch.target)
        mask = None if batch.mask is None else _to_float64(batch.mask)
        return likelihood.reconstruct(output, target, mask)

    return map_batches(module, dataset, function)


# --- Clusters -----------------------------------------------------------------------


def mixture_labels(module: VaDE, dataset: Dataset, has_decoder: bool) -> NDArray:
    """Find the likeliest component of each pretrained mean under the mixture, (n,)."""
    prior = module.prior_float64()

    def function(batch: Batch) -> Tensor:
        z = _pretrained_mean(module, batch, has_decoder)
        return prior.log_joint(z).argmax(1)

    return map_batches(module, dataset, function)


def make_log_responsibilities(
    module: VaDE, responsibilities: str
) -> Callable[[Posterior], Tensor]:
    """Make the function from q(z|x) to log q(c|x), (B, K)."""
    prior = module.prior_float64()
    if responsibilities == "expected":
        return lambda posterior: log_responsibilities(prior, posterior)
    nodes = simplex_nodes(prior.means.shape[1])
    return lambda posterior: log_responsibilities(
        prior, posterior, reparameterize(posterior, nodes)
    )


def predict_log_responsibilities(
    module: VaDE, dataset: Dataset, responsibilities: str
) -> NDArray:
    """Compute log q(c|x), (n, K)."""
    log_r = make_log_responsibilities(module, responsibilities)
    return _map_inputs(module, dataset, lambda x: log_r(_encode(module, x)))


def predict_labels(module: VaDE, dataset: Dataset, responsibilities: str) -> NDArray:
    """Find the component that is most responsible for each sample, (n,)."""
    log_r = make_log_responsibilities(module, responsibilities)
    return _map_inputs(module, dataset, lambda x: log_r(_encode(module, x)).argmax(1))


class AssignmentSummary(NamedTuple):
    """Responsibilities of a dataset, summarized.

    Means are weighted, and over the samples of all processes.

    Attributes
    ----------
    labels : ndarray of shape (n,)
        Most responsible component of each sample.
    mean_responsibilities : ndarray of shape (K,)
        Their mean over the samples.
    mean_entropy : float
        Mean entropy of the responsibilities of a sample.
    is_outlier : ndarray of shape (n,)
        Whether a sample is farther from the mean of its component than one in
        `INVERSE_OUTLIER_PROBABILITY` would be by chance.
    deviations : ndarray of shape (n,)
        How far a standardized sample is from the median one, in the feature in which it
        is farthest.
    """

    labels: NDArray
    mean_responsibilities: NDArray
    mean_entropy: float
    is_outlier: NDArray
    deviations: NDArray

    @property
    def normalized_entropy(self) -> float:
        """Mean entropy, one where all responsibilities are equal."""
        maximum = math.log(len(self.mean_responsibilities))
        return self.mean_entropy / maximum if maximum else 0.0


def summarize_assignments(
    module: VaDE,
    dataset: Dataset,
    responsibilities: str,
    group: ProcessGroup = SINGLE_PROCESS,
) -> AssignmentSummary:
    """Summarize the responsibilities in one pass, which never holds all of them."""
    prior = module.prior_float64()
    log_responsibilities_of = make_log_responsibilities(module, responsibilities)
    limit = chi2.isf(1 / INVERSE_OUTLIER_PROBABILITY, prior.means.shape[1])
    labels = np.empty(len(dataset), np.int64)
    is_outlier = np.empty(len(dataset), bool)
    deviations = np.empty(len(dataset))
    median = _median_sample(dataset)

    def function(batch: Batch) -> Tensor:
        observed = _observed_or_nan(batch)
        deviation = (observed - median).abs().nan_to_num(0.0).amax(1)
        posterior = _encode(module, module.impute_batch(batch).x)
        log_r = log_responsibilities_of(posterior)
        component, indices = log_r.argmax(1), batch.indices.numpy()
        labels[indices] = component
        deviations[indices] = _to_float64(deviation).numpy()
        distance = prior.squared_distance(posterior.mean, component)
        is_outlier[indices] = distance > limit
        r = log_r.exp()
        return torch.column_stack([torch.special.entr(r).sum(1), r])

    mean_entropy, *means = _weighted_mean(module, dataset, function, group).tolist()
    return AssignmentSummary(
        labels, np.array(means), mean_entropy, is_outlier, deviations
    )


def _observed_or_nan(batch: Batch) -> Tensor:
    """Give standardized samples with NaN where an entry is missing."""
    if batch.mask is None:
        return batch.x
    return batch.x.masked_fill(batch.mask == 0, math.nan)


def _median_sample(dataset: Dataset) -> Tensor:
    """Estimate the median of each feature, (D,), from evenly spaced samples."""
    n_samples = min(len(dataset), N_MEDIAN_SAMPLES)
    positions = np.linspace(0, len(dataset) - 1, n_samples).astype(int)
    return _observed_or_nan(dataset.get_batch(positions)).nanmedian(0).values


# --- Bounds -------------------------------------------------------------------------


def make_elbo_terms(module: VaDE, responsibilities: str) -> Callable[[Batch], Tensor]:
    """Make the function from a batch to the terms of its samples' ELBO, (B, 3)."""
    prior = module.prior_float64()
    nodes = simplex_nodes(prior.means.shape[1])
    log_prob = module.likelihood.log_prob

    def function(batch: Batch) -> Tensor:
        batch = module.impute_batch(batch)
        x, target, mask = batch.x, batch.target, batch.mask
        posterior = _encode(module, x)
        draws = reparameterize(posterior, nodes)
        outputs = (module.decoder(z) for z in draws.to(x.device, x.dtype))
        log_likelihood = torch.stack([log_prob(target, out, mask) for out in outputs])
        sampled = draws if responsibilities == "sampled" else None
        bound = elbo(_to_float64(log_likelihood), posterior, prior, sampled)
        return torch.stack([bound.reconstruction, bound.mixture, bound.entropy], dim=1)

    return function


def elbo_samples(module: VaDE, dataset: Dataset, responsibilities: str) -> NDArray:
    """Compute the ELBO of each sample, (n,), in nats."""
    terms = make_elbo_terms(module, responsibilities)
    return map_batches(module, dataset, lambda batch: terms(batch).sum(1))


def mean_elbo(
    module: VaDE,
    dataset: Dataset,
    responsibilities: str,
    group: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """Compute the weighted mean of the ELBO of the samples, in nats.

    Those of all processes of the group.
    """
    terms = make_elbo_terms(module, responsibilities)
    mean = _weighted_mean(module, dataset, lambda batch: terms(batch).sum(1), group)
    return mean.item()


def importance_weighted_samples(
    module: VaDE, dataset: Dataset, n_draws: int
) -> NDArray:
    """Compute the importance-weighted bound of log p(x) at `n_draws` of z, (n,)."""
    prior = module.prior_float64()
    noise = qmc_normal_samples(n_draws, prior.means.shape[1])
    log_prob = module.likelihood.log_prob

    def function(batch: Batch) -> Tensor:
        batch = module.impute_batch(batch)
        x, target, mask = batch.x, batch.target, batch.mask
        posterior = _encode(module, x)
        total = torch.tensor(-math.inf, dtype=torch.float64)
        for draw in noise:
            z = reparameterize(posterior, draw)
            output = module.decoder(z.to(x.device, x.dtype))
            log_likelihood = _to_float64(log_prob(target, output, mask))
            log_weight = log_importance_weights(log_likelihood, draw, posterior, prior)
            total = torch.logaddexp(total, log_weight)
        return total - math.log(n_draws)

    return map_batches(module, dataset, function)
