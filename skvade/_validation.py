"""Checks of parameters and data."""

import math
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import chain
from numbers import Integral, Real
from os import PathLike
from reprlib import repr as shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import nn

from skvade._archive import Description
from skvade._data.counts import check_counts
from skvade._data.neighbors import check_graph
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.scaling import (
    MAX_STANDARDIZED_VALUE,
    SUPPORTED_DTYPES,
    TARGET_STD,
    DataSummary,
    Scaling,
    WeightStatistics,
    dense_samples,
    drop_negligible_weights,
    enumerate_first,
    feature_label,
    uniform_weights,
)
from skvade._data.table import CATEGORICAL, TableEncoder, columns_without_numbers
from skvade._model.likelihoods import LIKELIHOODS
from skvade._model.networks import ACTIVATIONS
from skvade._model.prior import PRIORS
from skvade._training.initialization import INITIALIZERS, check_labels
from skvade._training.pretraining import PRETRAINING
from skvade._training.stages import has_pretraining
from skvade._version import __version__

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "check_data",
    "check_fit_params",
    "check_magnitude",
    "check_partial_fit_params",
    "check_same_module_params",
    "check_same_params",
    "check_sample_weight",
    "check_scale",
    "check_shares",
    "check_values",
    "feature_names",
    "labels_from_init",
    "mark_missing",
    "module_params",
    "n_validation_samples",
    "resumed_params",
    "saved_params",
    "supported_dtypes",
    "validate_X",
    "validate_params",
    "warn_feature_scales",
    "warn_no_counts",
    "warn_placeholders",
    "warn_sample_numbers",
    "warn_support",
    "warn_version_mismatch",
]

Dtype = torch.dtype | np.dtype

# What a `likelihood` of a table looks like.
EXAMPLE_PAIRS = [("gaussian", ["age"]), ("categorical", ["city"])]

# What else an option is called, where that is no misspelling of it.
SYNONYMS = {
    "normal": "gaussian",
    "continuous": "gaussian",
    "numeric": "gaussian",
    "binary": "bernoulli",
}

# Of X after centering: the square of it, times the noise variance of standardized
# samples, must be a number of float64.
MIN_SCALE, MAX_SCALE = 1e-150, 1e152

# Interquartile range of a feature, in the range of the others: above it, they count for
# nothing. It is 127 in wine and 1,300 in breast cancer as they come, and at most 15 in
# images, counts, tf-idf, standardized features and principal components.
MAX_SCALE_RATIO = 50
N_CHECKED_SAMPLES = 1000  # that quartiles and repeated values are of

# A number of nines stands for a gap if it is farther from all other values of its
# feature than these are from each other, and occurs several times.
PLACEHOLDERS = [10.0**n_digits - 1 for n_digits in range(2, 16)]
MIN_PLACEHOLDERS = 5

# In fewer samples, consecutive values may be no numbers of samples.
MIN_NUMBERED_SAMPLES = 20

# --- Parameters ---------------------------------------------------------------------


class _Interval(Interval):
    """An interval without True and False, which Python takes for 1 and 0."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, bool) and super().is_satisfied_by(val)


class _Instance(HasMethods):
    """An object with a method, not the class of such objects."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, type) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        return f"{super().__str__()} (an instance, not a class)"


_POSITIVE_INT = _Interval(Integral, 1, None, closed="left")
_NON_NEGATIVE_INT = _Interval(Integral, 0, None, closed="left")
_POSITIVE = _Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = _Interval(Real, 0, None, closed="left")

# The options are views of the registries: what is registered later is an option, too.
PARAMETER_CONSTRAINTS: dict[str, list] = {
    "n_clusters": [StrOptions({"auto"}), _POSITIVE_INT],
    "latent_dim": [_POSITIVE_INT],
    "hidden_layer_sizes": ["array-like"],
    "activation": [StrOptions(ACTIVATIONS.keys())],
    "encoder": [callable, None],
    "decoder": [callable, None],
    "likelihood": [StrOptions(LIKELIHOODS.keys()), list, tuple],
    "noise": [StrOptions({"scalar", "feature"})],
    "size_factor": [StrOptions({"auto", "total"}), None],
    "pretraining": [StrOptions(PRETRAINING.keys())],
    "neighbors": [_POSITIVE_INT, "sparse matrix", _Instance("fit_transform")],
    "pretrain_max_iter": [StrOptions({"auto"}), _NON_NEGATIVE_INT],
    "pretrain_learning_rate_init": [StrOptions({"auto"}), _POSITIVE],
    "embedding": [_Instance("fit_transform"), None],
    "embedding_input": [StrOptions({"data", "autoencoder"})],
    "embedding_max_samples": [_POSITIVE_INT],
    "embedding_max_iter": [_POSITIVE_INT],
    "init": [
        StrOptions(INITIALIZERS.keys()),
        "array-like",
        _Instance("fit_predict"),
    ],
    "n_init": [_POSITIVE_INT],
    "warmup_max_iter": [StrOptions({"auto"}), _NON_NEGATIVE_INT],
    "responsibilities": [StrOptions({"expected", "sampled"})],
    "n_draws": [_POSITIVE_INT],
    "beta": [StrOptions({"auto"}), _POSITIVE],
    "init_weight": [StrOptions({"auto"}), _NON_NEGATIVE],
    "max_iter": [StrOptions({"auto"}), _POSITIVE_INT],
    "batch_size": [StrOptions({"auto"}), _POSITIVE_INT],
    "learning_rate": [StrOptions({"cosine", "constant"})],
    "learning_rate_init": [_POSITIVE],
    "mixture_learning_rate_init": [_POSITIVE, None],
    "tol": [_NON_NEGATIVE],
    "n_iter_no_change": [_POSITIVE_INT],
    "early_stopping": ["boolean"],
    "validation_fraction": [_Interval(Real, 0, 1, closed="neither")],
    "covariance_type": [StrOptions(PRIORS.keys())],
    "reg_covar": [_NON_NEGATIVE],
    "warm_start": ["boolean"],
    "distributed": ["boolean"],
    "device": [str],
    "precision": [StrOptions({"float32", "bfloat16", "float64"})],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}

# Parameters of a part that may be absent.
_DEFAULT_NETWORK_PARAMS = ("hidden_layer_sizes", "activation")
_EMBEDDING_PARAMS = ("embedding_input", "embedding_max_samples", "embedding_max_iter")
_LIKELIHOOD_PARAMS = ("noise", "size_factor")
_PRETRAINING_PARAMS = (
    "pretraining",
    "pretrain_max_iter",
    "pretrain_learning_rate_init",
)

# Parameters that shape the module; a fit that goes on cannot change them.
_MODULE_PARAMS = (
    "latent_dim",
    "n_clusters",
    "activation",
    "encoder",
    "decoder",
    "likelihood",
    "noise",
    "size_factor",
    "covariance_type",
    "reg_covar",
)


def validate_params(estimator: BaseEstimator) -> None:
    """Check each parameter by its constraint, as scikit-learn does, and add a hint.

    Raises
    ------
    InvalidParameterError
        Names the first invalid parameter, its value, what it must be, and what may be
        meant.
    """
    constraints = estimator._parameter_constraints
    for name, value in estimator.get_params(deep=False).items():
        try:
            validate_parameter_constraints(
                constraints, {name: value}, caller_name=type(estimator).__name__
            )
        except InvalidParameterError as error:
            if name == "likelihood" and not isinstance(value, str):
                hint = _suggest_pairs(value)
            else:
                of_names = [c for c in constraints[name] if isinstance(c, StrOptions)]
                hint = _suggest_name(value, chain(*(c.options for c in of_names)))
            raise InvalidParameterError(f"{error}{hint}") from None


def _suggest_name(value: Any, names: Iterable[str]) -> str:
    """Ask for the name that a value misspells or is a synonym of, if there is one."""
    if not isinstance(value, str):
        return ""
    names = [*names]
    normalized = re.sub(r"[\s-]+", "_", value.strip().lower())
    matches = [name for name in names if name == SYNONYMS.get(normalized)]
    matches = matches or get_close_matches(normalized, names, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _suggest_pairs(likelihood: Any) -> str:
    """Show a list of pairs: the one that a dict given as `likelihood` stands for."""
    if not isinstance(likelihood, dict):
        return (
            " Give the name of a likelihood, or for a table a list of pairs (name, "
            f"columns), such as {EXAMPLE_PAIRS!r}."
        )
    by_name: dict[Any, Any] = {}
    if all(isinstance(v, str) and v in LIKELIHOODS for v in likelihood.values()):
        for column, name in likelihood.items():
            by_name.setdefault(name, []).append(column)
    shown = [*(by_name or likelihood).items()] or EXAMPLE_PAIRS
    return f" Give a list of pairs (name, columns): likelihood={shown!r}."


def module_params(estimator: BaseEstimator, n_features: int) -> dict[str, Any]:
    """Give the arguments of the module that the parameters ask for.

    Raises
    ------
    ValueError
        If `hidden_layer_sizes` is not a sequence of positive ints.
    """
    sizes = tuple(estimator.hidden_layer_sizes)
    if not sizes or not all(_POSITIVE_INT.is_satisfied_by(size) for size in sizes):
        raise ValueError(
            f"The 'hidden_layer_sizes' parameter of {type(estimator).__name__} must be "
            "a sequence of at least one int in the range [1, inf). "
            f"Got {estimator.hidden_layer_sizes!r} instead."
        )
    table = estimator._table
    return {
        "n_features": n_features,
        "table": None if table is None else table.parts,
        "hidden_layer_sizes": tuple(int(size) for size in sizes),
        **{name: getattr(estimator, name) for name in _MODULE_PARAMS},
    }


def check_same_module_params(
    estimator: BaseEstimator, fitted: dict[str, Any], method: str
) -> None:
    """Reject to go on where that would need another module.

    Raises
    ------
    ValueError
        If a parameter that shapes the module has changed since the last fit.
    """
    wanted = module_params(estimator, fitted["n_features"])
    if wanted["n_clusters"] == "auto":
        wanted["n_clusters"] = fitted["n_clusters"]
    for name, value in fitted.items():
        if not _are_equal(wanted[name], value):
            raise ValueError(
                f"{method} continues a model with {name}={value!r}. Got "
                f"{name}={wanted[name]!r} instead. Set it back, or use fit with "
                "warm_start=False to fit a new model."
            )


def saved_params(estimator: BaseEstimator) -> dict[str, Any]:
    """Give the parameters as a file can hold them: objects by a description."""
    params = estimator.get_params(deep=False)
    return {name: _savable(value) for name, value in params.items()}


def resumed_params(estimator: BaseEstimator, saved: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters of a fit that goes on from a file.

    Parameters
    ----------
    estimator : VaDEClusterer
        What is not its default must agree with the file. The device and `verbose` may
        change; a random state that the file cannot hold has no more effect.
    saved : dict of str to object
        What `saved_params` has given for the fit.

    Returns
    -------
    params : dict of str to object
        Those of the file, and in the place of descriptions the estimator's own.

    Raises
    ------
    ValueError
        Names the first parameter that differs, or that the estimator lacks.
    """
    given = estimator.get_params(deep=False)
    others = sorted(given.keys() ^ saved.keys())
    if others:
        raise ValueError(
            f"The file is of an estimator with other parameters: only one of it and "
            f"{type(estimator).__name__} has {', '.join(others)}. Use the same class."
        )
    params = {}
    for name, value in given.items():
        is_default = _are_equal(value, _default(estimator, name))
        is_same = _are_equal(_savable(value), saved[name])
        is_object = _has_description(saved[name])
        if is_object and (is_same or name == "random_state"):
            params[name] = value
        elif is_default and not is_object:
            params[name] = saved[name]
        elif is_same or name in ("device", "verbose"):
            params[name] = value
        else:
            remedy = "Leave it out: resume takes it from the file"
            if is_object:
                remedy = "Set it on the estimator: the file can not hold such an object"
            raise ValueError(
                f"The file is of a fit with {name}={saved[name]!r}. Got "
                f"{name}={value!r} instead. {remedy}."
            )
    return params


def _has_description(value: Any) -> bool:
    """Tell whether a saved value is, or holds, the description of an object."""
    if isinstance(value, Description):
        return True
    return isinstance(value, list | tuple) and any(map(_has_description, value))


def _savable(value: Any) -> Any:
    """Give a value that a file can hold, or the description of an object."""
    if isinstance(value, list | tuple):
        return type(value)(map(_savable, value))
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return value
    if issparse(value):
        return value
    if hasattr(value, "__array__") and not isinstance(value, np.ma.MaskedArray):
        array = np.asarray(value)
        if array.dtype != object:
            return array
    return Description(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)))


def _are_equal(one: Any, other: Any) -> bool:
    """Compare values that may hold arrays, tensors or frames, in any depth.

    A partial function is what it calls, and with which arguments.
    """
    if one is other:
        return True
    if isinstance(one, partial) and isinstance(other, partial):
        one = [one.func, one.args, one.keywords]
        other = [other.func, other.args, other.keywords]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _are_equal(value, other[key]) for key, value in one.items()
        )
    if issparse(one) and issparse(other):
        return one.shape == other.shape and (one != other).nnz == 0
    try:
        if np.shape(one) != np.shape(other):
            return False
        are_nan = (one != one) & (other != other)
        return bool(np.all(np.asarray((one == other) | are_nan)))
    except (TypeError, ValueError, RuntimeError):
        return False  # not comparable, as frames with other columns


def labels_from_init(init: Any) -> NDArray | None:
    """Give the labels, if that is what `init` holds."""
    if isinstance(init, str) or hasattr(init, "fit_predict"):
        return None
    if isinstance(init, np.ma.MaskedArray):
        return init.filled(-1)  # no label: noise
    return np.asarray(init)


def n_validation_samples(estimator: BaseEstimator, n_samples: int) -> int:
    """Count the samples that `early_stopping` holds out."""
    if not estimator.early_stopping:
        return 0
    return math.ceil(estimator.validation_fraction * n_samples)


def check_partial_fit_params(estimator: BaseEstimator) -> None:
    """Reject parameters that only data known as a whole can serve.

    Raises
    ------
    ValueError
        If `early_stopping` asks to hold samples out.
    """
    if estimator.early_stopping:
        raise ValueError(
            "partial_fit makes one pass over the samples it gets and holds none out. "
            "Got early_stopping=True. Set early_stopping=False, or use fit."
        )


def check_fit_params(
    estimator: BaseEstimator,
    sample_weight: NDArray,
    *,
    resumes: bool,
    group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Reject parameters that do not suit each other or the number of samples.

    Nothing is built for a fit that `resumes`, and `init` has no use.

    Raises
    ------
    ValueError
        If there are fewer samples than clusters, labels in `init` that do not fit,
        weights that `init` cannot take, a network that cannot be built, or an embedding
        that should be learned by several processes.
    """
    _check_n_samples(estimator, group.sum(int(np.count_nonzero(sample_weight))))
    if resumes:
        return
    _check_networks(estimator)
    _check_likelihood(estimator)
    _check_neighbors(estimator, len(sample_weight))
    _check_init(estimator, sample_weight, group)
    _check_embedding(estimator)


def check_same_params(
    estimator: BaseEstimator, n_features: int, group: ProcessGroup
) -> None:
    """Reject parameters, or data, that differ between the processes of a group.

    Where the values of a parameter are no numbers or strings, their types are compared.
    What may differ is the seed, the device and how much is printed.

    Raises
    ------
    ValueError
        Names the first that differs, and its values in two processes.
    """
    if group.world_size == 1:
        return
    facts: dict[str, Any] = {
        name: value if isinstance(value, str | Real | None) else type(value).__name__
        for name, value in estimator.get_params(deep=False).items()
        if name not in ("random_state", "device", "verbose")
    }
    facts["hidden_layer_sizes"] = [*estimator.hidden_layer_sizes]
    facts["the number of features of X"] = n_features
    facts["whether it is fitted"] = hasattr(estimator, "_network_state")
    first, *others = group.gather(facts)
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other[name] != value:
                raise ValueError(
                    "All processes must fit the same estimator to the same features. "
                    f"Got {name}={value!r} in process 0 and {name}={other[name]!r} in "
                    f"process {rank}. Make them equal."
                )


def check_shares(shares: Sequence[int], batch_size: int) -> None:
    """Reject a process that has no sample for every step.

    Raises
    ------
    ValueError
        If one has fewer samples than there are steps of an epoch.
    """
    n_batches = math.ceil(sum(shares) / batch_size)
    if min(shares) < n_batches:
        rank = int(np.argmin(shares))
        raise ValueError(
            f"Process {rank} has {shares[rank]} samples to train on, fewer than the "
            f"{n_batches} steps of an epoch with batch_size={batch_size}. Give all "
            "processes about the same number of samples, or raise batch_size."
        )


def _check_n_samples(estimator: BaseEstimator, n_samples: int) -> None:
    n_validation = n_validation_samples(estimator, n_samples)
    least = 1 if estimator.n_clusters == "auto" else estimator.n_clusters
    if n_samples - n_validation >= least:
        return
    held_out, remedy = "", "Lower n_clusters"
    if n_validation:
        held_out = f" with {n_validation} of them held out"
        remedy += f" or validation_fraction={estimator.validation_fraction}"
    raise ValueError(
        f"n_samples={n_samples}{held_out} should be >= n_clusters="
        f"{estimator.n_clusters}. {remedy}, or give more samples."
    )


def _check_networks(estimator: BaseEstimator) -> None:
    names = [n for n in ("encoder", "decoder") if getattr(estimator, n) is not None]
    for name in names:
        value = getattr(estimator, name)
        if isinstance(value, nn.Module):
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be a "
                "callable that builds a module, not a module: clones and hashes would "
                f"depend on its weights. Got {value!r} instead. Pass its class, or a "
                "function that returns it."
            )
    if names and estimator.pretraining == "stacked":
        raise ValueError(
            "pretraining='stacked' trains the layers of the default networks in pairs. "
            f"Got a custom network as {' and '.join(names)}. Use pretraining="
            "'autoencoder' or 'vae'."
        )
    if len(names) == 2:
        _warn_ignored_params(
            estimator,
            _DEFAULT_NETWORK_PARAMS,
            "both encoder and decoder are custom. Leave out what has no effect, or "
            "give it to your own functions with functools.partial.",
        )


def _check_likelihood(estimator: BaseEstimator) -> None:
    names = [estimator.likelihood]
    if estimator._table is not None:
        names = [part.likelihood for part in estimator._table.parts]
        _check_size_factor(estimator)
    has = {option for name in names for option in LIKELIHOODS[name].options}
    _warn_ignored_params(
        estimator,
        [name for name in _LIKELIHOOD_PARAMS if name not in has],
        f"it is no parameter of likelihood={estimator.likelihood!r}. Leave out what "
        "has no effect, or choose another likelihood.",
    )


def _check_size_factor(estimator: BaseEstimator) -> None:
    """Reject the share of a column in a total that is the column itself."""
    for part in estimator._table.parts:
        has_option = "size_factor" in LIKELIHOODS[part.likelihood].options
        by_total = has_option and estimator.size_factor == "total"
        is_share = by_total or part.likelihood == "multinomial"
        if is_share and len(part.columns) == 1:
            name = estimator._table.names[part.columns[0]]
            raise ValueError(
                f"likelihood={part.likelihood!r} has {name!r} as its only column, "
                "whose share in the total of its columns is always one. Use 'poisson' "
                "or 'negative_binomial' with size_factor=None."
            )


def _check_neighbors(estimator: BaseEstimator, n_samples: int) -> None:
    if issparse(estimator.neighbors):
        source = "A graph given as neighbors"
        check_graph(estimator.neighbors, n_samples, source)
    is_name = isinstance(estimator.init, str)
    if is_name and estimator.init == "communities":
        return
    pretrains = has_pretraining(estimator) and estimator.pretrain_max_iter != 0
    if not (pretrains and estimator.pretraining == "neighbors"):
        _warn_ignored_params(
            estimator,
            ("neighbors",),
            "neither pretraining nor init uses them. Leave out what has no effect, or "
            "use pretraining='neighbors' or init='communities'.",
        )


def _check_init(
    estimator: BaseEstimator, sample_weight: NDArray, group: ProcessGroup
) -> None:
    positive = sample_weight[sample_weight > 0]
    extremes = group.gather((positive.min(), positive.max()))
    is_gmm = isinstance(estimator.init, str) and estimator.init == "gmm"
    if is_gmm and np.ptp(extremes) > 0:
        raise ValueError(
            "init='gmm' can not use sample_weight: scikit-learn's GaussianMixture "
            "takes no weights. Use init='kmeans', or give the mixture as a clusterer, "
            "init=GaussianMixture(...), if the partition need not depend on them."
        )
    labels = labels_from_init(estimator.init)
    if labels is not None:
        source = "The array given as init"
        check_labels(labels, estimator.n_clusters, len(sample_weight), source)


def _check_embedding(estimator: BaseEstimator) -> None:
    if estimator.embedding is not None and estimator.distributed:
        raise ValueError(
            f"distributed=True can not learn embedding={estimator.embedding!r}: the "
            "transformer would need the samples of all processes. Use "
            "pretraining='neighbors', or fit in one process."
        )
    if estimator.embedding is None:
        _warn_ignored_params(
            estimator,
            _EMBEDDING_PARAMS,
            "embedding=None, so there is none to learn. Leave out what has no effect, "
            "or give an embedding, such as TSNE() with latent_dim=2.",
        )
        return
    if estimator.embedding_input == "data" and estimator.pretrain_max_iter:
        _warn_ignored_params(
            estimator,
            _PRETRAINING_PARAMS,
            "an embedding of the data is learned, so no autoencoder is pretrained. "
            "Leave out what has no effect, or use embedding_input='autoencoder'.",
        )
    n_components = getattr(estimator.embedding, "n_components", None)
    is_int = isinstance(n_components, Integral)
    if is_int and n_components > estimator.latent_dim:
        raise ValueError(
            f"embedding={estimator.embedding!r} has n_components={n_components}, but "
            f"latent_dim={estimator.latent_dim}. Make them equal, or latent_dim the "
            "higher: the latent space takes the coordinates of the embedding."
        )
    if estimator.embedding_input == "autoencoder" and not estimator.pretrain_max_iter:
        raise ValueError(
            "embedding_input='autoencoder' needs a pretrained autoencoder. Got "
            "pretrain_max_iter=0. Raise it, or use embedding_input='data'."
        )


def _warn_ignored_params(
    estimator: BaseEstimator, names: Sequence[str], reason: str
) -> None:
    """Warn of parameters that were set of a part that is absent."""
    ignored = _non_default_params(estimator, names)
    if ignored:
        verb = "has" if len(ignored) == 1 else "have"
        warnings.warn(
            f"{' and '.join(ignored)} {verb} no effect: {reason}", stacklevel=2
        )


def _non_default_params(estimator: BaseEstimator, names: Sequence[str]) -> list[str]:
    """List those of the parameters that differ from their defaults."""
    return [
        name
        for name in names
        if issparse(getattr(estimator, name))
        or not np.array_equal(getattr(estimator, name), _default(estimator, name))
    ]


def _default(estimator: BaseEstimator, name: str) -> Any:
    """Find a parameter's default; a subclass may have another signature."""
    for cls in type(estimator).__mro__:
        if "__init__" in vars(cls):
            parameters = signature(vars(cls)["__init__"]).parameters
            if name in parameters:
                return parameters[name].default
    raise KeyError(name)


def warn_version_mismatch(estimator: BaseEstimator, state: dict[str, Any]) -> None:
    """Warn that a fitted state was made by another version, wherever it comes from."""
    version = state.get("_version", __version__)
    if version != __version__:
        warnings.warn(
            f"This {type(estimator).__name__} was fitted with skvade {version} and is "
            f"loaded with skvade {__version__}: its results may differ, or fail. "
            f"Install skvade {version}, or fit it again.",
            stacklevel=2,
        )


# --- Data ---------------------------------------------------------------------------


def validate_X(estimator: BaseEstimator, X: Any, *, reset: bool) -> NDArray | csr_array:
    """Convert X to a float array or a CSR array, without a pass over its values.

    Infinite values are found by `DataSummary.from_array`, which reads X anyway. A table
    becomes its features, see :class:`~skvade._data.table.TableEncoder`. With `reset` it
    is learned which columns it has.

    Raises
    ------
    ValueError
        If X is not two-dimensional and numeric, has another number of features than in
        `fit`, or is sparse and inconsistent.
    """
    _check_container(X)
    pairs = _likelihood_pairs(estimator) if reset else None
    if pairs is not None or (estimator._table is not None and not reset):
        return _validate_table(estimator, X, pairs)
    vars(estimator).pop("_table", None)  # of an earlier fit
    X = mark_missing(X)
    _check_columns(X)
    X = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=supported_dtypes(X),
        ensure_all_finite=False,
    )
    if not issparse(X):
        return X
    _check_csr(X)
    if not X.has_canonical_format:
        X = X.copy()  # the user's own stays as it is
        X.sum_duplicates()
    return X


def _check_container(X: Any) -> None:
    """Reject what holds no samples as numbers or columns, whatever the likelihood.

    Raises
    ------
    TypeError
        If X is a path, a list of strings, or a frame whose values are yet to be
        computed.
    ValueError
        If X is a frame without columns.
    """
    if isinstance(X, str | bytes | PathLike):
        raise TypeError(
            f"X must hold samples. Got {shorten(X)} of type {type(X).__name__} "
            "instead. If it names a file, read that first, for instance by "
            "pandas.read_csv."
        )
    is_flat = isinstance(X, list | tuple) or len(getattr(X, "shape", ())) == 1
    first = next(iter(X), None) if is_flat and not issparse(X) else None
    if isinstance(first, str | PathLike):
        raise TypeError(
            "X must have the features of each sample. Got a sequence of strings "
            f"instead, {shorten(str(first))} the first. Turn texts into numbers, for "
            "instance by TfidfVectorizer. Read files first, for instance by "
            "pandas.read_csv."
        )
    if hasattr(X, "columns") and hasattr(X, "collect"):
        raise TypeError(
            f"X is a {type(X).__name__}, whose values are yet to be computed. Give "
            "X.collect(), or another frame of pandas or polars."
        )
    if hasattr(X, "columns") and not len(X.columns):
        raise ValueError(
            f"X is a frame without columns, of shape {X.shape}. Select at least one. "
            "If a selection of numbers has none, the file may have been read as text: "
            "see the options 'sep' and 'decimal' of pandas.read_csv."
        )


def _likelihood_pairs(estimator: BaseEstimator) -> list[tuple[str, Any]] | None:
    """Give the likelihoods of a table and their columns; None for a single one.

    Raises
    ------
    ValueError
        If `likelihood` is no list of pairs, or names one that does not exist.
    """
    likelihood = estimator.likelihood
    if isinstance(likelihood, str):
        return [(CATEGORICAL, slice(None))] if likelihood == CATEGORICAL else None
    for pair in likelihood:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise ValueError(
                "The 'likelihood' parameter of a table must be a list of pairs (name, "
                f"columns), such as {EXAMPLE_PAIRS!r}. It has {pair!r} in the place of "
                f"a pair.{_suggest_list(likelihood)}"
            )
        name, columns = pair
        if not _is_likelihood(name):
            hint = _suggest_name(name, LIKELIHOODS)
            if _is_likelihood(columns):
                hint = f" Did you mean {(columns, name)!r}?"
            raise ValueError(
                f"The pair {pair!r} of the 'likelihood' parameter must begin with a "
                f"name among {sorted(LIKELIHOODS)}. Got {name!r} instead.{hint}"
            )
    if not likelihood:
        raise ValueError(
            "The 'likelihood' parameter is an empty list. Give pairs (name, columns), "
            f"such as {EXAMPLE_PAIRS!r}, or the name of a single likelihood."
        )
    return [(name, columns) for name, columns in likelihood]


def _is_likelihood(name: Any) -> bool:
    return isinstance(name, str) and name in LIKELIHOODS


def _suggest_list(likelihood: Sequence) -> str:
    """Ask for the list that a single pair stands for; empty if it is none."""
    if [_is_likelihood(value) for value in likelihood] != [True, False]:
        return ""
    return f" Did you mean {[tuple(likelihood)]!r}?"


def _validate_table(
    estimator: BaseEstimator, X: Any, pairs: list[tuple[str, Any]] | None
) -> NDArray[np.float64]:
    """Convert a table to its features; with `pairs` it is that of a new fit.

    Raises
    ------
    ValueError
        If X is sparse, not two-dimensional, or has other columns than in `fit`, or if
        several processes would have to agree on the categories.
    """
    if issparse(X):
        raise ValueError(
            f"likelihood={estimator.likelihood!r} needs a dense table. Got sparse X. "
            "Use X.toarray(), or a single likelihood."
        )
    if hasattr(X, "column_names"):
        raise TypeError(
            f"A table must be a frame of pandas or polars, or an array. Got a "
            f"{type(X).__name__} of {type(X).__module__.partition('.')[0]} instead. "
            "Convert it, for instance by X.to_pandas()."
        )
    if estimator.distributed:
        raise ValueError(
            f"distributed=True can not fit likelihood={estimator.likelihood!r}: each "
            "process sees the categories of its own samples alone. Fit in one process."
        )
    if not hasattr(X, "columns"):
        is_array = isinstance(X, np.ndarray | torch.Tensor)
        # Strings beside numbers would otherwise make strings of the numbers.
        X = mark_missing(X if is_array else np.array(X, dtype=object))
    if len(X.shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(X.shape)}D array instead: a table has "
            "samples as rows, and columns."
        )
    if not len(X):
        raise ValueError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is "
            f"required by {type(estimator).__name__}."
        )
    validate_data(estimator, X, reset=pairs is not None, skip_check_array=True)
    if pairs is not None:
        estimator._table = TableEncoder.fit(X, pairs)
    return estimator._table.encode(X)


def _check_columns(X: Any) -> None:
    """Reject the columns of a frame that hold no numbers.

    Raises
    ------
    ValueError
        Names the columns.
    """
    others = columns_without_numbers(X)
    if others:
        raise ValueError(
            f"X has columns that do not hold numbers: {', '.join(others)}. Give them a "
            "likelihood of their own, [('categorical', [...]), ('gaussian', [...])], "
            "turn dates into numbers, or leave the columns out."
        )


def mark_missing(X: Any) -> Any:
    """Give X with NaN where NumPy's masked arrays or pandas.NA have a missing entry.

    A tensor becomes an array. Whatever else X may be is left to scikit-learn's checks.
    """
    if isinstance(X, torch.Tensor):
        is_bfloat16 = X.dtype == torch.bfloat16  # unknown to NumPy
        return (X.double() if is_bfloat16 else X).numpy(force=True)
    if isinstance(X, list | tuple):
        is_masked = any(isinstance(row, np.ma.MaskedArray) for row in X)
        X = np.ma.array(X) if is_masked else X
    if isinstance(X, np.ma.MaskedArray):
        floats = X.astype(np.result_type(X, np.float16))
        return np.ma.filled(floats, np.nan)
    pandas: Any = sys.modules.get("pandas")  # unless it is imported, there is no NA
    if pandas is None:
        return X
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype == object:
        return np.where(pandas.isna(X), np.nan, X)
    if isinstance(X, pandas.DataFrame) and any(d.kind == "O" for d in X.dtypes):
        return X.mask(X.isna(), np.nan)
    return X


def supported_dtypes(X: Any) -> Sequence[type] | type:
    """Give the dtypes that X may keep; where all its columns are float32, that one.

    scikit-learn knows the dtype of arrays, and of frames whose columns are arrays.
    """
    dtypes: Any = []
    if hasattr(X, "columns"):
        dtypes = [getattr(d, "numpy_dtype", d) for d in getattr(X, "dtypes", [])]
    is_array_like = hasattr(X, "__array__") and hasattr(X, "__getitem__")
    if is_array_like and not len(dtypes) and not hasattr(X, "dtype"):
        dtypes = [np.asarray(X[:1]).dtype]
    is_float32 = {str(dtype).lower() for dtype in dtypes} == {"float32"}
    return np.float32 if is_float32 else SUPPORTED_DTYPES


def _check_csr(X: csr_array) -> None:
    """Reject NaN, and indices that SciPy does not check, where 32 bits overflowed."""
    if np.isnan(X.data).any():
        raise ValueError(
            "Sparse X contains NaN. Missing entries are understood in dense X only: "
            "in sparse X, what is not stored is zero."
        )
    columns, ends = X.indices, X.indptr
    if len(columns) and not (columns.min() >= 0 and columns.max() < X.shape[1]):
        raise ValueError(
            f"Sparse X has column indices from {columns.min()} to {columns.max()}, "
            f"which do not fit its {X.shape[1]} columns. Was an integer type too small?"
        )
    if (np.diff(ends) < 0).any() or ends[0] != 0 or ends[-1] > len(columns):
        raise ValueError(
            "Sparse X has row pointers (indptr) that do not rise from 0 to the number "
            "of its values. Was an integer type too small?"
        )


def check_sample_weight(
    sample_weight: Any, X: NDArray | csr_array
) -> NDArray[np.float64]:
    """Validate the sample weights; equal ones share the memory of a single number.

    Weights that are negligible beside the others become zero.

    Raises
    ------
    ValueError
        If they are not one finite, non-negative number per sample, or all zero.
    """
    if sample_weight is None:
        return uniform_weights(X.shape[0])
    weights = _check_sample_weight(
        mark_missing(sample_weight), X, dtype=np.float64, ensure_non_negative=True
    )
    return drop_negligible_weights(weights, WeightStatistics().update(weights).mean)


def feature_names(estimator: BaseEstimator) -> Sequence[Any] | None:
    """Give what errors call the features: the names of the columns of a frame.

    The indicators of the categories of a column have its name. None where X has no
    names.
    """
    table = estimator._table
    if table is not None:
        return [table.names[column] for column in table.feature_columns]
    return getattr(estimator, "feature_names_in_", None)


def _likelihood_parts(
    likelihood: Any, table: TableEncoder | None
) -> list[tuple[str, slice]]:
    """Give the likelihoods of X, and the features of each; a single one has all."""
    if table is None:
        return [(likelihood, slice(None))]
    names = [part.likelihood for part in table.parts]
    return [*zip(names, table.slices, strict=True)]


def check_values(
    likelihood: Any,
    X: NDArray | csr_array,
    table: TableEncoder | None = None,
    names: Sequence[Any] | None = None,
) -> NDArray[np.intp]:
    """Reject values that a likelihood of counts cannot take, in fits and predictions.

    Returns
    -------
    empty : ndarray of shape (n_empty,)
        The samples in which no count is above zero, if X has counts alone, of a single
        likelihood.

    Raises
    ------
    ValueError
        Names the first value that is no count.
    """
    empty = np.empty(0, np.intp)
    parts = _likelihood_parts(likelihood, table)
    for name, features in parts:
        if LIKELIHOODS[name].of_counts:
            without_counts = check_counts(X, name, features, names)
            if len(parts) == 1:
                empty = without_counts
    return empty


def warn_no_counts(empty: NDArray, scaling: Scaling, n_samples: int) -> None:
    """Warn of the samples that `check_values` gives, where their total is divided by.

    Counts that are not divided tell something by being zero.
    """
    if len(empty) and scaling.reference_count is not None:
        warnings.warn(
            f"X has no count above zero in row {enumerate_first(empty)}: {len(empty)} "
            f"of {n_samples} samples. Clusters differ in the shares of the features in "
            "the total of a sample, and an empty one has no shares, so its label and "
            "its coordinates say nothing. Drop such samples, or label them as noise.",
            stacklevel=2,
        )


def _some_samples(X: NDArray | csr_array) -> NDArray:
    """Take evenly spaced samples, enough for a warning to tell what is common."""
    n_samples = min(X.shape[0], N_CHECKED_SAMPLES)
    return dense_samples(X, np.linspace(0, X.shape[0] - 1, n_samples).astype(int))


def warn_feature_scales(
    likelihood: Any, X: NDArray | csr_array, summary: DataSummary
) -> None:
    """Warn of features beside whose scale at least half of all count for nothing.

    Only real values have one scale for all features. That a feature varies much is seen
    from its interquartile range, which outliers do not change. That one varies little
    is seen from its range, which is wide for a rare word or gene, too.
    """
    if likelihood != "gaussian":
        return
    ranges = summary.feature_max - summary.feature_min
    varying = np.sort(ranges[ranges > 0])
    if len(varying) < 2:
        return
    small = varying[(len(varying) - 1) // 2]
    wide = np.flatnonzero(ranges > MAX_SCALE_RATIO * small)
    if not len(wide):
        return
    assert summary.feature_mean is not None
    samples = _some_samples(X)[:, wide]
    samples = np.where(np.isnan(samples), summary.feature_mean[wide], samples)
    spread = np.subtract(*np.percentile(samples, [75, 25], axis=0))
    order = np.argsort(-spread)
    large = wide[order[spread[order] > MAX_SCALE_RATIO * small]]
    if len(large):
        labels = [feature_label(summary.names, feature) for feature in large]
        warnings.warn(
            "X has features of very unequal scale: the middle half of the values in "
            f"column {enumerate_first(labels)} spans up to {spread.max():.3g}, and "
            f"half of the features have a range of at most {small:.3g}. The latter "
            "hardly change the distances of samples, so they hardly count for the "
            "clusters. If the units differ, scale X, for instance with StandardScaler.",
            stacklevel=2,
        )


def warn_placeholders(X: NDArray | csr_array, summary: DataSummary) -> None:
    """Warn of a number of nines, such as -999, that repeats far from all other values.

    X is read only where it is the least or largest value of a feature.
    """
    for extremes in (summary.feature_min, summary.feature_max):
        candidates = np.flatnonzero(np.isin(np.abs(extremes), PLACEHOLDERS))
        if not len(candidates):
            continue
        value = extremes[candidates]
        samples = _some_samples(X)[:, candidates]
        is_value = samples == value
        others = np.where(is_value, np.nan, samples)
        low, high = np.fmin.reduce(others), np.fmax.reduce(others)
        distance = np.fmin(np.abs(value - low), np.abs(value - high))
        is_far = (distance > high - low) & (high > low)
        found = candidates[is_far & (is_value.sum(0) >= MIN_PLACEHOLDERS)]
        if len(found):
            labels = [feature_label(summary.names, feature) for feature in found]
            warnings.warn(
                f"Column {enumerate_first(labels)} of X holds {extremes[found[0]]:.6g} "
                "several times, far from all its other values. If it stands for a "
                "missing value, replace it by NaN, as na_values of pandas.read_csv "
                "does: it changes the scale of the column, and so the clusters.",
                stacklevel=2,
            )


def warn_sample_numbers(X: NDArray | csr_array, summary: DataSummary) -> None:
    """Warn of columns of a frame that number the samples, as an index does."""
    n_samples = X.shape[0]
    if summary.names is None or issparse(X) or n_samples < MIN_NUMBERED_SAMPLES:
        return
    ranges = summary.feature_max - summary.feature_min
    candidates = np.flatnonzero(ranges == n_samples - 1)
    numbers = [i for i in candidates if (np.diff(X[:, i]) == 1).all()]
    if numbers:
        labels = [feature_label(summary.names, i) for i in numbers]
        warnings.warn(
            f"Column {enumerate_first(labels)} of X numbers the samples: each value is "
            "the one before, plus one. Leave it out, unless samples that are close in "
            "this order belong together.",
            stacklevel=2,
        )


def check_data(
    likelihood: Any,
    summary: DataSummary,
    scaling: Scaling,
    *dtypes: Dtype,
    table: TableEncoder | None = None,
) -> None:
    """Reject data that the likelihood or the arithmetic of the networks cannot take."""
    check_support(likelihood, summary, table)
    check_scale(scaling, *dtypes)
    check_magnitude(summary, scaling)


def _outside_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None
) -> list[tuple[str, DataSummary]]:
    """List the likelihoods with values outside of their support, and what these are."""
    found = []
    for name, features in _likelihood_parts(likelihood, table):
        part = summary._replace(
            feature_min=summary.feature_min[features],
            feature_max=summary.feature_max[features],
            names=None if summary.names is None else summary.names[features],
        )
        low, high = LIKELIHOODS[name].support
        if part.min < low or part.max > high:  # of missing entries alone neither is
            found.append((name, part))
    return found


def check_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None = None
) -> None:
    """Reject values to which the likelihood gives no probability.

    Raises
    ------
    ValueError
        Names the range of the values, and that of the likelihood.
    """
    for name, part in _outside_support(likelihood, summary, table):
        low, high = LIKELIHOODS[name].support
        where = ""
        if part.names is not None:
            outside = (part.feature_min < low) | (part.feature_max > high)
            labels = [feature_label(part.names, i) for i in np.flatnonzero(outside)]
            where = f", those outside in column {enumerate_first(labels)}"
        raise ValueError(
            f"likelihood={name!r} needs X in [{low:g}, {high:g}]. Got values from "
            f"{part.min:.6g} to {part.max:.6g} instead{where}. Scale X, for instance "
            "with MinMaxScaler, or use likelihood='gaussian'."
        )


def warn_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None = None
) -> None:
    """Warn of scores that are no probabilities, where X is outside of the support."""
    for name, part in _outside_support(likelihood, summary, table):
        low, high = LIKELIHOODS[name].support
        warnings.warn(
            f"X ranges from {part.min:.6g} to {part.max:.6g}. Outside of "
            f"[{low:g}, {high:g}] the score of likelihood={name!r} is no "
            "probability. Clip X, for instance with MinMaxScaler(clip=True).",
            stacklevel=2,
        )


def check_scale(scaling: Scaling, *dtypes: Dtype) -> None:
    """Reject a scale, or an offset, that a dtype cannot express.

    Parameters
    ----------
    scaling : Scaling
        How X is standardized.
    *dtypes : dtype
        Those of the networks and of X. The squared scale must also lie well within
        float64, in which the noise variance is given.

    Raises
    ------
    ValueError
        Names scale and offset.
    """
    scales, offset = np.asarray(scaling.scale), np.abs(scaling.location).max()
    least, scale = float(scales.min()), float(scales.max())
    for dtype in dtypes:
        limits: Any
        if isinstance(dtype, torch.dtype):
            limits = torch.finfo(dtype)
        else:
            limits = np.finfo(dtype)
        # As floats of Python: others would be compared in their own precision.
        low, high = float(limits.tiny), float(limits.max)
        is_expressible = low <= least and scale <= high and offset <= high
        if not (is_expressible and least >= MIN_SCALE and scale <= MAX_SCALE):
            raise ValueError(
                f"X has averages up to {offset:.3g} and a standard deviation of "
                f"{scale * TARGET_STD:.3g}, which is beyond what the arithmetic in "
                f"{str(dtype).removeprefix('torch.')} can express. Look for extreme "
                "values in X, or rescale it, for instance with MaxAbsScaler."
            )


def check_magnitude(summary: DataSummary, scaling: Scaling) -> None:
    """Reject values so large that results for them would be NaN.

    Raises
    ------
    ValueError
        If a standardized value could exceed `MAX_STANDARDIZED_VALUE`.
    """
    largest = np.fmax(np.abs(summary.feature_min), np.abs(summary.feature_max))
    scales = np.broadcast_to(scaling.scale, largest.shape)
    with np.errstate(over="ignore"):
        standardized = (largest + np.abs(scaling.location)) / scales
    if not np.fmax.reduce(standardized) <= MAX_STANDARDIZED_VALUE:
        worst = np.nanargmax(standardized)
        raise ValueError(
            f"X has values up to {largest[worst]:.3g}, in column "
            f"{feature_label(summary.names, worst)}, but the data that the model is "
            f"fitted to have a standard deviation of {scales[worst] * TARGET_STD:.3g}: "
            "the arithmetic of the networks does not reach that far. Look for extreme "
            "values in X."
        )
