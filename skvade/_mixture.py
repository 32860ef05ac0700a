"""The prior p(c) p(z|c): K diagonal Gaussians in the latent space, all in log space."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "LOG_2PI",
    "MixturePrior",
    "MixtureSlopes",
    "average_log_responsibilities",
    "expected_log_density",
    "log_add_floor",
]

LOG_2PI = math.log(2 * math.pi)


def log_add_floor(log_excess: Tensor, log_floor: float) -> Tensor:
    """log(exp(log_excess) + floor): a variance that cannot sink below its floor."""
    return torch.logaddexp(log_excess, torch.full_like(log_excess, log_floor))


class _Expansion(NamedTuple):
    """The expected log-density as `moments @ weights.T - constant / 2`."""

    moments: Tensor  # (m^2 + v, m), (..., 2L)
    weights: Tensor  # (-1/(2 s^2), mu/s^2), (K, 2L)
    constant: Tensor  # (K,)
    means: Tensor  # (K, L), from their center, as m is
    precisions: Tensor  # 1/s^2, (K, L)


def _expand(
    mean: Tensor, variance: Tensor | float, means: Tensor, log_variances: Tensor
) -> _Expansion:
    center = means.detach().mean(0)
    mean, means = mean - center, means - center
    precisions = torch.exp(-log_variances)
    scaled = means * precisions
    constant = (log_variances + LOG_2PI + means * scaled).sum(1)
    moments = torch.cat([mean.square() + variance, mean], dim=-1)
    weights = torch.cat([-0.5 * precisions, scaled], dim=1)
    return _Expansion(moments, weights, constant, means, precisions)


def _pull_back(
    expansion: _Expansion, shares: Tensor, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by means and log-variances, from those by the densities, (B, K).

    `held` is their sum over the rows.
    """
    moments, weights, _, means, precisions = expansion
    by_half, by_scaled = (shares.t() @ moments).chunk(2, dim=1)
    _, scaled = weights.chunk(2, dim=1)
    # Half the constant counts against a component: log s^2 + mu * scaled, summed.
    half = 0.5 * held[:, None]
    by_scaled = by_scaled - half * means
    by_precision = by_scaled * means - 0.5 * by_half
    return by_scaled * precisions - half * scaled, -half - by_precision * precisions


def expected_log_density(
    mean: Tensor, variance: Tensor | float, means: Tensor, log_variances: Tensor
) -> Tensor:
    r"""Expectation of each component's log-density under a diagonal Gaussian.

    .. math:: E_{N(z | m, v)} \log N(z | \mu_c, s^2_c) = -\frac12 \sum_j \left[
        \log 2 \pi s^2_{cj} + \frac{v_j + (m_j - \mu_{cj})^2}{s^2_{cj}} \right]

    Shapes (..., L) and (K, L) give (..., K), in nats. The square is expanded: what is
    left is linear in (m^2 + v, m), one matrix product, and no (..., K, L) tensor
    exists. Both sides are first moved to the center of the components: far from the
    origin the expansion would cancel badly.
    """
    expansion = _expand(mean, variance, means, log_variances)
    return F.linear(expansion.moments, expansion.weights, -0.5 * expansion.constant)


class MixtureSlopes(NamedTuple):
    """A log-sum-exp over the components, and the gradient of its weighted sum."""

    log_sum: Tensor  # (B,)
    mean: Tensor  # by the mean of q, (B, L)
    variance: Tensor  # by its variance, (B, L)
    parameters: dict[Tensor, Tensor]


def average_log_responsibilities(log_joint: Tensor) -> Tensor:
    """Log of the responsibilities averaged over draws: (S, ..., K) to (..., K)."""
    log_ratios = torch.log_softmax(log_joint, dim=-1)
    return torch.logsumexp(log_ratios, dim=0) - math.log(len(log_joint))


class MixturePrior(nn.Module):
    """A mixture whose weights sum to one and whose variances are positive always.

    The free parameters are the logits of the weights, the means, and the logarithms of
    what the variances exceed `reg_covar` by, so no gradient step can leave the domain.
    """

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        super().__init__()
        self.reg_covar = reg_covar
        self.log_floor = math.log(reg_covar) if reg_covar > 0 else -math.inf
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.zeros(n_components, latent_dim))
        self.log_excess = nn.Parameter(torch.zeros(n_components, latent_dim))

    @property
    def log_weights(self) -> Tensor:
        return torch.log_softmax(self.logits, dim=0)

    @property
    def log_variances(self) -> Tensor:
        return log_add_floor(self.log_excess, self.log_floor)

    @torch.no_grad()
    def assign(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        """Take the values of a mixture fitted elsewhere."""
        self.logits.copy_(weights.log())
        self.means.copy_(means)
        excess = variances - self.reg_covar
        smallest = torch.finfo(excess.dtype).tiny
        self.log_excess.copy_(excess.clamp_min(smallest).log())

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        """Renumber the components: the new component i is the old `order[i]`."""
        for parameter in (self.logits, self.means, self.log_excess):
            parameter.copy_(parameter[order])

    def expected_log_joint(self, mean: Tensor, variance: Tensor | float) -> Tensor:
        """log p(c) + E_q[log p(z|c)] for q = N(mean, diag variance): (..., K)."""
        density = expected_log_density(mean, variance, self.means, self.log_variances)
        return self.log_weights + density

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(c) + log p(z|c): a point is a Gaussian without variance, (..., K)."""
        return self.expected_log_joint(z, 0.0)

    def squared_distance(self, z: Tensor, component: Tensor) -> Tensor:
        """Mahalanobis distance, squared, of each row from a component, (B, L), (B,)."""
        away = z - self.means[component]
        return (away.square() / self.log_variances[component].exp()).sum(1)

    def slopes(self, mean: Tensor, variance: Tensor, weight: Tensor) -> MixtureSlopes:
        """logsumexp of `expected_log_joint`, and its gradient summed by `weight`, (B,).

        The derivative of a log-sum-exp are the responsibilities, and the joint is
        linear in the moments of q.
        """
        log_weights, log_variances = self.log_weights, self.log_variances
        expansion = _expand(mean, variance, self.means, log_variances)
        moments, weights, constant, _, _ = expansion
        log_joint = F.linear(moments, weights, log_weights - 0.5 * constant)
        log_sum = log_joint.logsumexp(1)
        shares = torch.exp(log_joint - log_sum[:, None]) * weight[:, None]
        held = shares.sum(0)  # by each component

        by_square, by_linear = (shares @ weights).chunk(2, dim=1)
        by_mean = 2 * moments.chunk(2, dim=1)[1] * by_square + by_linear

        by_means, by_log_variances = _pull_back(expansion, shares, held)
        parameters: dict[Tensor, Tensor] = {
            self.logits: held - log_weights.exp() * held.sum(),
            self.means: by_means,
            self.log_excess: by_log_variances * (self.log_excess - log_variances).exp(),
        }
        return MixtureSlopes(log_sum, by_mean, by_square, parameters)
