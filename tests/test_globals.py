"""What belongs to the user stays as it is. For imports, see test_house.py."""

import os
import random
import warnings

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_array_equal
from sklearn.utils import check_random_state

from skvade import _training

NUMPYS = check_random_state(None)  # its global generator


def state():
    return {
        "random": random.getstate(),
        "numpy": repr(NUMPYS.get_state()),
        "numpy errors": np.geterr(),
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
    after = state()
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
    before = state()
    if parameters.get("random_state", 0) is None:
        # scikit-learn takes the seed of seeds from NumPy's global generator.
        before.pop("numpy")
    model.fit(X)
    assert_unchanged(before)


def test_fit_that_fails_leaves_the_globals(make_estimator, X):
    before = state()
    with pytest.raises(ValueError, match="not finite"):
        make_estimator(learning_rate_init=1e30).fit(X)
    assert_unchanged(before)


def test_fit_that_is_interrupted_leaves_the_globals(make_estimator, X, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(_training, "_elbo_step", lambda *args: interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_estimator().fit(X)
    assert_unchanged(before)


@pytest.mark.parametrize(
    "method",
    [
        "predict",
        "predict_proba",
        "transform",
        "reconstruct",
        "score",
        "sample",
        "to_torch",
    ],
)
def test_answers_leave_the_globals(fitted, X, method):
    before = state()
    getattr(fitted, method)(*([] if method in ("sample", "to_torch") else [X]))
    assert_unchanged(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_seeds_of_the_globals_do_not_matter(make_estimator, X, fitted, seed):
    numpy_state = NUMPYS.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        NUMPYS.seed(seed)
        model = make_estimator().fit(X)
    NUMPYS.set_state(numpy_state)
    assert_array_equal(model.means_, fitted.means_)


def test_the_default_dtype_does_not_matter(make_estimator, X, fitted):
    torch.set_default_dtype(torch.float64)
    try:
        model, Z = make_estimator().fit(X), fitted.transform(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_array_equal(Z, fitted.transform(X))
    assert_array_equal(model.means_, fitted.means_)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"activation": "gelu"}, {"precision": "bfloat16"}],
    ids=["written out", "by torch", "bfloat16"],
)
def test_autocast_of_the_caller_does_not_matter(make_estimator, X, parameters):
    expected = make_estimator(**parameters).fit(X)
    with torch.autocast("cpu", torch.bfloat16):
        model = make_estimator(**parameters).fit(X)
        Z = model.transform(X)
    assert_array_equal(model.means_, expected.means_)
    assert_array_equal(Z, expected.transform(X))
    assert model.lower_bound_ == expected.lower_bound_


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_switched_off_gradients_do_not_matter(make_estimator, X, fitted, context):
    with context():
        model = make_estimator().fit(X)
    assert_array_equal(model.means_, fitted.means_)
