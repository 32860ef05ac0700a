"""The prior p(c) p(z|c): a mixture of K Gaussians in the latent space, in log space.

`MixturePrior` owns what all covariance structures share. A structure is one subclass,
registered in `PRIORS`: its covariances, their start from a partition, the expected
log-density, sampling, and its fitted attributes.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

__all__ = [
    "LOG_2PI",
    "PRIORS",
    "CorrelatedMixturePrior",
    "DiagonalMixturePrior",
    "FullMixturePrior",
    "MixturePrior",
    "SphericalMixturePrior",
    "TiedMixturePrior",
    "average_log_responsibilities",
    "draw_samples",
    "expected_log_joint",
    "expected_log_joint_full",
    "logaddexp_floor",
    "sequential_regressions",
]

LOG_2PI = math.log(2 * math.pi)
MIN_VARIANCE = 1e-10  # of a component at the start, should reg_covar be zero


def logaddexp_floor(log_excess: Tensor, log_floor: float) -> Tensor:
    """Compute log(exp(log_excess) + floor), the log of a variance with a floor."""
    return torch.logaddexp(log_excess, torch.full_like(log_excess, log_floor))


def expected_log_joint(
    mean: Tensor,
    variance: Tensor | float,
    log_weights: Tensor,
    means: Tensor,
    log_variances: Tensor,
) -> Tensor:
    r"""Compute log weights plus expected log-densities under a diagonal Gaussian.

    .. math:: \log \pi_c + E_{N(z | m, v)} \log N(z | \mu_c, s^2_c) = \log \pi_c
        - \frac12 \sum_j \left[ \log 2 \pi s^2_{cj}
        + \frac{v_j + (m_j - \mu_{cj})^2}{s^2_{cj}} \right]

    Shapes (..., L) and (K, L) give (..., K), in nats. The square is expanded: what is
    left is linear in m^2 + v and m, two matrix products, and no (..., K, L) tensor
    exists. Both sides are first moved to the center of the components: far from the
    origin the expansion would cancel badly.
    """
    center = means.detach().mean(0)
    mean, means = mean - center, means - center
    precisions = torch.exp(-log_variances)
    scaled_means = means * precisions
    squares = (log_variances + means * scaled_means).sum(1)
    constant = log_weights - 0.5 * (squares + means.shape[1] * LOG_2PI)
    moments = torch.cat([mean.square() + variance, mean], dim=-1)
    weights = torch.cat([-0.5 * precisions, scaled_means], dim=1)
    return F.linear(moments, weights, constant)


def average_log_responsibilities(log_joint: Tensor) -> Tensor:
    """Average responsibilities over draws and take the log: (S, ..., K) to (..., K)."""
    log_ratios = torch.log_softmax(log_joint, dim=-1)
    return torch.logsumexp(log_ratios, dim=0) - math.log(len(log_joint))


def draw_samples(n: int, sample_weight: NDArray, random_state: RandomState) -> NDArray:
    """Draw indices of samples by weight, distinct where there are enough."""
    p = sample_weight / sample_weight.sum()
    replace = n > len(sample_weight)
    return random_state.choice(len(sample_weight), n, replace=replace, p=p)


class MixturePrior(nn.Module, ABC):
    """A mixture of Gaussians whose weights sum to one, whatever step is taken.

    The free parameters are the logits of the weights and the means; a subclass adds
    those of the covariances, also such that no gradient step can leave the domain.

    Parameters
    ----------
    n_components : int
        Number of components, K.
    latent_dim : int
        Dimension of the latent space, L.
    reg_covar : float
        Least variance of a component, see the class of each structure.
    """

    # Whether `variances` are all there is to know of `covariances`. If not, the shape
    # of `covariances` is (K, L, L), or one that is broadcast to it.
    is_diagonal = False

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        super().__init__()
        self.reg_covar = reg_covar
        self.logits = nn.Parameter(torch.zeros(n_components, dtype=torch.float32))
        shape = (n_components, latent_dim)
        self.means = nn.Parameter(torch.zeros(shape, dtype=torch.float32))

    @property
    def log_weights(self) -> Tensor:
        return torch.log_softmax(self.logits, dim=0)

    # --- What a covariance structure defines ----------------------------------------

    @property
    @abstractmethod
    def covariances(self) -> Tensor:
        """Covariances in the shape in which they are published as `covariances_`."""

    @property
    @abstractmethod
    def variances(self) -> Tensor:
        """Variance of each component along each latent dimension, (K, L)."""

    @abstractmethod
    def set_covariances(self, covariances: Tensor) -> None:
        """Set the covariances, given in float64 and in the shape of `covariances`."""

    @abstractmethod
    def estimate_covariances(
        self, residuals: NDArray, labels: NDArray, sample_weight: NDArray
    ) -> NDArray:
        """Estimate the covariances from a partition.

        Parameters
        ----------
        residuals : ndarray of shape (n_samples, latent_dim)
            Latent points minus the mean of their component.
        labels : ndarray of shape (n_samples,)
            Component of each point. Components without any get the average covariance.
        sample_weight : ndarray of shape (n_samples,)
            Weights of the points.

        Returns
        -------
        covariances : ndarray
            In the shape of `covariances`.
        """

    @abstractmethod
    def expected_log_joint(self, mean: Tensor, variance: Tensor | float) -> Tensor:
        """Compute log p(c) + E_q[log p(z|c)], q = N(mean, diag variance): (..., K)."""

    @abstractmethod
    def squared_distance(self, z: Tensor, component: Tensor) -> Tensor:
        """Compute the squared Mahalanobis distance of points, (B, L), from components.

        `component` holds one index per point, (B,); the result is (B,).
        """

    @abstractmethod
    def sample(self, component: Tensor, generator: Generator) -> Tensor:
        """Draw z from p(z|c), one for each entry of `component`: (B,) to (B, L)."""

    @abstractmethod
    def permute(self, order: Tensor) -> None:
        """Renumber the components: the new component i is the old `order[i]`."""

    # --- What all share -------------------------------------------------------------

    @property
    def conditional_variances(self) -> Tensor:
        """Variance along each latent dimension, all others fixed, (K, L).

        A structure with correlations overrides it: there it is less than `variances`.
        """
        return self.variances

    def log_joint(self, z: Tensor) -> Tensor:
        """Compute log p(c) + log p(z|c) of points, (..., L) to (..., K)."""
        return self.expected_log_joint(z, 0.0)

    @torch.no_grad()
    def set_parameters(
        self, weights: Tensor, means: Tensor, covariances: Tensor
    ) -> None:
        """Set the parameters, in float64, of a mixture that was estimated elsewhere."""
        self.logits.copy_(weights.log())
        self.means.copy_(means)
        self.set_covariances(covariances)

    def initialize_from_partition(
        self,
        Z: NDArray,
        labels: NDArray,
        sample_weight: NDArray,
        random_state: RandomState,
    ) -> None:
        """Start from weights, means and covariances of the groups of a partition.

        Components without a group start at random points, with a warning.

        Parameters
        ----------
        Z : ndarray of shape (n_samples, latent_dim)
            Latent points.
        labels : ndarray of shape (n_samples,)
            Group of each point. A negative label means noise: such points count for
            nothing.
        sample_weight : ndarray of shape (n_samples,)
            Weights of the points.
        random_state : RandomState
            Draws the points at which components without a group start.
        """
        n_components = len(self.logits)
        grouped = labels >= 0
        group_names, groups = np.unique(labels[grouped], return_inverse=True)
        points, point_weight = Z[grouped], sample_weight[grouped]
        weights = np.bincount(groups, point_weight, minlength=n_components)
        one_hot_sums = np.stack(
            [np.bincount(groups, point_weight * z, n_components) for z in points.T], 1
        )
        n_groups = len(group_names)
        means = one_hot_sums / np.where(weights > 0, weights, 1)[:, None]
        covariances = self.estimate_covariances(
            points - means[groups], groups, point_weight
        )
        if n_groups < n_components:
            warnings.warn(
                f"The initial partition holds {n_groups} of {n_components} clusters; "
                "the others start at random samples and may stay empty. Lower "
                "n_clusters if the data hold fewer clusters.",
                stacklevel=2,
            )
            drawn = draw_samples(n_components - n_groups, sample_weight, random_state)
            means[n_groups:], weights[n_groups:] = Z[drawn], 1
        parameters = (weights / weights.sum(), means, covariances)
        self.set_parameters(*map(torch.from_numpy, parameters))

    def fitted_attributes(self) -> dict[str, NDArray]:
        """Give the parameters as the fitted attributes of the estimator."""
        return {
            "weights_": self.log_weights.exp().numpy(force=True),
            "means_": self.means.numpy(force=True).copy(),
            "covariances_": self.covariances.numpy(force=True),
        }

    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set the parameters from the fitted attributes of the estimator."""
        names = ("weights_", "means_", "covariances_")
        self.set_parameters(
            *(torch.tensor(attributes[n], dtype=torch.float64) for n in names)
        )


class DiagonalMixturePrior(MixturePrior):
    """K Gaussians with diagonal covariances, the prior of the paper.

    The free parameters of the variances are the logarithms of what they exceed
    `reg_covar` by.
    """

    is_diagonal = True

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        super().__init__(n_components, latent_dim, reg_covar)
        self.log_floor = math.log(reg_covar) if reg_covar > 0 else -math.inf
        self.raw_log_variances = nn.Parameter(torch.zeros_like(self.means))

    @property
    def log_variances(self) -> Tensor:
        return logaddexp_floor(self.raw_log_variances, self.log_floor)

    @property
    def variances(self) -> Tensor:
        return self.log_variances.exp()

    @property
    def covariances(self) -> Tensor:
        return self.variances

    @torch.no_grad()
    def set_covariances(self, covariances: Tensor) -> None:
        excess = covariances - self.reg_covar
        smallest = torch.finfo(self.raw_log_variances.dtype).tiny
        self.raw_log_variances.copy_(excess.clamp_min(smallest).log())

    def estimate_covariances(
        self, residuals: NDArray, labels: NDArray, sample_weight: NDArray
    ) -> NDArray:
        """Estimate variances; every group counts one more point, of average spread.

        So a group of equal points keeps a width.
        """
        n_components = len(self.logits)
        counts = np.bincount(labels, sample_weight, minlength=n_components)[:, None]
        squares = np.square(residuals)
        sums = [np.bincount(labels, sample_weight * s, n_components) for s in squares.T]
        totals = np.stack(sums, axis=1)
        pooled = totals.sum(0) / counts.sum()
        variances = (totals + pooled) / (counts + 1) + self.reg_covar
        return np.maximum(variances, MIN_VARIANCE)

    def expected_log_joint(self, mean: Tensor, variance: Tensor | float) -> Tensor:
        return expected_log_joint(
            mean, variance, self.log_weights, self.means, self.log_variances
        )

    def squared_distance(self, z: Tensor, component: Tensor) -> Tensor:
        deviation = z - self.means[component]
        return (deviation.square() / self.variances[component]).sum(1)

    def sample(self, component: Tensor, generator: Generator) -> Tensor:
        means, variances = self.means[component], self.variances[component]
        noise = torch.empty_like(means).normal_(generator=generator)
        return means + variances.sqrt() * noise

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        for parameter in (self.logits, self.means, self.raw_log_variances):
            parameter.copy_(parameter[order])


class SphericalMixturePrior(DiagonalMixturePrior):
    """K Gaussians, each with one variance for all latent dimensions."""

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        super().__init__(n_components, latent_dim, reg_covar)
        self.raw_log_variances = nn.Parameter(torch.zeros_like(self.means[:, :1]))

    @property
    def log_variances(self) -> Tensor:
        return super().log_variances.expand_as(self.means)

    @property
    def covariances(self) -> Tensor:
        return self.log_variances[:, 0].exp()

    def set_covariances(self, covariances: Tensor) -> None:
        super().set_covariances(covariances[:, None])

    def estimate_covariances(
        self, residuals: NDArray, labels: NDArray, sample_weight: NDArray
    ) -> NDArray:
        """Average the variances that "diag" would start from."""
        variances = super().estimate_covariances(residuals, labels, sample_weight)
        return variances.mean(1)


# --- Covariances with correlations --------------------------------------------------


def identity_like(matrices: Tensor) -> Tensor:
    """Make the identity that matrices, (..., L, L), are multiplied by."""
    size = matrices.shape[-1]
    return torch.eye(size, dtype=matrices.dtype, device=matrices.device)


def sequential_regressions(
    covariances: Tensor, min_variance: float
) -> tuple[Tensor, Tensor]:
    """Regress each dimension on those before it.

    Parameters
    ----------
    covariances : Tensor of shape (..., L, L)
        In float64.
    min_variance : float
        Residual variances below it are raised to it, as are those that are no more than
        rounding. So any symmetric matrix gives what belongs to a positive definite one.

    Returns
    -------
    coefficients : Tensor of shape (..., L, L)
        Row j holds those of dimension j, zero from the diagonal on.
    variances : Tensor of shape (..., L)
        Variances of the residuals.
    """
    latent_dim = covariances.shape[-1]
    identity = identity_like(covariances)
    contrasts = identity.expand_as(covariances).clone()  # row j gives the residual of j
    limits = torch.finfo(covariances.dtype)
    totals = covariances.diagonal(dim1=-2, dim2=-1)
    floors = (limits.eps * totals).clamp_min(max(min_variance, limits.tiny))
    variances = torch.empty_like(totals)
    for j in range(latent_dim):
        before = contrasts[..., :j, :]
        products = (before @ covariances[..., j, None])[..., 0]  # with their residuals
        slopes = products / variances[..., :j]
        contrasts[..., j, :] -= (slopes[..., None, :] @ before)[..., 0, :]
        variance = totals[..., j] - (slopes * products).sum(-1)
        variances[..., j] = torch.maximum(variance, floors[..., j])
    return identity - contrasts, variances


def group_scatters(
    residuals: NDArray, labels: NDArray, sample_weight: NDArray, n_groups: int
) -> NDArray:
    """Sum the weighted outer products of the residuals of each group, (K, L, L)."""
    scaled = np.sqrt(sample_weight)[:, None] * residuals
    groups = (scaled[labels == group] for group in range(n_groups))
    return np.stack([points.T @ points for points in groups])


def expected_log_joint_full(
    mean: Tensor,
    variance: Tensor | float,
    log_weights: Tensor,
    means: Tensor,
    whitening: Tensor,
) -> Tensor:
    r"""Compute log weights plus expected log-densities under any Gaussian.

    .. math:: \log \pi_c + E_{N(z | m, v)} \log N(z | \mu_c, \Sigma_c) = \log \pi_c
        - \frac12 \left[ \log |2 \pi \Sigma_c| + \sum_j v_j (\Sigma_c^{-1})_{jj}
        + |W_c (m - \mu_c)|^2 \right]

    Shapes (..., L), (K, L) and (K, L, L) give (..., K), in nats. The `whitening`
    matrices :math:`W_c` are lower triangular with :math:`W_c^T W_c = \Sigma_c^{-1}`.
    The square is not expanded: where a component is narrow in an oblique direction, the
    terms would cancel badly in float32. Both sides are first moved to the center of the
    components.
    """
    center = means.detach().mean(0)
    mean, means = mean - center, means - center
    scales = whitening.diagonal(dim1=1, dim2=2)
    constant = log_weights + (scales.log() - 0.5 * LOG_2PI).sum(1)
    precisions = whitening.square().sum(1)  # the diagonals, (K, L)
    traces = F.linear(torch.zeros_like(mean) + variance, precisions)
    offsets = whitening @ means[..., None]
    residuals = F.linear(mean, whitening.flatten(0, 1), -offsets.flatten())
    squares = residuals.unflatten(-1, means.shape).square().sum(-1)
    return constant - 0.5 * (traces + squares)


class CorrelatedMixturePrior(MixturePrior):
    r"""What the structures with correlations share: each dimension is a regression.

    Within a component, a latent dimension is a linear regression on those before it,

    .. math:: z_j - \mu_j = \sum_{i < j} C_{ji} (z_i - \mu_i) + e_j, \qquad
        e_j \sim N(0, s_j^2),

    so that :math:`W (z - \mu)` is standard normal for the lower triangular matrix
    :math:`W = \mathrm{diag}(1 / s) (I - C)`, the inverse of the Cholesky factor of the
    covariance (Pourahmadi, "Joint mean-covariance models", Biometrika 86, 1999). The
    free parameters are the coefficients C, of any value, and the logarithms of what the
    residual variances :math:`s^2` exceed `reg_covar` by. Each choice gives a positive
    definite covariance, whose inverse and determinant need no factorization.

    The floor holds for the residual variances, and so for the variance along each
    latent dimension. The density is no higher than that of a diagonal component at the
    floor. The variance in an oblique direction may be lower than the floor.

    Parameters
    ----------
    n_components, latent_dim, reg_covar
        See `MixturePrior`.
    shape : tuple of int
        (K, L) for a covariance of each component, (L,) for one of all.
    """

    def __init__(
        self,
        n_components: int,
        latent_dim: int,
        reg_covar: float,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__(n_components, latent_dim, reg_covar)
        self.log_floor = math.log(reg_covar) if reg_covar > 0 else -math.inf
        self.raw_log_variances = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        # Of each square only what is below the diagonal counts.
        square = torch.zeros((*shape, latent_dim), dtype=torch.float32)
        self.coefficients = nn.Parameter(square)

    @property
    def log_residual_variances(self) -> Tensor:
        """Log variance of each dimension given those before it, (K, L) or (L,)."""
        return logaddexp_floor(self.raw_log_variances, self.log_floor)

    @property
    def whitening(self) -> Tensor:
        """Inverses W of the Cholesky factors, (K, L, L) or (L, L)."""
        scales = torch.exp(-0.5 * self.log_residual_variances)
        identity = identity_like(self.coefficients)
        return scales[..., None] * (identity - self.coefficients.tril(-1))

    @property
    def cholesky(self) -> Tensor:
        """Lower Cholesky factors of the covariances, (K, L, L) or (L, L)."""
        whitening = self.whitening
        identity = identity_like(whitening)
        return torch.linalg.solve_triangular(whitening, identity, upper=False)

    @property
    def covariances(self) -> Tensor:
        factors = self.cholesky
        return factors @ factors.mT

    @property
    def variances(self) -> Tensor:
        return self.cholesky.square().sum(-1).expand_as(self.means)

    @property
    def conditional_variances(self) -> Tensor:
        precisions = self.whitening.square().sum(-2)
        return precisions.reciprocal().expand_as(self.means)

    @torch.no_grad()
    def set_covariances(self, covariances: Tensor) -> None:
        coefficients, variances = sequential_regressions(covariances, self.reg_covar)
        smallest = torch.finfo(self.raw_log_variances.dtype).tiny
        excess = variances - self.reg_covar
        self.raw_log_variances.copy_(excess.clamp_min(smallest).log())
        self.coefficients.copy_(coefficients)

    def squared_distance(self, z: Tensor, component: Tensor) -> Tensor:
        whitening = self.whitening.expand(len(self.means), -1, -1)[component]
        deviation = (z - self.means[component])[..., None]
        return (whitening @ deviation).square().sum((1, 2))

    def sample(self, component: Tensor, generator: Generator) -> Tensor:
        z = self.means[component]
        noise = torch.empty_like(z).normal_(generator=generator)
        factors = self.cholesky.expand(len(self.means), -1, -1)
        for c in component.unique():
            drawn = component == c
            z[drawn] += noise[drawn] @ factors[c].T
        return z


class FullMixturePrior(CorrelatedMixturePrior):
    """K Gaussians, each with a covariance matrix of its own."""

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        shape = (n_components, latent_dim)
        super().__init__(n_components, latent_dim, reg_covar, shape)

    def estimate_covariances(
        self, residuals: NDArray, labels: NDArray, sample_weight: NDArray
    ) -> NDArray:
        """Estimate covariances; every group counts L more points, of average scatter.

        So many determine a covariance matrix: a group of fewer keeps one.
        """
        n_components, latent_dim = self.means.shape
        counts = np.bincount(labels, sample_weight, minlength=n_components)
        scatters = group_scatters(residuals, labels, sample_weight, n_components)
        pooled = scatters.sum(0) / counts.sum()
        totals = scatters + latent_dim * pooled
        covariances = totals / (counts + latent_dim)[:, None, None]
        return covariances + max(self.reg_covar, MIN_VARIANCE) * np.eye(latent_dim)

    def expected_log_joint(self, mean: Tensor, variance: Tensor | float) -> Tensor:
        return expected_log_joint_full(
            mean, variance, self.log_weights, self.means, self.whitening
        )

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        for parameter in self.parameters():
            parameter.copy_(parameter[order])


class TiedMixturePrior(CorrelatedMixturePrior):
    """K Gaussians that share one covariance matrix."""

    def __init__(self, n_components: int, latent_dim: int, reg_covar: float) -> None:
        super().__init__(n_components, latent_dim, reg_covar, (latent_dim,))

    def estimate_covariances(
        self, residuals: NDArray, labels: NDArray, sample_weight: NDArray
    ) -> NDArray:
        """Average the scatter within the groups."""
        n_components, latent_dim = self.means.shape
        scatters = group_scatters(residuals, labels, sample_weight, n_components)
        ridge = max(self.reg_covar, MIN_VARIANCE) * np.eye(latent_dim)
        return scatters.sum(0) / sample_weight.sum() + ridge

    def expected_log_joint(self, mean: Tensor, variance: Tensor | float) -> Tensor:
        """Compute log p(c) + E_q[log p(z|c)], q = N(mean, diag variance): (..., K).

        After whitening, the components are standard normal about their means.
        """
        center = self.means.detach().mean(0)
        whitening = self.whitening
        variance = torch.zeros_like(mean) + variance
        log_determinant = self.log_residual_variances.sum()
        means = F.linear(self.means - center, whitening)
        return expected_log_joint(
            F.linear(mean - center, whitening),
            F.linear(variance, whitening.square()),
            self.log_weights - 0.5 * log_determinant,
            means,
            torch.zeros_like(means),
        )

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        for parameter in (self.logits, self.means):
            parameter.copy_(parameter[order])


# By the names of scikit-learn's GaussianMixture.
PRIORS: dict[str, type[MixturePrior]] = {
    "diag": DiagonalMixturePrior,
    "full": FullMixturePrior,
    "tied": TiedMixturePrior,
    "spherical": SphericalMixturePrior,
}
