import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from torch import nn

from skvade import VaDEClusterer

SAMPLE_METHODS = [
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


def make_odd_encoder(n_features_in, latent_dim):
    return nn.Sequential(nn.Linear(n_features_in, 21), nn.ReLU(), nn.Linear(21, 7))


def assert_samples_are_independent(predict, X_new):
    together = predict(X_new)
    permutation = np.random.default_rng(0).permutation(700)
    assert_array_equal(predict(X_new[permutation]), together[permutation])
    assert_array_equal(predict(X_new[100:133]), together[100:133])
    for i in (0, 255, 256, 699):
        assert_array_equal(predict(X_new[[i]]), together[[i]])


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
    X = np.tile(X.astype(np.float32), (200, 1))
    tracemalloc.start()
    labels = model.predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes * 30 / 3
    assert_array_equal(labels, model.predict_proba(X).argmax(1))


def test_log_probabilities_are_finite_where_probabilities_vanish(fitted, X):
    far = 1e4 * X
    assert (fitted.predict_proba(far) == 0).any()
    assert np.isfinite(fitted.predict_log_proba(far)).all()


# --- Coordinates --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_coordinates_have_the_dtype_of_the_samples(fitted, X, dtype, precision):
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
    reconstructed = fitted.inverse_transform(fitted.transform(X_new))
    assert reconstructed.shape == X_new.shape
    assert_allclose(fitted.reconstruct(X_new), reconstructed, rtol=1e-6)


def test_reconstruction_is_in_the_units_of_the_samples(make_estimator, X):
    model = make_estimator(pretrain_max_iter=40).fit(100 + 1000 * X)
    error = model.reconstruct(100 + 1000 * X) - (100 + 1000 * X)
    assert np.mean(error**2) < 0.2 * np.var(1000 * X, axis=0).mean()


def test_centers_are_the_decoded_means(fitted, bernoulli):
    for model in (fitted, bernoulli):
        decoded = model.inverse_transform(model.means_)
        assert_array_equal(model.cluster_centers_, decoded)


def test_bernoulli_expectations_are_in_the_unit_interval(bernoulli, X_unit):
    for expected in (bernoulli.reconstruct(X_unit), bernoulli.cluster_centers_):
        assert expected.min() >= 0
        assert expected.max() <= 1


def test_latent_points_are_no_metadata():
    assert not hasattr(VaDEClusterer(), "set_inverse_transform_request")


def test_names_of_the_coordinates(fitted):
    names = fitted.get_feature_names_out()
    assert names.tolist() == ["vadeclusterer0", "vadeclusterer1"]


# --- Scores -------------------------------------------------------------------------


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_score_is_the_mean_over_the_samples(fitted, X_new, responsibilities):
    model = copy_with(fitted, responsibilities=responsibilities)
    bounds = model.score_samples(X_new)
    assert bounds.shape == (700,)
    assert bounds.dtype == np.float64
    assert type(model.score(X_new, y=object())) is float
    assert_allclose(model.score(X_new), bounds.mean(), rtol=1e-12)
    assert_array_equal(model.score_samples(X_new), bounds)


def test_unlikely_samples_score_low(fitted, X_new):
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


@pytest.mark.parametrize(
    "n_draws, error, message",
    [
        (0, ValueError, "n_draws == 0, must be >= 1"),
        (-1, ValueError, "n_draws == -1, must be >= 1"),
        (1.5, TypeError, "n_draws must be an instance of int, not float"),
        ("many", TypeError, "n_draws must be an instance of int, not str"),
    ],
)
def test_number_of_draws_must_be_a_positive_int(fitted, X, n_draws, error, message):
    with pytest.raises(error, match=message):
        fitted.score_samples(X, n_draws=n_draws)


def test_bernoulli_score_of_samples_outside_of_the_unit_interval_warns(
    bernoulli, X_unit
):
    with pytest.warns(UserWarning, match=r"ranges from -1 to .*Clip X"):
        bernoulli.score(X_unit - 1)
    bernoulli.predict(X_unit - 1)
    bernoulli.score(X_unit)


# --- To the last bit ----------------------------------------------------------------


@pytest.mark.parametrize("method", SAMPLE_METHODS)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"precision": "float64"},
        {"precision": "bfloat16"},
        {"responsibilities": "sampled"},
        {"hidden_layer_sizes": (128, 64), "latent_dim": 10},
        # Samples that are not aligned in memory, in every layer.
        {"hidden_layer_sizes": (21, 7), "latent_dim": 3},
        {"hidden_layer_sizes": (21, 7), "latent_dim": 3, "precision": "float64"},
    ],
    ids=str,
)
def test_predictions_do_not_depend_on_the_other_samples(
    make_estimator, X, X_new, parameters, method
):
    predict = getattr(make_estimator(**parameters, max_iter=1).fit(X), method)
    assert_samples_are_independent(predict, X_new)


@pytest.mark.parametrize("method", SAMPLE_METHODS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_predictions_of_custom_networks_do_not_depend_on_the_other_samples(
    make_custom_estimator, X, X_new, precision, method
):
    model = make_custom_estimator(
        encoder=make_odd_encoder, latent_dim=3, max_iter=1, precision=precision
    )
    assert_samples_are_independent(getattr(model.fit(X), method), X_new)


@pytest.mark.parametrize("method", SAMPLE_METHODS)
def test_predictions_do_not_depend_on_the_memory_layout(fitted, X_new, method):
    predict = getattr(fitted, method)
    assert_array_equal(predict(np.asfortranarray(X_new)), predict(X_new))
    assert_array_equal(predict(X_new[::-2]), predict(X_new)[::-2])


def test_a_decoded_point_does_not_depend_on_the_other_points(fitted, X_new):
    Z = fitted.transform(X_new)
    together = fitted.inverse_transform(Z)
    assert_array_equal(fitted.inverse_transform(Z[::-1]), together[::-1])
    assert_array_equal(fitted.inverse_transform(Z[[300]]), together[[300]])


@pytest.mark.parametrize("method", [*SAMPLE_METHODS, "score", "fit", "fit_predict"])
def test_samples_are_never_written_to(make_estimator, X, method):
    model = make_estimator(max_iter=1).fit(X)
    writable = X.copy()
    getattr(model, method)(writable)
    assert_array_equal(writable, X)


@pytest.mark.parametrize(
    "method", [*SAMPLE_METHODS, "score", "inverse_transform", "sample"]
)
def test_predictions_leave_the_estimator_as_it_is(fitted, X, method):
    model = copy.deepcopy(fitted)
    before, copies = dict(vars(model)), copy.deepcopy(vars(model))
    arguments = {"inverse_transform": model.means_, "sample": 5}
    getattr(model, method)(arguments.get(method, X))
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    for name, attribute in before.items():
        if isinstance(attribute, np.ndarray):
            assert_array_equal(attribute, copies[name], err_msg=name)
    for part, arrays in model._network_state.items():
        for name, array in arrays.items():
            assert_array_equal(array, copies["_network_state"][part][name])


# --- Generation ---------------------------------------------------------------------


def test_sample_gives_samples_and_their_clusters_in_order(fitted):
    X, c = fitted.sample(50, random_state=0)
    assert X.shape == (50, 5)
    assert X.dtype == np.float64
    assert c.dtype == np.int64
    assert_array_equal(c, np.sort(c))
    assert set(c) == {0, 1, 2}


def test_one_sample_by_default(fitted):
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


def decoder_of(linear):
    """Give the decoder as an offset, (D,), and a matrix, (L, D)."""
    origin, *tips = linear.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    return origin, np.array(tips) - origin


def assert_samples_have_the_moments(linear, label):
    """Compare means and variances of the features with those of the attributes."""
    n = 20_000
    X, _ = linear.sample(n, label=label, random_state=0)
    origin, directions = decoder_of(linear)
    mean = origin + linear.means_[label] @ directions
    variance = (linear.covariances_[label] * directions.T**2).sum(1)
    variance += linear.noise_variance_
    assert (np.abs(X.mean(0) - mean) < 4.5 * np.sqrt(variance / n)).all()
    assert_allclose(X.var(0), variance, rtol=4.5 * np.sqrt(2 / n))


@pytest.mark.parametrize("label", range(3))
def test_samples_have_the_moments_of_the_model(linear, label):
    assert_samples_have_the_moments(linear, label)


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


# --- Export -------------------------------------------------------------------------


def test_the_module_agrees_with_the_estimator(fitted, bernoulli, X, X_unit):
    for model, samples in ((fitted, X), (bernoulli, X_unit)):
        module = model.to_torch("cpu")
        x = torch.tensor(samples, dtype=torch.float32)
        with torch.no_grad():
            log_r, posterior = module(x), module.encode(x)
            decoded = module.decode(posterior.mean)
        assert_allclose(log_r.exp(), model.predict_proba(samples), atol=1e-4)
        assert_allclose(posterior.mean, model.transform(samples), atol=1e-4)
        assert_allclose(decoded, model.reconstruct(samples), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_module_is_on_the_device(fitted, device):
    assert fitted.to_torch(device).prior.means.device.type == "cpu"


def test_changing_the_module_does_not_change_the_estimator(fitted, X):
    module = fitted.to_torch()
    before = fitted.transform(X)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    assert_array_equal(fitted.transform(X), before)


def test_the_module_has_gradients(fitted, X):
    module = fitted.to_torch()
    assert all(p.requires_grad for p in module.parameters())
    module(torch.tensor(X, dtype=torch.float32)).sum().backward()
    assert module.encoder.mean.weight.grad is not None


# --- Edited attributes --------------------------------------------------------------


def edit_means(model):
    model.means_ = model.means_[[1, 2, 0]] + 0.3


def edit_means_in_place(model):
    model.means_[0] += 0.3


def edit_weights(model):
    model.weights_ = np.array([0.05, 0.05, 0.9])


def edit_weights_to_another_sum(model):
    model.weights_ = np.array([1, 2, 70])


def edit_covariances(model):
    model.covariances_ = model.covariances_ * [[9.0], [1.0], [0.25]]


def edit_noise_variance(model):
    model.noise_variance_ = 4 * model.noise_variance_


def reload(model):
    return pickle.loads(pickle.dumps(model))


EDITS = [
    edit_means,
    edit_means_in_place,
    edit_weights,
    edit_weights_to_another_sum,
    edit_covariances,
]


def edit_all(model):
    for edit in (*EDITS, edit_noise_variance):
        edit(model)


@pytest.fixture(params=[*EDITS, edit_noise_variance, edit_all])
def edited(request, linear):
    model = copy.deepcopy(linear)
    request.param(model)
    return model


@pytest.fixture(params=["", "pickle"])
def edited_or_reloaded(request, edited):
    return reload(edited) if request.param == "pickle" else edited


@pytest.fixture(scope="module")
def X_between(linear):
    """Samples whose latent points lie between the means of the clusters."""
    fractions = np.random.default_rng(0).dirichlet(np.ones(3), 300)
    return linear.inverse_transform(fractions @ linear.means_)


def posterior_moments(linear, X):
    """Compute mean and variance of q(z|x), which depend on no edited attribute."""
    with torch.no_grad():
        mean, log_variance = linear.to_torch().encode(torch.tensor(X))
    return mean.numpy(), log_variance.exp().numpy()


def expected_log_joint(model, mean, variance):
    """Compute log p(c) + E[log p(z|c)], (n, K), from the fitted attributes."""
    deviation = np.sqrt(model.covariances_)
    log_prob = norm.logpdf(mean[:, None], model.means_, deviation)
    spread = variance[:, None] / model.covariances_ / 2
    log_weights = np.log(model.weights_ / np.sum(model.weights_))
    return log_weights + (log_prob - spread).sum(2)


def test_predictions_follow_the_edited_attributes(
    linear, edited_or_reloaded, X_between
):
    model = edited_or_reloaded
    log_joint = expected_log_joint(model, *posterior_moments(linear, X_between))
    expected = log_softmax(log_joint, axis=1)
    log_r = model.predict_log_proba(X_between)
    assert_allclose(log_r, expected, rtol=1e-9, atol=1e-9)
    assert_array_equal(model.predict(X_between), expected.argmax(1))
    with torch.no_grad():
        log_r = model.to_torch()(torch.tensor(X_between))
    assert_allclose(log_r, expected, rtol=1e-9, atol=1e-9)
    assert_array_equal(model.transform(X_between), linear.transform(X_between))


@pytest.mark.parametrize("edit", EDITS)
def test_editing_the_mixture_changes_labels(linear, X_between, edit):
    model = copy.deepcopy(linear)
    edit(model)
    assert np.mean(model.predict(X_between) != linear.predict(X_between)) > 0.02


def test_scores_follow_the_edited_attributes(linear, edited_or_reloaded, X_between):
    """The ELBO of a linear decoder, in closed form."""
    model = edited_or_reloaded
    mean, variance = posterior_moments(linear, X_between)
    log_joint = expected_log_joint(model, mean, variance)
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance).sum(1)
    _, directions = decoder_of(model)
    decoded = model.inverse_transform(mean)
    log_prob = norm.logpdf(X_between, decoded, np.sqrt(model.noise_variance_)).sum(1)
    spread = variance @ np.square(directions).sum(1) / model.noise_variance_ / 2
    expected = log_prob - spread + logsumexp(log_joint, axis=1) + entropy
    assert_allclose(model.score_samples(X_between), expected, rtol=1e-6)
    assert_allclose(model.score(X_between), expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("label", range(3))
def test_samples_and_centers_follow_the_edited_attributes(edited_or_reloaded, label):
    model = edited_or_reloaded
    origin, directions = decoder_of(model)
    centers = origin + model.means_ @ directions
    assert_allclose(model.cluster_centers_, centers, rtol=1e-9)
    assert_samples_have_the_moments(model, label)


def test_sampled_clusters_follow_the_edited_weights(edited_or_reloaded):
    model = edited_or_reloaded
    p = model.weights_ / model.weights_.sum()
    frequency = np.bincount(model.sample(20_000)[1], minlength=3) / 20_000
    assert (np.abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / 20_000)).all()


# torch's own exporter meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
def test_exported_model_follows_the_edited_attributes(linear, X_between, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = copy.deepcopy(linear)
    edit_all(model)
    model.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (proba,) = session.run(["predict_proba"], {"X": X_between})
    assert_allclose(proba, model.predict_proba(X_between), rtol=0, atol=1e-9)
    assert_array_equal(proba.argmax(1), model.predict(X_between))


# --- Before fit ---------------------------------------------------------------------


@pytest.mark.parametrize("method", [*SAMPLE_METHODS, "score", "inverse_transform"])
def test_not_fitted_on_samples(X, method):
    with pytest.raises(NotFittedError, match="VaDEClusterer instance is not fitted"):
        getattr(VaDEClusterer(), method)(X)


@pytest.mark.parametrize("method", ["sample", "to_torch", "get_feature_names_out"])
def test_not_fitted_without_samples(method):
    with pytest.raises(NotFittedError, match="VaDEClusterer instance is not fitted"):
        getattr(VaDEClusterer(), method)()
