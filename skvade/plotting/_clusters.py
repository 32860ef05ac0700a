"""What the clusters look like in the space of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from skvade.plotting._axes import (
    get_color_and_marker,
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

__all__ = ["ClusterSamplesDisplay"]

_REQUIRED_ATTRIBUTES = [
    "cluster_centers_",
    "means_",
    "covariances_",
    "labels_",
    "inverse_transform",
]


def _generated(
    estimator: BaseEstimator, n_samples: int, rng: RandomState
) -> list[NDArray]:
    """Expected rows at points drawn from each component: (n_samples, D) per cluster."""
    deviations = np.sqrt(estimator.covariances_)
    return [
        np.asarray(
            estimator.inverse_transform(
                rng.normal(mean, deviation, size=(n_samples, len(mean)))
            )
        )
        for mean, deviation in zip(estimator.means_, deviations, strict=True)
    ]


def _chosen(
    estimator: BaseEstimator, X: ArrayLike, n_samples: int, rng: RandomState
) -> list[NDArray]:
    """Rows of X drawn from each cluster: at most (n_samples, D) per cluster."""
    labels = estimator.predict(X)
    chosen = []
    for cluster in range(len(estimator.means_)):
        members = rng.permutation(np.flatnonzero(labels == cluster))[:n_samples]
        chosen.append(to_dense(safe_indexing(X, members)))
    return chosen


class ClusterSamplesDisplay:
    """The center of each cluster and rows of it, as images or as profiles.

    Create it with :meth:`from_estimator`. The centers are the decoded means of the
    components. The rows are generated, each the expected row at a point drawn from the
    component, or they are rows of X that belong to the cluster.

    Parameters
    ----------
    centers : ndarray of shape (n_clusters, n_features)
        Decoded means.

    samples : list of ndarray of shape (n_samples, n_features)
        Rows of each cluster, perhaps fewer of some.

    sizes : ndarray of shape (n_clusters,)
        Training rows that each cluster holds.

    image_shape : tuple of int, default=None
        Shape of a row as an image, (height, width) or (height, width, 3); None draws
        lines over the features.

    feature_names : sequence of str of length n_features, default=None
        Names for the profiles.

    samples_name : str, default="generated"
        What the rows are, for the title.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (1,) or (n_clusters,)
        One Axes for images, one per cluster for profiles.

    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    skvade.VaDEClusterer.sample : Rows with the noise of the likelihood.
    ReconstructionDisplay : Rows beside their reconstructions.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ClusterSamplesDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, max_iter=5, tol=0, random_state=0).fit(X)
    >>> ClusterSamplesDisplay.from_estimator(model, n_samples=20).ax_.shape
    (3,)
    """

    def __init__(
        self,
        *,
        centers: NDArray,
        samples: Sequence[NDArray],
        sizes: NDArray,
        image_shape: Sequence[int] | None = None,
        feature_names: Sequence[str] | None = None,
        samples_name: str = "generated",
    ):
        self.centers = centers
        self.samples = samples
        self.sizes = sizes
        self.image_shape = image_shape
        self.feature_names = feature_names
        self.samples_name = samples_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike | None = None,
        *,
        n_samples: int = 10,
        image_shape: Sequence[int] | None = None,
        random_state: int | RandomState | None = 0,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Self:
        """Draw the clusters of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted.
        X : {array-like, sparse matrix} of shape (n_rows, n_features), default=None
            Rows to choose from; None generates them.
        n_samples : int, default=10
            How many rows to show of each cluster.
        image_shape : tuple of int, default=None
            Shape of a row as an image, (height, width) or (height, width, 3); None
            draws lines over the features.
        random_state : int, RandomState instance or None, default=0
            Seed of the rows.
        ax : matplotlib Axes or sequence of them, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : ClusterSamplesDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the estimator has no decoded centers.
        ValueError
            If `n_samples` is below 1 or `image_shape` does not fit the features.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        check_n_samples(n_samples)
        check_image_shape(image_shape, estimator.n_features_in_)
        rng = check_random_state(random_state)
        if X is None:
            samples = _generated(estimator, n_samples, rng)
        else:
            samples = _chosen(estimator, X, n_samples, rng)
        return cls(
            centers=np.asarray(estimator.cluster_centers_),
            samples=samples,
            sizes=np.bincount(estimator.labels_, minlength=len(samples)),
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None),
            samples_name="generated" if X is None else "rows of X",
        ).plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the centers and the rows.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            As many Axes as there are panels, or a single one, whose place is divided;
            None makes a new figure.

        Returns
        -------
        display : ClusterSamplesDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes does not suit.
        """
        if self.image_shape is None:
            self._draw_profiles(ax)
        else:
            self._draw_images(ax, self.image_shape)
        self.figure_ = self.ax_[0].figure
        return self

    def _draw_images(
        self, ax: Axes | Sequence[Axes] | None, shape: Sequence[int]
    ) -> None:
        n_clusters, n_features = self.centers.shape
        n_samples = max(len(rows) for rows in self.samples)
        figsize = (0.5 * n_samples + 2.5, min(0.5 * n_clusters + 1, 30))
        self.ax_ = make_axes(ax, type(self).__name__, 1, n_columns=1, figsize=figsize)
        grid = np.full((n_clusters, 1 + n_samples, n_features), np.nan)
        grid[:, 0] = self.centers
        for cluster, rows in enumerate(self.samples):
            grid[cluster, 1 : 1 + len(rows)] = rows
        # A few wild pixels of what is generated must not grey all the rest.
        low, high = np.percentile(self.centers, [1, 99])
        images = grid.reshape(*grid.shape[:2], *shape)
        panel = self.ax_[0]
        columns, rows = plot_images(panel, images, low, high)
        panel.axvline(columns[:2].mean(), color="black", linewidth=1)
        panel.set_yticks(rows, map(self._name, range(n_clusters)))
        panel.set_xticks(
            [columns[0], columns[1:].mean()], ["center", self.samples_name]
        )
        panel.xaxis.tick_top()
        panel.set_ylabel("cluster")

    def _draw_profiles(self, ax: Axes | Sequence[Axes] | None) -> None:
        name = type(self).__name__
        n_panels, n_features = self.centers.shape
        names = self.feature_names
        self.ax_ = make_profile_axes(ax, name, n_panels, n_features, names)
        thin: dict[str, Any] = {"color": "0.6", "linewidth": 0.7}
        for cluster, panel in enumerate(self.ax_):
            color, _ = get_color_and_marker(cluster)
            plot_profiles(panel, self.samples[cluster], names, **thin)
            thick: dict[str, Any] = {"color": color, "linewidth": 2.5}
            plot_profiles(panel, self.centers[cluster], names, **thick)
            panel.set_title(self._name(cluster), fontsize="medium")

    def _name(self, cluster: int) -> str:
        return f"{cluster} ({self.sizes[cluster]} rows)"
