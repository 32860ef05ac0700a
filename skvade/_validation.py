"""Checks of parameters."""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from torch import nn

from skvade._archive import Description
from skvade._data.neighbors import check_graph
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.table import CATEGORICAL
from skvade._model.likelihoods import LIKELIHOODS
from skvade._model.networks import ACTIVATIONS
from skvade._model.prior import PRIORS
from skvade._training.initialization import INITIALIZERS, check_labels
from skvade._training.pretraining import PRETRAINING
from skvade._training.stages import has_pretraining
from skvade._version import __version__

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "check_fit_params",
    "check_partial_fit_params",
    "check_same_module_params",
    "check_same_params",
    "check_shares",
    "labels_from_init",
    "likelihood_pairs",
    "module_params",
    "n_validation_samples",
    "resumed_params",
    "saved_params",
    "validate_params",
    "warn_version_mismatch",
]

# What a `likelihood` of a table looks like.
EXAMPLE_PAIRS = [("gaussian", ["age"]), ("categorical", ["city"])]

# What else an option is called, where that is no misspelling of it.
SYNONYMS = {
    "normal": "gaussian",
    "continuous": "gaussian",
    "numeric": "gaussian",
    "binary": "bernoulli",
}


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


def likelihood_pairs(likelihood: Any) -> list[tuple[str, Any]] | None:
    """Give the likelihoods of a table and their columns; None for a single one.

    Raises
    ------
    ValueError
        If `likelihood` is no list of pairs, or names one that does not exist.
    """
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
        f"likelihood={estimator.likelihood!r} has no such parameter. Leave out what "
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
