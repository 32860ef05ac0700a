"""What a model says of rows: deterministic, and the same whatever rows come along.

The networks run in the model's own dtype; the latents, the mixture and the sums are
float64 on the CPU.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2
from scipy.stats.qmc import Sobol
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from skvade._batching import Batch, Rows, make_generator
from skvade._likelihoods import Likelihood
from skvade._mixture import MixturePrior
from skvade._networks import VaDE
from skvade._objective import (
    Elbo,
    Posterior,
    elbo,
    log_importance_weights,
    log_responsibilities,
    reparameterize,
)

__all__ = [
    "completed",
    "decode",
    "elbo_of",
    "elbo_per_row",
    "embed",
    "importance_weighted_per_row",
    "labels_per_row",
    "log_responsibilities_of",
    "log_responsibilities_per_row",
    "mean_elbo",
    "mixture_labels",
    "over_batches",
    "pretrained_embedding",
    "reconstruct",
    "survey",
]

# Draws at which the ELBO of a row is taken, at least and at most.
LEAST_DRAWS, MOST_DRAWS = 8, 64

# A row is far from its component where fewer than one in so many of its own would be.
RARE = 1_000_000

# Entries of X in a chunk, within the limits of its rows: short rows go through small
# networks, where each chunk costs more than its arithmetic.
CHUNK_ENTRIES = 65_536
LEAST_CHUNK_ROWS, MOST_CHUNK_ROWS = 256, 512

ALIGNMENT = 16  # bytes of a vector register at which the rows of a product begin


def _fixed_noise(model: VaDE) -> Tensor:
    """The same table of draws for every row and every call, (S, 1, L).

    All rows share its error, so it must not have one where it counts: the L + 1 corners
    of a regular simplex, turned at random, have mean zero and covariance one, which
    makes the average exact for a decoder that is linear where q(z|x) lives. In few
    dimensions it takes more than one simplex; in more than `MOST_DRAWS`, for the time,
    one that spans a random subspace.
    """
    latent_dim = model.prior.means.shape[1]
    n_corners = min(latent_dim + 1, MOST_DRAWS)
    n_simplices, span = math.ceil(LEAST_DRAWS / n_corners), n_corners - 1
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


def _normal_table(model: VaDE, n_draws: int) -> Tensor:
    """Standard normal draws for every row and every call, (S, 1, L).

    Importance weights want draws whose distances vary as a normal's do, which corners
    of a simplex do not. All rows share the error of the table: a low-discrepancy
    sequence makes it less than that of a random one.
    """
    engine = Sobol(model.prior.means.shape[1], seed=0)
    points = engine.random_base2((n_draws - 1).bit_length())[:n_draws]
    inside = 0.5 + (1 - 1e-10) * (points - 0.5)  # 0 would be infinitely far out
    return torch.from_numpy(ndtri(inside))[:, None]


def _exact(values: Tensor) -> Tensor:
    """In float64, which not every device has: on the CPU."""
    return values.cpu().double()


def _exact_prior(model: VaDE) -> MixturePrior:
    return deepcopy(model.prior).cpu().double()


def _exact_posterior(model: VaDE, x: Tensor) -> Posterior:
    return Posterior(*map(_exact, model.encoder(x)))


def completed(model: VaDE, batch: Batch, pretrains: bool = False) -> Batch:
    """The batch as the encoder sees it, by `VaDE.complete`.

    What is expected is a prediction, in training too: without dropout or the like.
    """
    if batch.observed is None:
        return batch
    learning = model.training
    model.eval()
    try:
        x = model.complete(batch.x, batch.observed, pretrains)
    finally:
        model.train(learning)
    return batch._replace(x=x)


class _AlignedRows(TorchFunctionMode):
    """Matrix products to which every row of a batch looks alike.

    Kernels add in another order where a row starts between two places of 16 bytes, as
    every second row of 5 numbers in float64 does: its answer would depend on where in
    the batch it stands. So such rows are moved apart.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS and args:
            args = (_aligned(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


# Those of the default networks and the mixture, and most of a user's own.
_PRODUCTS = {
    linear,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.mm,
    Tensor.mm,
}


def _aligned(x: Tensor) -> Tensor:
    """The same rows, each of which starts at a whole multiple of `ALIGNMENT`."""
    short = -x.shape[-1] % (ALIGNMENT // x.element_size())
    return pad(x, (0, short))[..., : x.shape[-1]] if short else x


def _over_chunks(
    model: VaDE, rows: Rows, answer: Callable[[Tensor], Tensor]
) -> NDArray:
    """Concatenate the answers for the chunks of rows."""
    return over_batches(model, rows, lambda batch: answer(completed(model, batch).x))


def over_batches(model: VaDE, rows: Rows, answer: Callable[[Batch], Tensor]) -> NDArray:
    answers = np.empty(0)
    n_done = 0
    with torch.inference_mode(), rows.placement.alone(), _AlignedRows():
        for batch, n in rows.chunks(_chunk_size(model)):
            values = answer(batch)[:n].numpy(force=True)
            if not n_done:
                answers = np.empty((len(rows), *values.shape[1:]), values.dtype)
            answers[n_done : n_done + n] = values
            n_done += n
    return answers


def _average(model: VaDE, rows: Rows, answer: Callable[[Batch], Tensor]) -> Tensor:
    """The weighted mean of the answers for the rows, without holding all of them."""
    total: Any = 0.0
    total_weight: Any = 0.0
    with torch.inference_mode(), rows.placement.alone(), _AlignedRows():
        for batch, n in rows.chunks(_chunk_size(model)):
            chunk = rows.subset(batch.positions[:n].numpy())
            weight, values = torch.tensor(chunk.weight), answer(batch)[:n]
            if (chunk.weight == 0).any():  # of what is infinite, zero would be NaN
                weight, values = weight[weight > 0], values[weight > 0]
            total = total + weight @ values
            total_weight = total_weight + weight.sum()
    return total / total_weight


def _chunk_size(model: VaDE) -> int:
    """Rows that go through the networks together, whatever their number is."""
    n_rows = CHUNK_ENTRIES // len(model.likelihood.location)
    return min(MOST_CHUNK_ROWS, max(LEAST_CHUNK_ROWS, n_rows))


def embed(model: VaDE, rows: Rows) -> NDArray:
    """Posterior means, (n, L)."""
    return _over_chunks(model, rows, lambda x: _exact(model.encoder.embed(x)))


def _pretrained_mean(model: VaDE, batch: Batch) -> Tensor:
    return _exact(model.encoder.embed(completed(model, batch, pretrains=True).x))


def pretrained_embedding(model: VaDE, rows: Rows) -> NDArray:
    """Posterior means of rows that the pretrained autoencoder completes, (n, L)."""
    return over_batches(model, rows, lambda batch: _pretrained_mean(model, batch))


def mixture_labels(model: VaDE, rows: Rows) -> NDArray:
    """Likeliest component of each pretrained mean, (n,): the mixture alone."""
    prior = _exact_prior(model)

    def answer(batch: Batch) -> Tensor:
        return prior.log_joint(_pretrained_mean(model, batch)).argmax(1)

    return over_batches(model, rows, answer)


def log_responsibilities_of(
    model: VaDE, responsibilities: str
) -> Callable[[Tensor], Tensor]:
    """The function that gives log q(c|x), (B, K), of standardized rows."""
    log_r_of = _log_responsibilities_by(model, responsibilities)
    return lambda x: log_r_of(_exact_posterior(model, x))


def _log_responsibilities_by(
    model: VaDE, responsibilities: str
) -> Callable[[Posterior], Tensor]:
    """The function that gives log q(c|x), (B, K), where q(z|x) is known."""
    prior = _exact_prior(model)
    noise = _fixed_noise(model) if responsibilities == "sampled" else None

    def answer(posterior: Posterior) -> Tensor:
        draws = None if noise is None else reparameterize(posterior, noise)
        return log_responsibilities(prior, posterior, draws)

    return answer


def log_responsibilities_per_row(
    model: VaDE, rows: Rows, responsibilities: str
) -> NDArray:
    """log q(c|x), (n, K)."""
    return _over_chunks(model, rows, log_responsibilities_of(model, responsibilities))


def labels_per_row(model: VaDE, rows: Rows, responsibilities: str) -> NDArray:
    """The component that is most responsible for each row, (n,)."""
    log_r = log_responsibilities_of(model, responsibilities)
    return _over_chunks(model, rows, lambda x: log_r(x).argmax(1))


def elbo_of(model: VaDE, responsibilities: str) -> Callable[[Batch], Tensor]:
    """The function that gives the ELBO of the rows of a batch by its terms, (B, 3)."""
    prior, noise = _exact_prior(model), _fixed_noise(model)
    log_density = model.likelihood.log_density

    def answer(batch: Batch) -> Tensor:
        x, _, _, observed = completed(model, batch)
        posterior = _exact_posterior(model, x)
        draws = reparameterize(posterior, noise)
        outputs = (model.decoder(z) for z in draws.to(x.device, x.dtype))
        density = torch.stack([log_density(x, output, observed) for output in outputs])
        sampled = draws if responsibilities == "sampled" else None
        terms: Elbo = elbo(_exact(density), posterior, prior, sampled)
        return torch.stack(terms, dim=1)

    return answer


def elbo_per_row(model: VaDE, rows: Rows, responsibilities: str) -> NDArray:
    """The ELBO of each row, (n,), in nats."""
    terms_of = elbo_of(model, responsibilities)
    return over_batches(model, rows, lambda batch: terms_of(batch).sum(1))


class Survey(NamedTuple):
    """What responsibilities say of rows; the means are weighted."""

    labels: NDArray  # (n,)
    mean: NDArray  # (K,)
    mean_entropy: float
    far: NDArray  # whether a row is farther from its component than one in `RARE`, (n,)


def survey(model: VaDE, rows: Rows, responsibilities: str) -> Survey:
    """One pass over the rows, which never holds all responsibilities."""
    prior = _exact_prior(model)
    log_r_of = _log_responsibilities_by(model, responsibilities)
    farthest = chi2.isf(1 / RARE, prior.means.shape[1])
    labels, far = np.empty(len(rows), np.int64), np.empty(len(rows), bool)

    def answer(batch: Batch) -> Tensor:
        posterior = _exact_posterior(model, completed(model, batch).x)
        log_r = log_r_of(posterior)
        own, positions = log_r.argmax(1), batch.positions.numpy()
        labels[positions] = own
        far[positions] = prior.squared_distance(posterior.mean, own) > farthest
        r = log_r.exp()
        return torch.column_stack([torch.special.entr(r).sum(1), r])

    mean_entropy, *mean = _average(model, rows, answer).tolist()
    return Survey(labels, np.array(mean), mean_entropy, far)


def mean_elbo(model: VaDE, rows: Rows, responsibilities: str) -> float:
    """The weighted mean of the ELBO of the rows, in nats."""
    terms_of = elbo_of(model, responsibilities)
    return _average(model, rows, lambda batch: terms_of(batch).sum(1)).item()


def importance_weighted_per_row(model: VaDE, rows: Rows, n_draws: int) -> NDArray:
    """The bound on log p(x) by importance weights at `n_draws` of z, (n,), in nats."""
    prior, noise = _exact_prior(model), _normal_table(model, n_draws)
    log_density = model.likelihood.log_density

    def answer(batch: Batch) -> Tensor:
        x, _, _, observed = completed(model, batch)
        posterior = _exact_posterior(model, x)
        total = torch.tensor(-math.inf, dtype=torch.float64)
        for one in noise:
            z = reparameterize(posterior, one)
            output = model.decoder(z.to(x.device, x.dtype))
            density = _exact(log_density(x, output, observed))
            weight = log_importance_weights(density, one, posterior, prior)
            total = torch.logaddexp(total, weight)
        return total - math.log(n_draws)

    return over_batches(model, rows, answer)


def decode(model: VaDE, rows: Rows, likelihood: Likelihood) -> NDArray:
    """E[x|z] of latent rows, (n, L) to (n, D), in the units of the data.

    `likelihood` is the model's own in float64: the data may lie far from the origin.
    """
    return _over_chunks(
        model, rows, lambda z: likelihood.mean(_exact(model.decoder(z)))
    )


def reconstruct(model: VaDE, rows: Rows, likelihood: Likelihood) -> NDArray:
    """E[x|z] at the posterior mean of each row, (n, D), in the units of the data."""

    def answer(x: Tensor) -> Tensor:
        return likelihood.mean(_exact(model.decoder(model.encoder.embed(x))))

    return _over_chunks(model, rows, answer)
