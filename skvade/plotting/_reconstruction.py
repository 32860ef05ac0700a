"""Rows beside what the decoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReconstructionDisplay"]


class ReconstructionDisplay:
    """Rows of X beside their reconstructions, as images or as profiles.

    Create it with :meth:`from_estimator`. Below each pair stands the root of the mean
    squared difference, in the units of X. Missing values stay blank and do not count.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    X_reconstructed : ndarray of shape (n_samples, n_features)
        What the decoder makes of them.

    image_shape : tuple of int, default=None
        Shape of a row as an image, (height, width) or (height, width, 3); None draws
        lines over the features.

    feature_names : sequence of str of length n_features, default=None
        Names for the profiles.

    Attributes
    ----------
    errors_ : ndarray of shape (n_samples,)
        Root of the mean squared difference of each row.

    ax_ : ndarray of matplotlib Axes of shape (1,) or (n_samples,)
        One Axes for images, one per row for profiles.

    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    skvade.VaDEClusterer.reconstruct : Where the reconstructions come from.
    ClusterSamplesDisplay : What the model generates.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ReconstructionDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, max_iter=5, tol=0, random_state=0).fit(X)
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
        """Draw rows and their reconstructions by a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows to choose from.
        n_samples : int, default=10
            How many to show. Where X has no more, they are shown in their order,
            else as many are drawn at random.
        image_shape : tuple of int, default=None
            Shape of a row as an image, (height, width) or (height, width, 3); None
            draws lines over the features.
        random_state : int, RandomState instance or None, default=0
            Seed of the choice of rows.
        ax : matplotlib Axes or sequence of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : ReconstructionDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator cannot reconstruct.
        ValueError
            If `n_samples` is below 1 or `image_shape` does not fit the features.
        """
        check_fitted_attributes(
            estimator, ["reconstruct", "n_features_in_"], cls.__name__
        )
        check_n_samples(n_samples)
        check_image_shape(image_shape, estimator.n_features_in_)
        n_rows = _num_samples(X)
        if n_rows > n_samples:
            rng = check_random_state(random_state)
            X = safe_indexing(X, rng.choice(n_rows, n_samples, replace=False))
        return cls(
            X_reconstructed=np.asarray(estimator.reconstruct(X)),
            X=to_dense(X),
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None),
        ).plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the rows and their reconstructions.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            As many Axes as there are panels, or a single one, whose place is divided;
            None makes a new figure.

        Returns
        -------
        display : ReconstructionDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes does not suit.
        """
        squares = (self.X - self.X_reconstructed) ** 2
        self.errors_ = np.sqrt(np.nanmean(squares, axis=1))
        if self.image_shape is None:
            self._draw_profiles(ax)
        else:
            self._draw_images(ax, self.image_shape)
        self.figure_ = self.ax_[0].figure
        return self

    def _draw_images(
        self, ax: Axes | Sequence[Axes] | None, shape: Sequence[int]
    ) -> None:
        n = len(self.X)
        figsize = (0.9 * n + 1.5, 2.4)
        self.ax_ = make_axes(ax, type(self).__name__, 1, n_columns=1, figsize=figsize)
        # (2, n_samples, n_features)
        pairs = np.stack([self.X, self.X_reconstructed])
        images = pairs.reshape(2, n, *shape)
        vmin, vmax = np.nanmin(self.X), np.nanmax(self.X)
        columns, rows = plot_images(self.ax_[0], images, vmin, vmax)
        self.ax_[0].set_yticks(rows, ["original", "reconstruction"])
        self.ax_[0].set_xticks(columns, [f"{error:.2g}" for error in self.errors_])
        self.ax_[0].set_xlabel("root mean squared difference")

    def _draw_profiles(self, ax: Axes | Sequence[Axes] | None) -> None:
        name = type(self).__name__
        n_panels, n_features = self.X.shape
        names = self.feature_names
        self.ax_ = make_profile_axes(ax, name, n_panels, n_features, names)
        dots: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 3.5}
        dots.update(linestyle="none", label="original")
        line: dict[str, Any] = {"color": ORANGE, "label": "reconstruction"}
        rows = zip(self.X, self.X_reconstructed, self.errors_, strict=True)
        for panel, (row, reconstruction, error) in zip(self.ax_, rows, strict=True):
            plot_profiles(panel, row, names, **dots)
            plot_profiles(panel, reconstruction, names, **line)
            panel.set_title(f"difference {error:.2g}", fontsize="medium")
        # The pad is in letters: it clears the title of a panel of any height.
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 2.2}
        self.ax_[0].legend(fontsize="small", borderpad=0, frameon=False, **above)
