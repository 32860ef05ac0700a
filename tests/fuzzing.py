"""Random fits for hypothesis: what may be given to `fit`, and what must hold then.

A case is a dict of plain values, so that a failure can be copied and run again.
"""

import pickle
import traceback
import warnings
from functools import partial
from importlib.util import find_spec
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
    "size_factor": st.sampled_from(["auto", "total", None]),
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


# --- What a table may be ------------------------------------------------------------


def numbers(rng, y):
    return rng.normal(size=len(y)) + 5 * y


def strings(rng, y):
    return rng.choice([*"abcde"], len(y)).astype(object)


def counts(rng, y):
    return rng.poisson(0.5 + 3 * y)


# The likelihood of a column, and its values for a generator and the groups of samples.
COLUMNS = {
    "numbers": ("gaussian", numbers),
    "large numbers": ("gaussian", lambda rng, y: 1e6 * numbers(rng, y)),
    "numbers far from zero": ("gaussian", lambda rng, y: 1e8 + numbers(rng, y)),
    "a constant": ("gaussian", lambda rng, y: np.full(len(y), 0.3)),
    "integers": ("gaussian", lambda rng, y: rng.integers(-5, 5, len(y))),
    "float32": ("gaussian", lambda rng, y: numbers(rng, y).astype(np.float32)),
    "nullable floats": (
        "gaussian",
        lambda rng, y: pd.array(numbers(rng, y), "Float64"),
    ),
    "objects": ("gaussian", lambda rng, y: numbers(rng, y).astype(object)),
    "flags": ("bernoulli", lambda rng, y: rng.integers(0, 2, len(y))),
    "true or false": ("bernoulli", lambda rng, y: rng.uniform(size=len(y)) < 0.3),
    "shares": ("bernoulli", lambda rng, y: rng.uniform(size=len(y))),
    "counts": ("poisson", counts),
    "nullable counts": ("poisson", lambda rng, y: pd.array(counts(rng, y), "Int64")),
    "zeros": ("poisson", lambda rng, y: np.zeros(len(y))),
    "events": (
        "negative_binomial",
        lambda rng, y: rng.negative_binomial(1, 0.2, len(y)),
    ),
    "words": ("multinomial", counts),
    "strings": ("categorical", strings),
    "nullable strings": (
        "categorical",
        lambda rng, y: pd.array(strings(rng, y), "string"),
    ),
    "categories": ("categorical", lambda rng, y: pd.Categorical(strings(rng, y))),
    "levels": (
        "categorical",
        lambda rng, y: pd.Categorical(strings(rng, y), [*"edcbaxyz"], ordered=True),
    ),
    "codes": ("categorical", lambda rng, y: rng.integers(0, 4, len(y))),
    "yes or no": ("categorical", lambda rng, y: rng.uniform(size=len(y)) < 0.5),
    "nullable booleans": (
        "categorical",
        lambda rng, y: pd.array(rng.uniform(size=len(y)) < 0.5, "boolean"),
    ),
    "groups": ("categorical", lambda rng, y: np.array([*"ABCD"], object)[y]),
    "one category": ("categorical", lambda rng, y: np.full(len(y), "only", object)),
}

OF_COUNTS = ("multinomial", "negative_binomial", "poisson")

CONTAINERS = ["pandas", "pandas", "array", "list"]
if find_spec("polars"):
    CONTAINERS.append("polars")

# Columns of which some error is expected, or at least nothing else that is wrong.
FAULTS = {
    "strings as numbers": ("gaussian", strings),
    "numbers as categories": ("categorical", numbers),
    "numbers as counts": ("poisson", numbers),
    "fractions as counts": (
        "negative_binomial",
        lambda rng, y: rng.uniform(size=len(y)),
    ),
    "numbers as shares": ("bernoulli", numbers),
    "infinity": ("gaussian", lambda rng, y: np.full(len(y), np.inf)),
    "outlier": ("gaussian", lambda rng, y: np.r_[1e300, numbers(rng, y)[1:]]),
    "nothing": ("gaussian", lambda rng, y: np.full(len(y), np.nan)),
    "no category": ("categorical", lambda rng, y: np.full(len(y), None)),
    "types of categories": (
        "categorical",
        lambda rng, y: np.where(y % 2 == 0, 1, strings(rng, y)),
    ),
    "names": ("categorical", lambda rng, y: np.array([f"n{i}" for i in range(len(y))])),
    "dates": ("gaussian", lambda rng, y: pd.date_range("2020", periods=len(y))),
    "dates as categories": (
        "categorical",
        lambda rng, y: pd.date_range("2020", periods=len(y)),
    ),
    "lists": ("categorical", lambda rng, y: pd.Series([[1]] * len(y)).to_numpy()),
    "complex": ("gaussian", lambda rng, y: numbers(rng, y) * 1j),
}

# What happens to the table before a prediction.
CHANGES = {
    "none": lambda X: X,
    "unseen": lambda X: X.map(lambda v: "unseen" if isinstance(v, str) else v),
    "objects": lambda X: X.astype(object),
    "text": lambda X: X.map(str),
    "order": lambda X: X.iloc[:, ::-1],
    "fewer": lambda X: X.iloc[:, 1:],
    "more": lambda X: X.assign(more=1.0),
    "other names": lambda X: X.add_prefix("other "),
    "negative": lambda X: X.map(lambda v: v if isinstance(v, str) else -1),
    "infinite": lambda X: X.map(lambda v: v if isinstance(v, str) else np.inf),
    "missing": lambda X: X.map(lambda v: None).astype(object),
    "empty": lambda X: X[:0],
}

TABLES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "n_clusters": st.integers(1, 4),
        "estimate_n_clusters": st.sampled_from([False, False, False, True]),
        "n_more_samples": st.sampled_from([0, 1, 3, 10, 30, 60]),
        "columns": st.lists(st.sampled_from([*COLUMNS]), min_size=1, max_size=5),
        "fault": st.sampled_from([None] * len(FAULTS) * 3 + [*FAULTS]),
        "missing": st.sampled_from([0.0, 0.0, 0.1, 0.3]),
        "container": st.sampled_from(CONTAINERS),
        "index": st.sampled_from(["range", "strings", "duplicates"]),
        "chosen_by": st.sampled_from(["names", "positions", "mask", "callable"]),
        "change": st.sampled_from([*CHANGES]),
        "weights": st.sampled_from(["none"] * 8 + [*WEIGHTS]),
        "method": st.sampled_from(["fit", "fit", "fit", "partial_fit", "warm_start"]),
        "repeat": st.sampled_from([False, False, True]),
        "parameters": st.fixed_dictionaries(
            {name: s for name, s in PARAMETERS.items() if name != "likelihood"}
        ),
    }
)


def make_frame(case):
    """Make a frame of pandas, and the likelihood of each of its columns."""
    rng = np.random.default_rng(case["seed"])
    n_samples = case["n_clusters"] + case["n_more_samples"]
    y = rng.integers(0, case["n_clusters"], n_samples)
    kinds = [COLUMNS[name] for name in case["columns"]]
    kinds += [kind for kind in kinds if kind[0] in OF_COUNTS]  # one alone has no shares
    if case["fault"] is not None:
        kinds.insert(case["seed"] % (len(kinds) + 1), FAULTS[case["fault"]])
    columns = [pd.Series(make(rng, y)) for _, make in kinds]
    columns = [c.mask(rng.uniform(size=n_samples) < case["missing"]) for c in columns]
    frame = pd.DataFrame({f"column {i}": c for i, c in enumerate(columns)})
    if case["index"] != "range":
        frame.index = [
            f"s{i // 2 if case['index'] == 'duplicates' else i}"
            for i in range(n_samples)
        ]
    return frame, [likelihood for likelihood, _ in kinds]


def choose(columns, X):
    """Give the columns, as a callable that can be pickled."""
    return columns


def make_pairs(case, names, likelihoods):
    """Choose the columns of each likelihood in one of the ways that there are."""
    likelihoods = np.array(likelihoods)
    pairs = []
    for likelihood in sorted({*likelihoods}):
        mask = likelihoods == likelihood
        positions = np.flatnonzero(mask).tolist()
        chosen = [names[position] for position in positions]
        if case["container"] in ("array", "list"):
            chosen = positions
        columns = {
            "names": chosen,
            "positions": positions,
            "mask": mask,
            "callable": partial(choose, chosen),
        }[case["chosen_by"]]
        pairs.append((str(likelihood), columns))
    return pairs


def to_container(frame, container):
    """Give a frame of pandas as what a user may have instead."""
    if container == "pandas":
        return frame
    values = frame.astype(object).to_numpy()
    if container == "array":
        return values
    if container == "list":
        return values.tolist()
    import polars

    columns = {}
    for name, column in frame.items():
        entries = [None if is_missing(v) else v for v in column.tolist()]
        is_categorical = isinstance(column.dtype, pd.CategoricalDtype)
        dtype = polars.Categorical if is_categorical else None
        columns[name] = polars.Series(name, entries, dtype, strict=False)
    return polars.DataFrame(columns)


def is_missing(value):
    return not isinstance(value, list) and bool(pd.isna(value))


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


def fit_case(case, parameters, X, weights):
    """Fit as the case says; where it says so, check that a second fit is the same."""
    n_clusters = "auto" if case["estimate_n_clusters"] else case["n_clusters"]
    parameters = dict(parameters, n_clusters=n_clusters)
    model = fit(VaDEClusterer(**parameters), case["method"], X, weights)
    if case["repeat"]:
        again = fit(VaDEClusterer(**parameters), case["method"], X, weights)
        assert_same_results(again, model)
    return model


def run_case(case):
    """Fit as the case says and check all that must hold; tell how it ended.

    Returns
    -------
    state : {"fitted", "warned", "refused"}
    """
    X, dense = make_X(case)
    rng = np.random.default_rng(case["seed"] + 1)
    weights = WEIGHTS[case["weights"]](rng, len(dense))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = fit_case(case, case["parameters"], X, weights)
        except Refused:
            return "refused"
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


# --- What must hold of tables -------------------------------------------------------


def run_table(case):
    """Fit a table as the case says and check all that must hold; tell how it ended.

    Returns
    -------
    state : {"fitted", "warned", "refused"}
    """
    frame, likelihoods = make_frame(case)
    X = to_container(frame, case["container"])
    pairs = make_pairs(case, [*frame.columns], likelihoods)
    parameters = dict(case["parameters"], likelihood=pairs)
    rng = np.random.default_rng(case["seed"] + 1)
    weights = WEIGHTS[case["weights"]](rng, len(frame))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = fit_case(case, parameters, X, weights)
        except Refused:
            return "refused"
        check_table(model, X, to_frame(X, frame), likelihoods)
        check_changed_table(model, case, frame)
    return "warned" if caught else "fitted"


def to_frame(table, frame):
    """Give samples as a frame of pandas of objects, whatever they are."""
    if hasattr(table, "to_dicts"):  # of polars
        table = table.to_dicts()
    table = pd.DataFrame(table)
    assert table.shape[1] == frame.shape[1]
    return table.set_axis(frame.columns, axis=1).astype(object)


def check_table(model, X, frame, likelihoods):
    """Check that results are finite and agree, and that samples are what X may hold."""
    before = dict(vars(model))
    likelihoods = np.array(likelihoods)
    for name, of in [
        ("noise_variance_", "gaussian"),
        ("dispersion_", "negative_binomial"),
    ]:
        if of in likelihoods:
            assert_array_equal(np.isfinite(getattr(model, name)), likelihoods == of)
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        assert np.isfinite(getattr(model, name)).all(), name
    assert_array_equal(call(model.predict, X), model.labels_)
    results = {name: call(getattr(model, name), X) for name in RESULTS}
    for name, values in results.items():
        assert np.isfinite(values).all(), name
        for i in (0, len(frame) - 1):
            single = call(getattr(model, name), X[i : i + 1])
            assert_array_equal(single[0], values[i], err_msg=f"{name} of one")
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict_proba(X), results["predict_proba"])
    samples = {
        "sample": call(model.sample, 5, random_state=0)[0],
        "cluster_centers_": model.cluster_centers_,
        "reconstruct": call(model.reconstruct, X),
        "impute": call(model.impute, X),
    }
    for name, values in samples.items():
        check_samples(to_frame(values, frame), frame, likelihoods, name)
    imputed = to_frame(samples["impute"], frame).to_numpy()
    given = frame.astype(object).to_numpy()
    observed = frame.notna().to_numpy()
    assert_array_equal(imputed[observed], given[observed], err_msg="impute")
    assert vars(model) == before


def check_samples(samples, frame, likelihoods, name):
    """Check that no entry is missing, and that categories are those of the table."""
    assert samples.notna().all(axis=None), name
    for (column, values), likelihood in zip(samples.items(), likelihoods, strict=True):
        if likelihood == "categorical":
            assert {*values} <= {*frame[column].dropna()}, (name, column)
        else:
            assert np.isfinite(values.astype(float)).all(), (name, column)


def check_changed_table(model, case, frame):
    """Check that a table of other values is predicted, or refused by a clear error."""
    try:
        X = to_container(CHANGES[case["change"]](frame), case["container"])
    except (TypeError, ValueError):
        return  # there is no such frame
    for method in ("predict_proba", "impute", "score_samples"):
        try:
            result = call(getattr(model, method), X)
        except Refused:
            continue
        if method == "impute":
            assert to_frame(result, frame).notna().all(axis=None)
        else:
            assert np.isfinite(result).all(), method
