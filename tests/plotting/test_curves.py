import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA

from skvade.plotting import TrainingCurveDisplay


def test_plots_the_curves_of_the_estimator(fitted_3d, plt):
    _, axes = plt.subplots(1, 4)
    display = TrainingCurveDisplay.from_estimator(fitted_3d, ax=axes)
    assert list(display.ax_) == list(axes)
    lower_bounds = fitted_3d.lower_bounds_
    reconstruction_terms = fitted_3d.reconstruction_terms_
    for (epochs, values), expected in zip(
        [line.get_data() for ax in axes for line in ax.lines],
        [
            fitted_3d.pretrain_loss_curve_,
            lower_bounds,
            fitted_3d.validation_scores_,
            reconstruction_terms,
            np.array(lower_bounds) - reconstruction_terms,
        ],
        strict=True,
    ):
        assert_array_equal(epochs, np.arange(1, len(expected) + 1))
        assert_array_equal(values, expected)
    legend = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert legend == ["training samples", "validation samples"]


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_curves_without_epochs_have_no_axes(make_estimator, X):
    model = make_estimator(pretrain_max_iter=0, early_stopping=False).fit(X)
    elbo_ax, *term_axes = TrainingCurveDisplay.from_estimator(model).ax_
    assert len(term_axes) == 2
    assert_array_equal(elbo_ax.lines[0].get_ydata(), model.lower_bounds_)
    assert elbo_ax.get_legend() is None


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_embedding_loss_is_plotted_over_the_last_pretraining_epochs(make_estimator, X):
    model = make_estimator(
        embedding=PCA(2), embedding_input="autoencoder", embedding_max_iter=4
    ).fit(X)
    pretraining_ax, *_ = TrainingCurveDisplay.from_estimator(model).ax_
    pretrain_line, embedding_line = pretraining_ax.lines
    assert_array_equal(pretrain_line.get_ydata(), model.pretrain_loss_curve_)
    assert_array_equal(embedding_line.get_xdata(), [11, 12, 13, 14])
    assert_array_equal(embedding_line.get_ydata(), model.embedding_loss_curve_)
