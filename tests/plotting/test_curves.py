import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA

from skvade.plotting import (
    TrainingCurveDisplay,
)


def test_curves_are_those_of_the_estimator(fitted_3d, plt):
    _, axes = plt.subplots(1, 4)
    display = TrainingCurveDisplay.from_estimator(fitted_3d, ax=axes)
    assert list(display.ax_) == list(axes)
    bounds, terms = fitted_3d.lower_bounds_, fitted_3d.reconstruction_terms_
    for (epochs, values), expected in zip(
        [line.get_data() for ax in axes for line in ax.lines],
        [
            fitted_3d.pretrain_loss_curve_,
            bounds,
            fitted_3d.validation_scores_,
            terms,
            np.array(bounds) - terms,
        ],
        strict=True,
    ):
        assert_array_equal(epochs, np.arange(1, len(expected) + 1))
        assert_array_equal(values, expected)
    legend = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert legend == ["training rows", "held-out rows"]


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_a_stage_without_epochs_has_no_panel(tiny, X):
    model = tiny(pretrain_max_iter=0, early_stopping=False).fit(X)
    ax, *parts = TrainingCurveDisplay.from_estimator(model).ax_
    assert len(parts) == 2
    assert_array_equal(ax.lines[0].get_ydata(), model.lower_bounds_)
    assert ax.get_legend() is None


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_imitation_is_drawn_over_its_epochs(tiny, X):
    model = tiny(
        embedding=PCA(2), embedding_input="autoencoder", embedding_max_iter=4
    ).fit(X)
    pretraining, *_ = TrainingCurveDisplay.from_estimator(model).ax_
    data, coordinates = pretraining.lines
    assert_array_equal(data.get_ydata(), model.pretrain_loss_curve_)
    assert_array_equal(coordinates.get_xdata(), [11, 12, 13, 14])
    assert_array_equal(coordinates.get_ydata(), model.embedding_loss_curve_)
