"""The words of the estimator: what fit rejects or ignores, and why."""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight
from torch import nn

from skvade._initial_mixture import METHODS, check_labels, check_weights
from skvade._likelihoods import LIKELIHOODS
from skvade._matrix import equal_weights, extent
from skvade._networks import ACTIVATIONS
from skvade._pretraining import PRETRAINING
from skvade._version import __version__
from skvade._warnings import warn

__all__ = [
    "PARAMETER_CONSTRAINTS",
    "architecture",
    "check_rows",
    "check_same_architecture",
    "check_streams",
    "check_values",
    "checked_weight",
    "given_labels",
    "n_held_out",
    "warn_of_version",
]


class _Numbers(Interval):
    """An interval without True and False, which Python takes for 1 and 0."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, bool) and super().is_satisfied_by(val)


class _Instance(HasMethods):
    """An object with a method, not the class of such objects."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, type) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        return f"{super().__str__()} (an instance, not a class)"


_POSITIVE_INT = _Numbers(Integral, 1, None, closed="left")
_NATURAL = _Numbers(Integral, 0, None, closed="left")
_POSITIVE = _Numbers(Real, 0, None, closed="neither")
_NON_NEGATIVE = _Numbers(Real, 0, None, closed="left")

PARAMETER_CONSTRAINTS: dict[str, list] = {
    "n_clusters": [_POSITIVE_INT],
    "latent_dim": [_POSITIVE_INT],
    "hidden_layer_sizes": ["array-like"],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "encoder": [callable, None],
    "decoder": [callable, None],
    "likelihood": [StrOptions(set(LIKELIHOODS))],
    "pretraining": [StrOptions(set(PRETRAINING))],
    "pretrain_max_iter": [_NATURAL],
    "pretrain_learning_rate_init": [StrOptions({"auto"}), _POSITIVE],
    "embedding": [_Instance("fit_transform"), None],
    "embedding_input": [StrOptions({"data", "autoencoder"})],
    "embedding_max_samples": [_POSITIVE_INT],
    "embedding_max_iter": [_POSITIVE_INT],
    "init": [StrOptions(set(METHODS)), "array-like", _Instance("fit_predict")],
    "n_init": [_POSITIVE_INT],
    "catch_up_max_iter": [_NATURAL],
    "responsibilities": [StrOptions({"expected", "sampled"})],
    "n_draws": [_POSITIVE_INT],
    "beta": [_POSITIVE],
    "max_iter": [_POSITIVE_INT],
    "batch_size": [StrOptions({"auto"}), _POSITIVE_INT],
    "learning_rate_init": [_POSITIVE],
    "mixture_learning_rate_init": [_POSITIVE, None],
    "tol": [_NON_NEGATIVE],
    "n_iter_no_change": [_POSITIVE_INT],
    "early_stopping": ["boolean"],
    "validation_fraction": [_Numbers(Real, 0, 1, closed="neither")],
    "reg_covar": [_NON_NEGATIVE],
    "warm_start": ["boolean"],
    "device": [str],
    "precision": [StrOptions({"float32", "bfloat16", "float64"})],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}

# Parameters of what may not be there: default networks, an embedding, an autoencoder.
_OF_THE_DEFAULT = ("hidden_layer_sizes", "activation")
_OF_EMBEDDING = ("embedding_input", "embedding_max_samples", "embedding_max_iter")
_OF_PRETRAINING = ("pretraining", "pretrain_max_iter", "pretrain_learning_rate_init")

# Parameters that decide the shape of the model; a warm start cannot change them.
_ARCHITECTURE = (
    "latent_dim",
    "n_clusters",
    "activation",
    "encoder",
    "decoder",
    "likelihood",
    "reg_covar",
)


def architecture(estimator: BaseEstimator, n_features: int) -> dict[str, Any]:
    """Arguments of the model that the parameters ask for.

    Raises
    ------
    ValueError
        If `hidden_layer_sizes` is not a sequence of positive ints.
    """
    sizes = tuple(estimator.hidden_layer_sizes)
    if not sizes or not all(_is_positive_int(size) for size in sizes):
        raise ValueError(
            f"The 'hidden_layer_sizes' parameter of {type(estimator).__name__} must be "
            "a sequence of at least one int in the range [1, inf). "
            f"Got {estimator.hidden_layer_sizes!r} instead."
        )
    named = {name: getattr(estimator, name) for name in _ARCHITECTURE}
    return {
        "n_features": n_features,
        "hidden_layer_sizes": tuple(int(size) for size in sizes),
        **named,
    }


def _is_positive_int(value: Any) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
    )


def check_same_architecture(
    estimator: BaseEstimator, fitted: dict[str, Any], method: str
) -> None:
    """Reject to go on where that would need another model.

    Raises
    ------
    ValueError
        If a parameter that shapes the model has changed since the last fit.
    """
    wanted = architecture(estimator, fitted["n_features"])
    for name, value in fitted.items():
        if _parts(wanted[name]) != _parts(value):
            raise ValueError(
                f"{method} continues a model with {name}={value!r}. Got "
                f"{name}={wanted[name]!r} instead. Set it back, or use fit with "
                "warm_start=False to fit a new model."
            )


def _parts(value: Any) -> Any:
    """What to compare a value by; a partial function is equal to itself alone."""
    is_partial = isinstance(value, partial)
    return (value.func, value.args, value.keywords) if is_partial else value


def given_labels(init: Any) -> NDArray | None:
    """The labels, if that is what `init` holds."""
    is_labels = not isinstance(init, str) and not hasattr(init, "fit_predict")
    return np.asarray(init) if is_labels else None


def checked_weight(sample_weight: Any, X: NDArray | csr_array) -> NDArray[np.float64]:
    """The weights of the rows, in the memory of a single one if there are none.

    Raises
    ------
    ValueError
        If they are not one finite, non-negative number per row, or all zero.
    """
    if sample_weight is None:
        return equal_weights(X.shape[0])
    return _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )


def n_held_out(estimator: BaseEstimator, n_samples: int) -> int:
    """Number of rows that `early_stopping` keeps from training."""
    if not estimator.early_stopping:
        return 0
    return math.ceil(estimator.validation_fraction * n_samples)


def _check_embedding(estimator: BaseEstimator) -> None:
    """Reject what can not teach the encoder, as far as can be foretold.

    Raises
    ------
    ValueError
        If it gives more columns than `latent_dim`, or is to see the
        embedding of an autoencoder that is not trained.
    """
    if estimator.embedding is None:
        _warn_of_ignored(
            estimator,
            _OF_EMBEDDING,
            "embedding=None, so there is none to imitate. Leave out what has no "
            "effect, or give an embedding, such as TSNE() with latent_dim=2.",
        )
        return
    if estimator.embedding_input == "data" and estimator.pretrain_max_iter:
        _warn_of_ignored(
            estimator,
            _OF_PRETRAINING,
            "an embedding of the data is imitated, so no autoencoder is pretrained. "
            "Leave out what has no effect, or use embedding_input='autoencoder'.",
        )
    n_components = getattr(estimator.embedding, "n_components", None)
    counted = isinstance(n_components, Integral)
    if counted and n_components > estimator.latent_dim:
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


def _check_networks(estimator: BaseEstimator) -> None:
    """Reject networks that could not be built afresh, or not be pretrained as asked.

    Raises
    ------
    ValueError
        If `encoder` or `decoder` is a module, or `pretraining` needs the layers of the
        default networks.
    """
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
            f"Got a network of your own as {' and '.join(names)}. Use pretraining="
            "'autoencoder' or 'vae'."
        )
    if len(names) == 2:
        _warn_of_ignored(
            estimator,
            _OF_THE_DEFAULT,
            "both encoder and decoder are your own. Leave out what has no effect, or "
            "give it to your own functions with functools.partial.",
        )


def _warn_of_ignored(
    estimator: BaseEstimator, names: Sequence[str], reason: str
) -> None:
    """Say which parameters were given of a part that is not there."""
    if ignored := _changed(estimator, names):
        have = "has" if len(ignored) == 1 else "have"
        warn(f"{' and '.join(ignored)} {have} no effect: {reason}")


def _changed(estimator: BaseEstimator, names: Sequence[str]) -> list[str]:
    """Those of the parameters that differ from their defaults."""
    parameters = signature(type(estimator)).parameters
    defaults = {name: parameters[name].default for name in names}
    return [n for n in names if not np.array_equal(getattr(estimator, n), defaults[n])]


def check_values(estimator: BaseEstimator, X: NDArray | csr_array) -> None:
    """Reject values that the likelihood gives no probability.

    Raises
    ------
    ValueError
        If there are any outside [0, 1] for the Bernoulli likelihood.
    """
    low, high = extent(X)
    if estimator.likelihood == "bernoulli" and not (low >= 0 and high <= 1):
        raise ValueError(
            "likelihood='bernoulli' needs X in [0, 1]. Got values from "
            f"{low:.6g} to {high:.6g} instead. Scale X, for instance with "
            "MinMaxScaler, or use likelihood='gaussian'."
        )


def check_streams(estimator: BaseEstimator) -> None:
    """Reject parameters that only rows known as a whole can serve.

    Raises
    ------
    ValueError
        If `early_stopping` asks to hold rows out.
    """
    if estimator.early_stopping:
        raise ValueError(
            "partial_fit makes one pass over the rows it gets and holds none out. Got "
            "early_stopping=True. Set early_stopping=False, or use fit."
        )


def check_rows(
    estimator: BaseEstimator, X: NDArray | csr_array, weight: NDArray, warm: bool
) -> None:
    """Reject rows that the parameters cannot work on, before any work is done.

    A warm start has no use for `init`.

    Raises
    ------
    ValueError
        If there are fewer rows than clusters, values outside [0, 1] for the Bernoulli
        likelihood, labels in `init` that do not fit the rows, weights that `init` can
        not heed, or a network that is not to be built.
    """
    n_samples = int(np.count_nonzero(weight))
    n_out = n_held_out(estimator, n_samples)
    if n_samples - n_out < estimator.n_clusters:
        fraction = f"validation_fraction={estimator.validation_fraction}"
        held_out = f" with {n_out} of them held out" if n_out else ""
        raise ValueError(
            f"n_samples={n_samples}{held_out} should be >= n_clusters="
            f"{estimator.n_clusters}. Lower n_clusters{f' or {fraction}' * bool(n_out)}"
            ", or give more rows."
        )
    check_values(estimator, X)
    if warm:
        return
    _check_networks(estimator)
    check_weights(weight, estimator.init)
    _check_embedding(estimator)
    labels = given_labels(estimator.init)
    if labels is not None:
        check_labels(
            labels, estimator.n_clusters, X.shape[0], "The array given as init"
        )


def warn_of_version(estimator: BaseEstimator, state: dict[str, Any]) -> None:
    """Say that a fitted state was made by another version, wherever it comes from."""
    version = state.get("_version", __version__)
    if version != __version__:
        warnings.warn(
            f"This {type(estimator).__name__} was fitted with skvade {version} and is "
            f"loaded with skvade {__version__}: its answers may differ, or fail. "
            f"Install skvade {version}, or fit it again.",
            stacklevel=3,
        )
