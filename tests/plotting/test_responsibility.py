import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.mixture import GaussianMixture

from skvade.plotting import ResponsibilityDisplay


def test_samples_are_sorted_by_cluster_and_probability():
    responsibilities = [[0.4, 0.6], [0.9, 0.1], [0.2, 0.8], [1, 0], [0.5, 0.5]]
    display = ResponsibilityDisplay.from_predictions(responsibilities)
    assert_array_equal(display.order_, [3, 1, 4, 2, 0])
    heat_map = display.ax_[0].images[0].get_array()
    assert_array_equal(heat_map[:, 0], [1, 0.9, 0.5, 0.2, 0.4])


def test_entropies():
    display = ResponsibilityDisplay.from_predictions([[1, 0, 0, 0], [0.25] * 4])
    assert_allclose(display.entropies_, [0, np.log(4)])
    counts = [bar.get_height() for bar in display.ax_[1].patches]
    assert counts[0] == counts[-1] == 1 and sum(counts) == 2


@pytest.mark.parametrize("n_clusters", [1, 3])
def test_plots_responsibilities_of_any_mixture(X, n_clusters):
    mixture = GaussianMixture(n_clusters, random_state=0).fit(X)
    display = ResponsibilityDisplay.from_estimator(mixture, X)
    assert_array_equal(display.responsibilities, mixture.predict_proba(X))
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    "responsibilities, message",
    [
        ([[0.5, 0.4]], "Got a minimum of 0.4 and a sum of 0.9 instead"),
        ([[1.5, -0.5]], "Got a minimum of -0.5"),
        ([[0, -0.6], [-0.1, -2]], "sum to 1.* a sum of -2.1 .*predict_proba"),
    ],
)
def test_invalid_responsibilities(responsibilities, message):
    with pytest.raises(ValueError, match=message):
        ResponsibilityDisplay.from_predictions(responsibilities)
