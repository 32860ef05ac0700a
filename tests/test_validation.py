"""Parameters that `fit` and the predictions reject, fits that fail, and messages."""

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsTransformer
from sklearn.utils._param_validation import InvalidParameterError, StrOptions
from torch import nn

from skvade import VaDEClusterer
from skvade._validation import PARAMETER_CONSTRAINTS, validate_params


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


# --- Parameters ---------------------------------------------------------------------

POSITIVE_INT = r"an int in the range \[1, inf\)"
NON_NEGATIVE_INT = r"an int in the range \[0, inf\)"
POSITIVE = r"a float in the range \(0(\.0)?, inf\)"
NON_NEGATIVE = r"a float in the range \[0(\.0)?, inf\)"
BOOLEAN = "an instance of 'bool'"

# Parameter: what the message says it must be, and values that are not that.
INVALID_VALUES = {
    "n_clusters": (POSITIVE_INT, [0, -1, 2.0, "8", None, True]),
    "latent_dim": (POSITIVE_INT, [0, 2.5, (10,)]),
    "hidden_layer_sizes": (
        "",
        [8, "128", None, (), (8, 0), (8, 2.5), [[8, 4]], [True]],
    ),
    "activation": ("a str among {.*'relu'", ["elu", None, torch.nn.ReLU]),
    "encoder": ("a callable", ["conv", 64, nn.Linear(5, 16)]),
    "decoder": ("a callable", [(16, 8), nn.Linear(2, 5)]),
    "likelihood": ("a str among {.*'bernoulli'", ["normal", None]),
    "noise": ("a str among {.*'feature'", ["full", None, 1.0]),
    "size_factor": ("a str among {.*'total'.*} or None", ["median", 1.0, True]),
    "pretraining": ("a str among {.*'stacked'", ["greedy", None]),
    "neighbors": (
        f"{POSITIVE_INT}, a sparse array or matrix or an object implementing",
        [0, 1.5, None, True, "cosine", np.eye(150), KNeighborsTransformer],
    ),
    "pretrain_max_iter": (
        f"a str among {{'auto'}} or {NON_NEGATIVE_INT}",
        [-1, 2.0, None, False, "all"],
    ),
    "pretrain_learning_rate_init": (
        f"a str among {{'auto'}} or {POSITIVE}",
        [0, -1.0, "adaptive", None],
    ),
    "embedding": (
        "an object implementing 'fit_transform'",
        ["umap", 3, AgglomerativeClustering, TSNE],
    ),
    "embedding_input": ("a str among {.*'data'", ["X", None]),
    "embedding_max_samples": (POSITIVE_INT, [0, 0.5, None]),
    "embedding_max_iter": (POSITIVE_INT, [0, 1.5]),
    "init": (
        "a str among {.*'kmeans'.*array-like",
        ["k-means++", None, 3, AgglomerativeClustering],
    ),
    "n_init": (POSITIVE_INT, [0, "auto"]),
    "warmup_max_iter": (
        f"a str among {{'auto'}} or {NON_NEGATIVE_INT}",
        [-1, 1.5, "all"],
    ),
    "responsibilities": ("a str among {.*'expected'", ["exact", None]),
    "n_draws": (POSITIVE_INT, [0, 1.0]),
    "beta": (f"a str among {{'auto'}} or {POSITIVE}", [0, -0.5, None, True]),
    "init_weight": (f"a str among {{'auto'}} or {NON_NEGATIVE}", [-0.5, None, True]),
    "max_iter": (f"a str among {{'auto'}} or {POSITIVE_INT}", [0, 10.0, None]),
    "batch_size": (f"a str among {{'auto'}} or {POSITIVE_INT}", [0, 1.5, "all"]),
    "learning_rate": ("a str among {.*'cosine'", ["adaptive", 0.1, None]),
    "learning_rate_init": (POSITIVE, [0.0, "constant"]),
    "mixture_learning_rate_init": (f"{POSITIVE} or None", [0.0, "constant"]),
    "tol": (NON_NEGATIVE, [-1e-3, None, False]),
    "n_iter_no_change": (POSITIVE_INT, [0, np.inf]),
    "early_stopping": (BOOLEAN, ["yes", None, 1]),
    "validation_fraction": (r"a float in the range \(0(\.0)?, 1(\.0)?\)", [0, 1, True]),
    "covariance_type": ("a str among {.*'tied'", ["banded", None]),
    "reg_covar": (NON_NEGATIVE, [-1e-6, "auto"]),
    "warm_start": (BOOLEAN, ["no", None]),
    "distributed": (BOOLEAN, ["no", None]),
    "device": ("", ["tpu", "cuda:x", "gpu", None, torch.device("cpu"), 0]),
    "precision": ("a str among {.*'bfloat16'", ["float16", torch.float32, 32]),
    "random_state": ("", [-1, 0.5, "seed"]),
    "verbose": ("", [-1, "yes", 1.5]),
}


def test_every_parameter_has_a_constraint_and_invalid_values():
    names = VaDEClusterer().get_params().keys()
    assert INVALID_VALUES.keys() == names
    assert PARAMETER_CONSTRAINTS.keys() == names


@pytest.mark.parametrize(
    "name, value",
    [(name, value) for name, (_, values) in INVALID_VALUES.items() for value in values],
)
def test_invalid_parameter(make_estimator, X, name, value):
    expected = INVALID_VALUES[name][0]
    message = (
        f"The '{name}' parameter of VaDEClusterer must be .*{expected}.*"
        f"Got {re.escape(repr(value))} instead"
    )
    model = make_estimator().set_params(**{name: value})
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "n_features_in_")


NAMES = {
    name: [sorted(c.options) for c in constraints if isinstance(c, StrOptions)]
    for name, constraints in PARAMETER_CONSTRAINTS.items()
}


@pytest.mark.parametrize(
    "name, option",
    [(name, option) for name in NAMES for options in NAMES[name] for option in options],
)
def test_a_misspelled_name_is_named_with_the_one_that_is_close(name, option):
    value = f" {option.replace('_', '-').title()}s"
    message = f"'{option}'.* Got '{value}' instead. Did you mean '{option}'\\?$"
    with pytest.raises(InvalidParameterError, match=message):
        validate_params(VaDEClusterer(**{name: value}))


@pytest.mark.parametrize(
    ("value", "meant"),
    [("normal", "gaussian"), ("Numeric", "gaussian"), ("binary", "bernoulli")],
)
def test_another_name_of_a_likelihood_is_known(make_estimator, X, value, meant):
    message = f"Got '{value}' instead. Did you mean '{meant}'\\?$"
    for likelihood in (value, [(value, slice(None))]):
        with pytest.raises(ValueError, match=message):
            make_estimator(likelihood=likelihood).fit(X)


@pytest.mark.parametrize(
    ("device", "meant"),
    [("gpu", "cuda"), (" GPU:1", "cuda:1"), ("CUDA", "cuda"), ("Auto", "auto")],
)
def test_another_name_of_a_device_is_known(make_estimator, X, device, meant):
    message = f"Got '{device}' instead. Did you mean '{meant}'\\?$"
    with pytest.raises(ValueError, match=message):
        make_estimator(device=device).fit(X)
    with pytest.raises(ValueError, match=r"Got 'tpu' instead\.$"):
        make_estimator(device="tpu").fit(X)


def test_a_name_that_is_close_to_none_gets_no_hint():
    with pytest.raises(InvalidParameterError, match=r"Got 'student' instead\.$"):
        validate_params(VaDEClusterer(likelihood="student"))


@pytest.mark.parametrize(
    "likelihood, pairs",
    [
        ({"gaussian": ["a", "b"], "poisson": [2]}, None),
        ({"Gaussian": ["a"]}, None),
        (
            {"a": "gaussian", "b": "poisson", "c": "gaussian"},
            [("gaussian", ["a", "c"]), ("poisson", ["b"])],
        ),
        ({}, [("gaussian", ["age"]), ("categorical", ["city"])]),
    ],
)
def test_a_dict_of_likelihoods_is_shown_as_pairs(make_estimator, X, likelihood, pairs):
    shown = repr([*likelihood.items()] if pairs is None else pairs)
    message = f"Got {likelihood!r} instead. Give a list of pairs (name, columns): "
    message += f"likelihood={shown}."
    with pytest.raises(InvalidParameterError, match=f"{re.escape(message)}$"):
        make_estimator(likelihood=likelihood).fit(X)


@pytest.mark.parametrize("likelihood", [None, 3, KMeans, {"gaussian"}])
def test_a_likelihood_of_another_type_gets_an_example(make_estimator, X, likelihood):
    message = f"Got {likelihood!r} instead. Give the name of a likelihood, or for a"
    with pytest.raises(InvalidParameterError, match=re.escape(message)):
        make_estimator(likelihood=likelihood).fit(X)


def test_parameters_are_validated_before_the_data(make_estimator):
    with pytest.raises(InvalidParameterError, match="n_clusters"):
        make_estimator(n_clusters=0).fit("no samples")


# --- Other arguments ----------------------------------------------------------------


def test_wrong_number_of_latent_coordinates(fitted, X):
    message = "Z has 5 features, but VaDEClusterer is expecting latent_dim=2 features"
    with pytest.raises(ValueError, match=message):
        fitted.inverse_transform(X)


@pytest.mark.parametrize(
    "label, error, message",
    [
        (-1, ValueError, "label == -1, must be >= 0"),
        (3, ValueError, "label == 3, must be <= 2"),
        ("0", TypeError, "label must be an instance of int, not str"),
        (1.5, TypeError, "label must be an instance of int, not float"),
        (1.0, TypeError, "label must be an instance of int, not float"),
        ([0], TypeError, "label must be an instance of int, not list"),
    ],
)
def test_label_that_is_no_cluster(fitted, label, error, message):
    with pytest.raises(error, match=message):
        fitted.sample(label=label)


@pytest.mark.parametrize("name", ["n_samples", "n_draws"])
@pytest.mark.parametrize(
    "value, error, message",
    [
        (0, ValueError, "== 0, must be >= 1"),
        (-1, ValueError, "== -1, must be >= 1"),
        (2.5, TypeError, "must be an instance of int, not float"),
        ("3", TypeError, "must be an instance of int, not str"),
    ],
)
def test_number_that_is_no_positive_int(fitted, X, name, value, error, message):
    def call():
        if name == "n_samples":
            return fitted.sample(value)
        return fitted.score_samples(X, n_draws=value)

    with pytest.raises(error, match=f"{name} {message}"):
        call()


# --- The initial partition ----------------------------------------------------------


@pytest.mark.parametrize(
    "init, message",
    [
        (np.arange(150), "array given as init has 150 groups .* fit n_clusters=3"),
        (
            np.zeros(149, int),
            r"one label per sample, shape \(150,\). Got shape \(149,\)",
        ),
        (np.zeros(150), "must give integers. Got float64 instead"),
        (np.full(150, -1), "puts no sample to train on into a group"),
        (AgglomerativeClustering(4), "AgglomerativeClustering.* has 4 groups"),
    ],
)
def test_initial_partition_that_does_not_fit(make_estimator, X, init, message):
    with pytest.raises(ValueError, match=message):
        make_estimator(init=init).fit(X)


@pytest.mark.parametrize("seed", range(3))
def test_initial_labels_of_validation_samples_only(make_estimator, X, seed):
    init = np.where(np.arange(150) == 0, 0, -1)
    model = make_estimator(n_clusters=1, init=init, random_state=seed)
    model.set_params(early_stopping=True, validation_fraction=0.95)
    with pytest.raises(ValueError, match="init puts no sample to train on into"):
        model.fit(X)


# --- Devices ------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_unavailable_device_is_an_error_in_fit(
    make_estimator, X, no_accelerator, device
):
    message = f"device='{device}' is not available here.* Use device='auto'"
    with pytest.raises(ValueError, match=message):
        make_estimator(device=device).fit(X)


@pytest.mark.parametrize("method", ["predict", "transform", "score", "reconstruct"])
def test_unavailable_device_is_a_warning_in_predictions(
    fitted, X, no_accelerator, method
):
    model = copy.deepcopy(fitted).set_params(device="cuda")
    with pytest.warns(UserWarning, match="device='cuda' is not available here.* CPU"):
        result = getattr(model, method)(X)
    assert_array_equal(result, getattr(fitted, method)(X))


def test_unavailable_device_as_argument_of_to_torch_is_an_error(fitted, no_accelerator):
    with pytest.raises(ValueError, match="device='cuda' is not available here"):
        fitted.to_torch("cuda")
    with pytest.warns(UserWarning, match="not available here"):
        copy.deepcopy(fitted).set_params(device="cuda").to_torch()


# --- Training that fails ------------------------------------------------------------


@pytest.mark.parametrize(
    "params, named",
    [
        ({"pretrain_learning_rate_init": 1e30}, "pretrain_learning_rate_init=1e+30"),
        ({"learning_rate_init": 1e30}, "learning_rate_init=1e+30"),
        (
            {"learning_rate_init": 1e30, "warmup_max_iter": 0},
            "learning_rate_init=1e+30",
        ),
    ],
)
def test_loss_that_is_not_finite(make_estimator, X, params, named):
    message = f"not finite. Lower {re.escape(named)}, or rescale X"
    with pytest.raises(ValueError, match=message):
        make_estimator(**params).fit(X)


@pytest.mark.parametrize(
    "params",
    [
        {"pretrain_learning_rate_init": 1e30},
        {"learning_rate_init": 1e30},
        {"learning_rate_init": 1e30, "warm_start": True},
        {"init": np.zeros(3, int)},
        {"likelihood": "bernoulli"},
        {"n_clusters": 701},
    ],
    ids=str,
)
def test_fit_that_fails_leaves_the_fitted_state(make_estimator, X, X_new, params):
    model = make_estimator().fit(X)
    before, responsibilities = dict(vars(model)), model.predict_proba(X)
    params_before = model.get_params()
    with pytest.raises(ValueError):
        model.set_params(**params).fit(X_new)
    model.set_params(**params_before)
    assert vars(model).keys() == before.keys()
    for name in before.keys() - params_before.keys():
        assert vars(model)[name] is before[name]
    assert_array_equal(model.predict_proba(X), responsibilities)


@pytest.mark.filterwarnings("error")
def test_warning_raised_as_an_error_leaves_the_fitted_state(make_estimator, X):
    model = make_estimator().fit(X)
    means = model.means_
    with pytest.raises(ConvergenceWarning, match="Raise max_iter"):
        model.set_params(tol=0.1).fit(X)
    assert model.means_ is means


def test_fit_that_fails_leaves_an_unfitted_estimator(make_estimator, X):
    model = make_estimator(learning_rate_init=1e30)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="not finite"):
        model.fit(X)
    assert vars(model) == before


# --- Custom networks ----------------------------------------------------------------


def make_linear(n_in, n_out):
    return nn.Linear(n_in, n_out)


def assert_fit_raises(model, X, error, message):
    """Assert that fit raises, and that the estimator stays as it was."""
    before = vars(model).copy()
    with pytest.raises(error, match=message) as caught:
        model.fit(X)
    assert vars(model) == before
    return caught.value


@pytest.mark.parametrize(
    "encoder, shape",
    [
        (lambda n, k: nn.Unflatten(1, (1, n)), r"\(2, 1, 5\)"),
        (lambda n, k: nn.Flatten(0), r"\(10,\)"),
        (
            lambda n, k: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 10))),
            r"\(1, 10\)",
        ),
    ],
)
def test_encoder_of_another_shape(make_estimator, X, encoder, shape):
    message = (
        r"encoder\(n_features_in=5, latent_dim=2\) must build a module that takes "
        r"samples of shape \(B, 5\) to features of shape \(B, H\).*"
        rf"With B=2 it gave the shape {shape} instead\. Flatten"
    )
    assert_fit_raises(make_estimator(encoder=encoder), X, ValueError, message)


@pytest.mark.parametrize(
    "decoder, shape",
    [
        (lambda k, n: nn.Linear(k, 4), r"\(2, 4\)"),
        (
            lambda k, n: nn.Sequential(nn.Linear(k, n), nn.Unflatten(1, (1, n))),
            r"\(2, 1, 5\)",
        ),
    ],
)
def test_decoder_of_another_shape(make_estimator, X, decoder, shape):
    message = (
        r"decoder\(latent_dim=2, n_features_in=5\) must build a module that takes "
        r"points of shape \(B, 2\) to samples of shape \(B, 5\)\. "
        rf"With B=2 it gave the shape {shape} instead\."
    )
    assert_fit_raises(make_estimator(decoder=decoder), X, ValueError, message)


def test_shapes_are_checked_before_training(make_estimator, X, capsys):
    model = make_estimator(decoder=lambda k, n: nn.Linear(k, 4), verbose=1)
    assert_fit_raises(model, X, ValueError, "must build a module")
    assert capsys.readouterr().out == ""


def test_network_that_returns_no_tensor(make_estimator, X):
    message = "must return a tensor. It returned an object of type tuple instead"
    model = make_estimator(encoder=lambda n, k: nn.GRU(n, 8))
    error = assert_fit_raises(model, X, TypeError, message)
    assert "was called on a tensor of shape (2, 5)" in "".join(error.__notes__)


def test_factory_that_returns_no_module(make_estimator, X):
    message = r"must return a torch.nn.Module. Got 'a network' of type str instead"
    model = make_estimator(encoder=lambda n, k: "a network")
    assert_fit_raises(model, X, TypeError, message)


def test_factory_of_other_arguments(make_estimator, X):
    model = make_estimator(encoder=lambda n: None)
    error = assert_fit_raises(model, X, TypeError, "positional")
    (note,) = error.__notes__
    assert "encoder(n_features_in=5, latent_dim=2), with encoder=<function" in note


def test_network_for_another_number_of_features(make_estimator, X):
    model = make_estimator(encoder=lambda n, k: nn.Linear(64, 8))
    error = assert_fit_raises(model, X, RuntimeError, "cannot be mult")
    note = "(n_features_in=5, latent_dim=2) was called on"
    assert note in "".join(error.__notes__)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_module_in_the_place_of_a_factory(make_estimator, X, name):
    message = "must be a callable that builds a module, not a module: clones and"
    model = make_estimator(**{name: nn.Linear(5, 5)})
    assert_fit_raises(model, X, ValueError, message)


def test_stacked_pretraining_needs_the_default_networks(make_estimator, X):
    model = make_estimator(pretraining="stacked", decoder=make_linear)
    message = "Got a custom network as decoder. Use pretraining='autoencoder'"
    assert_fit_raises(model, X, ValueError, message)


def test_parameters_of_the_default_networks_are_ignored_with_a_warning(
    make_estimator, X
):
    make = partial(make_estimator, encoder=make_linear, decoder=make_linear)
    with pytest.warns(UserWarning, match="^hidden_layer_sizes has no effect: both"):
        make().fit(X)
    model = make(hidden_layer_sizes=[128, 64], activation="tanh")
    with pytest.warns(UserWarning, match="^activation has no effect"):
        model.partial_fit(X)
    make(hidden_layer_sizes=[128, 64]).fit(X)


def test_no_warning_where_a_default_network_is_used(make_estimator, X):
    model = make_estimator(
        encoder=make_linear, hidden_layer_sizes=(8,), activation="tanh"
    )
    model.fit(X)
