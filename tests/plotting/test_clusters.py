import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from skvade.plotting import ClusterSamplesDisplay


def test_plots_centers_and_samples_as_images(fitted_images, get_tile):
    model, _ = fitted_images
    display = ClusterSamplesDisplay.from_estimator(
        model, n_samples=3, image_shape=(4, 6)
    )
    (ax,) = display.ax_
    assert ax.images[0].get_array().shape == (4 * 6, 4 * 8)
    for cluster in range(4):
        center = get_tile(ax, cluster, 0, 4, 6)
        assert_allclose(center, model.cluster_centers_[cluster].reshape(4, 6))
        for sample in range(3):
            expected = display.samples[cluster][sample].reshape(4, 6)
            assert_allclose(get_tile(ax, cluster, 1 + sample, 4, 6), expected)
    sizes = np.bincount(model.labels_, minlength=4)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{index} ({size} samples)" for index, size in enumerate(sizes)]


def test_generated_samples_have_the_mean_of_their_component(fitted):
    display = ClusterSamplesDisplay.from_estimator(fitted, n_samples=2000)
    for cluster, samples in enumerate(display.samples):
        Z = np.random.default_rng(1).normal(size=(2000, 2))
        Z = fitted.means_[cluster] + np.sqrt(fitted.covariances_[cluster]) * Z
        expected = fitted.inverse_transform(Z)
        standard_error = expected.std(axis=0) * np.sqrt(2 / 2000)
        difference = np.abs(samples.mean(axis=0) - expected.mean(axis=0))
        assert (difference <= 5 * standard_error).all()


def test_samples_of_X_are_members_of_their_cluster(fitted, X):
    display = ClusterSamplesDisplay.from_estimator(fitted, X, n_samples=60)
    sizes = np.bincount(fitted.predict(X), minlength=3)
    n_samples = [len(samples) for samples in display.samples]
    assert n_samples == [min(60, size) for size in sizes]
    for cluster, samples in enumerate(display.samples):
        assert len(np.unique(samples, axis=0)) == len(samples)
        if len(samples):
            assert_array_equal(fitted.predict(samples), cluster)


def test_clusters_with_fewer_members_have_blank_images(fitted_images, get_tile):
    model, X = fitted_images
    display = ClusterSamplesDisplay.from_estimator(
        model, X[:5], n_samples=5, image_shape=(4, 6)
    )
    labels = model.predict(X[:5])
    n_columns = 1 + max(np.bincount(labels))
    (ax,) = display.ax_
    assert ax.images[0].get_array().shape == (4 * 6, n_columns * 8)
    for cluster in range(4):
        n_blank = sum(
            get_tile(ax, cluster, column, 4, 6).mask.all()
            for column in range(n_columns)
        )
        assert n_blank == n_columns - 1 - np.sum(labels == cluster)


def test_random_state_determines_the_samples(fitted, X):
    first, repeated, other = (
        ClusterSamplesDisplay.from_estimator(fitted, X, random_state=seed).samples
        for seed in (0, 0, 1)
    )
    assert_array_equal(np.vstack(first), np.vstack(repeated))
    assert (np.vstack(first) != np.vstack(other)).any()


def test_plots_centers_and_samples_as_profiles(fitted):
    display = ClusterSamplesDisplay.from_estimator(fitted, n_samples=4)
    for cluster, ax in enumerate(display.ax_):
        features, center = ax.lines[-1].get_data()
        assert_array_equal(features, np.arange(5))
        assert_allclose(center, fitted.cluster_centers_[cluster])
        plotted_samples = [line.get_ydata() for line in ax.lines[:-1]]
        assert_allclose(plotted_samples, display.samples[cluster])
    assert display.ax_[0].get_xlabel() == "feature"


def test_profiles_show_feature_names(fitted_dataframe):
    model, X = fitted_dataframe
    display = ClusterSamplesDisplay.from_estimator(model, X, n_samples=2)
    names = [label.get_text() for label in display.ax_[0].get_yticklabels()]
    assert names == list(X.columns)
    center, features = display.ax_[1].lines[-1].get_data()
    assert_array_equal(features, np.arange(5))
    assert_allclose(center, model.cluster_centers_[1])
