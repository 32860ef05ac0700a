import builtins

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import make_blobs
from torch import nn


def convolutional(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, n_features_in)),
        nn.Conv1d(1, 4, kernel_size=3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
    )


# Parameters of each exported model, and the exported method: an export takes seconds.
CASES = {
    "full covariances": ({"covariance_type": "full"}, "predict_proba"),
    "sampled": (
        {"responsibilities": "sampled", "precision": "float64"},
        "predict_proba",
    ),
    "coordinates": (
        {"likelihood": "bernoulli", "encoder": convolutional},
        "transform",
    ),
}

# torch's own exporter meets a deprecation of torch's own pytree.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning"
)


@pytest.fixture(scope="module")
def samples():
    """1,000 samples in [0, 1] that no model was fitted to."""
    X = make_blobs(1000, 5, centers=3, cluster_std=3, random_state=0)[0]
    return ((X - X.min(0)) / np.ptp(X, axis=0)).astype(np.float32)


@pytest.fixture(scope="module", params=CASES)
def exported(request, make_estimator, X_unit, tmp_path_factory):
    """A fitted estimator, the name of a method, and its session in onnxruntime."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    parameters, method = CASES[request.param]
    model = make_estimator(**parameters).fit(X_unit)
    folder = tmp_path_factory.mktemp("onnx")
    with torch.inference_mode():
        model.to_onnx(folder / "model.onnx", method)
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return model, method, session


def input_dtype(model):
    return np.float64 if model.precision == "float64" else np.float32


@pytest.mark.parametrize("n_samples", [1000, 257, 2, 1])
def test_the_runtime_gives_the_same_output(exported, samples, n_samples):
    model, method, session = exported
    X = samples[:n_samples].astype(input_dtype(model))
    (output,) = session.run([method], {"X": X})
    assert output.dtype == X.dtype
    assert_allclose(output, getattr(model, method)(X), rtol=0, atol=1e-5)


def test_the_output_depends_on_the_samples(exported, samples):
    model, method, session = exported
    (output,) = session.run([method], {"X": samples.astype(input_dtype(model))})
    assert np.ptp(output, axis=0).max() > 0.1


def test_the_runtime_imputes_missing_entries(exported, samples):
    model, method, session = exported
    X = samples.astype(input_dtype(model))
    X[::2, 1] = np.nan
    (output,) = session.run([method], {"X": X})
    assert_allclose(output, getattr(model, method)(X), rtol=0, atol=1e-5)


def test_an_unknown_method_is_an_error(fitted, tmp_path):
    message = r"one of \['predict_proba', 'transform'\]. Got 'sample' instead"
    with pytest.raises(ValueError, match=message):
        fitted.to_onnx(tmp_path / "model.onnx", "sample")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_names_the_extra(fitted, tmp_path, monkeypatch, package):
    real_import = builtins.__import__

    def without_package(name, *args, **kwargs):
        if name in ("onnx", "onnxscript"):
            raise ImportError(f"No module named {package!r}", name=package)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_package)
    with pytest.raises(ImportError, match=rf"needs {package}\..*skvade\[onnx\]"):
        fitted.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
