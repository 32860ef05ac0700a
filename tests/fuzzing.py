"""Random fits for hypothesis: what may be given to `fit`, and what must hold then.

A case is a dict of plain values, so that a failure can be copied and run again.
"""

import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import sklearn
import torch
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import skvade
from skvade import VaDEClusterer

# --- What X may be ------------------------------------------------------------------

DENSE = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "stride": lambda X: np.repeat(X, 2, axis=0)[::2],
    "column stride": lambda X: np.repeat(X, 3, axis=1)[:, ::3],
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda X: X.astype(X.dtype.newbyteorder(">")),
    "list": lambda X: X.tolist(),
    "list of arrays": list,
    "objects": lambda X: X.astype(object),
    "objects with NA": lambda X: np.where(np.isnan(X), pd.NA, X.astype(object)),
    "masked": lambda X: np.ma.masked_array(np.nan_to_num(X, nan=7.0), np.isnan(X)),
    "tensor": torch.tensor,
    "frame": pd.DataFrame,
    "frame of objects": lambda X: pd.DataFrame(X).astype(object),
    "frame of nullable numbers": lambda X: pd.DataFrame(X).convert_dtypes(),
    "frame with names": lambda X: pd.DataFrame(X).add_prefix("x"),
}
SPARSE = {
    f"{name}_{kind}": getattr(scipy.sparse, f"{name}_{kind}")
    for name in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
    for kind in ("array", "matrix")
}
DTYPES = ("float64", "float32", "float16", "int64", "int8", "bool")

WEIGHTS = {
    "none": lambda rng, n: None,
    "equal": lambda rng, n: np.full(n, 3.0),
    "random": lambda rng, n: rng.uniform(size=n),
    "integers": lambda rng, n: rng.integers(0, 3, n).tolist(),
    "far apart": lambda rng, n: 10.0 ** rng.integers(-300, 300, n),
    "a group of next to none": lambda rng, n: np.where(np.arange(n) % 3, 1, 1e-60),
    "with an infinite sum": lambda rng, n: np.full(n, 1.5e308),
    "denormal": lambda rng, n: np.full(n, 5e-324),
    "negative": lambda rng, n: rng.normal(size=n),
    "masked": lambda rng, n: np.ma.masked_array(np.ones(n), rng.uniform(size=n) < 0.1),
}

LIKELIHOODS = ("bernoulli", "gaussian", "multinomial", "negative_binomial", "poisson")
PARAMETERS = {
    "latent_dim": st.integers(1, 3),
    "hidden_layer_sizes": st.sampled_from([(4,), (5, 3)]),
    "activation": st.sampled_from(["relu", "tanh", "gelu"]),
    "likelihood": st.sampled_from([*LIKELIHOODS, *["gaussian"] * 4]),
    "noise": st.sampled_from(["scalar", "feature"]),
    "size_factor": st.sampled_from(["total", None]),
    "pretraining": st.sampled_from(["neighbors", "autoencoder", "stacked", "vae"]),
    "neighbors": st.sampled_from([1, 3, 15]),
    "pretrain_max_iter": st.integers(0, 1),
    "init": st.sampled_from(["communities", "kmeans", "gmm", "random"]),
    "n_init": st.just(1),
    "warmup_max_iter": st.integers(0, 1),
    "responsibilities": st.sampled_from(["expected", "sampled"]),
    "n_draws": st.integers(1, 2),
    "beta": st.sampled_from(["auto", 1e-3, 100.0]),
    "max_iter": st.integers(1, 2),
    "batch_size": st.sampled_from(["auto", 1, 7]),
    "learning_rate": st.sampled_from(["cosine", "constant"]),
    "early_stopping": st.sampled_from([False, False, False, True]),
    "covariance_type": st.sampled_from(["diag", "full", "tied", "spherical"]),
    "reg_covar": st.sampled_from([0.0, 1e-6, 1.0]),
    "precision": st.sampled_from(["float32", "float32", "float64", "bfloat16"]),
    "random_state": st.integers(0, 3),
    "device": st.just("cpu"),
}

# Powers of ten, most of them harmless.
SCALES = [0] * 20 + [-3, 4, -30, 30, -60, 60, -163, 153, -310, 300]

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "n_clusters": st.integers(1, 4),
        "estimate_n_clusters": st.sampled_from([False, False, False, True]),
        "n_more_samples": st.sampled_from([0, 1, 3, 10, 30, 60]),
        "n_features": st.sampled_from([1, 2, 5]),
        "values": st.sampled_from(
            ["groups", "uniform", "counts", "binary", "constant"]
        ),
        "scale": st.sampled_from(SCALES),
        "offset": st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 1e4, 1e8]),
        "missing": st.sampled_from([0.0, 0.0, 0.0, 0.2, 0.6]),
        "duplicates": st.sampled_from(["none", "none", "samples", "features"]),
        "constant_column": st.sampled_from([False, False, True]),
        "outliers": st.sampled_from([0.0] * 12 + [1e9, 1e36, 1e200, np.inf]),
        "dtype": st.sampled_from(DTYPES),
        "container": st.sampled_from([*DENSE, *SPARSE]),
        "weights": st.sampled_from(["none"] * 8 + [*WEIGHTS]),
        "method": st.sampled_from(["fit", "fit", "fit", "partial_fit", "warm_start"]),
        "repeat": st.sampled_from([False, False, True]),
        "parameters": st.fixed_dictionaries(PARAMETERS),
    }
)


def make_values(case):
    """Make X as an array of float64, NaN where an entry is missing."""
    rng = np.random.default_rng(case["seed"])
    shape = case["n_clusters"] + case["n_more_samples"], case["n_features"]
    groups = rng.integers(0, case["n_clusters"], shape[0])[:, None]
    X = {
        "groups": lambda: rng.normal(size=shape) + 5 * groups,
        "uniform": lambda: rng.uniform(size=shape),
        "counts": lambda: rng.poisson(0.5, shape).astype(float),
        "binary": lambda: rng.integers(0, 2, shape).astype(float),
        "constant": lambda: np.full(shape, 0.3),
    }[case["values"]]()
    if case["duplicates"] == "samples":
        X = X[np.arange(shape[0]) // 3]
    if case["duplicates"] == "features":
        X[:] = X[:, :1]
    if case["constant_column"]:
        X[:, 0] = X[0, 0]
    if case["outliers"]:
        X[0, 0], X[-1, -1] = case["outliers"], -case["outliers"]
    with np.errstate(over="ignore", under="ignore"):
        X = X * 10.0 ** case["scale"] + case["offset"]
    X[rng.uniform(size=shape) < case["missing"]] = np.nan
    return X


def make_X(case):
    """Give the values in their dtype and container, and as a dense array."""
    X = make_values(case)
    dtype = np.dtype(case["dtype"])
    is_sparse = case["container"] in SPARSE
    if dtype.kind != "f" or is_sparse:
        X = np.nan_to_num(X, nan=0.0)
    if dtype.kind == "i":
        limits = np.iinfo(dtype)
        X = np.clip(np.round(X), limits.min / 2, limits.max / 2)
    with np.errstate(over="ignore", under="ignore"):
        X = X.astype(dtype)
    if is_sparse:
        # SciPy has no float16.
        X = X.astype(float) if dtype == np.float16 else X
        return SPARSE[case["container"]](X), X
    return DENSE[case["container"]](X), X


# --- What must hold -----------------------------------------------------------------

PACKAGES = [str(Path(package.__file__).parent) for package in (skvade, sklearn)]


class Refused(Exception):
    """A clear error of skvade or scikit-learn."""


def call(function, *arguments, **keywords):
    """Call; turn a clear error into `Refused`. Others, and NumPy's warnings, fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return function(*arguments, **keywords)
        except (ValueError, TypeError) as error:
            raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
            is_checked = any(raised_in.startswith(path) for path in PACKAGES)
            assert is_checked and len(str(error)) > 20, f"unclear: {error!r}"
            raise Refused(str(error)) from error


def run_case(case):
    """Fit as the case says and check all that must hold; tell how it ended.

    Returns
    -------
    state : {"fitted", "warned", "refused"}
    """
    X, dense = make_X(case)
    n_clusters = "auto" if case["estimate_n_clusters"] else case["n_clusters"]
    parameters = dict(case["parameters"], n_clusters=n_clusters)
    model = VaDEClusterer(**parameters)
    rng = np.random.default_rng(case["seed"] + 1)
    weights = WEIGHTS[case["weights"]](rng, len(dense))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit(model, case["method"], X, weights)
        except Refused:
            return "refused"
        if case["repeat"]:
            again = fit(VaDEClusterer(**parameters), case["method"], X, weights)
            assert_same_results(again, model)
    try:
        check_results(model, X, dense, weights)
    except Refused as error:
        # Of values that fit in float32 as they are, but not as expected samples.
        assert "expected samples are no finite numbers" in str(error)
        return "refused"
    return "warned" if caught else "fitted"


def fit(model, method, X, weights):
    """Fit once or twice; a call that is refused must leave the estimator as it was."""
    calls = {
        "fit": [model.fit],
        "partial_fit": [model.partial_fit, model.partial_fit],
        "warm_start": [model.fit, model.fit],
    }[method]
    model.warm_start = method == "warm_start"
    for function in calls:
        before = dict(vars(model))
        try:
            call(function, X, sample_weight=weights)
        except Refused:
            assert vars(model) == before
            raise
    return model


def assert_same_results(one, other):
    for name in ("means_", "weights_", "covariances_", "labels_", "lower_bound_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


RESULTS = ("predict_log_proba", "predict_proba", "transform", "score_samples")


def check_results(model, X, dense, weights):
    """Check that results are finite, agree with each other, and leave the model."""
    before = dict(vars(model))
    for name, value in before.items():
        if name == "feature_names_in_":
            continue
        if name.endswith("_") and isinstance(value, np.ndarray | float | list):
            assert np.isfinite(value).all(), name
    labels = call(model.predict, X)
    assert_array_equal(labels, model.labels_)
    results = {name: call(getattr(model, name), X) for name in RESULTS}
    for name, values in results.items():
        assert np.isfinite(values).all(), name
    assert np.allclose(results["predict_proba"].sum(1), 1)
    assert np.isfinite(call(model.score, X, sample_weight=weights))
    assert np.isfinite(call(model.sample, 5, random_state=0)[0]).all()
    assert np.isfinite(model.cluster_centers_).all()
    for name in ("reconstruct", "impute"):
        values = call(getattr(model, name), X)
        values = values.toarray() if scipy.sparse.issparse(values) else values
        assert np.isfinite(values).all(), name
    check_independence(model, X, dense, results)
    assert vars(model) == before


def check_independence(model, X, dense, results):
    """Check that neither other samples nor the container change a result."""
    dense = dense.astype(results["transform"].dtype)  # objects become float64
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "X (has|does not have) (valid )?feature names"
        )
        for name, values in results.items():
            for i in (0, len(dense) - 1):
                single = call(getattr(model, name), dense[i : i + 1])
                assert_array_equal(single[0], values[i], err_msg=f"{name} of one")
            found = call(getattr(model, name), dense)
            assert_array_equal(found, values, err_msg=f"{name} of an array")
