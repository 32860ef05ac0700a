"""Checkpoints: resumed fits are the same to the last bit; files; errors."""

import copy
import errno
import itertools
import json
import os
import random
import shutil
import time
import zipfile
from functools import partial
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from custom_modules import PlainDecoder, make_encoder
from killing import fit, kill, make_data, make_model
from recorders import Recorder
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer, _checkpoint, callbacks
from skvade.callbacks import Checkpoint

# The few epochs of a test learn little.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Keep:
    """Keep a copy of the file after each epoch."""

    def __init__(self, path):
        self.path, self.files = path, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            copy = self.path.with_name(f"{len(self.files)}.npz")
            self.files.append((context.parent.task_name, shutil.copy(self.path, copy)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.npz"


def fit_and_keep(model, path, *args, **kwargs):
    """Fit with a checkpoint after each epoch; give the hash and the files."""
    keep = Keep(path)
    model.set_callbacks(Checkpoint(path), keep).fit(*args, **kwargs)
    return joblib.hash(model.set_callbacks()), keep.files


@pytest.fixture
def interrupted(make_estimator, X, path):
    """The file of a fit with three epochs of joint training after the second one."""
    _, files = fit_and_keep(make_estimator(pretrain_max_iter=1), path, X)
    return files[-2][1]


# --- The same bits, from every epoch ------------------------------------------------

SHORT = {"pretrain_max_iter": 2, "warmup_max_iter": 1, "max_iter": 2}
PCA_EMBEDDING = {"embedding": PCA(2, random_state=0), "embedding_max_iter": 2}
CUSTOM = {"encoder": make_encoder, "decoder": PlainDecoder}
SETTINGS = {
    "neighbors": {"pretraining": "neighbors", "learning_rate": "cosine"},
    "autoencoder": {
        "pretrain_learning_rate_init": "auto",
        "pretrain_max_iter": 4,  # the rate is judged after the third
        "precision": "float64",
    },
    "stacked": {"pretraining": "stacked"},
    "vae": {"pretraining": "vae", "precision": "float64", "n_draws": 2},
    "embedding of the data": {**PCA_EMBEDDING, "pretrain_max_iter": "auto"},
    "embedding of an embedding": {
        **PCA_EMBEDDING,
        "embedding_input": "autoencoder",
        "embedding_max_samples": 100,
        "pretrain_learning_rate_init": 0.3,
        "init": "kmeans",
        "precision": "float64",
    },
    "early stopping": {
        "early_stopping": True,
        "max_iter": 4,
        "learning_rate_init": 0.1,  # not every epoch is better than the one before
        "warmup_max_iter": 0,
    },
    "convergence": {"tol": 1e6, "n_iter_no_change": 1, "max_iter": 9},
    "an estimated number of clusters": {"n_clusters": "auto"},
    "custom networks": {**CUSTOM, "hidden_layer_sizes": (128, 64)},
}


def unsaved(settings):
    """Give the parameters that a file does not hold."""
    return {
        k: settings[k] for k in ("encoder", "decoder", "embedding") if k in settings
    }


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=[*SETTINGS])
def test_a_fit_ends_with_the_same_bits_from_every_epoch(
    make_estimator, X, path, settings
):
    model = make_estimator(**SHORT | settings)
    expected = joblib.hash(clone(model).fit(X))
    actual, files = fit_and_keep(model, path, X)
    assert actual == expected
    assert len(files) >= 4
    for stage, file in files:
        resumed = VaDEClusterer(**unsaved(settings)).resume(file, X)
        assert joblib.hash(resumed) == expected, (stage, file)


def as_missing(X):
    return np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)


@pytest.mark.parametrize("convert", [csr_array, as_missing, np.float32])
def test_a_fit_of_other_formats_with_weights_ends_with_the_same_bits(
    make_estimator, X, path, convert
):
    samples, weight = convert(X), np.arange(150.0)
    model = make_estimator(**SHORT, early_stopping=True)
    expected, files = fit_and_keep(model, path, samples, sample_weight=weight)
    for _, file in files[1::2]:
        resumed = VaDEClusterer().resume(file, samples, sample_weight=weight)
        assert joblib.hash(resumed) == expected


def test_a_warm_start_ends_with_the_same_bits(make_estimator, X, X_new, path):
    """Its samples may be others than those that set the scaling."""
    settings = {**SHORT, "warm_start": True, "max_iter": 3, "early_stopping": True}
    model = make_estimator(**settings).fit(X)
    expected, files = fit_and_keep(model, path, X_new)
    assert [stage for stage, _ in files] == 3 * ["train"]
    assert expected != joblib.hash(make_estimator(**settings).fit(X_new))
    for _, file in files:
        assert joblib.hash(VaDEClusterer().resume(file, X_new)) == expected


def test_a_fit_goes_on_from_an_error(make_estimator, X, path):
    def fail(name, number, fitted):
        if name == "epoch" and fitted is not None and len(fitted.lower_bounds_) == 2:
            raise ArithmeticError

    model = make_estimator(pretrain_max_iter=2)
    expected = joblib.hash(clone(model).fit(X))
    with pytest.raises(ArithmeticError):
        model.set_callbacks(Checkpoint(path), Recorder(end=fail)).fit(X)
    assert joblib.hash(model.set_callbacks().resume(path, X)) == expected


def test_a_resumed_fit_goes_on_writing(make_estimator, X, path, interrupted):
    expected = joblib.hash(make_estimator(pretrain_max_iter=1).fit(X))
    before = path.read_bytes()
    path.unlink()
    resumed = VaDEClusterer().set_callbacks(Checkpoint(path)).resume(interrupted, X)
    assert joblib.hash(resumed.set_callbacks()) == expected
    assert len(path.read_bytes()) == len(before)
    assert joblib.hash(VaDEClusterer().resume(path, X)) == expected


def test_callbacks_see_the_rest_of_a_resumed_fit(make_estimator, blobs, path):
    X, y = blobs
    model = make_estimator(pretraining="stacked", **SHORT)
    _, files = fit_and_keep(model, path, X)
    (_, third), (_, warmup) = files[2], files[6]
    for file, rest in ((third, {"pretrain": 3, "init": 0}), (warmup, {"warmup": 0})):
        recorder = Recorder()
        VaDEClusterer().set_callbacks(recorder).resume(file, X, y)
        assert recorder.epochs() == {"warmup": 1, "train": 2} | rest
        assert recorder.calls[0 :: len(recorder.calls) - 1] == ["setup", "teardown"]
        assert recorder.data[1] is y
        for context in recorder.root:
            assert context.max_subtasks == len(context._children_map)


def test_nothing_of_the_fit_is_left_on_the_estimator(make_estimator, X, interrupted):
    resumed = VaDEClusterer().resume(interrupted, X)
    assert vars(resumed).keys() == vars(make_estimator().fit(X)).keys()


# --- Killed processes ---------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")
def test_a_killed_fit_ends_with_the_same_bits(tmp_path):
    X, rng, n_kills = make_data(), random.Random(), 0
    start = time.monotonic()
    expected = joblib.hash(make_model("stacked").fit(X))
    seconds = time.monotonic() - start
    for number in range(2):
        path = tmp_path / f"{number}.npz"
        args = torch.get_num_threads(), "stacked"
        n_kills += kill(fit, args, path, rng.uniform(0, seconds / 2))
        assert joblib.hash(VaDEClusterer().resume(path, X)) == expected
    assert n_kills


# --- When files are written ---------------------------------------------------------


@pytest.fixture
def written_epochs(make_estimator, X, path, monkeypatch):
    """Give the numbers of the epochs after which a fit of 14 epochs writes a file."""

    def fit(**settings):
        state_epochs = []

        def write(self, path, is_due):
            if is_due:
                state_epochs.append(total_epochs(self._fit_state))
            return is_due

        monkeypatch.setattr(VaDEClusterer, "_write_checkpoint", write)
        make_estimator().set_callbacks(Checkpoint(path, **settings)).fit(X)
        return state_epochs

    return fit


def total_epochs(state):
    """Count the epochs of all stages: 10 of pretraining, one of the warm-up, 3."""
    before = {"pretrain": 0, "warmup": 10, "train": 11}
    return before[state.progress.stage] + state.progress.epoch


def test_a_file_is_written_after_so_many_epochs_of_all_stages(written_epochs):
    assert written_epochs() == [*range(1, 15)]
    assert written_epochs(every=4) == [4, 8, 12]
    assert written_epochs(every=99) == []


def test_a_file_is_written_after_so_many_seconds(written_epochs, monkeypatch):
    """By a clock that moves on by a second with every look at it."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr(callbacks, "time", clock)
    assert written_epochs(min_interval=4) == [4, 8, 12]
    assert written_epochs(min_interval=4, every=5) == [5, 10]
    assert written_epochs(min_interval=1000) == []


def test_a_fit_without_checkpoint_computes_no_fingerprint(
    make_estimator, X, monkeypatch
):
    monkeypatch.setattr("skvade._data.dataset.fingerprint", None)
    make_estimator().fit(X)


# --- Files that cannot be written ---------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
    ids=str,
)
def test_a_fit_goes_on_where_no_file_can_be_written(
    make_estimator, X, path, monkeypatch, error
):
    def fail(descriptor):
        raise error

    expected = joblib.hash(make_estimator().fit(X))
    model = make_estimator().set_callbacks(Checkpoint(path))
    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):  # once for each fit
        with pytest.warns(UserWarning) as caught:
            model.fit(X)
        (message,) = [str(warning.message) for warning in caught]
        assert f"checkpoint '{path}' can not be written: {error.strerror}" in message
    assert joblib.hash(model.set_callbacks()) == expected
    assert not os.listdir(path.parent)


def test_a_folder_without_permission(make_estimator, X, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("needs a user whom permissions bind")
    model = make_estimator().set_callbacks(Checkpoint(folder / "fit.npz"))
    with pytest.warns(UserWarning, match="can not be written: Permission denied"):
        model.fit(X)


# --- Errors -------------------------------------------------------------------------


def assert_error(model, match, *args, **kwargs):
    """Resume with an error that leaves the estimator as it was."""
    before = dict(vars(model))
    with pytest.raises(ValueError, match=match):
        model.resume(*args, **kwargs)
    assert vars(model) == before


def changed(X):
    X = X.copy()
    X[-1, -1] += 1e-9
    return X


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (changed, "its checksum of X is [0-9]+, but here"),
        (lambda X: X[::-1], "its checksum of X"),
        (lambda X: X[:149], r"its shape of X is \(150, 5\), but here it is \(149, 5\)"),
        (lambda X: X[:, :4], r"its shape of X is \(150, 5\), but here it is \(150, 4"),
        (np.float32, "its dtype of X is float64, but here it is float32"),
        (csr_array, "its format of X is dense, but here it is sparse"),
    ],
)
def test_other_samples_are_an_error(X, interrupted, change, match):
    assert_error(VaDEClusterer(), match, interrupted, change(X))


def test_other_weights_are_an_error(X, interrupted):
    weight = np.arange(1, 151)
    match = "its checksum of sample_weight is"
    assert_error(VaDEClusterer(), match, interrupted, X, sample_weight=weight)
    VaDEClusterer().resume(interrupted, X, sample_weight=np.full(150, 4.0))


def test_samples_in_another_layout_are_the_same(make_estimator, X, interrupted):
    expected = joblib.hash(make_estimator(pretrain_max_iter=1).fit(X))
    resumed = VaDEClusterer().resume(interrupted, np.asfortranarray(X))
    assert joblib.hash(resumed) == expected


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_clusters": 4}, "a fit with n_clusters=3. Got n_clusters=4 instead. Leave"),
        ({"hidden_layer_sizes": [16, 8]}, r"hidden_layer_sizes=\(16,\). Got hidden"),
        ({"init": "gmm"}, "with init='kmeans'. Got init='gmm' instead"),
        ({"random_state": 1}, "with random_state=0. Got random_state=1 instead"),
        ({"encoder": make_encoder}, "with encoder=None. Got encoder=<function"),
    ],
)
def test_other_parameters_are_an_error(X, interrupted, change, match):
    assert_error(VaDEClusterer(**change), match, interrupted, X)


def test_parameters_may_be_given_again(make_estimator, X, interrupted):
    model = make_estimator(pretrain_max_iter=1, verbose=100, device="cpu")
    resumed = model.resume(interrupted, X)
    assert resumed.get_params() == model.get_params()


def test_invalid_parameters_are_an_error(X, interrupted):
    assert_error(VaDEClusterer(n_clusters=0), "must be .* an int", interrupted, X)


def test_a_class_with_other_parameters_is_an_error(X, interrupted):
    class Fewer(VaDEClusterer):
        def __init__(self, n_clusters=8):
            super().__init__(n_clusters)

    assert_error(Fewer(), "only one of it and Fewer has activation, b", interrupted, X)


OBJECTS = {
    "init": (KMeans(3, n_init=1), KMeans(3, n_init=2)),
    "neighbors": (
        KNeighborsTransformer(n_neighbors=6),
        KNeighborsTransformer(n_neighbors=7),
    ),
    "encoder": (partial(make_encoder, width=16), partial(make_encoder, width=17)),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_must_be_set_again(make_estimator, X, path, name):
    value, other = OBJECTS[name]
    settings = {name: value}
    if name == "neighbors":
        settings["pretraining"] = "neighbors"
    expected, files = fit_and_keep(make_estimator(**SHORT | settings), path, X)
    file = files[-1][1]
    match = f"a fit with {name}=.*Got {name}=.* instead. Set it on the estimator"
    assert_error(VaDEClusterer(), match, file, X)
    assert_error(VaDEClusterer(**{name: other}), match, file, X)
    resumed = VaDEClusterer(**{name: copy.deepcopy(value)}).resume(file, X)
    assert joblib.hash(resumed) == expected


def test_arrays_as_parameters_are_in_the_file(make_estimator, blobs, path):
    X, y = blobs
    graph = KNeighborsTransformer(n_neighbors=5).fit_transform(X)
    settings = {**SHORT, "pretraining": "neighbors", "hidden_layer_sizes": [16]}
    model = make_estimator(neighbors=graph, init=y, **settings)
    _, files = fit_and_keep(model, path, X)
    resumed = VaDEClusterer().resume(files[0][1], X)
    np.testing.assert_array_equal(resumed.init, y)
    assert (resumed.neighbors != graph).nnz == 0
    assert resumed.hidden_layer_sizes == [16]
    np.testing.assert_array_equal(resumed.means_, model.means_)


def test_a_random_state_need_not_be_set_again(make_estimator, X, path):
    model = make_estimator(**SHORT, random_state=np.random.RandomState(0))
    _, files = fit_and_keep(model, path, X)
    resumed = VaDEClusterer().resume(files[0][1], X)
    assert resumed.random_state is None
    np.testing.assert_array_equal(resumed.means_, model.means_)


def test_other_networks_are_an_error(make_custom_estimator, X, path, monkeypatch):
    """A function that was changed has the same name."""
    _, files = fit_and_keep(make_custom_estimator(), path, X)
    monkeypatch.setattr(make_encoder, "__defaults__", (17,))
    match = "a fit with other networks. .*size mismatch for encoder"
    with pytest.raises(ValueError, match=f"(?s){match}"):
        VaDEClusterer(**CUSTOM).resume(files[0][1], X)


def test_another_device_is_an_error(X, interrupted, monkeypatch):
    read = _checkpoint.read_archive
    monkeypatch.setattr(
        _checkpoint, "read_archive", lambda path: read(path) | {"device": "cuda"}
    )
    assert_error(VaDEClusterer(), "on the device 'cuda', whose rand", interrupted, X)


@pytest.mark.parametrize("change", [{"format": 0}, {"skvade": "0.0.1"}])
def test_another_version_is_an_error(X, interrupted, change, tmp_path):
    other = tmp_path / "other.npz"
    with zipfile.ZipFile(interrupted) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "tree.json":
                content = json.dumps(json.loads(content) | change)
            target.writestr(name, content)
    match = "other.npz was written by skvade 0.* and can not be resumed by skvade 0"
    assert_error(VaDEClusterer(), match, other, X)


def test_a_file_of_something_else_is_an_error(X, tmp_path):
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    match = "arrays.npz is not a file that a Checkpoint has written"
    assert_error(VaDEClusterer(), match, tmp_path / "arrays.npz", X)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npz\. Give the path"):
        VaDEClusterer().resume(tmp_path / "none.npz", X)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"every": 0}, ValueError, "every == 0, must be >= 1"),
        ({"every": 1.5}, TypeError, "every must be an instance of"),
        ({"min_interval": -1}, ValueError, "min_interval == -1, must be >= 0"),
    ],
)
def test_invalid_settings_are_an_error(path, settings, error, match):
    with pytest.raises(error, match=match):
        Checkpoint(path, **settings)


@pytest.mark.parametrize("name", ["", "none/fit.npz"])
def test_a_path_without_a_folder_is_an_error_before_the_fit(
    make_estimator, X, tmp_path, name
):
    model = make_estimator().set_callbacks(Checkpoint(tmp_path / name))
    with pytest.raises(ValueError, match="must be the name of a file in a folder that"):
        model.fit(X)


# --- Pipelines and searches ---------------------------------------------------------


def test_the_clusterer_of_a_pipeline_resumes(make_estimator, X, path):
    pipeline = make_pipeline(StandardScaler(), make_estimator())
    pipeline[-1].set_callbacks(Checkpoint(path, every=12))
    pipeline.fit(X)
    resumed = VaDEClusterer().resume(path, pipeline[:-1].transform(X))
    assert joblib.hash(resumed) == joblib.hash(pipeline[-1].set_callbacks())


@pytest.mark.parametrize("model", [LogisticRegression(), make_pipeline("passthrough")])
def test_only_the_clusterer_takes_a_checkpoint(blobs, path, model):
    if not hasattr(model, "set_callbacks"):
        pytest.skip("takes no callbacks")
    model.set_callbacks(Checkpoint(path))
    with pytest.raises(TypeError, match="writes the state of a VaDEClusterer"):
        model.fit(*blobs)


def test_a_search_leaves_the_file_of_the_final_fit(make_estimator, X, path):
    """Fits at the same time, in threads, write the same file."""
    model = make_estimator(**SHORT).set_callbacks(Checkpoint(path))
    search = GridSearchCV(model, {"n_clusters": [2, 3]}, cv=2, n_jobs=2)
    with joblib.parallel_config("threading"):
        search.fit(X)
    resumed = VaDEClusterer().resume(path, X)
    best = search.best_estimator_.set_callbacks()
    assert joblib.hash(resumed) == joblib.hash(best)
    assert os.listdir(path.parent) == [path.name]
