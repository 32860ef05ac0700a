import numpy as np
import pandas as pd
from numpy.testing import assert_allclose, assert_array_equal

from skvade.plotting import (
    ReconstructionDisplay,
)


def as_pixels(row, limits):
    """A row as an image of (2, 4) with three channels between the limits."""
    low, high = limits
    return ((row.reshape(2, 4, 3) - low) / (high - low)).clip(0, 1)


def test_reconstructions_as_images(fitted_images, get_tile):
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


def test_reconstructions_as_color_images(fitted_images, get_tile):
    model, X = fitted_images
    display = ReconstructionDisplay.from_estimator(model, X[:3], image_shape=(2, 4, 3))
    (ax,) = display.ax_
    limits = X[:3].min(), X[:3].max()
    assert_allclose(get_tile(ax, 0, 1, 2, 4), as_pixels(X[1], limits))
    assert_allclose(
        get_tile(ax, 1, 2, 2, 4), as_pixels(model.reconstruct(X[2:3]), limits)
    )
    assert_array_equal(ax.images[0].get_array()[0], 1)  # the blank edge is white


def test_entries_that_a_table_does_not_know(fitted_dataframe):
    model, frame = fitted_dataframe
    known = frame.mask(frame > frame.quantile(0.9))
    expected, found = (
        ReconstructionDisplay.from_estimator(model, rows, n_samples=4)
        for rows in (known, known.astype("Float64"))
    )
    assert np.isnan(expected.X).any()
    assert_array_equal(found.X, expected.X)
    assert_array_equal(found.errors_, expected.errors_)


def test_reconstructions_as_profiles(fitted_dataframe):
    model, frame = fitted_dataframe
    display = ReconstructionDisplay.from_estimator(model, frame, n_samples=4)
    reconstructed = model.reconstruct(pd.DataFrame(display.X, columns=frame.columns))
    assert len(np.unique(display.X, axis=0)) == 4
    assert set(map(tuple, display.X)) <= set(map(tuple, frame.to_numpy()))
    for row, ax in enumerate(display.ax_):
        assert_array_equal(ax.lines[0].get_xdata(), display.X[row])
        assert_allclose(ax.lines[1].get_xdata(), reconstructed[row])


def test_the_legend_of_profiles_is_above_the_title(fitted_dataframe):
    display = ReconstructionDisplay.from_estimator(*fitted_dataframe, n_samples=2)
    display.figure_.canvas.draw()
    legend = display.ax_[0].get_legend().get_window_extent()
    assert legend.y0 >= display.ax_[0].title.get_window_extent().y1


def test_missing_values_stay_blank_and_do_not_count(fitted_images, get_tile):
    model, X = fitted_images
    some = X[:2].copy()
    some[0, 3] = np.nan
    display = ReconstructionDisplay(
        X=some, X_reconstructed=model.reconstruct(X[:2]), image_shape=(4, 6)
    ).plot()
    squares = (X[:2] - model.reconstruct(X[:2])) ** 2
    expected = [np.delete(squares[0], 3).mean(), squares[1].mean()]
    assert_allclose(display.errors_**2, expected)
    pixels = get_tile(display.ax_[0], 0, 0, 4, 6)
    assert_array_equal(pixels.mask.ravel(), np.arange(24) == 3)
    assert display.ax_[0].images[0].get_clim() == (np.nanmin(some), np.nanmax(some))
