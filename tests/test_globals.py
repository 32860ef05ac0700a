"""Global settings stay as they are. For imports, see test_conventions.py."""

import inspect
import os
import random
import warnings
from contextlib import ExitStack, contextmanager
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.utils import check_random_state
from torch import nn

from skvade import VaDEClusterer
from skvade._training import joint, neighbor_embedding
from skvade.callbacks import Checkpoint

NUMPY_RANDOM = check_random_state(None)  # the global generator


def global_state():
    return {
        "random": random.getstate(),
        "numpy": repr(NUMPY_RANDOM.get_state()),
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "torch generator": torch.get_rng_state().tolist(),
        "torch seed": torch.initial_seed(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "scikit-learn": sklearn.get_config(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }


def assert_unchanged(before):
    after = global_state()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"random_state": None},
        {"precision": "bfloat16", "init": "gmm"},
        {"responsibilities": "sampled", "early_stopping": True, "init": "random"},
    ],
    ids=str,
)
def test_fit_leaves_the_globals(make_estimator, X, parameters):
    model = make_estimator(**parameters)
    before = global_state()
    if parameters.get("random_state", 0) is None:
        # By scikit-learn's convention the seed is then drawn from NumPy's generator.
        before.pop("numpy")
    model.fit(X)
    assert_unchanged(before)


def test_fit_that_fails_leaves_the_globals(make_estimator, X):
    before = global_state()
    with pytest.raises(ValueError, match="not finite"):
        make_estimator(learning_rate_init=1e30).fit(X)
    assert_unchanged(before)


def test_fit_that_is_interrupted_leaves_the_globals(make_estimator, X, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    before = global_state()
    with monkeypatch.context() as patch:
        patch.setattr(joint, "elbo_loss", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_estimator().fit(X)
    assert_unchanged(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_global_seeds_do_not_matter(make_estimator, X, fitted, seed):
    numpy_state = NUMPY_RANDOM.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        NUMPY_RANDOM.seed(seed)
        model = make_estimator().fit(X)
    NUMPY_RANDOM.set_state(numpy_state)
    assert_array_equal(model.means_, fitted.means_)


# --- Settings that a caller may hold ------------------------------------------------


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def n_threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def warnings_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


SETTINGS = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default dtype float16": lambda: default_dtype(torch.float16),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": deterministic_algorithms,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "one thread": lambda: n_threads(1),
    "three threads": lambda: n_threads(3),
    "NumPy raises": lambda: np.errstate(all="raise"),
    "NumPy ignores": lambda: np.errstate(all="ignore"),
    "print options": lambda: np.printoptions(precision=1, threshold=2),
    "warnings": warnings_shown,
    "data frames": lambda: sklearn.config_context(transform_output="pandas"),
}


def state_of(model):
    return {**vars(model)}


def weights_of(module):
    assert not any(p.is_inference() for p in module.parameters())
    return {name: values.numpy() for name, values in module.state_dict().items()}


# What each method gives: of a new estimator, a fitted one, and samples.
def resumed(new, X):
    """Fit with checkpoints, and resume the fit from the last file."""
    with TemporaryDirectory() as folder:
        path = f"{folder}/fit.npz"
        clone(new).set_callbacks(Checkpoint(path, every=3)).fit(X)
        return clone(new).resume(path, X)


METHODS = {
    "fit": lambda new, fitted, X: state_of(new.fit(X)),
    "partial_fit": lambda new, fitted, X: state_of(new.partial_fit(X).partial_fit(X)),
    "resume": lambda new, fitted, X: state_of(resumed(new, X)),
    "fit_predict": lambda new, fitted, X: new.fit_predict(X),
    "fit_transform": lambda new, fitted, X: np.asarray(new.fit_transform(X)),
    "transform": lambda new, fitted, X: np.asarray(fitted.transform(X)),
    "inverse_transform": lambda new, fitted, X: fitted.inverse_transform(
        30 * X[1:, :2]
    ),
    "sample": lambda new, fitted, X: fitted.sample(20, random_state=0),
    "cluster_centers_": lambda new, fitted, X: fitted.cluster_centers_,
    "to_torch": lambda new, fitted, X: weights_of(fitted.to_torch("cpu")),
}
METHODS |= {
    name: lambda new, fitted, X, name=name: getattr(fitted, name)(30 * X)
    for name in (
        "predict",
        "predict_proba",
        "predict_log_proba",
        "reconstruct",
        "impute",
        "score_samples",
        "score",
    )
}


def test_all_public_methods_are_listed():
    public = {
        name
        for name, value in inspect.getmembers(VaDEClusterer)
        if not name.startswith("_")
        and getattr(inspect.unwrap(value), "__module__", "").startswith("skvade")
    }
    assert public <= {*METHODS, "to_onnx"}


def assert_same(found, expected):
    """Assert that results are the same, to the last bit, whatever holds them."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = [*found.values()], [*expected.values()]
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert_array_equal(found, expected, strict=isinstance(expected, np.ndarray))


class EncoderOfDefaults(nn.Module):
    """Its weights, what it adds and its dropout follow the defaults of torch."""

    def __init__(self, n_features_in, latent_dim):
        super().__init__()
        self.hidden = nn.Linear(n_features_in, 16)

    def forward(self, x):
        hidden = self.hidden(x + torch.ones(x.shape[1]) / 3)
        return nn.functional.dropout(hidden.tanh(), 0.1, self.training)


@pytest.fixture(scope="module")
def make_evaluate(make_estimator):
    """Make functions that give what a method gives, after few steps.

    Of 120 features, since more than 100 are projected for the search of neighbors.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 120)) + 4 * rng.integers(0, 3, 60)[:, None]
    X[0, 0] = np.nan

    @cache
    def make(encoder):
        parameters = {"pretraining": "neighbors", "n_draws": 2, "max_iter": 1}
        parameters["batch_size"] = 30
        new = make_estimator(encoder=encoder, **parameters)
        fitted = clone(new).fit(X)

        def evaluate(method):
            return METHODS[method](clone(new), fitted, X)

        return evaluate, cache(evaluate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbor_embedding, "STEPS_PER_EPOCH", 5)
        yield make


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_caller_do_not_matter(make_evaluate, setting, method):
    assert_setting_does_not_matter(*make_evaluate(None), setting, method)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score"])
@pytest.mark.parametrize(
    "setting",
    ["default dtype float64", "default dtype bfloat16", "device context", "autocast"],
)
def test_settings_do_not_matter_for_custom_networks(make_evaluate, setting, method):
    evaluate = make_evaluate(EncoderOfDefaults)
    assert_setting_does_not_matter(*evaluate, setting, method)


def assert_setting_does_not_matter(evaluate, expected, setting, method):
    right = expected(method)
    with SETTINGS[setting]():
        before = global_state()
        found = evaluate(method)
        assert_unchanged(before)
    assert_same(found, right)


# torch's own exporter meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec:FutureWarning")
def test_settings_of_the_caller_do_not_matter_for_an_export(fitted, X, tmp_path):
    """All of them at once: an export takes seconds."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def exported_output(path):
        session = onnxruntime.InferenceSession(path)
        return session.run(None, {"X": X.astype(np.float32)})

    fitted.to_onnx(tmp_path / "expected.onnx")
    with ExitStack() as stack:
        for setting in SETTINGS.values():
            stack.enter_context(setting())
        fitted.to_onnx(tmp_path / "found.onnx")
    found = exported_output(tmp_path / "found.onnx")
    assert_same(found, exported_output(tmp_path / "expected.onnx"))


def test_autocast_of_the_caller_does_not_change_bfloat16(make_estimator, X):
    expected = make_estimator(precision="bfloat16").fit(X)
    with torch.autocast("cpu", torch.bfloat16):
        model = make_estimator(precision="bfloat16").fit(X)
    assert_same(vars(model), vars(expected))
