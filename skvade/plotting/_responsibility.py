"""How sure the assignments are."""

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


class ResponsibilityDisplay:
    """Responsibilities as a heat map, and a histogram of their entropies.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. The rows of the
    heat map are sorted by their most probable cluster and, within it, from the surest
    to the least sure. The entropy of a row is 0 when one cluster has it all and log K
    nats when all K are equally probable.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_samples, n_clusters)
        Probabilities of the clusters; each row sums to one.

    Attributes
    ----------
    order_ : ndarray of shape (n_samples,)
        The rows in the order of the heat map.

    entropies_ : ndarray of shape (n_samples,)
        Entropy of each row, in nats, in the order of `responsibilities`.

    ax_ : ndarray of matplotlib Axes of shape (2,)
        Heat map and histogram.

    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    skvade.VaDEClusterer.predict_proba : Where the responsibilities come from.
    LatentSpaceDisplay : Where the rows lie.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ResponsibilityDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, max_iter=5, tol=0, random_state=0).fit(X)
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
        """Draw the responsibilities that an estimator gives to rows.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted, or another estimator with `predict_proba`.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        ax : matplotlib Axes or sequence of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : ResponsibilityDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator has no `predict_proba`.
        """
        check_fitted_attributes(estimator, ["predict_proba"], cls.__name__)
        return cls.from_predictions(estimator.predict_proba(X), ax=ax)

    @classmethod
    def from_predictions(
        cls,
        responsibilities: ArrayLike,
        *,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw given responsibilities.

        Parameters
        ----------
        responsibilities : array-like of shape (n_samples, n_clusters)
            Probabilities of the clusters; each row sums to one.
        ax : matplotlib Axes or sequence of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : ResponsibilityDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If a row does not sum to one.
        """
        checked: NDArray = check_array(
            responsibilities, dtype=float, input_name="responsibilities"
        )
        sums = checked.sum(axis=1)
        worst = np.abs(sums - 1).argmax()
        if checked.min() < 0 or not np.isclose(sums[worst], 1, atol=1e-4):
            raise ValueError(
                "responsibilities must be probabilities, with rows that sum to one. "
                f"Got {checked.min():.6g} as the least value and a row that "
                f"sums to {sums[worst]:.6g} instead. Give the result of predict_proba."
            )
        return cls(responsibilities=checked).plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the heat map and the histogram.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Two Axes, or a single one whose place is divided; None makes a new figure.

        Returns
        -------
        display : ResponsibilityDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes does not suit.
        """
        self.order_ = np.lexsort(
            (-self.responsibilities.max(axis=1), self.responsibilities.argmax(axis=1))
        )
        self.entropies_ = entr(self.responsibilities).sum(axis=1)
        self.ax_ = make_axes(ax, type(self).__name__, 2, n_columns=2, figsize=(9, 3.6))
        self.figure_ = self.ax_[0].figure
        self._draw_heat_map(self.ax_[0])
        self._draw_histogram(self.ax_[1])
        return self

    def _draw_heat_map(self, ax: Axes) -> None:
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
        ax.set(title="Responsibilities", xlabel="cluster", ylabel="rows, sorted")

    def _draw_histogram(self, ax: Axes) -> None:
        most = np.log(self.responsibilities.shape[1])
        ax.hist(self.entropies_, bins=30, range=(0, most or 1), color=BLUE, log=True)
        ax.axvline(most, color="black", linestyle=":")
        ax.set(title="Entropy of a row", ylabel="rows")
        ax.set_xlabel("nats (dotted: log K, the most)")
