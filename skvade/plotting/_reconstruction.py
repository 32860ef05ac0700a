"""Display of samples and their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from skvade.plotting._axes import (
    BLUE,
    ORANGE,
    make_axes,
    make_profile_axes,
    plot_images,
    plot_profiles,
)
from skvade.plotting._indexing import safe_indexing, to_dense
from skvade.plotting._validation import (
    check_fitted_attributes,
    check_image_shape,
    check_n_samples,
    check_no_categories,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReconstructionDisplay"]

_REQUIRED_ATTRIBUTES = ["reconstruct", "n_features_in_"]


class ReconstructionDisplay:
    """Visualization of samples and their reconstructions.

    Create it with :meth:`from_estimator`. The samples are plotted as images or as
    profiles, lines over the features, each with the root mean squared error (RMSE) of
    its reconstruction, in the units of X. Missing values are left blank and excluded
    from the error.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Samples, with NaN for missing values.

    X_reconstructed : ndarray of shape (n_samples, n_features)
        Reconstructions of the samples.

    image_shape : tuple of int, default=None
        Shape of a sample as an image, (height, width) or (height, width, 3). None
        plots profiles.

    feature_names : sequence of str of length n_features, default=None
        Names of the features, for profiles.

    Attributes
    ----------
    errors_ : ndarray of shape (n_samples,)
        Root mean squared error of each sample.

    ax_ : ndarray of matplotlib Axes of shape (1,) or (n_samples,)
        Axes with the plot: a single one for images, one per sample for profiles.

    figure_ : matplotlib Figure
        Figure that contains the Axes.

    See Also
    --------
    skvade.VaDEClusterer.reconstruct : Reconstruct samples.
    ClusterSamplesDisplay : Visualization of cluster centers and generated samples.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ReconstructionDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(model, X, n_samples=4)
    >>> display.errors_.shape
    (4,)
    """

    def __init__(
        self,
        *,
        X: NDArray,
        X_reconstructed: NDArray,
        image_shape: Sequence[int] | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        self.X = X
        self.X_reconstructed = X_reconstructed
        self.image_shape = image_shape
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        *,
        n_samples: int = 10,
        image_shape: Sequence[int] | None = None,
        random_state: int | RandomState | None = 0,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Plot samples and their reconstructions by a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted estimator.
        X : {array-like, sparse matrix} of shape (n_samples_X, n_features)
            Data to select the samples from.
        n_samples : int, default=10
            Number of samples to plot, selected at random. If X has no more than that,
            all of its samples are plotted, in their order.
        image_shape : tuple of int, default=None
            Shape of a sample as an image, (height, width) or (height, width, 3). None
            plots profiles.
        random_state : int, RandomState instance or None, default=0
            Seed or generator for the selection of samples.
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on, as in :meth:`plot`.

        Returns
        -------
        display : ReconstructionDisplay
            Plotted display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator lacks a required attribute, such as ``reconstruct``.
        ValueError
            If ``n_samples`` is not an int of at least 1, or if ``image_shape`` does not
            match the number of features, or if columns of X are categories.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        check_no_categories(estimator, cls.__name__)
        check_n_samples(n_samples)
        check_image_shape(image_shape, estimator.n_features_in_)
        n_samples_X = _num_samples(X)
        if n_samples_X > n_samples:
            rng = check_random_state(random_state)
            X = safe_indexing(X, rng.choice(n_samples_X, n_samples, replace=False))
        display = cls(
            X=to_dense(X),
            X_reconstructed=np.asarray(estimator.reconstruct(X)),
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None),
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Plot the samples and their reconstructions.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on: one for images, one per sample for profiles, or a single
            one, which is subdivided. None creates a figure.

        Returns
        -------
        display : ReconstructionDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes is not valid.
        """
        squared_errors = (self.X - self.X_reconstructed) ** 2
        self.errors_ = np.sqrt(np.nanmean(squared_errors, axis=1))
        if self.image_shape is None:
            self._plot_profiles(ax)
        else:
            self._plot_images(ax, self.image_shape)
        self.figure_ = self.ax_[0].figure
        return self

    def _plot_images(
        self, ax: Axes | Sequence[Axes] | None, image_shape: Sequence[int]
    ) -> None:
        n_samples = len(self.X)
        self.ax_ = make_axes(
            ax,
            type(self).__name__,
            1,
            n_columns=1,
            figsize=(0.9 * n_samples + 1.5, 2.4),
        )
        # (2, n_samples, n_features)
        pairs = np.stack([self.X, self.X_reconstructed])
        images = pairs.reshape(2, n_samples, *image_shape)
        vmin, vmax = np.nanmin(self.X), np.nanmax(self.X)

        image_ax = self.ax_[0]
        column_centers, row_centers = plot_images(image_ax, images, vmin, vmax)
        image_ax.set_yticks(row_centers, ["original", "reconstruction"])
        image_ax.set_xticks(column_centers, [f"{error:.2g}" for error in self.errors_])
        image_ax.set_xlabel("root mean squared error")

    def _plot_profiles(self, ax: Axes | Sequence[Axes] | None) -> None:
        n_samples, n_features = self.X.shape
        self.ax_ = make_profile_axes(
            ax, type(self).__name__, n_samples, n_features, self.feature_names
        )
        for sample, profile_ax in enumerate(self.ax_):
            plot_profiles(
                profile_ax,
                self.X[sample],
                self.feature_names,
                color=BLUE,
                marker="o",
                markersize=3.5,
                linestyle="none",
                label="original",
            )
            plot_profiles(
                profile_ax,
                self.X_reconstructed[sample],
                self.feature_names,
                color=ORANGE,
                label="reconstruction",
            )
            profile_ax.set_title(f"RMSE {self.errors_[sample]:.2g}", fontsize="medium")
        # The padding is in units of the font size and leaves room for the title.
        self.ax_[0].legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=2.2,
            borderpad=0,
            fontsize="small",
            frameon=False,
        )
