"""partial_fit: samples that come a few at a time."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from skvade._data.scaling import WeightStatistics


@pytest.fixture(scope="module")
def chunks(X_new):
    return np.array_split(X_new, 7)


def partial_fit_all(model, chunks):
    for chunk in chunks:
        model.partial_fit(chunk)
    return model


@pytest.fixture(scope="module")
def streamed(make_estimator, chunks):
    """A model of all chunks. It is shared: read it, or change a copy."""
    return partial_fit_all(make_estimator(), chunks)


def learned(model):
    """Give all that a model has learned: networks, mixture and noise."""
    names = ("_network_state", "weights_", "means_", "covariances_", "noise_variance_")
    return {name: getattr(model, name) for name in names}


def assert_same(found, expected, name="state"):
    """Assert that nested dicts and lists are equal, arrays to the last bit."""
    assert type(found) is type(expected), name
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(found[key], value, f"{name}.{key}")
    elif isinstance(expected, np.ndarray):
        assert_array_equal(found, expected, err_msg=name)
    else:
        assert found == expected, name


# --- Call after call ----------------------------------------------------------------


def test_partial_fit_finds_the_clusters_and_raises_the_score(
    make_estimator, blobs, X_new
):
    X, y = blobs
    model = make_estimator(pretrain_max_iter=10).partial_fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    bounds = [model.score(X)]
    for chunk in [*np.array_split(X_new, 7), *np.array_split(X_new, 7)]:
        model.partial_fit(chunk)
        bounds.append(model.score(X))
    assert bounds[-1] > bounds[7] > bounds[0] + 0.05
    assert adjusted_rand_score(y, model.predict(X)) > 0.95


def test_attributes_after_some_calls(streamed, chunks):
    model = streamed
    assert model.n_samples_seen_ == 700
    assert model.n_iter_ == len(model.lower_bounds_) == len(model.loss_curve_) == 7
    assert len(model.pretrain_loss_curve_) == model.pretrain_max_iter
    assert not model.converged_
    assert_array_equal(model.labels_, model.predict(chunks[-1]))
    assert len(model.init_labels_) == 100
    assert model.lower_bound_ == model.score(chunks[-1])


def test_first_call_runs_the_stages_before_the_last(make_estimator, chunks):
    model = make_estimator(embedding=PCA(2), embedding_max_iter=4, pretrain_max_iter=0)
    partial_fit_all(model, chunks[:2])
    assert len(model.embedding_loss_curve_) == 4
    assert len(model.pretrain_loss_curve_) == 4


def test_the_seed_decides_the_result(make_estimator, chunks, streamed):
    again = partial_fit_all(make_estimator(), chunks)
    assert_same(learned(again), learned(streamed))
    other = partial_fit_all(make_estimator(random_state=1), chunks)
    assert not np.array_equal(other.means_, streamed.means_)


def test_every_call_has_fresh_draws(make_estimator, X):
    model = make_estimator(learning_rate_init=1e-12).partial_fit(X)
    model.partial_fit(X).partial_fit(X)
    assert len(set(model.loss_curve_)) == 3


def test_pickling_between_calls_changes_nothing(make_estimator, chunks, streamed):
    model = pickle.loads(pickle.dumps(partial_fit_all(make_estimator(), chunks[:3])))
    assert_same(vars(partial_fit_all(model, chunks[3:])), vars(streamed))


def test_components_keep_their_numbers(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(init=y).partial_fit(X)
    labels = model.labels_
    for _ in range(3):
        smallest = np.flatnonzero(labels == 2)
        model.partial_fit(X[np.r_[smallest, smallest, :10]])
    assert_array_equal(model.predict(X), labels)


def test_a_single_sample_is_enough_for_a_later_call(make_estimator, X):
    model = make_estimator().partial_fit(X).partial_fit(X[:1])
    assert len(model.labels_) == 1
    assert model.n_samples_seen_ == 151
    assert np.isfinite(model.score(X))


def test_the_scaling_is_that_of_the_first_call(make_estimator, X, fitted):
    model = make_estimator().partial_fit(X).partial_fit(100 + 7 * X)
    assert_same(model._scaling, fitted._scaling)


def test_sparse_samples_give_the_result_of_dense_ones(make_estimator, chunks, streamed):
    model = partial_fit_all(make_estimator(), map(sparse.csr_array, chunks))
    assert_same(learned(model), learned(streamed))


# --- Beside fit ---------------------------------------------------------------------


def test_partial_fit_goes_on_from_a_fit(make_estimator, X, chunks):
    model = make_estimator().fit(X)
    bound = model.lower_bounds_[-1]
    partial_fit_all(model, chunks)
    assert model.n_samples_seen_ == 850
    assert len(model.lower_bounds_) == 3 + 7
    assert model.lower_bounds_[2] == bound
    assert len(model.pretrain_loss_curve_) == model.pretrain_max_iter


def test_a_fit_starts_afresh_after_partial_fit(X, streamed, fitted):
    model = copy.deepcopy(streamed).fit(X)
    assert_same(vars(model), vars(fitted))


# --- State between the calls --------------------------------------------------------


def test_state_is_plain_python_and_numpy(streamed):
    def types_within(value):
        if isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else value
            return set().union(*(types_within(item) for item in items))
        return {type(value)}

    plain = {type(None), bool, int, float, str, np.ndarray}
    assert types_within(vars(streamed)) <= plain


def test_the_optimizer_keeps_its_state_across_calls(make_estimator, chunks):
    """Without it, Adam's first step has the full length again."""
    model = partial_fit_all(make_estimator(), chunks[:6])
    without_state = copy.deepcopy(model)
    without_state._training_state["optimizer_state"] = {}
    before = model.means_
    moved, moved_without_state = (
        np.abs(m.partial_fit(chunks[6][:1]).means_ - before).max()
        for m in (model, without_state)
    )
    rate = model.learning_rate_init
    assert moved_without_state == pytest.approx(rate, rel=1e-2)
    assert moved < 0.9 * rate
    states = model._training_state["optimizer_state"].values()
    assert {float(state["step"]) for state in states} == {6 * 7 + 1}


def test_the_optimizer_has_the_dtype_of_the_module(make_estimator, chunks):
    model = partial_fit_all(make_estimator(), chunks[:2]).set_params(
        precision="float64"
    )
    model.partial_fit(chunks[2])
    for state in model._training_state["optimizer_state"].values():
        assert state["exp_avg"].dtype == np.float64
        assert state["step"].dtype == np.float32


@pytest.mark.parametrize("factor", [1, 1e305, 1e-305])
def test_statistics_are_those_of_all_weights(factor):
    rng = np.random.default_rng(0)
    chunks = [rng.integers(4, size=n) * factor for n in (5, 1000, 30)]
    statistics = WeightStatistics()
    for chunk in chunks:
        statistics = statistics.update(chunk)
    positive = np.concatenate([chunk[chunk > 0] for chunk in chunks])
    assert statistics.n_samples == len(positive)
    assert_allclose(statistics.mean, (positive / factor).mean() * factor, rtol=1e-12)


def test_weights_are_relative_to_those_of_earlier_calls(make_estimator, chunks):
    def fit_with(*factors):
        model = make_estimator(batch_size=100)
        for chunk, factor in zip(chunks, factors, strict=False):
            model.partial_fit(chunk, sample_weight=np.full(len(chunk), factor))
        return model

    expected = partial_fit_all(make_estimator(batch_size=100), chunks[:3])
    assert_same(learned(fit_with(1.0, 1.0, 1.0)), learned(expected))
    assert_same(learned(fit_with(8.0, 8.0, 8.0)), learned(expected))
    # The loss of the last chunk is multiplied by its weight over the mean so far.
    heavy = fit_with(1.0, 1.0, 7.0)
    ratio = heavy.loss_curve_[2] / expected.loss_curve_[2]
    assert ratio == pytest.approx(1, rel=1e-6)
    earlier, plain, weighted = (
        model._training_state["optimizer_state"]["prior.means"]["exp_avg"]
        for model in (fit_with(1.0, 1.0), expected, heavy)
    )
    grad, weighted_grad = plain - 0.9 * earlier, weighted - 0.9 * earlier
    assert_allclose(weighted_grad, 7 / 3 * grad, rtol=1e-3, atol=1e-6)


def test_samples_of_weight_zero_are_not_learned_from(make_estimator, X, chunks):
    model, expected = make_estimator().partial_fit(X), make_estimator().partial_fit(X)
    chunk, absent = chunks[0], np.arange(100) % 4 == 0
    model.partial_fit(chunk, sample_weight=~absent)
    expected.partial_fit(chunk[~absent])
    assert_same(learned(model), learned(expected))
    assert model.n_samples_seen_ == expected.n_samples_seen_ == 225
    assert len(model.labels_) == 100


# --- Errors, before any state changes -----------------------------------------------

CHUNK = np.zeros((4, 5))
INFINITE = np.where(np.eye(4, 5), np.inf, CHUNK)
WRONG = {
    "no samples": ({"X": CHUNK[:0]}, r"Found array with 0 sample\(s\)"),
    "one dimension": ({"X": CHUNK[0]}, "Expected 2D array, got 1D array"),
    "infinity": ({"X": INFINITE}, "Input X contains infinity"),
    "sparse infinity": ({"X": sparse.csr_array(INFINITE)}, "Input X contains infinity"),
    "strings": ({"X": [["a"] * 5]}, "could not convert string to float"),
    "no X": ({"X": None}, "Expected 2D array, got scalar array"),
    "few weights": (
        {"X": CHUNK, "sample_weight": [1.0]},
        r"sample_weight.shape == \(1,\), expected \(4,\)",
    ),
    "negative weights": (
        {"X": CHUNK, "sample_weight": [1, 1, 1, -1]},
        "Negative values in data passed to `sample_weight`",
    ),
    "no weight": ({"X": CHUNK, "sample_weight": np.zeros(4)}, "at least one non-zero"),
    "above one": ({"X": CHUNK + 1.5}, r"needs X in \[0, 1\]. Got values from 1.5"),
    "sparse, below zero": (
        {"X": sparse.csr_array(-np.eye(4, 5))},
        r"needs X in \[0, 1\]. Got values from -1 to 0",
    ),
}


@pytest.fixture(scope="module", params=[0, 2], ids="{} calls before".format)
def model_of_shares(request, make_estimator, X_unit):
    model = make_estimator(likelihood="bernoulli", n_clusters=2)
    return partial_fit_all(model, [X_unit] * request.param)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_failed_call_changes_nothing(model_of_shares, wrong):
    call, message = WRONG[wrong]
    model = copy.deepcopy(model_of_shares)
    before = copy.deepcopy(vars(model))
    with pytest.raises(ValueError, match=message):
        model.partial_fit(**call)
    assert_same(vars(model), before)


def test_another_number_of_features_changes_nothing(make_estimator, X):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    for chunk in (X[:, :4], sparse.csr_array(X[:, :4])):
        with pytest.raises(ValueError, match="X has 4 features, but VaDEClusterer is"):
            model.partial_fit(chunk)
    assert_same(vars(model), before)


@pytest.mark.parametrize("change", [{"early_stopping": True}, {"n_clusters": 4}])
def test_parameters_that_partial_fit_rejects(make_estimator, X, change):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    message = "holds none out. Got early_stopping|continues a model with n_clusters=3"
    with pytest.raises(ValueError, match=f"partial_fit .*({message})"):
        model.set_params(**change).partial_fit(X)
    assert_same(vars(model), {**before, **change})


def test_a_loss_that_is_not_finite_changes_nothing(make_estimator, X):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    with pytest.raises(ValueError, match="not finite"):
        model.set_params(learning_rate_init=1e200).partial_fit(X)
    assert_same(vars(model), {**before, "learning_rate_init": 1e200})


def test_the_first_call_needs_a_sample_for_each_cluster(make_estimator, X):
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        make_estimator().partial_fit(X[:2])
    with pytest.raises(ValueError, match="is not fitted"):
        make_estimator().predict(X)
