"""What fit says of a result that should not be trusted."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from skvade._inference import RARE
from skvade._run import Record
from skvade._warnings import warn

__all__ = ["warn_of_result"]

# Share of the largest entropy above which responsibilities say nothing.
VAGUE = 0.9

# Of the variance of the coordinates to imitate: above this share the encoder has not
# found them. In seven fits of six sets of the benchmarks it left 0.013 at most.
AWAY = 0.1

# Places on the way from one component to another, as `have_valley` counts them. Where
# every so many of them already show a valley, the others can not take it away.
PLACES = np.linspace(-30, 30, 241)
EVERY = 20

# Any data have a few rows far from their cluster: less than this share, or number.
SHARE_FAR, ROWS_FAR = 1e-3, 10

MOST_PAIRS = 3  # that a warning names

# A cluster is wide if it is so many times as wide as the median one. Three blobs in one
# cluster are four times.
WIDE = 2.5


class _Mixture(NamedTuple):
    """Some components of a mixture."""

    weights: NDArray  # (K,)
    means: NDArray  # (K, L)
    variances: NDArray  # (K, L)

    @classmethod
    def in_use(cls, estimator: BaseEstimator) -> tuple[NDArray, Self]:
        """The numbers of the components that hold rows, and these components."""
        n_rows = np.bincount(estimator.labels_, minlength=estimator.n_clusters)
        which = np.flatnonzero((n_rows > 0) & (estimator.weights_ > 0))
        whole = cls(estimator.weights_, estimator.means_, estimator.covariances_)
        return which, whole.part(which)

    def part(self, components: NDArray) -> Self:
        return type(self)(*(values[components] for values in self))


def have_valley(mixture: _Mixture, places: NDArray) -> NDArray:
    """Whether the first of K components has one before each of the others, (K - 1,).

    All stationary points of the density of two diagonal Gaussians lie on one curve from
    mean to mean, on which the precisions count as 1 to e^s, and are where s equals the
    log-odds of the second (Ray and Lindsay, "The topography of multivariate normal
    mixtures", Annals of Statistics 33, 2005). These exceed s up to the first mode and
    fall short of it after the last; beyond a valley they exceed it again.
    """
    log_weights, precisions = np.log(mixture.weights), 1 / mixture.variances
    log_ratios = np.log(precisions[1:] / precisions[0])
    away = np.square(mixture.means[1:] - mixture.means[0])
    way = expit(places[:, None, None] + log_ratios)  # from 0 to 1, (S, K - 1, L)
    from_first = np.einsum("skl,kl->sk", np.square(way), away * precisions[0])
    from_other = np.einsum("skl,kl->sk", np.square(1 - way), away * precisions[1:])
    offset = log_weights[1:] - log_weights[0] + 0.5 * log_ratios.sum(1)
    excess = offset + 0.5 * (from_first - from_other) - places[:, None]
    return np.any(np.logical_or.accumulate(excess < 0) & (excess > 0), axis=0)


def pairs_of_one_mode(mixture: _Mixture) -> list[tuple[int, int]]:
    """Components without a valley between them."""
    pairs = []
    for first in range(len(mixture.weights) - 1):
        seen = np.arange(first, len(mixture.weights))
        for places in (PLACES[::EVERY], PLACES):
            valley = have_valley(mixture.part(seen), places)
            seen = np.r_[first, seen[1:][~valley]]
        pairs += [(first, int(other)) for other in seen[1:]]
    return pairs


WILD = 0.9  # of the variance in one direction: some rows may be far from all others


def warn_of_result(estimator: BaseEstimator, record: Record, warm: bool) -> None:
    """Say what one should know before trusting a fitted model."""
    _warn_of_pretraining(estimator, record.missed)
    _warn_of_imitation(estimator, record.away)
    _warn_of_empty_clusters(estimator)
    if record.vagueness > VAGUE:
        _warn_of_flat_responsibilities(record.vagueness)
    else:
        in_use, mixture = _Mixture.in_use(estimator)
        _warn_of_pieces(estimator.n_clusters, in_use, mixture)
        _warn_of_wide_clusters(estimator.n_clusters, in_use, mixture)
        _warn_of_far_rows(estimator, record.far)
    if not warm:
        _warn_of_no_progress(estimator, record.improved)
    if not record.stopped:
        _warn_of_the_budget(estimator)


def _warn_of_pretraining(estimator: BaseEstimator, missed: NDArray) -> None:
    if n := len(missed):
        name = "pretrain_learning_rate_init"
        if estimator.pretraining == "vae" and getattr(estimator, name) == "auto":
            name = "learning_rate_init"
        rate = getattr(estimator, name)
        raised = "" if rate == "auto" else f"{name}={rate!r} and "
        first = "principal component does" if n == 1 else f"{n} principal components do"
        advice = "Look for wild values in X, or raise" if missed[0] > WILD else "Raise"
        warn(
            "Pretraining learned next to nothing: it explains less than a quarter of "
            f"what the first {first}, {missed.sum():.1%} of the variance. {advice} "
            f"{raised}pretrain_max_iter={estimator.pretrain_max_iter}, threefold to "
            "begin with.",
            ConvergenceWarning,
        )


def _warn_of_imitation(estimator: BaseEstimator, away: float) -> None:
    if away > AWAY:
        warn(
            f"The encoder does not reproduce the embedding: it leaves {away:.0%} of "
            "the variance of the coordinates unexplained. The encoder sees X itself, "
            "so scale the features, and look for wild values, before fit and not "
            "within the transformer. If that is done, raise "
            f"embedding_max_iter={estimator.embedding_max_iter}.",
            ConvergenceWarning,
        )


def _warn_of_empty_clusters(estimator: BaseEstimator) -> None:
    n_empty = estimator.n_clusters - np.count_nonzero(np.bincount(estimator.labels_))
    if n_empty:
        warn(
            f"{n_empty} of {estimator.n_clusters} clusters hold no row. If there are "
            "as many groups, try another random_state or init, or lower "
            f"beta={estimator.beta!r}; if there may be fewer, lower n_clusters.",
            ConvergenceWarning,
        )


def _warn_of_flat_responsibilities(vagueness: float) -> None:
    warn(
        "The responsibilities are close to uniform: on average they have "
        f"{vagueness:.0%} of the entropy of equal ones, so the model does "
        "not tell clusters apart. Lower beta or n_clusters, or raise "
        "pretrain_max_iter.",
        ConvergenceWarning,
    )


def _warn_of_no_progress(estimator: BaseEstimator, improved: bool) -> None:
    if estimator.early_stopping and not improved:
        warn(
            "No epoch of training raised the held-out ELBO above what it was at the "
            "start, so the model is the one that training started from. Lower "
            f"learning_rate_init={estimator.learning_rate_init!r}.",
            ConvergenceWarning,
        )


def _warn_of_the_budget(estimator: BaseEstimator) -> None:
    spent = estimator.n_iter_ == estimator.max_iter and estimator.tol > 0
    if spent and not estimator.converged_:
        warn(
            f"Training ended after max_iter={estimator.max_iter} epochs, before the "
            f"{'held-out ' if estimator.early_stopping else ''}ELBO was level for "
            f"n_iter_no_change={estimator.n_iter_no_change} of them. Raise max_iter or "
            "tol, or set tol=0 to train for just as long.",
            ConvergenceWarning,
        )


def _warn_of_pieces(n_clusters: int, in_use: NDArray, mixture: _Mixture) -> None:
    """Say which clusters share a mode, so that a small group may go without any."""
    pairs = pairs_of_one_mode(mixture)
    if not pairs:
        return
    named = [f"{in_use[a]} and {in_use[b]}" for a, b in pairs[:MOST_PAIRS]]
    named += [f"{len(pairs) - MOST_PAIRS} more pairs"] * (len(pairs) > MOST_PAIRS)
    warn(
        f"Clusters share a mode in the latent space: {'; '.join(named)}. The density "
        "of such a pair alone has a single peak, so the two may be pieces of one "
        "group, and a small group may have no cluster of its own. If there may be "
        f"fewer groups than n_clusters={n_clusters}, lower it; else try "
        "another random_state or init.",
        ConvergenceWarning,
    )


def _warn_of_wide_clusters(n_clusters: int, in_use: NDArray, mixture: _Mixture) -> None:
    """Say which cluster may hold several groups, or what no other cluster would."""
    log_widths = 0.5 * np.log(mixture.variances).mean(1)
    times = np.exp(log_widths - np.median(log_widths))
    if len(times) > 2 and times.max() > WIDE:
        warn(
            f"Cluster {in_use[times.argmax()]} is {times.max():.1f} times as wide as "
            "the median one, in the latent space: it may hold several groups, small "
            f"ones among them, or outliers. If so, raise n_clusters={n_clusters}.",
            ConvergenceWarning,
        )


def _warn_of_far_rows(estimator: BaseEstimator, far: NDArray) -> None:
    """Say that rows are in no cluster but by name: a small group may be among them.

    If most of them are, the clusters are at fault, as those of a single row each.
    """
    share = far.mean() if len(far) else 0.0
    if max(SHARE_FAR * len(far), ROWS_FAR) <= far.sum() and share < 0.5:
        warn(
            f"{far.sum()} rows ({share:.1%}) lie farther from the mean of their "
            f"cluster, in the latent space, than one in {RARE:,} would by chance: "
            "outliers, or small groups without a cluster of their own. Raise "
            f"n_clusters={estimator.n_clusters} to give these one.",
            ConvergenceWarning,
        )
