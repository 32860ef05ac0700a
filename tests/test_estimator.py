import inspect
import pickle
import re
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpydoc.docscrape import ClassDoc
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture

from skvade import VaDEClusterer
from skvade._data.device import available_devices


def fitted_state(model):
    """Collect the fitted attributes and the arrays of the networks."""
    state = {name: v for name, v in vars(model).items() if name.endswith("_")}
    for part, arrays in model._network_state.items():
        state |= {f"{part}.{name}": array for name, array in arrays.items()}
    return state


# --- Results ------------------------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_fit_predict_is_fit_then_predict_is_labels(
    make_estimator, X, responsibilities, early_stopping
):
    model = make_estimator(
        responsibilities=responsibilities, early_stopping=early_stopping
    )
    labels = model.fit_predict(X)
    assert labels.dtype == np.int64
    assert_array_equal(labels, model.labels_)
    assert_array_equal(labels, model.predict(X))
    assert_array_equal(labels, model.fit(X).predict(X))


def test_fit_transform_is_fit_then_transform(make_estimator, X, fitted):
    assert_array_equal(make_estimator().fit_transform(X), fitted.transform(X))


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"precision": "float64", "n_draws": 2},
        {"precision": "bfloat16", "init": "gmm"},
        {"responsibilities": "sampled", "early_stopping": True},
        {"init": "random"},
        {"init": "gmm", "pretrain_max_iter": 0},
        {"random_state": np.random.RandomState},
    ],
)
def test_same_seed_same_result_to_the_last_bit(make_estimator, X, parameters):
    def fit():
        model = make_estimator(**parameters)
        if callable(model.random_state):
            model.set_params(random_state=model.random_state(0))
        return fitted_state(model.fit(X))

    first, second = fit(), fit()
    assert first.keys() == second.keys()
    for name in first:
        assert_array_equal(first[name], second[name], err_msg=name)


def test_other_seed_other_result(make_estimator, X, fitted):
    other = make_estimator(random_state=1).fit(X)
    assert not np.array_equal(other.means_, fitted.means_)
    assert not np.array_equal(other.transform(X), fitted.transform(X))


def test_no_seed_other_result_every_time(make_estimator, X):
    first, second = (make_estimator(random_state=None).fit(X) for _ in range(2))
    assert not np.array_equal(first.means_, second.means_)


def test_y_is_ignored(make_estimator, X, fitted):
    model = make_estimator().fit(X, y=object())
    assert_array_equal(model.means_, fitted.means_)


def test_second_fit_starts_afresh(make_estimator, X, X_new, fitted):
    model = make_estimator().fit(X_new)
    expected = fitted_state(fitted)
    for name, values in fitted_state(model.fit(X)).items():
        assert_array_equal(values, expected[name], err_msg=name)


# --- Documented parameters and attributes -------------------------------------------


def test_documented_defaults_are_the_defaults():
    documented = {}
    for name, kind, _ in ClassDoc(VaDEClusterer)["Parameters"]:
        text = re.search(r"default=(.+)$", kind).group(1)
        documented[name] = text.strip("\"'")
    actual = {
        name: parameter.default
        for name, parameter in inspect.signature(VaDEClusterer).parameters.items()
    }
    assert documented.keys() == actual.keys()
    for name, default in actual.items():
        is_number = isinstance(default, float)
        text = documented[name]
        assert (float(text) if is_number else text) == (
            default if is_number else str(default)
        )


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "negative_binomial"])
def test_documented_attributes_are_the_attributes(make_estimator, X_unit, likelihood):
    names = [f"pixel{i}" for i in range(X_unit.shape[1])]
    X = (9 * X_unit).round() if likelihood == "negative_binomial" else X_unit
    model = make_estimator(likelihood=likelihood).fit(X)
    model.feature_names_in_ = np.array(names, dtype=object)
    documented = {name for name, _, _ in ClassDoc(VaDEClusterer)["Attributes"]}
    documented.remove("categories_")  # of a table, see test_tables.py
    if likelihood != "gaussian":
        documented.remove("noise_variance_")
    if likelihood != "negative_binomial":
        documented.remove("dispersion_")
    # Some are properties of the class.
    public = {name for name in dir(model) if re.fullmatch("[a-z].*_", name)}
    assert public == documented
    assert all(hasattr(model, name) for name in documented)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("labels_", (150,)),
        ("init_labels_", (150,)),
        ("weights_", (3,)),
        ("means_", (3, 2)),
        ("covariances_", (3, 2)),
        ("cluster_centers_", (3, 5)),
    ],
)
def test_shape_and_type_of_fitted_arrays(fitted, name, shape):
    values = getattr(fitted, name)
    assert type(values) is np.ndarray
    assert values.shape == shape
    assert values.dtype == (np.int64 if "labels" in name else np.float64)
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "name, kind",
    [
        ("noise_variance_", float),
        ("lower_bound_", float),
        ("converged_", bool),
        ("n_iter_", int),
        ("n_features_in_", int),
    ],
)
def test_type_of_fitted_numbers(fitted, name, kind):
    assert type(getattr(fitted, name)) is kind


@pytest.mark.parametrize(
    "name, length",
    [
        ("lower_bounds_", 3),
        ("reconstruction_terms_", 3),
        ("loss_curve_", 3),
        ("validation_scores_", 0),
        ("pretrain_loss_curve_", 10),
    ],
)
def test_curves_have_one_float_per_epoch(fitted, name, length):
    curve = getattr(fitted, name)
    assert type(curve) is list
    assert len(curve) == length
    assert all(type(value) is float for value in curve)


def test_weights_sum_to_one_and_variances_are_positive(fitted):
    assert_allclose(fitted.weights_.sum(), 1, rtol=1e-12)
    assert (fitted.weights_ > 0).all()
    assert (fitted.covariances_ > 0).all()
    assert fitted.noise_variance_ > 0


def test_reg_covar_is_the_minimum_variance(make_estimator, X, fitted):
    minimum = 2 * fitted.covariances_.min()
    assert (make_estimator(reg_covar=minimum).fit(X).covariances_ >= minimum).all()


def test_lower_bound_is_the_score(fitted, X):
    assert fitted.lower_bound_ == fitted.score(X)


def test_noise_variance_goes_with_the_gaussian_likelihood(make_estimator, X_unit):
    model = make_estimator().fit(X_unit)
    model.set_params(likelihood="bernoulli").fit(X_unit)
    assert not hasattr(model, "noise_variance_")


# --- Numbering ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_numbered_by_their_number_of_samples(make_estimator, seed):
    X, _ = make_blobs([20, 90, 40], 5, random_state=seed)
    labels = make_estimator(random_state=seed).fit_predict(X)
    counts = np.bincount(labels)
    assert (np.diff(counts) <= 0).all()
    assert_array_equal(np.unique(labels), np.arange(len(counts)))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_init_labels_are_numbered_as_the_labels(make_estimator, early_stopping):
    X, _ = make_blobs([20, 90, 40], 5, random_state=0)
    model = make_estimator(early_stopping=early_stopping).fit(X)
    assert np.mean(model.init_labels_ == model.labels_) > 0.95


# --- The start ----------------------------------------------------------------------


def test_start_from_labels(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(init=y.tolist(), learning_rate_init=1e-9).fit(X)
    assert adjusted_rand_score(y, model.init_labels_) > 0.95


def test_start_from_labels_with_noise(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(init=np.where(np.arange(len(y)) % 4, y, -1)).fit(X)
    assert adjusted_rand_score(y, model.init_labels_) > 0.95


def test_start_from_labels_with_validation_samples(make_estimator, blobs):
    X, y = blobs
    init = pd.Series(y, index=np.arange(len(y))[::-1])
    model = make_estimator(init=init, early_stopping=True).fit(X)
    assert adjusted_rand_score(y, model.init_labels_) > 0.95


def test_start_from_a_clusterer_that_stays_unfitted(make_estimator, blobs):
    X, y = blobs
    clusterer = AgglomerativeClustering(3)
    model = make_estimator(init=clusterer).fit(X)
    assert adjusted_rand_score(y, model.init_labels_) > 0.95
    assert model.init is clusterer
    assert not hasattr(clusterer, "labels_")


@pytest.mark.parametrize("init", ["kmeans", "gmm", "random"])
def test_start_by_name(make_estimator, X, init):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make_estimator(init=init).fit(X)
    assert set(model.init_labels_) <= {0, 1, 2}
    assert np.isfinite(model.lower_bound_)


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_pretraining_can_be_skipped(make_estimator, X):
    model = make_estimator(pretrain_max_iter=0).fit(X)
    assert model.pretrain_loss_curve_ == []
    assert model.n_iter_ == 3


# --- The end ------------------------------------------------------------------------


def test_max_iter_before_convergence_warns(make_estimator, X):
    with pytest.warns(
        ConvergenceWarning, match="after max_iter=3 epochs, before the ELBO"
    ):
        model = make_estimator(tol=1e-3).fit(X)
    assert not model.converged_


def test_max_iter_before_convergence_of_the_validation_score_warns(make_estimator, X):
    with pytest.warns(ConvergenceWarning, match="before the held-out ELBO was level"):
        make_estimator(tol=1e-3, early_stopping=True).fit(X)


def test_without_tolerance_max_iter_epochs_run_without_a_warning(make_estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make_estimator(tol=0, max_iter=4, n_iter_no_change=1).fit(X)
    assert model.n_iter_ == 4
    assert not model.converged_


def test_training_converges_when_the_bound_stops_rising(make_estimator, X):
    model = make_estimator(tol=1e9, n_iter_no_change=2, max_iter=50).fit(X)
    assert model.converged_ is True
    assert model.n_iter_ == len(model.lower_bounds_) == 3


def test_convergence_in_the_last_epoch_does_not_warn(make_estimator, X):
    assert make_estimator(tol=1e9, n_iter_no_change=2, max_iter=3).fit(X).converged_


def test_empty_clusters_warn(make_estimator, X):
    X = np.tile(X[:1], (150, 1))
    with (
        pytest.warns(ConvergenceWarning, match="2 of 3 clusters hold no sample"),
        pytest.warns(UserWarning, match="The initial partition holds 1 of 3 clusters"),
    ):
        model = make_estimator(init=np.zeros(150, int)).fit(X)
    assert set(model.labels_) == {0}


def test_early_stopping_records_validation_scores(make_estimator, X):
    model = make_estimator(early_stopping=True, validation_fraction=0.3).fit(X)
    assert len(model.validation_scores_) == model.n_iter_ == 3
    assert len(model.labels_) == len(model.init_labels_) == 150
    assert model.lower_bound_ == model.score(X)


def test_early_stopping_decides_about_convergence(make_estimator, X):
    model = make_estimator(early_stopping=True, tol=1e9, n_iter_no_change=2).fit(X)
    assert model.converged_
    assert model.n_iter_ == 2


# --- Devices and arithmetic ----------------------------------------------------------


@pytest.mark.parametrize("device", available_devices())
def test_a_model_of_any_device_predicts_on_the_cpu(make_estimator, X, device):
    model = make_estimator(device=device).fit(X)
    Z, labels = model.transform(X), model.labels_
    assert_array_equal(model.predict(X), labels)
    model.set_params(device="cpu")
    assert_allclose(model.transform(X), Z, atol=1e-3)
    assert adjusted_rand_score(model.predict(X), labels) > 0.98


# --- Parameters of training ---------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"n_draws": 5},
        {"beta": 0.1},
        {"batch_size": 50},
        {"learning_rate_init": 1e-2},
        {"mixture_learning_rate_init": 1e-5},
        {"pretrain_learning_rate_init": 0.05},
        {"warmup_max_iter": 0},
        {"activation": "tanh"},
        {"hidden_layer_sizes": [20]},
        {"precision": "float64"},
        {"precision": "bfloat16"},
    ],
)
def test_every_parameter_of_training_changes_the_result(
    make_estimator, X, fitted, change
):
    model = make_estimator(**change).fit(X)
    assert np.isfinite(model.lower_bound_)
    assert model.lower_bounds_ != fitted.lower_bounds_


def test_responsibilities_change_the_result_where_clusters_overlap(make_estimator):
    X = np.random.default_rng(0).normal(size=(150, 5))
    expected, sampled = (
        make_estimator(responsibilities=responsibilities).fit(X)
        for responsibilities in ("expected", "sampled")
    )
    assert expected.lower_bounds_ != sampled.lower_bounds_


@pytest.mark.parametrize("sizes", [[16], np.array([16])])
def test_sizes_of_the_layers_in_any_sequence(make_estimator, X, fitted, sizes):
    model = make_estimator(hidden_layer_sizes=sizes).fit(X)
    assert_array_equal(model.means_, fitted.means_)
    assert model.hidden_layer_sizes is sizes


# --- The number of clusters ---------------------------------------------------------


@pytest.fixture(scope="module")
def fitted_auto(make_estimator, X):
    return make_estimator(n_clusters="auto").fit(X)


def test_the_number_of_clusters_is_estimated(fitted_auto, blobs):
    X, y = blobs
    assert fitted_auto.n_clusters == "auto"
    assert fitted_auto.n_clusters_ == 3
    assert fitted_auto.predict_proba(X).shape == (150, 3)
    assert adjusted_rand_score(y, fitted_auto.labels_) > 0.9


def test_the_number_of_clusters_is_an_attribute(fitted):
    assert fitted.n_clusters_ == fitted.n_clusters == len(fitted.weights_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "init",
    [np.arange(150) % 5, BayesianGaussianMixture(n_components=5, random_state=0)],
    ids=type,
)
def test_a_given_partition_sets_the_number_of_clusters(make_estimator, X, init):
    model = make_estimator(n_clusters="auto", init=init).fit(X)
    assert model.n_clusters_ == len(np.unique(model.init_labels_))
    assert isinstance(init, BayesianGaussianMixture) or model.n_clusters_ == 5


def test_a_fit_goes_on_with_the_estimated_number(fitted_auto, X):
    model = deepcopy(fitted_auto).partial_fit(X)
    assert model.n_clusters_ == 3
    assert model.set_params(warm_start=True, max_iter=1).fit(X).n_clusters_ == 3
    assert pickle.loads(pickle.dumps(model)).predict(X[:5]).shape == (5,)


def test_a_stream_estimates_the_number_from_its_first_samples(make_estimator, X):
    model = make_estimator(n_clusters="auto").partial_fit(X[:120])
    assert model.n_clusters_ == 3
    assert model.partial_fit(X[120:]).n_clusters_ == 3
