import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from starts import one_start

from skvade import VaDEClusterer, __version__

ROOT = Path(__file__).resolve().parents[1]

PLAIN = {type(None), bool, int, float, str}


def types_within(value):
    """Collect the types of all values in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return types_within(list(value.items()))
    if isinstance(value, list | tuple):
        return set().union(*map(types_within, value))
    return {type(value)}


def copy_with_joblib(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "pickle, protocol 2": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "joblib": copy_with_joblib,
    "deepcopy": copy.deepcopy,
}


def assert_same_predictions(model, other, X):
    for name in ("predict_proba", "transform", "reconstruct", "score_samples"):
        assert_array_equal(getattr(model, name)(X), getattr(other, name)(X))
    for drawn, expected in zip(other.sample(5), model.sample(5), strict=True):
        assert_array_equal(drawn, expected)


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def model(request, make_estimator, X_unit):
    """A model of each likelihood that was fitted with validation samples."""
    estimator = make_estimator(likelihood=request.param, early_stopping=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X_unit)


def test_fitted_state_is_plain_python_and_numpy(model):
    assert types_within(vars(model)) <= PLAIN | {np.ndarray}
    arrays = [v for v in vars(model).values() if isinstance(v, np.ndarray)]
    assert all(array.dtype.kind in "if" for array in arrays)


@pytest.mark.parametrize("method", COPIES)
def test_a_copy_gives_the_same_predictions(model, X_unit, method):
    restored = COPIES[method](model)
    assert_same_predictions(model, restored, X_unit)
    assert restored.get_params() == model.get_params()
    assert restored.lower_bounds_ == model.lower_bounds_


@pytest.mark.parametrize("method", COPIES)
def test_a_copy_can_be_fitted_on(fitted, X, method):
    model = COPIES[method](fitted).set_params(warm_start=True, max_iter=1).fit(X)
    assert model.n_iter_ == 1
    assert fitted.n_iter_ == 3


@pytest.mark.parametrize("method", COPIES)
def test_an_unfitted_estimator_can_be_copied(make_estimator, method):
    restored = COPIES[method](make_estimator())
    assert restored.get_params() == make_estimator().get_params()
    assert vars(restored).keys() == vars(make_estimator()).keys()


def test_memory_mapped_model(fitted, X, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert isinstance(mapped.means_, np.memmap)
    assert_same_predictions(fitted, mapped, X)
    mapped.set_params(warm_start=True).fit(X)
    assert_array_equal(mapped.predict(X), mapped.labels_)


FRESH_PROCESS = """
import pickle, pathlib, joblib, numpy as np

X = np.load("X.npy")
model = pickle.loads(pathlib.Path("model.pickle").read_bytes())
results = {name: getattr(model, name)(X) for name in ("predict_proba", "transform")}
np.savez("results.npz", sample=model.sample(5)[0], **results)
# Last: torch warns of a read-only array once in a process.
joblib.load("model.joblib", mmap_mode="r").predict(X)
"""


@pytest.fixture(scope="module")
def fresh_process(fitted, X, tmp_path_factory):
    """Load the model in another process; give its folder and its error messages."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "model.pickle").write_bytes(cloudpickle.dumps(fitted))
    joblib.dump(fitted, folder / "model.joblib")
    np.save(folder / "X.npy", X)
    command = [sys.executable, "-W", "error", "-c", FRESH_PROCESS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    return folder, run.stderr


@one_start
def test_cloudpickle_into_a_fresh_process(fresh_process, fitted, X):
    results = np.load(fresh_process[0] / "results.npz")
    assert_array_equal(results["predict_proba"], fitted.predict_proba(X))
    assert_array_equal(results["transform"], fitted.transform(X))
    assert_array_equal(results["sample"], fitted.sample(5)[0])


@one_start
def test_a_fresh_process_loads_models_without_a_warning(fresh_process):
    assert fresh_process[1] == ""


# --- Clones -------------------------------------------------------------------------


def test_a_clone_has_the_parameters_and_not_the_state(fitted, X):
    cloned = clone(fitted)
    assert cloned.get_params() == fitted.get_params()
    assert not [name for name in vars(cloned) if name.endswith("_")]
    assert_array_equal(cloned.fit(X).means_, fitted.means_)


@pytest.mark.parametrize(
    "init",
    [[0, 1] * 75, np.arange(150) % 2, KMeans(3)],
    ids=["list", "array", "KMeans"],
)
def test_every_kind_of_init_can_be_cloned(init):
    cloned = clone(VaDEClusterer(init=init)).init
    assert type(cloned) is type(init)
    if isinstance(init, KMeans):
        assert cloned is not init
    else:
        assert_array_equal(cloned, init)


def test_parameters_of_the_clusterer_given_as_init_can_be_searched():
    model = VaDEClusterer(init=KMeans(3)).set_params(init__n_clusters=5)
    assert model.init.n_clusters == 5


def test_same_parameters_give_the_same_hash(fitted):
    assert joblib.hash(clone(fitted)) == joblib.hash(clone(fitted))
    assert joblib.hash(fitted) == joblib.hash(copy.deepcopy(fitted))


# --- Versions -----------------------------------------------------------------------


@pytest.fixture
def of_earlier_version(fitted):
    """The fitted estimator as an earlier version would have left it."""
    model = copy.deepcopy(fitted)
    model._version = "0.0.9"
    return model


@pytest.mark.parametrize("method", COPIES)
def test_another_version_warns(of_earlier_version, X, method):
    with pytest.warns(UserWarning) as caught:
        restored = COPIES[method](of_earlier_version)
    message = str(caught[0].message)
    assert len(caught) == 1
    assert (
        f"fitted with skvade 0.0.9 and is loaded with skvade {__version__}" in message
    )
    assert "Install skvade 0.0.9, or fit it again" in message
    assert_same_predictions(of_earlier_version, restored, X)


def test_a_copy_of_a_copy_still_warns(of_earlier_version):
    with pytest.warns(UserWarning, match="was fitted with"):
        restored = copy_with_joblib(of_earlier_version)
    with pytest.warns(UserWarning, match="was fitted with"):
        copy_with_joblib(restored)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_fitted_model_is_of_this_version(of_earlier_version, X, method):
    getattr(of_earlier_version, method)(X)
    copy_with_joblib(of_earlier_version)  # without a warning: they are errors


def test_a_clone_has_no_version(of_earlier_version, fitted):
    assert joblib.hash(clone(of_earlier_version)) == joblib.hash(clone(fitted))


# --- skops --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_skops_asks_to_trust_only_the_class(model, X_unit):
    skops_io = pytest.importorskip("skops.io")
    dumped = skops_io.dumps(model)
    trusted = ["skvade._estimator.VaDEClusterer"]
    assert skops_io.get_untrusted_types(data=dumped) == trusted
    restored = skops_io.loads(dumped, trusted=trusted)
    assert_same_predictions(model, restored, X_unit)
    assert restored.get_params() == model.get_params()
    restored.set_params(warm_start=True, max_iter=1).fit(X_unit)
    assert restored.n_iter_ == 1


def test_skops_warns_of_another_version(of_earlier_version):
    skops_io = pytest.importorskip("skops.io")
    dumped = skops_io.dumps(of_earlier_version)
    with pytest.warns(UserWarning, match="was fitted with skvade 0.0.9"):
        skops_io.loads(dumped, trusted=["skvade._estimator.VaDEClusterer"])
