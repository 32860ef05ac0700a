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

DISPLAYS = [
    ClusterSamplesDisplay,
    LatentSpaceDisplay,
    ReconstructionDisplay,
    ResponsibilityDisplay,
    TrainingCurveDisplay,
]
# They are tested without X; the others require it.
DISPLAYS_WITHOUT_X = (ClusterSamplesDisplay, TrainingCurveDisplay)
DISPLAYS_OF_SAMPLES = [ClusterSamplesDisplay, ReconstructionDisplay]


def make_display(display_class, estimator, X, **kwargs):
    if display_class in DISPLAYS_WITHOUT_X:
        return display_class.from_estimator(estimator, **kwargs)
    return display_class.from_estimator(estimator, X, **kwargs)


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_creates_a_figure(display_class, fitted, X, plt):
    display = make_display(display_class, fitted, X)
    assert plt.get_fignums() == [display.figure_.number]
    assert all(ax.figure is display.figure_ for ax in np.ravel(display.ax_))
    display.figure_.canvas.draw()


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_plots_within_a_given_ax(display_class, fitted, X, plt):
    figure, (left_ax, right_ax) = plt.subplots(1, 2)
    display = make_display(display_class, fitted, X, ax=right_ax)
    figure.canvas.draw()

    assert plt.get_fignums() == [figure.number]
    assert display.figure_ is figure
    assert not left_ax.has_data()
    area = right_ax.get_subplotspec().get_position(figure)
    for ax in np.ravel(display.ax_):
        assert area.x0 - 1e-6 <= ax.get_position().x0
        assert ax.get_position().x1 <= area.x1 + 1e-6


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_plot_creates_another_figure(display_class, fitted, X):
    display = make_display(display_class, fitted, X)
    first_figure = display.figure_
    assert display.plot() is display
    assert display.figure_ is not first_figure


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_unfitted_estimator(display_class, X):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        make_display(display_class, VaDEClusterer(), X)


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_estimator_without_required_attributes(display_class, X):
    model = make_pipeline(StandardScaler(), KMeans(3, n_init=1)).fit(X)
    message = (
        rf"{display_class.__name__} requires an estimator with the attribute '.*'\. "
        "Got a Pipeline, .* for a Pipeline, pass the last step"
    )
    with pytest.raises(TypeError, match=message):
        make_display(display_class, model, X)


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_missing_matplotlib(display_class, fitted, X, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    name = display_class.__name__
    message = rf"{name} requires matplotlib.*pip install 'skvade\[plot\]'"
    with pytest.raises(ImportError, match=message):
        make_display(display_class, fitted, X)


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


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_settings_and_backend_are_unchanged(display_class, fitted, X):
    before = mpl.rcParams.copy()
    make_display(display_class, fitted, X)
    assert mpl.rcParams == before


@pytest.mark.parametrize("display_class", DISPLAYS_OF_SAMPLES)
@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3", True])
def test_invalid_n_samples(display_class, fitted, X, n_samples):
    message = f"n_samples must be an int of at least 1. Got {n_samples!r} instead"
    with pytest.raises(ValueError, match=message):
        display_class.from_estimator(fitted, X, n_samples=n_samples)


@pytest.mark.parametrize("display_class", DISPLAYS_OF_SAMPLES)
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
def test_invalid_image_shape(display_class, fitted, X, image_shape, message):
    with pytest.raises(ValueError, match=message):
        display_class.from_estimator(fitted, X, image_shape=image_shape)


@pytest.mark.parametrize("display_class", DISPLAYS_OF_SAMPLES)
@pytest.mark.parametrize("to_sparse", [csr_array, coo_matrix])
def test_sparse_X_is_plotted_like_dense_X(display_class, make_estimator, to_sparse):
    X = np.random.default_rng(0).poisson(0.5, size=(60, 5)).astype(float)
    model = make_estimator().fit(X)
    display = display_class.from_estimator(model, to_sparse(X), n_samples=4)
    expected = display_class.from_estimator(model, X, n_samples=4)
    for ax, expected_ax in zip(display.ax_, expected.ax_, strict=True):
        for line, expected_line in zip(ax.lines, expected_ax.lines, strict=True):
            assert_allclose(line.get_ydata(), expected_line.get_ydata(), atol=1e-12)
