"""Display of the responsibilities and of their entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from skvade.plotting._axes import BLUE, make_axes, set_integer_ticks
from skvade.plotting._validation import check_fitted_attributes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ResponsibilityDisplay"]

_REQUIRED_ATTRIBUTES = ["predict_proba"]

_SUM_TOLERANCE = 1e-4


class ResponsibilityDisplay:
    """Visualization of the responsibilities and of their entropy.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. The
    responsibilities are plotted as a heat map, the entropies as a histogram. The
    samples in the heat map are sorted by their most probable cluster and, within a
    cluster, by its probability in descending order. The entropy of a sample is 0 if one
    cluster has probability 1, and log(n_clusters) nats if all clusters are equally
    probable.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_samples, n_clusters)
        Probability of each cluster for each sample. The probabilities of a sample sum
        to 1.

    Attributes
    ----------
    order_ : ndarray of shape (n_samples,)
        Indices that sort the samples in the order of the heat map.

    entropies_ : ndarray of shape (n_samples,)
        Entropy of the responsibilities of each sample, in nats and in the order of
        ``responsibilities``.

    ax_ : ndarray of matplotlib Axes of shape (2,)
        Axes with the heat map and with the histogram.

    figure_ : matplotlib Figure
        Figure that contains the Axes.

    See Also
    --------
    skvade.VaDEClusterer.predict_proba : Compute the responsibilities.
    LatentSpaceDisplay : Visualization of the samples in the latent space.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ResponsibilityDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0).fit(X)
    >>> display = ResponsibilityDisplay.from_estimator(model, X)
    >>> display.entropies_.shape
    (300,)
    """

    def __init__(self, *, responsibilities: NDArray):
        self.responsibilities = responsibilities

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        *,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Plot the responsibilities predicted by a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted estimator, or another one with ``predict_proba``.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples to predict the responsibilities of.
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on, as in :meth:`plot`.

        Returns
        -------
        display : ResponsibilityDisplay
            Plotted display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator has no ``predict_proba``.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        return cls.from_predictions(estimator.predict_proba(X), ax=ax)

    @classmethod
    def from_predictions(
        cls,
        responsibilities: ArrayLike,
        *,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Plot given responsibilities.

        Parameters
        ----------
        responsibilities : array-like of shape (n_samples, n_clusters)
            Probability of each cluster for each sample. The probabilities of a sample
            sum to 1.
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on, as in :meth:`plot`.

        Returns
        -------
        display : ResponsibilityDisplay
            Plotted display.

        Raises
        ------
        ValueError
            If a value is negative or if the values of a sample do not sum to 1.
        """
        resp: NDArray = check_array(
            responsibilities, dtype=float, input_name="responsibilities"
        )
        sums = resp.sum(axis=1)
        worst_sum = sums[np.abs(sums - 1).argmax()]
        if resp.min() < 0 or not np.isclose(worst_sum, 1, atol=_SUM_TOLERANCE):
            raise ValueError(
                "responsibilities must be nonnegative and sum to 1 for each sample. "
                f"Got a minimum of {resp.min():.6g} and a sum of {worst_sum:.6g} "
                "instead. Pass the result of predict_proba."
            )
        return cls(responsibilities=resp).plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Plot the heat map and the histogram.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on: two, or a single one, which is subdivided. None creates a
            figure.

        Returns
        -------
        display : ResponsibilityDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes is not valid.
        """
        labels = self.responsibilities.argmax(axis=1)
        max_probabilities = self.responsibilities.max(axis=1)
        # The last key is the primary one.
        self.order_ = np.lexsort((-max_probabilities, labels))
        self.entropies_ = entr(self.responsibilities).sum(axis=1)
        self.ax_ = make_axes(ax, type(self).__name__, 2, n_columns=2, figsize=(9, 3.6))
        self.figure_ = self.ax_[0].figure
        self._plot_heat_map(self.ax_[0])
        self._plot_entropy_histogram(self.ax_[1])
        return self

    def _plot_heat_map(self, ax: Axes) -> None:
        image = ax.imshow(
            self.responsibilities[self.order_],
            aspect="auto",
            interpolation="nearest",
            cmap="Blues",
            vmin=0,
            vmax=1,
        )
        self.figure_.colorbar(image, ax=ax, label="responsibility")
        set_integer_ticks(ax)
        ax.set(title="Responsibilities", xlabel="cluster", ylabel="sorted samples")

    def _plot_entropy_histogram(self, ax: Axes) -> None:
        n_clusters = self.responsibilities.shape[1]
        max_entropy = np.log(n_clusters)
        # A single cluster has entropy 0, and a histogram needs a range.
        upper_limit = max_entropy if n_clusters > 1 else 1
        ax.hist(self.entropies_, bins=30, range=(0, upper_limit), color=BLUE, log=True)
        ax.axvline(max_entropy, color="black", linestyle=":")
        ax.set(title="Entropy of the responsibilities", ylabel="number of samples")
        ax.set_xlabel("nats (dotted: log K, the maximum)")
