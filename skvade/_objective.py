"""The probability of a batch: the ELBO as named terms, in nats per row.

Tensors and a prior come in, tensors go out: no network is known here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skvade._mixture import LOG_2PI, MixturePrior, average_log_responsibilities

__all__ = [
    "Elbo",
    "Posterior",
    "elbo",
    "latent_entropy",
    "log_importance_weights",
    "log_responsibilities",
    "mixture_term",
    "reparameterize",
    "squared_error",
    "squared_error_slope",
]


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag exp(log_variance)), each (B, L)."""

    mean: Tensor
    log_variance: Tensor


class Elbo(NamedTuple):
    """The evidence lower bound of each row, (B,), by its terms (Jiang et al., eq. 9).

    reconstruction : E[log p(x|z)]
    mixture : E[log p(z|c)] + E[log p(c)] - E[log q(c|x)]
    entropy : -E[log q(z|x)]
    """

    reconstruction: Tensor
    mixture: Tensor
    entropy: Tensor

    @property
    def latent(self) -> Tensor:
        """The negative divergence of q(z, c|x) from the prior p(z, c)."""
        return self.mixture + self.entropy

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.latent


def squared_error(x: Tensor, output: Tensor, observed: Tensor | None = None) -> Tensor:
    """Squared error of each row per feature, (B,).

    With `observed`, (B, D), the entries that are observed count alike, whatever row
    they are in, and the mean over the rows is the mean over them.
    """
    squares = (output - x).square()
    if observed is None:
        return squares.mean(-1)
    return (squares * observed).sum(-1) / observed.sum(-1).mean()


def squared_error_slope(
    x: Tensor, output: Tensor, observed: Tensor | None = None
) -> Tensor:
    """Derivative of each row's `squared_error` by the output, (B, D)."""
    difference = output - x
    if observed is None:
        return difference * (2 / x.shape[-1])
    return difference * observed * (2 / observed.sum(-1).mean())


def reparameterize(posterior: Posterior, noise: Tensor) -> Tensor:
    """Draws of z: standard normal `noise` (S, B, L) or (S, 1, L) to (S, B, L)."""
    return posterior.mean + torch.exp(0.5 * posterior.log_variance) * noise


def log_responsibilities(
    prior: MixturePrior, posterior: Posterior, draws: Tensor | None = None
) -> Tensor:
    """log q(c|x), (B, K).

    Without draws, the exact maximizer of the ELBO ("expected"); with `draws` of z,
    (S, B, L), the average of p(c|z) over them ("sampled", Jiang et al., eq. 16).
    """
    if draws is None:
        variance = posterior.log_variance.exp()
        return torch.log_softmax(prior.expected_log_joint(posterior.mean, variance), -1)
    return average_log_responsibilities(prior.log_joint(draws))


def mixture_term(
    prior: MixturePrior, posterior: Posterior, draws: Tensor | None = None
) -> Tensor:
    """sum_c r_c (log p(c) + E[log p(z|c)] - log r_c), (B,).

    At the optimal responsibilities the sum collapses into one log-sum-exp.
    """
    variance = posterior.log_variance.exp()
    log_joint = prior.expected_log_joint(posterior.mean, variance)
    if draws is None:
        return torch.logsumexp(log_joint, dim=-1)
    log_r = average_log_responsibilities(prior.log_joint(draws))
    return (log_r.exp() * (log_joint - log_r)).sum(-1)


def latent_entropy(posterior: Posterior) -> Tensor:
    """Entropy of q(z|x), (B,)."""
    return 0.5 * (posterior.log_variance + LOG_2PI + 1).sum(-1)


def elbo(
    log_likelihood: Tensor,
    posterior: Posterior,
    prior: MixturePrior,
    draws: Tensor | None = None,
) -> Elbo:
    """The ELBO of a batch from log p(x|z) at each draw of z, (S, B).

    `draws`, (S, B, L), are given for "sampled" responsibilities and are the ones at
    which `log_likelihood` was taken: z is drawn once for both halves of the bound.
    """
    return Elbo(
        reconstruction=log_likelihood.mean(0),
        mixture=mixture_term(prior, posterior, draws),
        entropy=latent_entropy(posterior),
    )


def log_importance_weights(
    log_likelihood: Tensor, noise: Tensor, posterior: Posterior, prior: MixturePrior
) -> Tensor:
    """log p(x, z) - log q(z|x) at each draw of z, (S, B): the mean of exp is p(x).

    `noise` is what the draws, at which `log_likelihood` was taken, were made of.

    The log of the mean over S draws is a bound that rises with S from what a single
    draw says of the ELBO, without q(c|x), to log p(x) (Burda et al., 2016, eq. 8).
    """
    draws = reparameterize(posterior, noise)
    # (z - m)^2 / v, also where v is too small for z to differ from m.
    squares = noise.square()
    log_q = -0.5 * (squares + posterior.log_variance + LOG_2PI).sum(-1)
    return log_likelihood + prior.log_joint(draws).logsumexp(-1) - log_q
