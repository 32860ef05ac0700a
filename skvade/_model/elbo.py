"""The evidence lower bound (ELBO) as named terms, in nats per sample.

Tensors and a prior come in, tensors go out: no network is known here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skvade._model.prior import LOG_2PI, MixturePrior, average_log_responsibilities

__all__ = [
    "Elbo",
    "Posterior",
    "elbo",
    "log_importance_weights",
    "log_responsibilities",
    "mixture_term",
    "posterior_entropy",
    "reparameterize",
    "squared_error",
]


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag exp(log_variance)), each (B, L)."""

    mean: Tensor
    log_variance: Tensor


class Elbo(NamedTuple):
    """The evidence lower bound of each sample, (B,), by its terms (Jiang et al., 9).

    reconstruction : E[log p(x|z)]
    mixture : E[log p(z|c)] + E[log p(c)] - E[log q(c|x)]
    entropy : -E[log q(z|x)]

    `log_responsibilities` are those of the second term, log q(c|x), (B, K).
    """

    reconstruction: Tensor
    mixture: Tensor
    entropy: Tensor
    log_responsibilities: Tensor

    @property
    def latent(self) -> Tensor:
        """The negative divergence of q(z, c|x) from the prior p(z, c)."""
        return self.mixture + self.entropy

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.latent


def squared_error(
    x: Tensor,
    output: Tensor,
    mask: Tensor | None = None,
    mean_observed: Tensor | None = None,
) -> Tensor:
    """Compute the squared error of each sample per feature, (B,).

    With a `mask` all observed entries count alike, whatever sample they belong to, and
    the mean over the samples is the mean over these entries. `mean_observed` is their
    number per sample, where the samples are a part of those of a step.
    """
    squares = (output - x).square()
    if mask is None:
        return squares.mean(-1)
    if mean_observed is None:
        mean_observed = mask.sum(-1).mean()
    return (squares * mask).sum(-1) / mean_observed


def reparameterize(posterior: Posterior, noise: Tensor) -> Tensor:
    """Turn standard normal noise, (S, B, L) or (S, 1, L), into draws of z."""
    return posterior.mean + torch.exp(0.5 * posterior.log_variance) * noise


def log_responsibilities(
    prior: MixturePrior, posterior: Posterior, draws: Tensor | None = None
) -> Tensor:
    """Compute log q(c|x), (B, K).

    Without draws, the exact maximizer of the ELBO ("expected"); with `draws` of z,
    (S, B, L), the average of p(c|z) over them ("sampled", Jiang et al., eq. 16).
    """
    if draws is None:
        variance = posterior.log_variance.exp()
        return torch.log_softmax(prior.expected_log_joint(posterior.mean, variance), -1)
    return average_log_responsibilities(prior.log_joint(draws))


def mixture_term(
    prior: MixturePrior, posterior: Posterior, draws: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute sum_c r_c (log p(c) + E[log p(z|c)] - log r_c), (B,), and log r, (B, K).

    At the optimal responsibilities, those without draws, the sum collapses into one
    log-sum-exp.
    """
    log_joint = prior.expected_log_joint(posterior.mean, posterior.log_variance.exp())
    if draws is None:
        term = torch.logsumexp(log_joint, dim=-1)
        return term, log_joint - term[:, None]
    log_r = average_log_responsibilities(prior.log_joint(draws))
    return (log_r.exp() * (log_joint - log_r)).sum(-1), log_r


def posterior_entropy(posterior: Posterior) -> Tensor:
    """Compute the entropy of q(z|x), (B,)."""
    latent_dim = posterior.log_variance.shape[-1]
    return 0.5 * (posterior.log_variance.sum(-1) + latent_dim * (LOG_2PI + 1))


def elbo(
    log_likelihood: Tensor,
    posterior: Posterior,
    prior: MixturePrior,
    draws: Tensor | None = None,
) -> Elbo:
    """Compute the ELBO of a batch from log p(x|z) at each draw of z, (S, B).

    `draws`, (S, B, L), are given for "sampled" responsibilities and are the ones at
    which `log_likelihood` was taken: z is drawn once for both halves of the bound.
    """
    mixture, log_r = mixture_term(prior, posterior, draws)
    return Elbo(log_likelihood.mean(0), mixture, posterior_entropy(posterior), log_r)


def log_importance_weights(
    log_likelihood: Tensor, noise: Tensor, posterior: Posterior, prior: MixturePrior
) -> Tensor:
    """Compute log p(x, z) - log q(z|x) at each draw of z, (S, B).

    `noise` is what the draws, at which `log_likelihood` was taken, were made of.

    The mean of the weights' exp estimates p(x). The log of this mean over S draws is a
    bound that rises with S from what a single draw says of the ELBO, without q(c|x),
    to log p(x) (Burda et al., 2016, eq. 8).
    """
    draws = reparameterize(posterior, noise)
    # (z - m)^2 / v, also where v is too small for z to differ from m.
    squares = noise.square()
    log_q = -0.5 * (squares + posterior.log_variance + LOG_2PI).sum(-1)
    return log_likelihood + prior.log_joint(draws).logsumexp(-1) - log_q
