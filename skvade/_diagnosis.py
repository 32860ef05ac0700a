"""What fit says of a result that should not be trusted."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from skvade._run import Record
from skvade._warnings import warn

__all__ = ["have_one_mode", "warn_of_result"]

# Share of the largest entropy above which responsibilities say nothing.
VAGUE = 0.9

# Places on the way from one component to another, as `have_one_mode` counts them.
PLACES = np.linspace(-30, 30, 241)

# Rows far from their cluster are a few of any data. Of these shares the larger is not.
SHARE_FAR, ROWS_FAR = 1e-3, 10

MOST_PAIRS = 3  # that a warning names


def have_one_mode(weights: NDArray, means: NDArray, variances: NDArray) -> bool:
    """Whether two diagonal Gaussians have one mode between them; (2,), (2, L), (2, L).

    All stationary points of their density lie on one curve from mean to mean, on which
    the precisions count as 1 to e^s, and are where s equals the log-odds of the second
    component (Ray and Lindsay, "The topography of multivariate normal mixtures", Annals
    of Statistics 33, 2005). These exceed s up to the first mode and fall short of it
    after the last; two modes are those where they exceed it again in between.
    """
    precisions = 1 / variances
    way = expit(PLACES[:, None] + np.log(precisions[1] / precisions[0]))  # 0 to 1
    widths = np.square(means[1] - means[0]) * precisions
    distances = np.square(way) @ widths[0] - np.square(1 - way) @ widths[1]
    offset = np.log(weights[1] / weights[0])
    offset += 0.5 * np.log(precisions[1] / precisions[0]).sum()
    excess = offset + 0.5 * distances - PLACES
    below, above = np.flatnonzero(excess < 0), np.flatnonzero(excess > 0)
    return not (len(below) and len(above) and below[0] < above[-1])


# What pretraining learns at, if not at its own rate.
RATES = {"vae": "learning_rate_init"}


def warn_of_result(estimator: BaseEstimator, record: Record, warm: bool) -> None:
    """Say what one should know before trusting a fitted model."""
    if record.missed:
        rate = RATES.get(estimator.pretraining, "pretrain_learning_rate_init")
        warn(
            "Pretraining learned next to nothing: it explains less than a quarter of "
            f"what the first principal component does, {record.missed:.1%} of the "
            f"variance. Raise {rate}={getattr(estimator, rate)!r}, threefold to begin "
            f"with, and pretrain_max_iter={estimator.pretrain_max_iter}.",
            ConvergenceWarning,
        )
    n_empty = estimator.n_clusters - np.count_nonzero(np.bincount(estimator.labels_))
    if n_empty:
        warn(
            f"{n_empty} of {estimator.n_clusters} clusters hold no row. Lower "
            "n_clusters, try another random_state or init, or lower beta.",
            ConvergenceWarning,
        )
    if record.vagueness > VAGUE:
        warn(
            "The responsibilities are close to uniform: on average they have "
            f"{record.vagueness:.0%} of the entropy of equal ones, so the model does "
            "not tell clusters apart. Lower beta or n_clusters, or raise "
            "pretrain_max_iter.",
            ConvergenceWarning,
        )
    elif not record.missed:
        _warn_of_pieces(estimator)
        _warn_of_far_rows(estimator, record.far)
    if estimator.early_stopping and not (record.improved or warm):
        warn(
            "No epoch of training raised the held-out ELBO above what it was at the "
            "start, so the model is the one that training started from. Lower "
            f"learning_rate_init={estimator.learning_rate_init!r}.",
            ConvergenceWarning,
        )
    budget_spent = estimator.n_iter_ == estimator.max_iter and estimator.tol > 0
    if budget_spent and not (estimator.converged_ or record.stopped):
        warn(
            f"Training ended after max_iter={estimator.max_iter} epochs, before the "
            f"{'held-out ' if estimator.early_stopping else ''}ELBO was level for "
            f"n_iter_no_change={estimator.n_iter_no_change} of them. Raise max_iter or "
            "tol, or set tol=0 to train for just as long.",
            ConvergenceWarning,
        )


def _warn_of_pieces(estimator: BaseEstimator) -> None:
    """Say which clusters share a mode, so that a small group may go without any."""
    n_clusters = estimator.n_clusters
    n_rows = np.bincount(estimator.labels_, minlength=n_clusters)
    mixture = estimator.weights_, estimator.means_, estimator.covariances_
    in_use = np.flatnonzero((n_rows > 0) & (estimator.weights_ > 0)).tolist()
    pairs = [
        pair
        for pair in combinations(in_use, 2)
        if have_one_mode(*(values[list(pair)] for values in mixture))
    ]
    if not pairs:
        return
    named = [f"{a} and {b}" for a, b in pairs[:MOST_PAIRS]]
    named += [f"{len(pairs) - MOST_PAIRS} more pairs"] * (len(pairs) > MOST_PAIRS)
    warn(
        f"Clusters share a mode of the mixture's density: {'; '.join(named)}. Such a "
        "pair may be two pieces of one group, and a small group may be left without "
        "a cluster of its own. Lower n_clusters if it may be more than the groups are, "
        "else try another random_state or init.",
        ConvergenceWarning,
    )


def _warn_of_far_rows(estimator: BaseEstimator, far: float) -> None:
    """Say that rows are in no cluster but by name: a small group may be among them."""
    if far >= max(SHARE_FAR, ROWS_FAR / len(estimator.labels_)):
        warn(
            f"{far:.1%} of the rows lie farther from the mean of their cluster than "
            "one in a million would by chance: outliers, or small groups without a "
            f"cluster of their own. Raise n_clusters={estimator.n_clusters} to give "
            "these one.",
            ConvergenceWarning,
        )
