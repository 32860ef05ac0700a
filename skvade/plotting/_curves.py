"""The curves of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from skvade.plotting._axes import BLUE, ORANGE, make_axes, plot_curve
from skvade.plotting._validation import check_fitted_attributes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TrainingCurveDisplay"]

_REQUIRED_ATTRIBUTES = [
    "pretrain_loss_curve_",
    "embedding_loss_curve_",
    "lower_bounds_",
    "reconstruction_terms_",
    "validation_scores_",
]


class TrainingCurveDisplay:
    """Curves of pretraining, of the evidence lower bound (ELBO) and of its parts.

    Create it with :meth:`from_estimator`. The first panel shows which fraction of the
    variance of X the autoencoder left unexplained in pretraining, and beside it, over
    the epochs that imitated an embedding, which fraction of the variance of its
    coordinates; the second the mean ELBO of each epoch of the last stage. The others
    show what it is the sum of: how well rows are reconstructed, and the latent terms,
    the negative of what the latent points and the clusters cost. A stage that has no
    epochs, such as pretraining under ``warm_start=True``, has no panels.

    Parameters
    ----------
    pretrain_loss_curve : sequence of float
        Unexplained fraction of the variance, each epoch of pretraining.

    lower_bounds : sequence of float
        Mean ELBO of the training rows, each epoch of the last stage.

    reconstruction_terms : sequence of float, default=()
        Part of each of the `lower_bounds` that is the reconstruction; without it there
        are no panels for the parts.

    embedding_loss_curve : sequence of float, default=()
        Unexplained fraction of the coordinates' variance, each of the last epochs of
        pretraining.

    validation_scores : sequence of float, default=()
        Mean ELBO of the rows held out, each epoch of the last stage.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (n_panels,)
        The panels.

    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    skvade.VaDEClusterer : What the curves are of.
    ReconstructionDisplay : What pretraining and the decoder achieve, row by row.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import TrainingCurveDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, max_iter=5, tol=0, random_state=0).fit(X)
    >>> TrainingCurveDisplay.from_estimator(model).ax_.shape
    (4,)
    """

    def __init__(
        self,
        *,
        pretrain_loss_curve: Sequence[float],
        lower_bounds: Sequence[float],
        reconstruction_terms: Sequence[float] = (),
        embedding_loss_curve: Sequence[float] = (),
        validation_scores: Sequence[float] = (),
    ):
        self.pretrain_loss_curve = pretrain_loss_curve
        self.lower_bounds = lower_bounds
        self.reconstruction_terms = reconstruction_terms
        self.embedding_loss_curve = embedding_loss_curve
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw the curves of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted.
        ax : matplotlib Axes or sequence of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : TrainingCurveDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator has no such curves.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        display = cls(
            **{name[:-1]: getattr(estimator, name) for name in _REQUIRED_ATTRIBUTES}
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            One Axes per panel, or a single one whose place is divided; None makes a
            new figure.

        Returns
        -------
        display : TrainingCurveDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes does not suit.
        """
        drawings = [
            (self._draw_pretraining, self.pretrain_loss_curve),
            (self._draw_bound, self.lower_bounds),
            (self._draw_reconstruction, self.reconstruction_terms),
            (self._draw_latent, self.reconstruction_terms),
        ]
        drawn = [draw for draw, curve in drawings if len(curve)]
        n, name = len(drawn), type(self).__name__
        figsize = (4 * min(n, 2), 3.2 * ((n + 1) // 2))
        self.ax_ = make_axes(ax, name, n, n_columns=min(n, 2), figsize=figsize)
        for draw, panel in zip(drawn, self.ax_, strict=True):
            draw(panel)
        self.figure_ = self.ax_[0].figure
        return self

    def _draw_pretraining(self, ax: Axes) -> None:
        plot_curve(ax, self.pretrain_loss_curve, color=BLUE, label="X")
        ax.set(title="Pretraining", ylabel="unexplained fraction of variance")
        ax.set_ylim(bottom=0)
        if len(self.embedding_loss_curve):
            first = 1 + len(self.pretrain_loss_curve) - len(self.embedding_loss_curve)
            style: dict[str, Any] = {"color": ORANGE, "linestyle": "--"}
            style.update(first_epoch=first, label="coordinates")
            plot_curve(ax, self.embedding_loss_curve, **style)
            ax.legend()

    def _draw_bound(self, ax: Axes) -> None:
        plot_curve(ax, self.lower_bounds, color=BLUE, label="training rows")
        ax.set(title="Evidence lower bound", ylabel="nats per row")
        if len(self.validation_scores):
            style: dict[str, Any] = {"color": ORANGE, "linestyle": "--"}
            style.update(label="held-out rows")
            plot_curve(ax, self.validation_scores, **style)
            ax.legend()

    def _draw_reconstruction(self, ax: Axes) -> None:
        plot_curve(ax, self.reconstruction_terms, color=BLUE)
        ax.set(title="Its part: reconstruction", ylabel="nats per row")

    def _draw_latent(self, ax: Axes) -> None:
        latent = np.subtract(self.lower_bounds, self.reconstruction_terms).tolist()
        plot_curve(ax, latent, color=BLUE)
        ax.set(title="Its part: latent terms", ylabel="nats per row")
