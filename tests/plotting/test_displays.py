import sys

import matplotlib as mpl
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import coo_matrix, csr_array
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer
from skvade.plotting import (
    ClusterSamplesDisplay,
    LatentSpaceDisplay,
    ReconstructionDisplay,
    ResponsibilityDisplay,
    TrainingCurveDisplay,
)

DISPLAYS = {
    TrainingCurveDisplay: lambda model, X: (model,),
    LatentSpaceDisplay: lambda model, X: (model, X),
    ClusterSamplesDisplay: lambda model, X: (model,),
    ReconstructionDisplay: lambda model, X: (model, X),
    ResponsibilityDisplay: lambda model, X: (model, X),
}
all_displays = pytest.mark.parametrize("display", DISPLAYS)


@all_displays
def test_draws_into_a_new_figure_and_renders(display, fitted, X, plt):
    drawn = display.from_estimator(*DISPLAYS[display](fitted, X))
    assert plt.get_fignums() == [drawn.figure_.number]
    assert all(ax.figure is drawn.figure_ for ax in np.ravel(drawn.ax_))
    drawn.figure_.canvas.draw()


@all_displays
def test_draws_where_told_to(display, fitted, X, plt):
    figure, (left, right) = plt.subplots(1, 2)
    drawn = display.from_estimator(*DISPLAYS[display](fitted, X), ax=right)
    figure.canvas.draw()

    assert plt.get_fignums() == [figure.number]
    assert drawn.figure_ is figure
    assert not left.has_data()
    # Panels in the place of one lie within it.
    place = right.get_subplotspec().get_position(figure)
    for ax in np.ravel(drawn.ax_):
        assert place.x0 - 1e-6 <= ax.get_position().x0
        assert ax.get_position().x1 <= place.x1 + 1e-6


@all_displays
def test_draws_again(display, fitted, X, plt):
    drawn = display.from_estimator(*DISPLAYS[display](fitted, X))
    first = drawn.figure_
    assert drawn.plot() is drawn
    assert drawn.figure_ is not first


@all_displays
def test_needs_a_fitted_estimator(display, X):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        display.from_estimator(*DISPLAYS[display](VaDEClusterer(), X))


@all_displays
def test_needs_an_estimator_with_what_it_shows(display, X):
    model = make_pipeline(StandardScaler(), KMeans(3, n_init=1)).fit(X)
    message = (
        rf"{display.__name__} requires an estimator with the attribute '.*'\. "
        "Got a Pipeline, .* of a Pipeline, pass the last step"
    )
    with pytest.raises(TypeError, match=message):
        display.from_estimator(*DISPLAYS[display](model, X))


@all_displays
def test_names_the_extra_where_matplotlib_is_missing(display, fitted, X, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = rf"{display.__name__} requires matplotlib.*pip install 'skvade\[plot\]'"
    with pytest.raises(ImportError, match=message):
        display.from_estimator(*DISPLAYS[display](fitted, X))


@pytest.mark.parametrize(
    "n_axes, got",
    [(1, "1 Axes that is not part of a subplot grid"), (3, "3 Axes")],
)
def test_invalid_axes(fitted, plt, n_axes, got):
    figure = plt.figure()
    axes = [figure.add_axes([0.1, 0.1, 0.2, 0.2]) for _ in range(n_axes)]
    message = f"TrainingCurveDisplay plots on 4 Axes. ax must be .* Got {got} instead"
    with pytest.raises(ValueError, match=message):
        TrainingCurveDisplay.from_estimator(fitted, ax=axes)


@all_displays
def test_leaves_settings_and_backend(display, fitted, X):
    before = mpl.rcParams.copy()
    display.from_estimator(*DISPLAYS[display](fitted, X))
    assert mpl.rcParams == before


rows_displays = pytest.mark.parametrize(
    "display", [ClusterSamplesDisplay, ReconstructionDisplay]
)


@rows_displays
@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3", True])
def test_wrong_number_of_rows(display, fitted, X, n_samples):
    message = f"n_samples must be an int of at least 1. Got {n_samples!r} instead"
    with pytest.raises(ValueError, match=message):
        display.from_estimator(fitted, X, n_samples=n_samples)


@rows_displays
@pytest.mark.parametrize(
    "image_shape, message",
    [
        ((2, 3), r"image_shape=\(2, 3\) holds 6 values, .* n_features=5. Pass"),
        (5, r"image_shape must be .* Got 5 instead"),
        ((5,), r"image_shape must be \(height, width\).* Got \(5,\) instead"),
        ((1, 5, 2), r"\(height, width, 3\), .* Got \(1, 5, 2\) instead"),
        ((-1, -5), r"of positive ints.* Got \(-1, -5\) instead"),
        ((1.0, 5.0), r"of positive ints.* Got \(1.0, 5.0\) instead"),
    ],
)
def test_wrong_image_shape(display, fitted, X, image_shape, message):
    with pytest.raises(ValueError, match=message):
        display.from_estimator(fitted, X, image_shape=image_shape)


@rows_displays
@pytest.mark.parametrize("to_sparse", [csr_array, coo_matrix])
def test_sparse_rows_are_drawn_as_dense_ones(display, tiny, to_sparse):
    X = np.random.default_rng(0).poisson(0.5, size=(60, 5)).astype(float)
    model = tiny().fit(X)
    drawn, expected = (
        display.from_estimator(model, rows, n_samples=4) for rows in (to_sparse(X), X)
    )
    for ax, other in zip(drawn.ax_, expected.ax_, strict=True):
        for line, same in zip(ax.lines, other.lines, strict=True):
            assert_allclose(line.get_ydata(), same.get_ydata(), atol=1e-12)
