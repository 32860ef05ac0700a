"""Display of the training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

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
    """Visualization of the training curves: pretraining, and the ELBO with its terms.

    Create it with :meth:`from_estimator`. There is one Axes for each of:

    - the loss of pretraining, per epoch: the contrastive loss of the neighbors, or the
      fraction of the variance of X that the autoencoder leaves unexplained. The
      unexplained variance of the target embedding is beside it, if one is fitted;
    - the evidence lower bound (ELBO), averaged over the samples, per epoch of the joint
      training;
    - the reconstruction term of the ELBO, E[log p(x|z)];
    - its latent terms, the negative KL divergence of q(z, c|x) from p(z, c).

    A curve without epochs, such as that of pretraining with ``warm_start=True``, has no
    Axes.

    Parameters
    ----------
    pretrain_loss_curve : sequence of float
        Loss per epoch of pretraining.

    lower_bounds : sequence of float
        Mean ELBO of the training samples, per epoch of the joint training.

    reconstruction_terms : sequence of float, default=()
        Reconstruction term of each of the ``lower_bounds``. If it is empty, the terms
        are not plotted.

    embedding_loss_curve : sequence of float, default=()
        Unexplained fraction of the variance of the target embedding, for the last
        epochs of pretraining.

    validation_scores : sequence of float, default=()
        Mean ELBO of the validation samples, per epoch of the joint training.

    pretrain_loss_name : str, default="fraction of variance unexplained"
        Name of the loss in ``pretrain_loss_curve``.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (n_axes,)
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure that contains the Axes.

    See Also
    --------
    skvade.VaDEClusterer : Estimator whose curves are plotted.
    ReconstructionDisplay : Visualization of samples and their reconstructions.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import TrainingCurveDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0).fit(X)
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
        pretrain_loss_name: str = "fraction of variance unexplained",
    ):
        self.pretrain_loss_curve = pretrain_loss_curve
        self.lower_bounds = lower_bounds
        self.reconstruction_terms = reconstruction_terms
        self.embedding_loss_curve = embedding_loss_curve
        self.validation_scores = validation_scores
        self.pretrain_loss_name = pretrain_loss_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Plot the training curves of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted estimator.
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on, as in :meth:`plot`.

        Returns
        -------
        display : TrainingCurveDisplay
            Plotted display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator lacks one of the curves, such as ``lower_bounds_``.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        loss_name = "fraction of variance unexplained"
        if estimator.pretraining == "neighbors" and estimator.embedding is None:
            loss_name = "contrastive loss"
        display = cls(
            pretrain_loss_curve=estimator.pretrain_loss_curve_,
            lower_bounds=estimator.lower_bounds_,
            reconstruction_terms=estimator.reconstruction_terms_,
            embedding_loss_curve=estimator.embedding_loss_curve_,
            validation_scores=estimator.validation_scores_,
            pretrain_loss_name=loss_name,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Plot the training curves.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on: one per curve, or a single one, which is subdivided. None
            creates a figure.

        Returns
        -------
        display : TrainingCurveDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes is not valid.
        """
        curves = [
            (self.pretrain_loss_curve, self._plot_pretraining),
            (self.lower_bounds, self._plot_elbo),
            (self.reconstruction_terms, self._plot_reconstruction_term),
            (self.reconstruction_terms, self._plot_latent_terms),
        ]
        plot_methods = [plot_method for curve, plot_method in curves if len(curve)]
        n_axes = len(plot_methods)
        n_columns = min(n_axes, 2)
        n_rows = math.ceil(n_axes / 2)
        self.ax_ = make_axes(
            ax,
            type(self).__name__,
            n_axes,
            n_columns=n_columns,
            figsize=(4 * n_columns, 3.2 * n_rows),
        )
        for plot_method, curve_ax in zip(plot_methods, self.ax_, strict=True):
            plot_method(curve_ax)
        self.figure_ = self.ax_[0].figure
        return self

    def _plot_pretraining(self, ax: Axes) -> None:
        plot_curve(ax, self.pretrain_loss_curve, color=BLUE, label="X")
        ax.set(title="Pretraining", ylabel=self.pretrain_loss_name)
        ax.set_ylim(bottom=0)
        n_embedding_epochs = len(self.embedding_loss_curve)
        if n_embedding_epochs:
            plot_curve(
                ax,
                self.embedding_loss_curve,
                first_epoch=len(self.pretrain_loss_curve) - n_embedding_epochs + 1,
                color=ORANGE,
                linestyle="--",
                label="embedding",
            )
            ax.legend()

    def _plot_elbo(self, ax: Axes) -> None:
        plot_curve(ax, self.lower_bounds, color=BLUE, label="training samples")
        ax.set(title="Evidence lower bound", ylabel="nats per sample")
        if len(self.validation_scores):
            plot_curve(
                ax,
                self.validation_scores,
                color=ORANGE,
                linestyle="--",
                label="validation samples",
            )
            ax.legend()

    def _plot_reconstruction_term(self, ax: Axes) -> None:
        plot_curve(ax, self.reconstruction_terms, color=BLUE)
        ax.set(title="Reconstruction term", ylabel="nats per sample")

    def _plot_latent_terms(self, ax: Axes) -> None:
        latent_terms = np.subtract(self.lower_bounds, self.reconstruction_terms)
        plot_curve(ax, latent_terms.tolist(), color=BLUE)
        ax.set(title="Latent terms (negative KL)", ylabel="nats per sample")
