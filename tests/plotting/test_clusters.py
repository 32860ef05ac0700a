import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from skvade.plotting import (
    ClusterSamplesDisplay,
)


def test_image_grid_of_clusters(fitted_images, tile):
    model, _ = fitted_images
    display = ClusterSamplesDisplay.from_estimator(
        model, n_samples=3, image_shape=(4, 6)
    )
    (ax,) = display.ax_
    assert ax.images[0].get_array().shape == (4 * 6, 4 * 8)
    for cluster in range(4):
        center = tile(ax, cluster, 0, 4, 6)
        assert_allclose(center, model.cluster_centers_[cluster].reshape(4, 6))
        for sample in range(3):
            expected = display.samples[cluster][sample].reshape(4, 6)
            assert_allclose(tile(ax, cluster, 1 + sample, 4, 6), expected)
    sizes = np.bincount(model.labels_, minlength=4)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{index} ({size} rows)" for index, size in enumerate(sizes)]


def test_generated_rows_are_those_of_the_components(fitted):
    display = ClusterSamplesDisplay.from_estimator(fitted, n_samples=2000)
    for cluster, rows in enumerate(display.samples):
        Z = np.random.default_rng(1).normal(size=(2000, 2))
        Z = fitted.means_[cluster] + np.sqrt(fitted.covariances_[cluster]) * Z
        expected = fitted.inverse_transform(Z)
        standard_error = expected.std(axis=0) * np.sqrt(2 / 2000)
        difference = np.abs(rows.mean(axis=0) - expected.mean(axis=0))
        assert (difference <= 5 * standard_error).all()


def test_rows_of_X_belong_to_their_cluster(fitted, X):
    display = ClusterSamplesDisplay.from_estimator(fitted, X, n_samples=60)
    sizes = np.bincount(fitted.predict(X), minlength=3)
    assert [len(rows) for rows in display.samples] == [min(60, n) for n in sizes]
    for cluster, rows in enumerate(display.samples):
        assert len(np.unique(rows, axis=0)) == len(rows)
        if len(rows):
            assert_array_equal(fitted.predict(rows), cluster)


def test_a_cluster_with_few_rows_leaves_blanks(fitted_images, tile):
    model, X = fitted_images
    display = ClusterSamplesDisplay.from_estimator(
        model, X[:5], n_samples=5, image_shape=(4, 6)
    )
    labels = model.predict(X[:5])
    width = 1 + max(np.bincount(labels))
    assert display.ax_[0].images[0].get_array().shape == (4 * 6, width * 8)
    for cluster in range(4):
        n_blank = sum(
            tile(display.ax_[0], cluster, column, 4, 6).mask.all()
            for column in range(width)
        )
        assert n_blank == width - 1 - np.sum(labels == cluster)


def test_the_choice_of_rows_repeats(fitted, X):
    first, again, other = (
        ClusterSamplesDisplay.from_estimator(fitted, rows, random_state=seed).samples
        for rows, seed in [(X, 0), (X, 0), (X, 1)]
    )
    assert_array_equal(np.vstack(first), np.vstack(again))
    assert (np.vstack(first) != np.vstack(other)).any()


def test_profiles_of_clusters(fitted):
    display = ClusterSamplesDisplay.from_estimator(fitted, n_samples=4)
    for cluster, ax in enumerate(display.ax_):
        features, center = ax.lines[-1].get_data()
        assert_array_equal(features, np.arange(5))
        assert_allclose(center, fitted.cluster_centers_[cluster])
        drawn = [line.get_ydata() for line in ax.lines[:-1]]
        assert_allclose(drawn, display.samples[cluster])
    assert display.ax_[0].get_xlabel() == "feature"


def test_profiles_of_named_features(fitted_frame):
    model, frame = fitted_frame
    display = ClusterSamplesDisplay.from_estimator(model, frame, n_samples=2)
    names = [label.get_text() for label in display.ax_[0].get_yticklabels()]
    assert names == list(frame.columns)
    center, features = display.ax_[1].lines[-1].get_data()
    assert_array_equal(features, np.arange(5))
    assert_allclose(center, model.cluster_centers_[1])
