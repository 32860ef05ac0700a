"""The estimator with each `covariance_type`: fitted, used, saved, exported, plotted."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from recorders import Snapshots
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import (
    _compute_precision_cholesky,
    _estimate_log_gaussian_prob,
)

from skvade.plotting import ClusterSamplesDisplay, LatentSpaceDisplay

SHAPES = {"diag": (3, 2), "full": (3, 2, 2), "tied": (2, 2), "spherical": (3,)}
CORRELATED = ("full", "tied")


def matrices(model):
    """Give the covariance matrix of each component from the fitted attributes."""
    covariances = model.covariances_
    if model.covariance_type == "spherical":
        return covariances[:, None, None] * np.eye(2)
    if model.covariance_type == "diag":
        return covariances[:, None] * np.eye(2)
    return np.broadcast_to(covariances, (3, 2, 2))


@pytest.fixture(scope="module", params=SHAPES)
def model(request, make_estimator, X):
    """A fitted estimator of each type. It is shared: read it, or change a copy."""
    return make_estimator(covariance_type=request.param, max_iter=10).fit(X)


def test_a_fit_finds_the_groups(model, blobs):
    X, y = blobs
    assert adjusted_rand_score(y, model.labels_) > 0.9
    assert_array_equal(model.predict(X), model.labels_)
    assert model.score(X) == pytest.approx(model.lower_bound_)


def test_covariances_have_the_shape_of_scikit_learn(model):
    covariance_type = model.covariance_type
    assert model.covariances_.shape == SHAPES[covariance_type]
    mixture = GaussianMixture(3, covariance_type=covariance_type)
    mixture.fit(np.random.default_rng(0).normal(size=(50, 2)))
    assert mixture.covariances_.shape == model.covariances_.shape
    assert (np.linalg.eigvalsh(matrices(model)) > 0).all()
    if covariance_type in CORRELATED:
        assert (matrices(model)[:, 0, 1] != 0).all()


def test_responsibilities_are_those_of_the_attributes(model, X):
    """By scikit-learn's densities, less half the trace of the posterior's variance."""
    module = model.to_torch("cpu")
    with torch.no_grad():
        mean, log_variance = module.encode(torch.tensor(X, dtype=torch.float32))
    factors = _compute_precision_cholesky(model.covariances_, model.covariance_type)
    log_density = _estimate_log_gaussian_prob(
        mean.double().numpy(), model.means_, factors, model.covariance_type
    )
    precisions = np.linalg.inv(matrices(model)).diagonal(axis1=1, axis2=2)
    traces = log_variance.double().exp().numpy() @ precisions.T
    log_joint = np.log(model.weights_) + log_density - 0.5 * traces
    assert_allclose(model.predict_proba(X), softmax(log_joint, 1), atol=1e-4)


def test_samples_have_the_covariance_of_their_component(model):
    """In the latent space."""
    prior = model.to_torch("cpu").double().prior
    generator = torch.Generator().manual_seed(0)
    drawn = prior.sample(torch.full((20_000,), 1), generator).detach().numpy()
    expected = matrices(model)[1]
    assert_allclose(np.cov(drawn.T), expected, atol=0.05 * np.trace(expected))
    samples, labels = model.sample(50, random_state=0)
    assert np.isfinite(samples).all()
    assert set(labels) <= {0, 1, 2}


def test_copies_and_snapshots_predict_the_same(model, make_estimator, X):
    restored = pickle.loads(pickle.dumps(model))
    for name in ("predict_proba", "score_samples", "reconstruct"):
        assert_array_equal(getattr(restored, name)(X), getattr(model, name)(X))
    assert_array_equal(restored.sample(5)[0], model.sample(5)[0])
    snapshots = Snapshots()
    settings = {"covariance_type": model.covariance_type, "max_iter": 2}
    fitted = make_estimator(**settings).set_callbacks(snapshots).fit(X)
    last = snapshots.at_epochs()[-1]
    assert_allclose(last.score_samples(X), fitted.score_samples(X))


def test_skops_restores_the_model(model, X):
    skops = pytest.importorskip("skops.io")
    restored = skops.loads(
        skops.dumps(model), trusted=["skvade._estimator.VaDEClusterer"]
    )
    assert_array_equal(restored.predict_proba(X), model.predict_proba(X))


def test_training_goes_on(model, X):
    resumed = copy.deepcopy(model).set_params(warm_start=True, max_iter=1).fit(X)
    assert resumed.lower_bound_ > model.lower_bound_ - 1
    streamed = copy.deepcopy(model).partial_fit(X).partial_fit(X)
    assert streamed.lower_bound_ > model.lower_bound_ - 1
    other = "full" if model.covariance_type != "full" else "diag"
    with pytest.raises(ValueError, match=f"Got covariance_type='{other}' instead"):
        copy.deepcopy(model).set_params(covariance_type=other).partial_fit(X)


# --- The start ----------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", SHAPES)
def test_gmm_starts_from_a_mixture_of_the_same_type(
    make_estimator, X, covariance_type, monkeypatch
):
    asked = []
    fit_predict = GaussianMixture.fit_predict

    def recorded(self, X):
        asked.append(self.covariance_type)
        return fit_predict(self, X)

    monkeypatch.setattr(GaussianMixture, "fit_predict", recorded)
    make_estimator(covariance_type=covariance_type, init="gmm", max_iter=1).fit(X)
    assert asked == [covariance_type]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", CORRELATED)
def test_more_latent_dimensions_than_units(make_estimator, X, covariance_type):
    """The embedding then lies in a plane, which no axis of the latent space is in."""
    model = make_estimator(
        covariance_type=covariance_type,
        pretraining="neighbors",
        pretrain_max_iter=1,
        init="communities",
        latent_dim=5,
        hidden_layer_sizes=(2,),
    ).fit(X)
    assert np.isfinite(model.predict_proba(X)).all()
    assert (np.linalg.eigvalsh(model.covariances_) > 0).all()


# --- What correlations are for ------------------------------------------------------


@pytest.fixture(scope="module")
def crossing():
    """Two long groups that cross: an X in the plane, embedded in three dimensions."""
    rng = np.random.default_rng(0)
    along, across = rng.normal(size=(2, 600)) * [[3.0], [0.2]]
    labels = np.arange(600) % 2
    sign = 2 * labels - 1
    plane = np.stack([along - sign * across, sign * along + across], axis=1)
    return plane @ rng.normal(size=(2, 3)), labels


# They have their mode in common, where they cross.
@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_full_covariances_keep_crossing_groups_apart(make_estimator, crossing):
    """Diagonal ones mix them, from the same start, and the bound is lower."""
    X, y = crossing
    settings = {
        "n_clusters": 2,
        "activation": "identity",
        "init": y,
        "max_iter": 30,
        "pretrain_max_iter": 20,
        "learning_rate_init": 5e-3,
        "batch_size": 64,
    }
    agreement, bound = {}, {}
    for covariance_type in ("diag", "full"):
        estimator = make_estimator(covariance_type=covariance_type, **settings)
        model = estimator.fit(X)
        agreement[covariance_type] = adjusted_rand_score(y, model.labels_)
        bound[covariance_type] = model.lower_bound_
    assert agreement["full"] > 0.8
    assert agreement["full"] > agreement["diag"] + 0.2
    assert bound["full"] > bound["diag"]


# --- Diagnosis and pictures ---------------------------------------------------------


@pytest.fixture(scope="module")
def parallel():
    """Three groups, far longer than wide, whose long axes are parallel."""
    rng = np.random.default_rng(0)
    along = rng.normal(size=(300, 1)) * 4
    labels = np.arange(300) % 3
    across = 3.0 * labels[:, None] + 0.3 * rng.normal(size=(300, 1))
    return np.hstack([along + across, along - across, along]), labels


@pytest.mark.parametrize("covariance_type", CORRELATED)
def test_modes_are_those_of_the_covariances(
    make_estimator, parallel, covariance_type, recwarn
):
    """By variances alone these groups share a mode; by their covariances none do."""
    X, labels = parallel
    settings = {"init": labels, "max_iter": 1, "latent_dim": 2}
    with pytest.warns(ConvergenceWarning, match="Clusters share a mode"):
        make_estimator(**settings).fit(X)
    recwarn.clear()
    make_estimator(**settings, covariance_type=covariance_type).fit(X)
    assert not [w for w in recwarn if "share a mode" in str(w.message)]


def test_ellipses_are_those_of_the_covariances(model, X):
    display = LatentSpaceDisplay.from_estimator(model, X)
    assert_allclose(display.covariances, matrices(model), atol=1e-6)
    assert len(display.ellipses_) == 3


def test_generated_samples_have_the_moments_of_their_component(model, monkeypatch):
    monkeypatch.setattr(type(model), "inverse_transform", lambda self, Z: Z)
    monkeypatch.setattr(ClusterSamplesDisplay, "plot", lambda self, ax: self)
    display = ClusterSamplesDisplay.from_estimator(model, n_samples=4000)
    for mean, covariance, Z in zip(
        model.means_, matrices(model), display.samples, strict=True
    ):
        scale = np.trace(covariance)
        assert_allclose(Z.mean(0), mean, atol=0.1 * np.sqrt(scale))
        assert_allclose(np.cov(Z.T), covariance, atol=0.1 * scale)


def test_a_changed_parameter_is_an_error_of_the_plot(model, X):
    changed = copy.deepcopy(model)
    changed.covariance_type = "full" if model.covariance_type != "full" else "tied"
    message = rf"Got covariance_type='{changed.covariance_type}' and shape .* Fit again"
    with pytest.raises(ValueError, match=message):
        LatentSpaceDisplay.from_estimator(changed, X)
