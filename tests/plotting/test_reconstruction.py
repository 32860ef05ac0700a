import numpy as np
import pandas as pd
from numpy.testing import assert_allclose, assert_array_equal

from skvade.plotting import ReconstructionDisplay


def to_color_image(sample, vmin, vmax):
    """Reshape a sample to a color image of 2 x 4 pixels and scale it to [0, 1]."""
    return ((sample.reshape(2, 4, 3) - vmin) / (vmax - vmin)).clip(0, 1)


def test_plots_reconstructions_as_images(fitted_images, get_tile):
    model, X = fitted_images
    display = ReconstructionDisplay.from_estimator(model, X[:3], image_shape=(4, 6))
    (ax,) = display.ax_
    reconstructed = model.reconstruct(X[:3])
    for column in range(3):
        assert_array_equal(get_tile(ax, 0, column, 4, 6), X[column].reshape(4, 6))
        expected = reconstructed[column].reshape(4, 6)
        assert_allclose(get_tile(ax, 1, column, 4, 6), expected)
    errors = np.sqrt(((X[:3] - reconstructed) ** 2).mean(axis=1))
    assert_allclose(display.errors_, errors)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [f"{error:.2g}" for error in errors]


def test_plots_reconstructions_as_color_images(fitted_images, get_tile):
    model, X = fitted_images
    display = ReconstructionDisplay.from_estimator(model, X[:3], image_shape=(2, 4, 3))
    (ax,) = display.ax_
    vmin, vmax = X[:3].min(), X[:3].max()
    original = to_color_image(X[1], vmin, vmax)
    reconstruction = to_color_image(model.reconstruct(X[2:3]), vmin, vmax)
    assert_allclose(get_tile(ax, 0, 1, 2, 4), original)
    assert_allclose(get_tile(ax, 1, 2, 2, 4), reconstruction)
    assert_array_equal(ax.images[0].get_array()[0], 1)  # The padding is white.


def test_missing_values_of_a_dataframe(fitted_dataframe):
    model, X_df = fitted_dataframe
    X_missing = X_df.mask(X_df > X_df.quantile(0.9))
    expected, display = (
        ReconstructionDisplay.from_estimator(model, X, n_samples=4)
        for X in (X_missing, X_missing.astype("Float64"))
    )
    assert np.isnan(expected.X).any()
    assert_array_equal(display.X, expected.X)
    assert_array_equal(display.errors_, expected.errors_)


def test_plots_reconstructions_as_profiles(fitted_dataframe):
    model, X = fitted_dataframe
    display = ReconstructionDisplay.from_estimator(model, X, n_samples=4)
    reconstructed = model.reconstruct(pd.DataFrame(display.X, columns=X.columns))
    assert len(np.unique(display.X, axis=0)) == 4
    assert set(map(tuple, display.X)) <= set(map(tuple, X.to_numpy()))
    for sample, ax in enumerate(display.ax_):
        assert_array_equal(ax.lines[0].get_xdata(), display.X[sample])
        assert_allclose(ax.lines[1].get_xdata(), reconstructed[sample])


def test_legend_of_profiles_is_above_the_title(fitted_dataframe):
    display = ReconstructionDisplay.from_estimator(*fitted_dataframe, n_samples=2)
    display.figure_.canvas.draw()
    legend = display.ax_[0].get_legend().get_window_extent()
    assert legend.y0 >= display.ax_[0].title.get_window_extent().y1


def test_missing_values_are_blank_and_excluded_from_the_error(fitted_images, get_tile):
    model, X = fitted_images
    X_missing = X[:2].copy()
    X_missing[0, 3] = np.nan
    display = ReconstructionDisplay(
        X=X_missing, X_reconstructed=model.reconstruct(X[:2]), image_shape=(4, 6)
    ).plot()
    squared_errors = (X[:2] - model.reconstruct(X[:2])) ** 2
    expected = [np.delete(squared_errors[0], 3).mean(), squared_errors[1].mean()]
    assert_allclose(display.errors_**2, expected)
    pixels = get_tile(display.ax_[0], 0, 0, 4, 6)
    assert_array_equal(pixels.mask.ravel(), np.arange(24) == 3)
    assert display.ax_[0].images[0].get_clim() == (
        np.nanmin(X_missing),
        np.nanmax(X_missing),
    )
