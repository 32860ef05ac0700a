import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans

from skvade import VaDEClusterer

ROOT = Path(__file__).resolve().parents[1]

PLAIN = {type(None), bool, int, float, str}


def types_within(value):
    """Types of all values in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return types_within(list(value.items()))
    if isinstance(value, list | tuple):
        return set().union(*map(types_within, value))
    return {type(value)}


def by_joblib(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "pickle, protocol 2": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "joblib": by_joblib,
    "deepcopy": copy.deepcopy,
}


def assert_same_answers(model, other, X):
    for method in ("predict_proba", "transform", "reconstruct", "score_samples"):
        assert_array_equal(getattr(model, method)(X), getattr(other, method)(X))
    for drawn, expected in zip(other.sample(5), model.sample(5), strict=True):
        assert_array_equal(drawn, expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_fitted_state_is_plain_python_and_numpy(tiny, X_unit, likelihood):
    model = tiny(likelihood=likelihood, early_stopping=True).fit(X_unit)
    assert types_within(vars(model)) <= PLAIN | {np.ndarray}
    arrays = [v for v in vars(model).values() if isinstance(v, np.ndarray)]
    assert all(array.dtype.kind in "if" for array in arrays)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_gives_the_same_answers(tiny, X_unit, likelihood, way):
    model = tiny(likelihood=likelihood).fit(X_unit)
    restored = WAYS[way](model)
    assert_same_answers(model, restored, X_unit)
    assert restored.get_params() == model.get_params()
    assert restored.lower_bounds_ == model.lower_bounds_


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_can_be_fitted_on(fitted, X, way):
    model = WAYS[way](fitted).set_params(warm_start=True, max_iter=1).fit(X)
    assert model.n_iter_ == 1
    assert fitted.n_iter_ == 3


@pytest.mark.parametrize("way", WAYS)
def test_an_unfitted_estimator_can_be_copied(tiny, way):
    restored = WAYS[way](tiny())
    assert restored.get_params() == tiny().get_params()
    assert vars(restored).keys() == vars(tiny()).keys()


def test_memory_mapped_model(fitted, X, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert isinstance(mapped.means_, np.memmap)
    assert_same_answers(fitted, mapped, X)
    mapped.set_params(warm_start=True).fit(X)
    assert_array_equal(mapped.predict(X), mapped.labels_)


FRESH_PROCESS = """
import pickle, pathlib, joblib, numpy as np

X = np.load("X.npy")
model = pickle.loads(pathlib.Path("model.pickle").read_bytes())
answers = {name: getattr(model, name)(X) for name in ("predict_proba", "transform")}
np.savez("answers.npz", sample=model.sample(5)[0], **answers)
# Last: torch complains of a read-only array once in a process.
joblib.load("model.joblib", mmap_mode="r").predict(X)
"""


@pytest.fixture(scope="module")
def fresh_process(fitted, X, tmp_path_factory):
    """A process of its own that has opened the model; its folder and its messages."""
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


def test_cloudpickle_into_a_fresh_process(fresh_process, fitted, X):
    answers = np.load(fresh_process[0] / "answers.npz")
    assert_array_equal(answers["predict_proba"], fitted.predict_proba(X))
    assert_array_equal(answers["transform"], fitted.transform(X))
    assert_array_equal(answers["sample"], fitted.sample(5)[0])


def test_a_fresh_process_reads_models_in_silence(fresh_process):
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
def test_whatever_init_is_can_be_cloned(init):
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
