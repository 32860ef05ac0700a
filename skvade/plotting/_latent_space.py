"""The latent space, in a plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skvade.plotting._axes import get_color_and_marker, make_axes
from skvade.plotting._validation import check_fitted_attributes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["LatentSpaceDisplay"]

# Names of groups in one column of the legend.
_LEGEND_ROWS = 18


class _Plane(NamedTuple):
    """Rows in a plane: points (n_samples, 2) and what its two axes are called."""

    points: NDArray
    names: tuple[str, str]


def _project(Z: NDArray, projection: Any) -> _Plane:
    if projection is None and Z.shape[1] == 2:
        return _Plane(Z, ("latent dimension 1", "latent dimension 2"))
    if projection is None:
        return _principal_plane(Z)
    if hasattr(projection, "fit_transform"):
        points = clone(projection).fit_transform(Z)
        name = type(projection).__name__
    else:
        points, name = projection, "coordinate"
    if isinstance(projection, str):
        raise ValueError(
            "projection must be a transformer, an array of two coordinates per row or "
            f"None. Got {projection!r} instead."
        )
    points = check_array(points, dtype=float, input_name="projection")
    if points.shape != (len(Z), 2):
        raise ValueError(
            f"projection must give two coordinates per row, shape ({len(Z)}, 2). Got "
            f"shape {points.shape} instead. Give a transformer to 2 dimensions, such "
            "as PCA(n_components=2), or an array of that shape."
        )
    return _Plane(points, (f"{name} 1", f"{name} 2"))


def _principal_plane(Z: NDArray) -> _Plane:
    if min(Z.shape) < 2:
        raise ValueError(
            "A plane needs 2 rows and 2 latent dimensions at least. Got latent "
            f"coordinates of shape {Z.shape} instead. Give more rows, or draw the "
            "histogram of transform(X)."
        )
    pca = PCA(n_components=2, random_state=0)
    points = pca.fit_transform(Z)
    shares = pca.explained_variance_ratio_
    first, second = (
        f"principal component {number} ({share:.0%})"
        for number, share in enumerate(shares, start=1)
    )
    return _Plane(points, (first, second))


def _affine_map(Z: NDArray, points: NDArray) -> NDArray | None:
    """(L + 1, 2) matrix that takes [z, 1] to its point, if there is one."""
    if len(Z) <= Z.shape[1] + 1:  # any map of so few rows would look affine
        return None
    extended = np.column_stack([Z, np.ones(len(Z))])
    matrix, *_ = np.linalg.lstsq(extended, points)
    off = np.abs(extended @ matrix - points).max()
    return matrix if off <= 1e-3 * np.ptp(points) else None


class LatentSpaceDisplay:
    """Rows in a plane of the latent space, with the components as ellipses.

    Create it with :meth:`from_estimator`. A row lies at its coordinates under
    `transform`, the mean of q(z|x). The ellipses contain what lies within two standard
    deviations of a component in that plane, 86 % of its mass, and bear its number. As
    z also varies about that mean, the rows of a cluster lie closer together than its
    ellipse is wide. Ellipses are drawn only where the projection is linear.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
        Rows in the plane.

    groups : ndarray of shape (n_samples,)
        What the color shows: discrete groups, or a continuous value.

    means : ndarray of shape (n_clusters, 2), default=None
        Means of the components in the plane.

    covariances : ndarray of shape (n_clusters, 2, 2), default=None
        Their covariances in the plane.

    axis_names : tuple of str, default=("coordinate 1", "coordinate 2")
        What the axes are called.

    groups_name : str, default="group"
        What the groups are called.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.

    figure_ : matplotlib Figure
        The figure that holds it.

    ellipses_ : list of matplotlib Ellipse
        One per component.

    See Also
    --------
    skvade.VaDEClusterer.transform : Where the coordinates come from.
    ResponsibilityDisplay : How sure the assignments are.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import LatentSpaceDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, max_iter=5, tol=0, random_state=0).fit(X)
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
        """Draw rows in the latent space of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,), default=None
            What the color shows, classes or a continuous value such as the result of
            `score_samples`; None shows the clusters.
        projection : transformer or array-like of shape (n_samples, 2), default=None
            How the latent space becomes a plane: a transformer, of which a clone is
            fitted to the latent coordinates, or the coordinates in the plane. None is
            the plane of the two principal components, or the latent space itself if
            it has two dimensions.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        display : LatentSpaceDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator has no components in a latent space.
        ValueError
            If `y` does not fit the rows, or `projection` does not give two coordinates
            per row.
        """
        check_fitted_attributes(
            estimator, ["transform", "means_", "covariances_"], cls.__name__
        )
        Z = np.asarray(estimator.transform(X), dtype=float)
        groups = estimator.predict(X) if y is None else column_or_1d(y)
        check_consistent_length(Z, groups)
        plane = _project(Z, projection)
        means = covariances = None
        matrix = _affine_map(Z, plane.points)
        if matrix is not None:
            linear = matrix[:-1]  # (L, 2)
            means = estimator.means_ @ linear + matrix[-1]
            scaled = estimator.covariances_[:, None, :] * linear.T  # (K, 2, L)
            covariances = scaled @ linear
        return cls(
            points=plane.points,
            groups=groups,
            means=means,
            covariances=covariances,
            axis_names=plane.names,
            groups_name="cluster" if y is None else getattr(y, "name", None) or "y",
        ).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the rows and the components.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

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
        is_continuous = type_of_target(self.groups) == "continuous"
        draw = self._draw_values if is_continuous else self._draw_groups
        draw(size=float(np.clip(20000 / len(self.points), 4, 30)))
        self.ellipses_: list[Patch] = []
        if self.means is not None and self.covariances is not None:
            self._draw_components(self.means, self.covariances)
        self.ax_.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        self.ax_.set_aspect("equal", adjustable="datalim")
        return self

    def _draw_values(self, size: float) -> None:
        x, y = self.points.T
        points = self.ax_.scatter(x, y, s=size, c=self.groups, cmap="viridis")
        self.figure_.colorbar(points, ax=self.ax_, label=self.groups_name)

    def _draw_groups(self, size: float) -> None:
        names = np.unique(self.groups)
        for index, name in enumerate(names):
            color, marker = get_color_and_marker(index)
            members = self.points[self.groups == name]
            style: dict[str, Any] = {"marker": marker, "linewidth": 0, "s": size}
            style.update(label=str(name), color=color, alpha=0.6)
            self.ax_.scatter(members[:, 0], members[:, 1], **style)
        legend = self.ax_.legend(
            title=self.groups_name,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            ncols=-(-len(names) // _LEGEND_ROWS),
            frameon=False,
        )
        for handle in filter(None, legend.legend_handles):
            handle.set(alpha=1, sizes=[30])

    def _draw_components(self, means: NDArray, covariances: NDArray) -> None:
        from matplotlib.patches import Ellipse

        pairs = zip(means, covariances, strict=True)
        for index, (mean, covariance) in enumerate(pairs):
            variances, directions = np.linalg.eigh(covariance)
            # Two standard deviations to each side of the mean.
            width, height = 4 * np.sqrt(variances.clip(0))
            angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
            style = {"fill": False, "edgecolor": "black", "linewidth": 1}
            ellipse = Ellipse(mean, width, height, angle=angle, **style)
            self.ellipses_.append(self.ax_.add_patch(ellipse))
            box = {
                "boxstyle": "circle,pad=0.15",
                "facecolor": "white",
                "linewidth": 0.8,
            }
            self.ax_.annotate(
                str(index), mean, bbox=box, ha="center", va="center", fontsize="small"
            )
