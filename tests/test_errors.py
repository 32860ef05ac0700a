import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.cluster import AgglomerativeClustering
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from skvade import VaDEClusterer


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


# --- Parameters ---------------------------------------------------------------------

OF_POSITIVE_INT = r"an int in the range \[1, inf\)"
OF_NATURAL = r"an int in the range \[0, inf\)"
OF_POSITIVE = r"a float in the range \(0(\.0)?, inf\)"
OF_NON_NEGATIVE = r"a float in the range \[0(\.0)?, inf\)"
OF_BOOL = "an instance of 'bool'"

# Parameter: what it must be, and values that are not that.
WRONG = {
    "n_clusters": (OF_POSITIVE_INT, [0, -1, 2.0, "8", None, True]),
    "latent_dim": (OF_POSITIVE_INT, [0, 2.5, (10,)]),
    "hidden_layer_sizes": (
        "",
        [8, "128", None, (), (8, 0), (8, 2.5), [[8, 4]], [True]],
    ),
    "activation": ("a str among {.*'relu'", ["elu", None, torch.nn.ReLU]),
    "encoder": ("a callable", ["conv", 64, nn.Linear(5, 16)]),
    "decoder": ("a callable", [(16, 8), nn.Linear(2, 5)]),
    "likelihood": ("a str among {.*'bernoulli'", ["normal", None]),
    "pretraining": ("a str among {.*'stacked'", ["greedy", None]),
    "pretrain_max_iter": (OF_NATURAL, [-1, 2.0, None, False]),
    "pretrain_learning_rate_init": (
        f"a str among {{'auto'}} or {OF_POSITIVE}",
        [0, -1.0, "adaptive", None],
    ),
    "embedding": (
        "an object implementing 'fit_transform'",
        ["umap", 3, AgglomerativeClustering, TSNE],
    ),
    "embedding_input": ("a str among {.*'data'", ["X", None]),
    "embedding_max_samples": (OF_POSITIVE_INT, [0, 0.5, None]),
    "embedding_max_iter": (OF_POSITIVE_INT, [0, 1.5]),
    "init": (
        "a str among {.*'kmeans'.*array-like",
        ["k-means++", None, 3, AgglomerativeClustering],
    ),
    "n_init": (OF_POSITIVE_INT, [0, "auto"]),
    "warmup_max_iter": (OF_NATURAL, [-1, 1.5]),
    "responsibilities": ("a str among {.*'expected'", ["exact", None]),
    "n_draws": (OF_POSITIVE_INT, [0, 1.0]),
    "beta": (OF_POSITIVE, [0, -0.5, None, True]),
    "max_iter": (OF_POSITIVE_INT, [0, 10.0, None]),
    "batch_size": (f"a str among {{'auto'}} or {OF_POSITIVE_INT}", [0, 1.5, "all"]),
    "learning_rate_init": (OF_POSITIVE, [0.0, "constant"]),
    "mixture_learning_rate_init": (f"{OF_POSITIVE} or None", [0.0, "constant"]),
    "tol": (OF_NON_NEGATIVE, [-1e-3, None, False]),
    "n_iter_no_change": (OF_POSITIVE_INT, [0, np.inf]),
    "early_stopping": (OF_BOOL, ["yes", None, 1]),
    "validation_fraction": (r"a float in the range \(0(\.0)?, 1(\.0)?\)", [0, 1, True]),
    "reg_covar": (OF_NON_NEGATIVE, [-1e-6, "auto"]),
    "warm_start": (OF_BOOL, ["no", None]),
    "device": ("", ["tpu", "cuda:x", None, torch.device("cpu"), 0]),
    "precision": ("a str among {.*'bfloat16'", ["float16", torch.float32, 32]),
    "random_state": ("", [-1, 0.5, "seed"]),
    "verbose": ("", [-1, "yes", 1.5]),
}


def test_every_parameter_is_in_the_table():
    assert WRONG.keys() == VaDEClusterer().get_params().keys()


@pytest.mark.parametrize(
    "name, value", [(name, value) for name in WRONG for value in WRONG[name][1]]
)
def test_wrong_parameter(make_estimator, X, name, value):
    wanted = WRONG[name][0]
    message = (
        f"The '{name}' parameter of VaDEClusterer must be .*{wanted}.*"
        f"Got {re.escape(repr(value))} instead"
    )
    model = make_estimator().set_params(**{name: value})
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "n_features_in_")


def test_wrong_parameter_is_found_before_the_rows_are_looked_at(make_estimator):
    with pytest.raises(InvalidParameterError, match="n_clusters"):
        make_estimator(n_clusters=0).fit("no rows")


# --- Rows ---------------------------------------------------------------------------


def test_fewer_rows_than_clusters(make_estimator, X):
    with pytest.raises(ValueError, match=r"n_samples=2 should be >= n_clusters=3"):
        make_estimator().fit(X[:2])


def test_fewer_rows_than_clusters_once_some_are_held_out(make_estimator, X):
    message = (
        r"n_samples=4 with 2 of them held out should be >= n_clusters=3\. "
        r"Lower n_clusters or validation_fraction=0\.4"
    )
    with pytest.raises(ValueError, match=message):
        make_estimator(early_stopping=True, validation_fraction=0.4).fit(X[:4])


@pytest.mark.parametrize("scale, low, high", [(1, "-0.25", "0.75"), (1.5, "0", "1.5")])
def test_bernoulli_rows_outside_of_the_unit_interval(
    make_estimator, X_unit, scale, low, high
):
    X = scale * X_unit - 0.25 * (scale == 1)
    message = (
        r"likelihood='bernoulli' needs X in \[0, 1\]. "
        f"Got values from {low} to {high} instead. "
        "Scale X, for instance with MinMaxScaler, or use likelihood='gaussian'"
    )
    with pytest.raises(ValueError, match=message):
        make_estimator(likelihood="bernoulli").fit(X)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "transform", "score_samples", "score"]
)
def test_wrong_number_of_features(fitted, X, method):
    message = "X has 4 features, but VaDEClusterer is expecting 5 features as input"
    with pytest.raises(ValueError, match=message):
        getattr(fitted, method)(X[:, :4])


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_rows_that_are_not_finite(fitted, X, bad, method):
    X = np.where(np.arange(5) == 2, bad, X)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(copy.deepcopy(fitted), method)(X)


@pytest.mark.parametrize("factor", [1e38, 1e40, 1e200, 1e-40])
def test_a_unit_that_float32_can_not_express(make_estimator, X, factor):
    with pytest.raises(ValueError, match=r"X has averages up to .* or rescale it"):
        make_estimator().fit(factor * X)


@pytest.mark.filterwarnings("error")
def test_a_unit_that_float64_can_express(make_estimator, X):
    model = make_estimator(precision="float64").fit(1e40 * X)
    assert_array_equal(
        model.labels_, make_estimator(precision="float64").fit(X).labels_
    )


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "transform", "score_samples", "score"]
)
def test_rows_beyond_the_reach_of_float32(fitted, X, method):
    with pytest.raises(ValueError, match=r"X has values up to .* Look for wild values"):
        getattr(fitted, method)(1e40 * X)


def test_rows_of_weight_zero_beyond_the_reach_of_float32(make_estimator, X):
    """They get a label, and there is none."""
    wild = np.vstack([X, np.full((1, 5), 1e30)])
    with pytest.raises(ValueError, match=r"X has values up to 1e\+30"):
        make_estimator().fit(wild, sample_weight=np.r_[np.ones(150), 0])


def test_wrong_number_of_coordinates(fitted, X):
    message = "Z has 5 features, but VaDEClusterer is expecting latent_dim=2 features"
    with pytest.raises(ValueError, match=message):
        fitted.inverse_transform(X)


@pytest.mark.parametrize("label", [-1, 3, "0", 1.5, 1.0, True, [0]])
def test_sample_of_no_cluster(fitted, label):
    message = f"label must be .* from 0 to 2.* Got {re.escape(repr(label))} instead"
    with pytest.raises(ValueError, match=message):
        fitted.sample(label=label)


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3"])
def test_sample_of_no_size(fitted, n_samples):
    message = f"n_samples must be .*1.* Got {n_samples!r} instead"
    with pytest.raises(ValueError, match=message):
        fitted.sample(n_samples)


# --- The start ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "init, message",
    [
        (np.arange(150), "array given as init has 150 groups .* fit n_clusters=3"),
        (np.zeros(149, int), r"one label per row, shape \(150,\). Got shape \(149,\)"),
        (np.zeros(150), "must give integers. Got float64 instead"),
        (np.full(150, -1), "puts no row to train on into a group"),
        (AgglomerativeClustering(4), "AgglomerativeClustering.* has 4 groups"),
    ],
)
def test_start_that_does_not_fit(make_estimator, X, init, message):
    with pytest.raises(ValueError, match=message):
        make_estimator(init=init).fit(X)


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_only_rows_held_out_have(make_estimator, X, seed):
    init = np.where(np.arange(150) == 0, 0, -1)
    model = make_estimator(n_clusters=1, init=init, random_state=seed)
    model.set_params(early_stopping=True, validation_fraction=0.95)
    with pytest.raises(ValueError, match="init puts no row to train on into"):
        model.fit(X)


# --- Devices ------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_missing_device_is_an_error_in_fit(make_estimator, X, no_accelerator, device):
    message = f"device='{device}' is not available here.* Use device='auto'"
    with pytest.raises(ValueError, match=message):
        make_estimator(device=device).fit(X)


@pytest.mark.parametrize("method", ["predict", "transform", "score", "reconstruct"])
def test_missing_device_is_a_warning_later(fitted, X, no_accelerator, method):
    model = copy.deepcopy(fitted).set_params(device="cuda")
    with pytest.warns(UserWarning, match="device='cuda' is not available here.* CPU"):
        answer = getattr(model, method)(X)
    assert_array_equal(answer, getattr(fitted, method)(X))


def test_missing_device_asked_of_the_module_is_an_error(fitted, no_accelerator):
    with pytest.raises(ValueError, match="device='cuda' is not available here"):
        fitted.to_torch("cuda")
    with pytest.warns(UserWarning, match="not available here"):
        copy.deepcopy(fitted).set_params(device="cuda").to_torch()


# --- Training that fails ------------------------------------------------------------


@pytest.mark.parametrize(
    "change, blamed",
    [
        ({"pretrain_learning_rate_init": 1e30}, "pretrain_learning_rate_init=1e+30"),
        ({"learning_rate_init": 1e30}, "learning_rate_init=1e+30"),
        (
            {"learning_rate_init": 1e30, "warmup_max_iter": 0},
            "learning_rate_init=1e+30",
        ),
    ],
)
def test_loss_that_is_not_finite(make_estimator, X, change, blamed):
    message = f"not finite. Lower {re.escape(blamed)}, or rescale X"
    with pytest.raises(ValueError, match=message):
        make_estimator(**change).fit(X)


@pytest.mark.parametrize(
    "change",
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
def test_fit_that_fails_leaves_the_fitted_state(make_estimator, X, X_new, change):
    model = make_estimator().fit(X)
    before, answers = dict(vars(model)), model.predict_proba(X)
    parameters = model.get_params()
    with pytest.raises(ValueError):
        model.set_params(**change).fit(X_new)
    model.set_params(**parameters)
    assert vars(model).keys() == before.keys()
    for name in before.keys() - parameters.keys():
        assert vars(model)[name] is before[name]
    assert_array_equal(model.predict_proba(X), answers)


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_leaves_the_fitted_state(make_estimator, X):
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


# --- Networks of the user's own -----------------------------------------------------


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out)


def assert_refused(model, X, error, message):
    before = vars(model).copy()
    with pytest.raises(error, match=message) as caught:
        model.fit(X)
    assert vars(model) == before
    return caught.value


@pytest.mark.parametrize(
    "body, shape",
    [
        (lambda n, k: nn.Unflatten(1, (1, n)), r"\(2, 1, 5\)"),
        (lambda n, k: nn.Flatten(0), r"\(10,\)"),
        (
            lambda n, k: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 10))),
            r"\(1, 10\)",
        ),
    ],
)
def test_encoder_of_another_shape(make_estimator, X, body, shape):
    message = (
        r"encoder\(n_features_in=5, latent_dim=2\) must build a module that takes rows "
        r"of shape \(B, 5\) to features of shape \(B, H\).*"
        rf"With B=2 it gave the shape {shape} instead\. Flatten"
    )
    assert_refused(make_estimator(encoder=body), X, ValueError, message)


@pytest.mark.parametrize(
    "network, shape",
    [
        (lambda k, n: nn.Linear(k, 4), r"\(2, 4\)"),
        (
            lambda k, n: nn.Sequential(nn.Linear(k, n), nn.Unflatten(1, (1, n))),
            r"\(2, 1, 5\)",
        ),
    ],
)
def test_decoder_of_another_shape(make_estimator, X, network, shape):
    message = (
        r"decoder\(latent_dim=2, n_features_in=5\) must build a module that takes "
        r"points of shape \(B, 2\) to rows of shape \(B, 5\)\. "
        rf"With B=2 it gave the shape {shape} instead\."
    )
    assert_refused(make_estimator(decoder=network), X, ValueError, message)


def test_no_training_before_the_shapes_are_known(
    make_estimator, X, monkeypatch, capsys
):
    model = make_estimator(decoder=lambda k, n: nn.Linear(k, 4), verbose=1)
    assert_refused(model, X, ValueError, "must build a module")
    assert capsys.readouterr().out == ""


def test_a_network_that_gives_no_tensor(make_estimator, X):
    message = "must give a tensor. It gave an object of type tuple instead"
    network = lambda n, k: nn.GRU(n, 8)  # noqa: E731
    error = assert_refused(make_estimator(encoder=network), X, TypeError, message)
    assert "was tried on the shape (2, 5)" in "".join(error.__notes__)


def test_a_function_that_builds_no_module(make_estimator, X):
    message = r"must return a torch.nn.Module. Got 'a network' of type str instead"
    assert_refused(
        make_estimator(encoder=lambda n, k: "a network"), X, TypeError, message
    )


def test_a_function_of_other_arguments(make_estimator, X):
    error = assert_refused(
        make_estimator(encoder=lambda n: None), X, TypeError, "positional"
    )
    (note,) = error.__notes__
    assert "encoder(n_features_in=5, latent_dim=2), with encoder=<function" in note


def test_a_network_for_other_rows(make_estimator, X):
    network = lambda n, k: nn.Linear(64, 8)  # noqa: E731
    error = assert_refused(
        make_estimator(encoder=network), X, RuntimeError, "cannot be mult"
    )
    assert "(n_features_in=5, latent_dim=2) was tried on" in "".join(error.__notes__)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_module_in_the_place_of_what_builds_one(make_estimator, X, name):
    message = "must be a callable that builds a module, not a module: clones and"
    assert_refused(make_estimator(**{name: nn.Linear(5, 5)}), X, ValueError, message)


def test_stacked_pretraining_needs_the_default_layers(make_estimator, X):
    model = make_estimator(pretraining="stacked", decoder=linear)
    message = "Got a network of your own as decoder. Use pretraining='autoencoder'"
    assert_refused(model, X, ValueError, message)


def test_options_of_the_default_networks_are_ignored_with_a_warning(make_estimator, X):
    own = partial(make_estimator, encoder=linear, decoder=linear)
    with pytest.warns(
        UserWarning, match="^hidden_layer_sizes has no effect: both"
    ) as w:
        own().fit(X)
    assert w[0].filename == __file__
    model = own(hidden_layer_sizes=[128, 64], activation="tanh")
    with pytest.warns(UserWarning, match="^activation has no effect"):
        model.partial_fit(X)
    own(hidden_layer_sizes=[128, 64]).fit(X)


def test_no_warning_where_the_default_network_is_used(make_estimator, X):
    make_estimator(encoder=linear, hidden_layer_sizes=(8,), activation="tanh").fit(X)
