"""Global settings stay as they are. For imports, see test_conventions.py."""

import os
import random
import warnings

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_array_equal
from sklearn.utils import check_random_state

from skvade._training import joint

NUMPY_RANDOM = check_random_state(None)  # the global generator


def global_state():
    return {
        "random": random.getstate(),
        "numpy": repr(NUMPY_RANDOM.get_state()),
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
def test_predictions_leave_the_globals(fitted, X, method):
    before = global_state()
    getattr(fitted, method)(*([] if method in ("sample", "to_torch") else [X]))
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
    ids=["relu", "gelu", "bfloat16"],
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
def test_disabled_gradients_do_not_matter(make_estimator, X, fitted, context):
    with context():
        model = make_estimator().fit(X)
    assert_array_equal(model.means_, fitted.means_)
