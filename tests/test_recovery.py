"""Recovery of known mixtures with the default parameters, and in fewer steps."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer

# The clusters are tested, not convergence.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.* lie farther from the mean", "ignore:Cluster . is .* times as wide"
)

SHORT = {"pretrain_max_iter": 10, "max_iter": 30}


@pytest.mark.parametrize(("seed", "params"), [(0, {}), (1, SHORT), (2, SHORT)])
def test_recovers_separated_blobs_in_20_dimensions(seed, params):
    X, y = make_blobs(300, 20, centers=5, random_state=seed)
    labels = VaDEClusterer(5, random_state=seed, **params).fit_predict(X)
    assert adjusted_rand_score(y, labels) > 0.95


@pytest.mark.parametrize(("seed", "params"), [(0, {}), (1, SHORT)])
def test_recovers_small_clusters_and_their_weights(seed, params):
    sizes = np.array([200, 200, 20])
    X, y = make_blobs(sizes, 20, random_state=seed)
    model = VaDEClusterer(3, random_state=seed, **params).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    np.testing.assert_allclose(model.weights_, sizes / 420, rtol=0.2)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_recovers_blobs_in_the_plane(likelihood):
    centers = [[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]]
    X, y = make_blobs(300, centers=centers, cluster_std=0.04, random_state=0)
    model = VaDEClusterer(3, likelihood=likelihood, random_state=0, **SHORT)
    assert adjusted_rand_score(y, model.fit_predict(X.clip(0, 1))) > 0.95
