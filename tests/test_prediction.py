import copy
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError

from skvade import VaDEClusterer

ON_ROWS = [
    "predict",
    "predict_proba",
    "predict_log_proba",
    "transform",
    "reconstruct",
    "score_samples",
]


@pytest.fixture(scope="module")
def bernoulli(make_estimator, X_unit):
    return make_estimator(likelihood="bernoulli").fit(X_unit)


@pytest.fixture(scope="module")
def linear(make_estimator, X):
    """A model whose decoder is linear: what it generates has moments in closed form."""
    return make_estimator(activation="identity", precision="float64").fit(X)


def copy_with(model, **parameters):
    return copy.deepcopy(model).set_params(**parameters)


# --- Clusters -----------------------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_probabilities_of_the_clusters_agree(fitted, X_new, responsibilities):
    model = copy_with(fitted, responsibilities=responsibilities)
    labels, proba = model.predict(X_new), model.predict_proba(X_new)
    assert proba.shape == (700, 3)
    assert proba.dtype == np.float64
    assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert_array_equal(proba.argmax(1), labels)
    assert_allclose(np.exp(model.predict_log_proba(X_new)), proba)
    assert labels.dtype == np.int64


@pytest.mark.filterwarnings("ignore")
def test_labels_take_no_memory_for_the_probabilities(make_estimator, X):
    model = make_estimator(n_clusters=30, max_iter=1).fit(X)
    rows = np.tile(X.astype(np.float32), (200, 1))
    tracemalloc.start()
    labels = model.predict(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes * 30 / 3
    assert_array_equal(labels, model.predict_proba(rows).argmax(1))


def test_log_probabilities_are_finite_where_probabilities_vanish(fitted, X):
    far = 1e4 * X
    assert (fitted.predict_proba(far) == 0).any()
    assert np.isfinite(fitted.predict_log_proba(far)).all()


# --- Coordinates --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_coordinates_have_the_dtype_of_the_rows(fitted, X, dtype, precision):
    model = copy_with(fitted, precision=precision)
    Z = model.transform(X.astype(dtype))
    assert Z.shape == (150, 2)
    assert Z.dtype == dtype
    assert model.inverse_transform(Z).dtype == dtype
    assert model.reconstruct(X.astype(dtype)).dtype == dtype


def test_integers_give_float64(fitted):
    X = np.arange(10).reshape(2, 5)
    assert fitted.transform(X).dtype == np.float64
    assert_array_equal(fitted.transform(X), fitted.transform(X.tolist()))


def test_reconstruction_is_the_inverse_of_the_transform(fitted, X_new):
    there_and_back = fitted.inverse_transform(fitted.transform(X_new))
    assert there_and_back.shape == X_new.shape
    assert_allclose(fitted.reconstruct(X_new), there_and_back, rtol=1e-6)


def test_reconstruction_is_in_the_units_of_the_rows(make_estimator, X):
    model = make_estimator(pretrain_max_iter=40).fit(100 + 1000 * X)
    error = model.reconstruct(100 + 1000 * X) - (100 + 1000 * X)
    assert np.mean(error**2) < 0.2 * np.var(1000 * X, axis=0).mean()


def test_centers_are_the_decoded_means(fitted, bernoulli):
    for model in (fitted, bernoulli):
        decoded = model.inverse_transform(model.means_)
        assert_array_equal(model.cluster_centers_, decoded)


def test_bernoulli_rows_are_expected_in_the_unit_interval(bernoulli, X_unit):
    for rows in (bernoulli.reconstruct(X_unit), bernoulli.cluster_centers_):
        assert rows.min() >= 0
        assert rows.max() <= 1


def test_the_points_to_decode_are_no_metadata():
    assert not hasattr(VaDEClusterer(), "set_inverse_transform_request")


def test_names_of_the_coordinates(fitted):
    names = fitted.get_feature_names_out()
    assert names.tolist() == ["vadeclusterer0", "vadeclusterer1"]


# --- Scores -------------------------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_score_is_the_mean_over_the_rows(fitted, X_new, responsibilities):
    model = copy_with(fitted, responsibilities=responsibilities)
    per_row = model.score_samples(X_new)
    assert per_row.shape == (700,)
    assert per_row.dtype == np.float64
    assert type(model.score(X_new, y=object())) is float
    assert_allclose(model.score(X_new), per_row.mean(), rtol=1e-12)
    assert_array_equal(model.score_samples(X_new), per_row)


def test_unlikely_rows_score_low(fitted, X_new):
    typical = fitted.score_samples(X_new)
    assert fitted.score_samples(X_new + 50).max() < typical.min()


def test_more_draws_give_a_tighter_bound(fitted, X_new):
    means = [fitted.score_samples(X_new, n_draws=n).mean() for n in (8, 64, 512)]
    assert means == sorted(means)
    assert means[-1] > fitted.score(X_new)
    assert_array_equal(
        fitted.score_samples(X_new, n_draws=8)[:5],
        fitted.score_samples(X_new[:5], n_draws=8),
    )


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True, "many"])
def test_number_of_draws_must_be_a_count(fitted, X_new, n_draws):
    with pytest.raises(ValueError, match=f"n_draws must be .* Got {n_draws!r}"):
        fitted.score_samples(X_new, n_draws=n_draws)


def test_bernoulli_score_of_rows_outside_of_the_unit_interval_warns(bernoulli, X_unit):
    with pytest.warns(UserWarning, match=r"ranges from -1 to .*Clip X"):
        bernoulli.score(X_unit - 1)
    bernoulli.predict(X_unit - 1)
    bernoulli.score(X_unit)


# --- The same to the last bit -------------------------------------------------------


@pytest.mark.parametrize("method", ON_ROWS)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"precision": "float64"},
        {"precision": "bfloat16"},
        {"responsibilities": "sampled"},
        {"hidden_layer_sizes": (128, 64), "latent_dim": 10},
        # Rows that start anywhere in memory, in every layer.
        {"hidden_layer_sizes": (21, 7), "latent_dim": 3},
        {"hidden_layer_sizes": (21, 7), "latent_dim": 3, "precision": "float64"},
    ],
    ids=str,
)
def test_an_answer_depends_on_no_other_row(
    make_estimator, X, X_new, parameters, method
):
    answer = getattr(make_estimator(**parameters, max_iter=1).fit(X), method)
    together = answer(X_new)
    permuted = np.random.default_rng(0).permutation(700)
    assert_array_equal(answer(X_new[permuted]), together[permuted])
    assert_array_equal(answer(X_new[100:133]), together[100:133])
    for row in (0, 255, 256, 699):
        assert_array_equal(answer(X_new[[row]]), together[[row]])


@pytest.mark.parametrize("method", ON_ROWS)
def test_an_answer_depends_on_no_order_of_memory(fitted, X_new, method):
    answer = getattr(fitted, method)
    assert_array_equal(answer(np.asfortranarray(X_new)), answer(X_new))
    assert_array_equal(answer(X_new[::-2]), answer(X_new)[::-2])


def test_a_decoded_point_depends_on_no_other(fitted, X_new):
    Z = fitted.transform(X_new)
    together = fitted.inverse_transform(Z)
    assert_array_equal(fitted.inverse_transform(Z[::-1]), together[::-1])
    assert_array_equal(fitted.inverse_transform(Z[[300]]), together[[300]])


@pytest.mark.parametrize("method", [*ON_ROWS, "score", "fit", "fit_predict"])
def test_rows_are_never_written_to(make_estimator, X, method):
    model = make_estimator(max_iter=1).fit(X)
    rows = X.copy()
    getattr(model, method)(rows)
    assert_array_equal(rows, X)


@pytest.mark.parametrize("method", [*ON_ROWS, "score", "inverse_transform", "sample"])
def test_answers_leave_the_estimator_as_it_is(fitted, X, method):
    model = copy.deepcopy(fitted)
    before, copies = dict(vars(model)), copy.deepcopy(vars(model))
    arguments = {"inverse_transform": model.means_, "sample": 5}
    getattr(model, method)(arguments.get(method, X))
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    for name, array in model._parameters.items():
        assert_array_equal(array, copies["_parameters"][name])


# --- New rows -----------------------------------------------------------------------


def test_sample_gives_rows_and_their_clusters_in_order(fitted):
    X, c = fitted.sample(50, random_state=0)
    assert X.shape == (50, 5)
    assert X.dtype == np.float64
    assert c.dtype == np.int64
    assert_array_equal(c, np.sort(c))
    assert set(c) == {0, 1, 2}


def test_one_row_by_default(fitted):
    X, c = fitted.sample()
    assert X.shape == (1, 5)
    assert c.shape == (1,)


@pytest.mark.parametrize("label", [0, 2, np.int64(1)])
def test_sample_of_one_cluster(fitted, label):
    X, c = fitted.sample(200, label=label, random_state=0)
    assert len(X) == 200
    assert set(c) == {label}
    assert np.mean(fitted.predict(X) == label) > 0.8


def test_seed_of_the_sample(fitted):
    def draw(random_state):
        return fitted.sample(9, random_state=random_state)[0]

    assert_array_equal(draw(7), draw(7))
    assert_array_equal(draw(np.random.RandomState(7)), draw(7))
    assert not np.array_equal(draw(7), draw(8))
    assert_array_equal(draw(None), draw(fitted.random_state))


def test_sample_without_any_seed_differs_every_time(fitted):
    model = copy_with(fitted, random_state=None)
    assert not np.array_equal(model.sample(9)[0], model.sample(9)[0])


def test_sampled_clusters_have_the_weights(make_estimator):
    X, _ = make_blobs([120, 20, 60], 5, random_state=0)
    model = make_estimator().fit(X)
    frequency = np.bincount(model.sample(20_000)[1], minlength=3) / 20_000
    deviation = np.sqrt(model.weights_ * (1 - model.weights_) / 20_000)
    assert (np.abs(frequency - model.weights_) < 4 * deviation).all()


@pytest.mark.parametrize("label", range(3))
def test_sampled_rows_have_the_moments_of_the_model(linear, label):
    n = 20_000
    X, _ = linear.sample(n, label=label, random_state=0)
    origin, *tips = linear.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    directions = np.array(tips) - origin  # (L, D)
    variance = (linear.covariances_[label] * directions.T**2).sum(1)
    variance += linear.noise_variance_

    error = np.sqrt(variance / n)
    assert (np.abs(X.mean(0) - linear.cluster_centers_[label]) < 4.5 * error).all()
    assert_allclose(X.var(0), variance, rtol=4.5 * np.sqrt(2 / n))


def test_bernoulli_samples_are_zeros_and_ones(bernoulli):
    X, _ = bernoulli.sample(500, label=0, random_state=0)
    assert set(np.unique(X)) == {0, 1}
    decoded = bernoulli.inverse_transform(bernoulli.means_[:1])[0]
    assert np.abs(X.mean(0) - decoded).max() < 0.15


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_precision_hardly_changes_the_sample(fitted, precision):
    expected, _ = fitted.sample(20, random_state=0)
    found, _ = copy_with(fitted, precision=precision).sample(20, random_state=0)
    assert_allclose(found, expected, rtol=1e-6)


# --- On in PyTorch ------------------------------------------------------------------


def test_the_module_says_what_the_estimator_says(fitted, bernoulli, X, X_unit):
    for model, rows in ((fitted, X), (bernoulli, X_unit)):
        module = model.to_torch("cpu")
        x = torch.tensor(rows, dtype=torch.float32)
        with torch.no_grad():
            log_r, posterior = module(x), module.encode(x)
            decoded = module.decode(posterior.mean)
        assert_allclose(log_r.exp(), model.predict_proba(rows), atol=1e-4)
        assert_allclose(posterior.mean, model.transform(rows), atol=1e-4)
        assert_allclose(decoded, model.reconstruct(rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_module_goes_to_a_device(fitted, device):
    assert fitted.to_torch(device).prior.means.device.type == "cpu"


def test_changing_the_module_does_not_change_the_estimator(fitted, X):
    module = fitted.to_torch()
    before = fitted.transform(X)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    assert_array_equal(fitted.transform(X), before)


def test_the_module_can_be_trained_on(fitted, X):
    module = fitted.to_torch()
    assert all(p.requires_grad for p in module.parameters())
    module(torch.tensor(X, dtype=torch.float32)).sum().backward()
    assert module.encoder.mean.weight.grad is not None


# --- Before fit ---------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ON_ROWS, "score", "inverse_transform"])
def test_unfitted_on_rows(X, method):
    with pytest.raises(NotFittedError, match="VaDEClusterer instance is not fitted"):
        getattr(VaDEClusterer(), method)(X)


@pytest.mark.parametrize("method", ["sample", "to_torch", "get_feature_names_out"])
def test_unfitted_without_rows(method):
    with pytest.raises(NotFittedError, match="VaDEClusterer instance is not fitted"):
        getattr(VaDEClusterer(), method)()
