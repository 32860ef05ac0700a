"""Display of the latent space in two dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skvade.plotting._axes import get_color_and_marker, make_axes
from skvade.plotting._validation import check_fitted_attributes, covariance_matrices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["LatentSpaceDisplay"]

_REQUIRED_ATTRIBUTES = ["transform", "means_", "covariances_", "covariance_type"]

# Rows of the legend; more groups need more columns.
_MAX_LEGEND_ROWS = 18

# Of the ellipses.
_CAPTION = "Ellipses: Gaussians at two standard deviations"

# Largest residual of an affine map, relative to the range of the points.
_MAX_RELATIVE_RESIDUAL = 1e-3


class _Projection(NamedTuple):
    """Latent points in two dimensions, and the names of these dimensions."""

    points: NDArray  # (n_samples, 2)
    axis_names: tuple[str, str]


def _project(Z: NDArray, projection: Any) -> _Projection:
    """Project latent points Z to two dimensions as given by ``projection``."""
    if projection is None and Z.shape[1] == 2:
        return _Projection(Z, ("latent dimension 1", "latent dimension 2"))
    if projection is None:
        return _project_on_principal_components(Z)
    if isinstance(projection, str):
        raise ValueError(
            "projection must be a transformer, an array of two coordinates per sample "
            f"or None. Got {projection!r} instead."
        )
    if hasattr(projection, "fit_transform"):
        points = clone(projection).fit_transform(Z)
        name = type(projection).__name__
    else:
        points = projection
        name = "coordinate"
    points = check_array(points, dtype=float, input_name="projection")
    if points.shape != (len(Z), 2):
        raise ValueError(
            "projection must give two coordinates per sample, an array of shape "
            f"({len(Z)}, 2). Got shape {points.shape} instead. Pass a transformer to "
            "two dimensions, such as PCA(n_components=2), or an array of that shape."
        )
    return _Projection(points, (f"{name} 1", f"{name} 2"))


def _project_on_principal_components(Z: NDArray) -> _Projection:
    """Project latent points on their first two principal components."""
    if min(Z.shape) < 2:
        raise ValueError(
            "projection=None requires at least 2 samples and 2 latent dimensions. Got "
            f"latent points of shape {Z.shape} instead. Pass more samples in X, or, "
            "for a single latent dimension, plot a histogram of transform(X)."
        )
    pca = PCA(n_components=2, random_state=0)
    points = pca.fit_transform(Z)
    ratio_1, ratio_2 = pca.explained_variance_ratio_
    axis_names = (
        f"principal component 1 ({ratio_1:.0%})",
        f"principal component 2 ({ratio_2:.0%})",
    )
    return _Projection(points, axis_names)


def _fit_affine_map(Z: NDArray, points: NDArray) -> NDArray | None:
    """Return the (latent_dim + 1, 2) matrix that maps [z, 1] to its point.

    None if the projection is not affine, or if there are too few samples to tell.
    """
    n_samples, latent_dim = Z.shape
    if n_samples <= latent_dim + 1:
        return None
    Z_with_ones = np.column_stack([Z, np.ones(n_samples)])
    affine_map, *_ = np.linalg.lstsq(Z_with_ones, points)
    residual = np.abs(Z_with_ones @ affine_map - points).max()
    if residual > _MAX_RELATIVE_RESIDUAL * np.ptp(points):
        return None
    return affine_map


class LatentSpaceDisplay:
    """Visualization of samples and mixture components in the latent space.

    Create it with :meth:`from_estimator`. A sample is plotted at the mean of q(z|x),
    its coordinates under ``transform``. More than two latent dimensions are projected
    to two.

    An ellipse with a number is a cluster of the model, not of the points that are
    plotted: a component of the mixture, at two standard deviations from its mean. It
    contains 86 % of the component's probability in two dimensions. As z also varies
    about the mean of q(z|x), the samples of a cluster often lie closer together than
    its ellipse is wide. Ellipses are plotted only if the projection is affine. The
    title then says what they are, unless the Axes have one. The more samples, the
    smaller are their markers.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
        Projected samples.

    groups : ndarray of shape (n_samples,)
        Values that determine the color: discrete groups, or a continuous variable.

    means : ndarray of shape (n_clusters, 2), default=None
        Projected means of the components.

    covariances : ndarray of shape (n_clusters, 2, 2), default=None
        Projected covariances of the components.

    axis_names : tuple of str, default=("coordinate 1", "coordinate 2")
        Labels of the x-axis and the y-axis.

    groups_name : str, default="group"
        Name of the groups, for the legend or the color bar.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.

    figure_ : matplotlib Figure
        Figure that contains the Axes.

    ellipses_ : list of matplotlib Ellipse
        Ellipses of the components.

    See Also
    --------
    skvade.VaDEClusterer.transform : Compute the latent coordinates.
    ResponsibilityDisplay : Visualization of the responsibilities.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import LatentSpaceDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0).fit(X)
    >>> display = LatentSpaceDisplay.from_estimator(model, X)
    >>> display.points.shape
    (300, 2)
    """

    def __init__(
        self,
        *,
        points: NDArray,
        groups: NDArray,
        means: NDArray | None = None,
        covariances: NDArray | None = None,
        axis_names: tuple[str, str] = ("coordinate 1", "coordinate 2"),
        groups_name: str = "group",
    ):
        self.points = points
        self.groups = groups
        self.means = means
        self.covariances = covariances
        self.axis_names = axis_names
        self.groups_name = groups_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        projection: Any = None,
        ax: Axes | None = None,
    ) -> Self:
        """Plot samples and components in the latent space of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted estimator.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples to plot.
        y : array-like of shape (n_samples,), default=None
            Values that determine the color: classes, or a continuous variable such as
            the result of ``score_samples``. None uses the predicted clusters.
        projection : transformer or array-like of shape (n_samples, 2), default=None
            Projection of the latent space to two dimensions. A clone of a transformer
            is fitted to the latent coordinates of X; an array holds the projected
            samples. None projects on the first two principal components, or plots the
            latent space itself if it has two dimensions.
        ax : matplotlib Axes, default=None
            Axes to plot on. None creates a figure.

        Returns
        -------
        display : LatentSpaceDisplay
            Plotted display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator lacks a required attribute, such as ``means_``.
        ValueError
            If ``y`` does not have one value per sample, or if ``projection`` does not
            give two coordinates per sample, or if ``covariances_`` do not have the
            shape of ``covariance_type``.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        matrices = covariance_matrices(estimator, cls.__name__)
        Z = np.asarray(estimator.transform(X), dtype=float)
        if y is None:
            groups = estimator.predict(X)
            groups_name = "cluster"
        else:
            groups = column_or_1d(y)
            groups_name = getattr(y, "name", None) or "y"
        check_consistent_length(Z, groups)
        projected = _project(Z, projection)
        affine_map = _fit_affine_map(Z, projected.points)
        if affine_map is None:
            means = covariances = None
        else:
            linear, offset = affine_map[:-1], affine_map[-1]  # (latent_dim, 2), (2,)
            means = estimator.means_ @ linear + offset
            covariances = linear.T @ matrices @ linear
        display = cls(
            points=projected.points,
            groups=groups,
            means=means,
            covariances=covariances,
            axis_names=projected.axis_names,
            groups_name=groups_name,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Plot the samples and the components.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on. None creates a figure.

        Returns
        -------
        display : LatentSpaceDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If more than one Axes is given.
        """
        (self.ax_,) = make_axes(
            ax, type(self).__name__, 1, n_columns=1, figsize=(6.4, 4.8)
        )
        self.figure_ = self.ax_.figure
        marker_size = float(np.clip(6000 / len(self.points), 4, 25))
        if type_of_target(self.groups) == "continuous":
            self._plot_continuous(marker_size)
        else:
            self._plot_groups(marker_size)
        self.ellipses_: list[Patch] = []
        if self.means is not None and self.covariances is not None:
            self._plot_components(self.means, self.covariances)
        self.ax_.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        self.ax_.set_aspect("equal", adjustable="datalim")
        return self

    def _plot_continuous(self, marker_size: float) -> None:
        x, y = self.points.T
        scatter = self.ax_.scatter(
            x, y, s=marker_size, c=self.groups, cmap="viridis", linewidth=0
        )
        self.figure_.colorbar(scatter, ax=self.ax_, label=self.groups_name)

    def _plot_groups(self, marker_size: float) -> None:
        names = np.unique(self.groups)
        for index, name in enumerate(names):
            color, marker = get_color_and_marker(index)
            x, y = self.points[self.groups == name].T
            self.ax_.scatter(
                x,
                y,
                s=marker_size,
                color=color,
                marker=marker,
                linewidth=0,
                alpha=0.6,
                label=str(name),
            )
        legend = self.ax_.legend(
            title=self.groups_name,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            ncols=math.ceil(len(names) / _MAX_LEGEND_ROWS),
            frameon=False,
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(alpha=1, sizes=[30])

    def _plot_components(self, means: NDArray, covariances: NDArray) -> None:
        from matplotlib.patches import Ellipse
        from matplotlib.patheffects import withStroke

        outline = withStroke(linewidth=2.5, foreground="white")
        components = zip(means, covariances, strict=True)
        for index, (mean, covariance) in enumerate(components):
            variances, directions = np.linalg.eigh(covariance)
            # Two standard deviations on each side of the mean.
            width, height = 4 * np.sqrt(variances.clip(0))
            ellipse = Ellipse(
                mean,
                width,
                height,
                angle=np.degrees(np.arctan2(directions[1, 0], directions[0, 0])),
                fill=False,
                edgecolor="black",
                linewidth=1,
            )
            self.ellipses_.append(self.ax_.add_patch(ellipse))
            self.ax_.annotate(
                str(index),
                mean,
                ha="center",
                va="center",
                fontweight="bold",
                path_effects=[outline],
            )
        if not self.ax_.get_title():
            self.ax_.set_title(_CAPTION, fontsize="small")
