"""Warnings about a fitted model that should not be trusted as it is."""

import warnings
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from skvade._data.scaling import dense_samples, enumerate_first
from skvade._inference import INVERSE_OUTLIER_PROBABILITY, AssignmentSummary
from skvade._model.prior import MixturePrior
from skvade._training.state import History, TrainingState

__all__ = ["warn_fit_quality"]

# Of the responsibilities, in the largest possible entropy: above it they tell nothing.
MAX_NORMALIZED_ENTROPY = 0.9

# Of the contrastive loss of an embedding with all samples in one place: above it the
# encoder has learned no neighbors. On digits, wine and iris it was 0.55 to 0.84 of it.
MAX_COLLAPSE_RATIO = 0.99

# Of the variance of the target embedding: above it the encoder has not learned it. In
# seven fits of six sets of the benchmarks it left 0.013 at most.
MAX_EMBEDDING_ERROR = 0.1

# Positions along the ridgeline between two components, see `is_bimodal`. Where every
# `COARSE_STRIDE`-th of them shows a valley, the others cannot take it away.
RIDGELINE_GRID = np.linspace(-30, 30, 241)
COARSE_STRIDE = 20

# Least variance in a direction, in the largest: below it, rounding counts for more.
MIN_RATIO = 1e-14

# Any data have a few outliers: a warning needs more than this fraction, and number.
OUTLIER_FRACTION, MIN_OUTLIERS = 1e-3, 10

MAX_LISTED_PAIRS = 3  # in a warning

# Width of a cluster in that of the median one. Three blobs in one cluster have four.
MAX_WIDTH_RATIO = 2.5

# Samples this many times as far from the median as all but a few leave the networks
# nothing to tell the others apart by.
EXTREME_RATIO = 100
EXTREME_FRACTION, MIN_EXTREMES = 0.01, 3  # how many these few are
N_COMPARED_SAMPLES = 1000  # of the others

# Of the variance in one direction: above it, a few samples may be far from all others.
DOMINANT_VARIANCE_RATIO = 0.9


def warn_fit_quality(
    estimator: BaseEstimator,
    state: TrainingState,
    summary: AssignmentSummary,
    *,
    resumed: bool,
) -> None:
    """Warn of what one should know before trusting a fitted model.

    Parameters
    ----------
    estimator : VaDEClusterer
        The fitted estimator.
    state : TrainingState
        At the end of the fit. Of several processes, the first warns for all; each looks
        for extreme values in its own samples.
    summary : AssignmentSummary
        Of the training samples; outliers are those of positive weight.
    resumed : bool
        Whether the fit went on from an earlier one.
    """
    history, group = state.history, state.group
    is_cut_short = _is_cut_short(estimator, history)
    counts = np.bincount(summary.labels, minlength=estimator.n_clusters_)
    counts = group.sum(counts)
    n_outliers = group.sum(int(np.count_nonzero(summary.is_outlier)))
    n_samples = group.sum(len(summary.is_outlier))
    _warn_extreme_samples(summary.deviations, state.dataset.X)
    if group.rank:
        return
    _warn_pretraining(estimator, history.unlearned_components)
    _warn_collapse(estimator, history)
    _warn_embedding(estimator, history.embedding_error)
    _warn_empty_clusters(estimator, counts)
    if summary.normalized_entropy > MAX_NORMALIZED_ENTROPY:
        _warn_uniform_responsibilities(estimator, summary.normalized_entropy)
    else:
        prior = state.module.prior_float64()
        components, mixture = _Mixture.non_empty(estimator, prior, counts)
        _warn_split_clusters(estimator.n_clusters_, components, mixture)
        if not is_cut_short:  # widths have yet to become level, too
            _warn_wide_clusters(estimator.n_clusters_, components, mixture)
        _warn_outliers(estimator, n_outliers, n_samples)
    if not resumed:
        _warn_no_improvement(estimator, history.validation_improved)
    if is_cut_short:
        _warn_not_converged(estimator)


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


# --- Modes of the mixture -----------------------------------------------------------


class _Mixture(NamedTuple):
    """Some components of a mixture."""

    weights: NDArray  # (K,)
    means: NDArray  # (K, L)
    variances: NDArray  # along each latent dimension, (K, L)
    covariances: NDArray | None = None  # (K, L, L); None if diagonal

    @classmethod
    def non_empty(
        cls, estimator: BaseEstimator, prior: MixturePrior, counts: NDArray
    ) -> tuple[NDArray, Self]:
        """Give the components that hold samples: their indices and parameters."""
        components = np.flatnonzero((counts > 0) & (estimator.weights_ > 0))
        weights, means = estimator.weights_, estimator.means_
        variances, covariances = prior.variances.numpy(force=True), None
        if not prior.is_diagonal:
            matrices = prior.covariances.numpy(force=True)
            covariances = np.broadcast_to(matrices, (*means.shape, means.shape[1]))
        mixture = cls(weights, means, variances, covariances)
        return components, mixture.take(components)

    def take(self, components: NDArray) -> Self:
        covariances = self.covariances
        if covariances is not None:
            covariances = covariances[components]
        return type(self)(
            self.weights[components],
            self.means[components],
            self.variances[components],
            covariances,
        )

    def aligned(self) -> Self:
        """Make each pair of the first component and another diagonal, by its own map.

        The first becomes standard normal, and the axes are those of the other. A linear
        map changes no number of modes.
        """
        if self.covariances is None:
            return self
        variances, axes = np.linalg.eigh(self.covariances[0])
        whitening = axes / np.sqrt(variances.clip(MIN_RATIO * variances[-1]))
        whitened = whitening.T @ self.covariances @ whitening
        variances, axes = np.linalg.eigh(whitened)
        deviations = (self.means - self.means[0]) @ whitening
        means = (deviations[:, None] @ axes)[:, 0]
        variances = variances.clip(MIN_RATIO * variances[:, -1:])
        return type(self)(self.weights, means, variances)


def is_bimodal(mixture: _Mixture, grid: NDArray) -> NDArray:
    """Tell whether the first of K components and each other form two modes, (K - 1,).

    All stationary points of the density of two diagonal Gaussians lie on one curve from
    mean to mean, the ridgeline, on which the precisions count as 1 to e^s, and are
    where s equals the log-odds of the second (Ray and Lindsay, "The topography of
    multivariate normal mixtures", Annals of Statistics 33, 2005). The log-odds exceed s
    up to the first mode and fall short of it after the last; beyond a valley between
    two modes they exceed it again.
    """
    log_weights, precisions = np.log(mixture.weights), 1 / mixture.variances
    log_ratios = np.log(precisions[1:] / precisions[0])
    squared_distances = np.square(mixture.means[1:] - mixture.means[0])
    position = expit(grid[:, None, None] + log_ratios)  # 0 to 1, (S, K - 1, L)
    from_first = np.einsum(
        "skl,kl->sk", np.square(position), squared_distances * precisions[0]
    )
    from_other = np.einsum(
        "skl,kl->sk", np.square(1 - position), squared_distances * precisions[1:]
    )
    offset = log_weights[1:] - log_weights[0] + 0.5 * log_ratios.sum(1)
    excess = offset + 0.5 * (from_first - from_other) - grid[:, None]
    return np.any(np.logical_or.accumulate(excess < 0) & (excess > 0), axis=0)


def unimodal_pairs(mixture: _Mixture) -> list[tuple[int, int]]:
    """List the pairs of components whose density has a single mode."""
    pairs = []
    for first in range(len(mixture.weights) - 1):
        candidates = np.arange(first, len(mixture.weights))
        for grid in (RIDGELINE_GRID[::COARSE_STRIDE], RIDGELINE_GRID):
            bimodal = is_bimodal(mixture.take(candidates).aligned(), grid)
            candidates = np.r_[first, candidates[1:][~bimodal]]
        pairs += [(first, int(other)) for other in candidates[1:]]
    return pairs


# --- Warnings -----------------------------------------------------------------------


def _warn_pretraining(estimator: BaseEstimator, ratios: NDArray) -> None:
    """Warn of principal components that pretraining has missed."""
    if not len(ratios):
        return
    name = "pretrain_learning_rate_init"
    rate = estimator.pretrain_learning_rate_init
    if estimator.pretraining == "vae" and rate == "auto":
        name, rate = "learning_rate_init", estimator.learning_rate_init
    raised = f"pretrain_max_iter={estimator.pretrain_max_iter}"
    if rate != "auto":
        raised = f"{name}={rate!r} and {raised}"
    components = "principal component does"
    if len(ratios) > 1:
        components = f"{len(ratios)} principal components do"
    advice = "Raise"
    if ratios[0] > DOMINANT_VARIANCE_RATIO:
        advice = "Look for extreme values in X, or raise"
    _warn(
        "Pretraining learned next to nothing: it explains less than a quarter of "
        f"what the first {components}, {ratios.sum():.1%} of the variance. {advice} "
        f"{raised}, threefold to begin with."
    )


def _warn_collapse(estimator: BaseEstimator, history: History) -> None:
    """Warn of an encoder that puts all samples in one place, or does no better."""
    curve = history.pretraining["neighbor_loss"]
    if not curve or curve[-1] < MAX_COLLAPSE_RATIO * history.collapsed_loss:
        return
    name = "pretrain_learning_rate_init"
    _warn(
        "Pretraining learned next to nothing: it ended at a contrastive loss of "
        f"{curve[-1]:.4g}, and {history.collapsed_loss:.4g} is that of an embedding "
        f"with all samples in one place. Raise pretrain_max_iter, change "
        f"{name}={getattr(estimator, name)!r}, or give neighbors that are fewer than "
        "the samples of a group."
    )


def _warn_embedding(estimator: BaseEstimator, error: float) -> None:
    if error > MAX_EMBEDDING_ERROR:
        _warn(
            f"The encoder does not reproduce the embedding: it leaves {error:.0%} of "
            "the variance of the coordinates unexplained. The encoder gets X itself, "
            "so scale the features, and look for extreme values, before fit and not "
            "within the transformer. If that is done, raise "
            f"embedding_max_iter={estimator.embedding_max_iter}."
        )


def _warn_extreme_samples(deviations: NDArray, X: NDArray | csr_array) -> None:
    """Warn of a few samples so far from all others that these look alike."""
    order = np.argsort(deviations)[: np.count_nonzero(~np.isnan(deviations))]
    n_few = max(MIN_EXTREMES, int(EXTREME_FRACTION * len(order)))
    if len(order) < 4 * n_few:
        n_few = len(order) // 4
    others = order[: len(order) - n_few]
    limit = EXTREME_RATIO * deviations[others[-1]]
    extremes = order[deviations[order] > limit]
    # The others may be equal because they are, and not only beside such values.
    if not len(extremes) or (limit == 0 and not _vary(X, others)):
        return
    samples = "Sample" if len(extremes) == 1 else "Samples"
    _warn(
        f"{samples} {enumerate_first(np.sort(extremes))} of X: values there are over "
        f"{EXTREME_RATIO} times as far from the median as those of other samples, "
        "which look alike beside them, so that clusters may hold little else than "
        "such samples. Where the values are errors, replace them by NaN or drop the "
        "samples; else clip X, or make it even with QuantileTransformer, before fit."
    )


def _vary(X: NDArray | csr_array, indices: NDArray) -> bool:
    """Tell whether some of the samples differ in X as it was given."""
    samples = dense_samples(X, indices[:N_COMPARED_SAMPLES])
    low, high = np.fmin.reduce(samples), np.fmax.reduce(samples)
    return bool((high > low).any())


def _warn_empty_clusters(estimator: BaseEstimator, counts: NDArray) -> None:
    n_empty = np.count_nonzero(counts == 0)
    if n_empty:
        weight = estimator.init_weight
        value = "" if weight == "auto" else f"={weight!r}"
        _warn(
            f"{n_empty} of {estimator.n_clusters_} clusters hold no sample. If there "
            "are as many groups, try another random_state or init, or raise "
            f"init_weight{value}; if there may be fewer, lower n_clusters."
        )


def _warn_uniform_responsibilities(
    estimator: BaseEstimator, normalized_entropy: float
) -> None:
    beta = ""
    if estimator.beta != "auto":
        beta = f" With beta={estimator.beta!r}, try 'auto' first."
    _warn(
        "The responsibilities are close to uniform: on average they have "
        f"{normalized_entropy:.0%} of the entropy of equal ones, so the model does "
        f"not tell clusters apart. n_clusters is {estimator.n_clusters_}: as its "
        "features are scaled, X may hold fewer groups, or none. If there should be as "
        f"many, raise pretrain_max_iter, which is {estimator.pretrain_max_iter!r}."
        f"{beta}"
    )


def _warn_no_improvement(estimator: BaseEstimator, improved: bool) -> None:
    if estimator.early_stopping and not improved:
        _warn(
            "No epoch of training raised the held-out ELBO above what it was at the "
            "start, so the model is the one that training started from. Lower "
            f"learning_rate_init={estimator.learning_rate_init!r}."
        )


def _is_cut_short(estimator: BaseEstimator, history: History) -> bool:
    """Tell whether training used up max_iter before it was level within tol."""
    is_spent = estimator.n_iter_ == estimator.max_iter and estimator.tol > 0
    return is_spent and not estimator.converged_ and not history.stopped


def _warn_not_converged(estimator: BaseEstimator) -> None:
    score = "held-out ELBO" if estimator.early_stopping else "ELBO"
    _warn(
        f"Training ended after max_iter={estimator.max_iter} epochs, before the "
        f"{score} was level for n_iter_no_change={estimator.n_iter_no_change} of "
        "them. Raise max_iter or tol, or set tol=0 to train for just as long."
    )


def _warn_split_clusters(
    n_clusters: int, components: NDArray, mixture: _Mixture
) -> None:
    """Warn of clusters that share a mode: a small group may then go without any."""
    pairs = unimodal_pairs(mixture)
    if not pairs:
        return
    listed = [f"{components[a]} and {components[b]}" for a, b in pairs]
    if len(pairs) > MAX_LISTED_PAIRS:
        listed[MAX_LISTED_PAIRS:] = [f"{len(pairs) - MAX_LISTED_PAIRS} more pairs"]
    _warn(
        f"Clusters share a mode in the latent space: {'; '.join(listed)}. The density "
        "of such a pair alone has a single peak, so the two may be pieces of one "
        "group, and a small group may have no cluster of its own. n_clusters is "
        f"{n_clusters}: if there may be fewer groups, try fewer; else try another "
        "random_state or init."
    )


def _warn_wide_clusters(
    n_clusters: int, components: NDArray, mixture: _Mixture
) -> None:
    """Warn of a cluster that may hold several groups, or what fits no other cluster."""
    log_widths = 0.5 * np.log(mixture.variances).mean(1)
    ratios = np.exp(log_widths - np.median(log_widths))
    if len(ratios) > 2 and ratios.max() > MAX_WIDTH_RATIO:
        _warn(
            f"Cluster {components[ratios.argmax()]} is {ratios.max():.1f} times as "
            "wide as the median one, in the latent space: it may hold several groups, "
            f"small ones among them, or outliers. n_clusters is {n_clusters}: if "
            "samples of the cluster differ, try more."
        )


def _warn_outliers(estimator: BaseEstimator, n_outliers: int, n_samples: int) -> None:
    """Warn of samples that are far from every cluster: a small group may be among them.

    If most samples are, the clusters are at fault, as those of a single sample each.
    """
    limit = max(OUTLIER_FRACTION * n_samples, MIN_OUTLIERS)
    if limit <= n_outliers < 0.5 * n_samples:
        _warn(
            f"{n_outliers} samples ({n_outliers / n_samples:.1%}) lie farther from the "
            "mean of their cluster, in the latent space, than one in "
            f"{INVERSE_OUTLIER_PROBABILITY:,} would by chance: outliers, or small "
            "groups without a cluster of their own. Look at them. n_clusters is "
            f"{estimator.n_clusters_}: if they form groups, try more."
        )
