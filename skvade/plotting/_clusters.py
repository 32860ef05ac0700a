"""Display of the cluster centers and of samples of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

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
    check_no_categories,
    covariance_matrices,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ClusterSamplesDisplay"]

_REQUIRED_ATTRIBUTES = [
    "cluster_centers_",
    "means_",
    "covariances_",
    "covariance_type",
    "labels_",
    "inverse_transform",
]

# Inches
_MAX_FIGURE_HEIGHT = 30


def _generate_samples(
    estimator: BaseEstimator, covariances: NDArray, n_samples: int, rng: RandomState
) -> list[NDArray]:
    """Sample from each component and decode: (n_samples, n_features) per cluster."""
    generated = []
    for mean, covariance in zip(estimator.means_, covariances, strict=True):
        Z = rng.multivariate_normal(mean, covariance, n_samples, check_valid="ignore")
        generated.append(np.asarray(estimator.inverse_transform(Z)))
    return generated


def _sample_members(
    estimator: BaseEstimator, X: ArrayLike, n_samples: int, rng: RandomState
) -> list[NDArray]:
    """Select members of each cluster: at most (n_samples, n_features) per cluster."""
    labels = estimator.predict(X)
    members = []
    for cluster in range(len(estimator.means_)):
        indices = rng.permutation(np.flatnonzero(labels == cluster))[:n_samples]
        members.append(to_dense(safe_indexing(X, indices)))
    return members


class ClusterSamplesDisplay:
    """Visualization of the cluster centers and of samples of each cluster.

    Create it with :meth:`from_estimator`. The centers are the decoded means of the
    mixture components. The samples are either generated or selected from the samples of
    X that are assigned to the cluster. A generated one is the expected value of X at a
    latent point sampled from the component. All are plotted as images or as profiles,
    lines over the features.

    Parameters
    ----------
    centers : ndarray of shape (n_clusters, n_features)
        Decoded means of the components.

    samples : list of ndarray of shape (n_samples, n_features)
        Samples of each cluster. Clusters may differ in the number of samples.

    sizes : ndarray of shape (n_clusters,)
        Number of training samples assigned to each cluster.

    image_shape : tuple of int, default=None
        Shape of a sample as an image, (height, width) or (height, width, 3). None
        plots profiles.

    feature_names : sequence of str of length n_features, default=None
        Names of the features, for profiles.

    samples_name : str, default="generated"
        Description of the samples, for the label of their columns.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (1,) or (n_clusters,)
        Axes with the plot: a single one for images, one per cluster for profiles.

    figure_ : matplotlib Figure
        Figure that contains the Axes.

    See Also
    --------
    skvade.VaDEClusterer.sample : Generate samples with the noise of the likelihood.
    ReconstructionDisplay : Visualization of samples and their reconstructions.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.plotting import ClusterSamplesDisplay
    >>> X, _ = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0).fit(X)
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
        """Plot the clusters of a fitted estimator.

        Parameters
        ----------
        estimator : VaDEClusterer
            Fitted estimator.
        X : {array-like, sparse matrix} of shape (n_samples_X, n_features), default=None
            Data to select the samples from. None generates samples.
        n_samples : int, default=10
            Number of samples of each cluster. A cluster with fewer members in X is
            plotted with all of them.
        image_shape : tuple of int, default=None
            Shape of a sample as an image, (height, width) or (height, width, 3). None
            plots profiles.
        random_state : int, RandomState instance or None, default=0
            Seed or generator for the generation or the selection of samples.
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on, as in :meth:`plot`.

        Returns
        -------
        display : ClusterSamplesDisplay
            Plotted display.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator lacks a required attribute, such as ``cluster_centers_``.
        ValueError
            If ``n_samples`` is not an int of at least 1, or if ``image_shape`` does not
            match the number of features. Also if samples are to be generated and
            ``covariances_`` do not have the shape of ``covariance_type``, or if columns
            of X are categories.
        """
        check_fitted_attributes(estimator, _REQUIRED_ATTRIBUTES, cls.__name__)
        check_no_categories(estimator, cls.__name__)
        check_n_samples(n_samples)
        check_image_shape(image_shape, estimator.n_features_in_)
        rng = check_random_state(random_state)
        if X is None:
            covariances = covariance_matrices(estimator, cls.__name__)
            samples = _generate_samples(estimator, covariances, n_samples, rng)
            samples_name = "generated"
        else:
            samples = _sample_members(estimator, X, n_samples, rng)
            samples_name = "samples of X"
        display = cls(
            centers=np.asarray(estimator.cluster_centers_),
            samples=samples,
            sizes=np.bincount(estimator.labels_, minlength=len(samples)),
            image_shape=image_shape,
            feature_names=getattr(estimator, "feature_names_in_", None),
            samples_name=samples_name,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Axes | Sequence[Axes] | None = None) -> Self:
        """Plot the centers and the samples.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Axes to plot on: one for images, one per cluster for profiles, or a single
            one, which is subdivided. None creates a figure.

        Returns
        -------
        display : ClusterSamplesDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the number of Axes is not valid.
        """
        if self.image_shape is None:
            self._plot_profiles(ax)
        else:
            self._plot_images(ax, self.image_shape)
        self.figure_ = self.ax_[0].figure
        return self

    def _plot_images(
        self, ax: Axes | Sequence[Axes] | None, image_shape: Sequence[int]
    ) -> None:
        n_clusters, n_features = self.centers.shape
        n_samples = max(len(samples) for samples in self.samples)
        height = min(0.5 * n_clusters + 1, _MAX_FIGURE_HEIGHT)
        self.ax_ = make_axes(
            ax,
            type(self).__name__,
            1,
            n_columns=1,
            figsize=(0.5 * n_samples + 2.5, height),
        )
        # One row per cluster: its center, its samples, and NaN where there are fewer.
        grid = np.full((n_clusters, 1 + n_samples, n_features), np.nan)
        grid[:, 0] = self.centers
        for cluster, samples in enumerate(self.samples):
            grid[cluster, 1 : 1 + len(samples)] = samples
        images = grid.reshape(n_clusters, 1 + n_samples, *image_shape)
        # Generated samples may have outlying pixels, which would reduce the contrast.
        vmin, vmax = np.percentile(self.centers, [1, 99])

        image_ax = self.ax_[0]
        column_centers, row_centers = plot_images(image_ax, images, vmin, vmax)
        image_ax.axvline(column_centers[:2].mean(), color="black", linewidth=1)
        cluster_labels = [self._cluster_label(cluster) for cluster in range(n_clusters)]
        image_ax.set_yticks(row_centers, cluster_labels)
        image_ax.set_xticks(
            [column_centers[0], column_centers[1:].mean()],
            ["center", self.samples_name],
        )
        image_ax.xaxis.tick_top()
        image_ax.set_ylabel("cluster")

    def _plot_profiles(self, ax: Axes | Sequence[Axes] | None) -> None:
        n_clusters, n_features = self.centers.shape
        self.ax_ = make_profile_axes(
            ax, type(self).__name__, n_clusters, n_features, self.feature_names
        )
        for cluster, profile_ax in enumerate(self.ax_):
            color, _ = get_color_and_marker(cluster)
            plot_profiles(
                profile_ax,
                self.samples[cluster],
                self.feature_names,
                color="0.6",
                linewidth=0.7,
            )
            plot_profiles(
                profile_ax,
                self.centers[cluster],
                self.feature_names,
                color=color,
                linewidth=2.5,
            )
            profile_ax.set_title(self._cluster_label(cluster), fontsize="medium")

    def _cluster_label(self, cluster: int) -> str:
        """Return the index of a cluster and its number of training samples."""
        return f"{cluster} ({self.sizes[cluster]} samples)"
