"""Custom networks: what they compute, their random numbers, and their fitted state."""

import copy
import pickle
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from custom_modules import (
    PlainDecoder,
    assert_same_networks,
    make_default_decoder,
    make_default_encoder,
    make_encoder,
    make_state,
)
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.utils import check_random_state
from torch import nn
from torch.nn import functional

from skvade._inference import embed
from skvade._model.custom_networks import use_generator
from skvade._model.networks import Linear
from skvade._training.initialization import initialize_mixture
from skvade._training.joint import warm_up
from skvade._training.pretraining import pretrain


def conv_encoder(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def conv_decoder(latent_dim, n_features_in):
    return nn.Sequential(
        nn.Linear(latent_dim, 64),
        nn.ReLU(),
        nn.Unflatten(1, (4, 4, 4)),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
        nn.Flatten(),
    )


def assert_same_model(one, other):
    assert_same_networks(one, other)
    for name in ("weights_", "means_", "covariances_", "noise_variance_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


class ByKeyword(nn.Module):
    def __init__(self, n_features_in, latent_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.full((6, n_features_in), 0.1))

    def forward(self, x):
        return functional.linear(input=x, weight=self.weight)


# --- Computation --------------------------------------------------------------------


def test_a_network_may_pass_tensors_by_keyword(make_custom_estimator, X):
    assert make_custom_estimator(encoder=ByKeyword).fit(X).predict(X).shape == (150,)


@pytest.mark.parametrize("responsibilities", ["expected", "sampled"])
def test_custom_copies_of_the_default_networks_give_the_same_results(
    make_estimator, make_custom_estimator, X, responsibilities
):
    parameters = {
        "responsibilities": responsibilities,
        "n_draws": 2,
        "precision": "float64",
    }
    default = make_estimator(**parameters).fit(X)
    model = make_custom_estimator(
        encoder=make_default_encoder, decoder=make_default_decoder, **parameters
    ).fit(X)
    for one, other in (
        (model.predict_proba(X), default.predict_proba(X)),
        (model.reconstruct(X), default.reconstruct(X)),
        (model.lower_bounds_, default.lower_bounds_),
    ):
        assert_allclose(one, other, rtol=1e-7)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_one_of_the_two_networks_may_be_the_default(make_estimator, X, name):
    factory = {"encoder": make_default_encoder, "decoder": make_default_decoder}[name]
    default = make_estimator(activation="tanh", **{name: factory}).fit(X)
    assert default.predict_proba(X).shape == (150, 3)
    other = {"encoder": "decoder", "decoder": "encoder"}[name]
    backbone = getattr(default.to_torch(), other).backbone
    assert [type(layer) for layer in backbone] == [Linear, nn.Tanh]


@pytest.mark.parametrize(
    "likelihood, pretraining", [("gaussian", "autoencoder"), ("bernoulli", "vae")]
)
def test_a_convolutional_pair_learns_digits(
    make_custom_estimator, likelihood, pretraining
):
    X = load_digits(n_class=3)["data"][:150] / 16
    model = make_custom_estimator(
        encoder=conv_encoder,
        decoder=conv_decoder,
        likelihood=likelihood,
        pretraining=pretraining,
        pretrain_max_iter=20,
        learning_rate_init=5e-3,
        latent_dim=5,
    )
    model.fit(X)
    assert model.pretrain_loss_curve_[-1] < 0.8
    unexplained = (
        np.square(X - model.reconstruct(X)).sum() / np.square(X - X.mean(0)).sum()
    )
    assert unexplained < 0.8
    assert model.transform(X).shape == (150, 5)
    assert model.cluster_centers_.shape == (3, 64)
    assert model.sample(4)[0].shape == (4, 64)
    assert_array_equal(model.fit_predict(X), model.predict(X))
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.filterwarnings("ignore:pretrain_.* has no effect")
@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_missing_entries_and_an_embedding(make_custom_estimator, X):
    X = np.where(np.arange(X.size).reshape(X.shape) % 7 == 0, np.nan, X)
    model = make_custom_estimator(embedding=PCA(2), embedding_max_iter=5).fit(X)
    assert np.isfinite(model.impute(X)).all()


def test_a_network_is_called_on_matrices_in_the_right_mode(make_custom_estimator, X):
    shapes, training = set(), set()

    class Recording(PlainDecoder):
        def forward(self, z):
            shapes.add(z.shape[1:])
            training.add((self.training, torch.is_grad_enabled()))
            return super().forward(z)

    model = make_custom_estimator(
        decoder=Recording, n_draws=3, early_stopping=True
    ).fit(X)
    assert shapes == {(2,)}
    # Trained in training mode; predictions and the probe are in evaluation mode.
    assert training == {(True, True), (False, False)}
    z = torch.zeros(4, 3, 2)
    assert model.to_torch().decode(z).shape == (4, 3, 5)
    assert model.to_torch().decode(z[0, 0]).shape == (5,)


@pytest.mark.filterwarnings("ignore:Pretraining learned next to nothing")
def test_lazy_layers_are_initialized(make_custom_estimator, X):
    def lazy(n_in, n_out):
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(n_out))

    model = make_custom_estimator(encoder=lazy, decoder=lazy).fit(X)
    assert_array_equal(clone(model).fit(X).predict_proba(X), model.predict_proba(X))
    assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize(
    "precision, max_error", [("float64", 1e-4), ("bfloat16", 0.05)]
)
def test_precision_of_predictions(X, fitted_custom, precision, max_error):
    model = copy.deepcopy(fitted_custom).set_params(precision=precision)
    error = np.abs(model.transform(X) - fitted_custom.transform(X)).max()
    assert 0 < error < max_error
    assert_array_equal(model.fit(X).predict(X), model.labels_)


# --- Random numbers -----------------------------------------------------------------


def test_the_seed_decides_about_weights_and_dropout(
    make_custom_estimator, X, fitted_custom
):
    with torch.random.fork_rng():
        torch.manual_seed(123)
        same = make_custom_estimator().fit(X)
    assert_same_model(same, fitted_custom)
    other = make_custom_estimator(random_state=1).fit(X)
    assert not np.array_equal(other.means_, fitted_custom.means_)


def test_initial_weights_are_those_of_the_factory(make_custom_estimator, X):
    states = [make_state(make_custom_estimator(random_state=i), X) for i in (0, 1)]
    layers = [state.module.encoder.backbone.network[0] for state in states]
    assert not torch.equal(layers[0].weight, layers[1].weight)

    def constant(n_in, n_out):
        layer = nn.Linear(n_in, 8)
        nn.init.constant_(layer.weight, 0.25)
        return layer

    module = make_state(make_custom_estimator(encoder=constant), X).module
    assert (module.encoder.backbone.network.weight == 0.25).all()
    assert module.encoder.mean.weight.std() > 0


def test_use_generator_goes_on_where_the_generator_was(generator):
    expected = torch.rand(4, generator=generator)
    generator.manual_seed(0)
    drawn = []
    for _ in range(2):
        with use_generator(generator):
            drawn.append(torch.rand(2))
    assert torch.equal(torch.cat(drawn), expected)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "to_torch"])
def test_the_global_generators_stay_as_they_are(fitted_custom, X, method):
    model = copy.deepcopy(fitted_custom)
    torch_state, seed = torch.get_rng_state(), torch.initial_seed()
    numpy_state = repr(check_random_state(None).get_state())
    arguments = [] if method == "to_torch" else [X]
    getattr(model, method)(*arguments)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.initial_seed() == seed
    assert repr(check_random_state(None).get_state()) == numpy_state


def test_fits_in_threads_share_no_random_numbers(
    make_custom_estimator, X, fitted_custom
):
    fits = [delayed(make_custom_estimator().fit)(X) for _ in range(2)]
    for model in Parallel(n_jobs=2, backend="threading")(fits):
        assert_same_model(model, fitted_custom)


def test_the_global_generator_stays_when_a_factory_or_training_fails(
    make_custom_estimator, X
):
    def failing(n_in, n_out):
        nn.Linear(n_in, n_out)
        raise RuntimeError("no such network")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no such network"):
        make_custom_estimator(encoder=failing).fit(X)
    with pytest.raises(ValueError, match="not finite"):
        make_custom_estimator(learning_rate_init=1e30).fit(X)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_dtype_does_not_reach_the_networks(
    make_custom_estimator, X, fitted_custom
):
    torch.set_default_dtype(torch.float64)
    try:
        labels, model = fitted_custom.predict(X), make_custom_estimator().fit(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_array_equal(labels, fitted_custom.labels_)
    assert model.to_torch().encoder.mean.weight.dtype == torch.float32


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_switched_off_by_the_caller(
    make_custom_estimator, X, fitted_custom, context
):
    with context():
        assert_array_equal(fitted_custom.predict(X), fitted_custom.labels_)
        model = make_custom_estimator().fit(X)
    assert_same_model(model, fitted_custom)


# --- State --------------------------------------------------------------------------


def test_predictions_do_not_depend_on_the_batch(fitted_custom, X, X_new):
    alone = np.concatenate([fitted_custom.transform(X[[i]]) for i in range(5)])
    assert_array_equal(alone, fitted_custom.transform(X)[:5])
    together = fitted_custom.transform(np.concatenate([X[:5], X_new]))
    assert_array_equal(alone, together[:5])


def test_running_statistics_are_fitted_state(fitted_custom):
    names = ["running_mean", "running_var", "num_batches_tracked"]
    arrays = fitted_custom._network_state["encoder"]
    state = {n: arrays[f"backbone.network.1.{n}"] for n in names}
    assert all(type(values) is np.ndarray for values in state.values())
    assert state["num_batches_tracked"] > 0
    assert state["running_mean"].any()
    module = fitted_custom.to_torch().encoder.backbone.network[1]
    for name, values in state.items():
        assert_array_equal(getattr(module, name).numpy(), values)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_running_statistics_are_updated_by_further_training(fitted_custom, X, method):
    model = copy.deepcopy(fitted_custom).set_params(warm_start=True)
    name = "backbone.network.1.num_batches_tracked"
    before = model._network_state["encoder"][name]
    getattr(model, method)(X)
    n_epochs = model.max_iter if method == "fit" else 1
    n_steps = n_epochs * np.ceil(len(X) / 16)
    assert model._network_state["encoder"][name] == before + n_steps
    assert_array_equal(model.predict(X), model.labels_)


def test_the_warm_up_leaves_the_embedding(make_custom_estimator, X):
    state = make_state(make_custom_estimator(), X)
    pretrain(state)
    initialize_mixture(state)
    before = embed(state.module, state.dataset)
    weights = state.module.encoder.log_variance.weight
    assert not weights.any()
    warm_up(state)
    assert_array_equal(embed(state.module, state.dataset), before)
    assert weights.any()
    assert all(p.requires_grad for p in state.module.parameters())


def test_parameters_that_the_user_froze_stay_frozen(make_custom_estimator, X):
    def frozen(n_in, n_out):
        return make_encoder(n_in, n_out).requires_grad_(False)

    state = make_state(make_custom_estimator(encoder=frozen), X)
    start = copy.deepcopy(state.module.encoder.backbone.state_dict())
    model = make_custom_estimator(encoder=frozen).fit(X)
    module = model.to_torch()
    for name, values in module.encoder.backbone.state_dict().items():
        assert torch.equal(values, start[name]), name
    assert not any(p.requires_grad for p in module.encoder.backbone.parameters())
    assert module.encoder.mean.weight.requires_grad
    assert_array_equal(model.partial_fit(X).predict(X), model.labels_)


def test_a_layer_that_is_not_called_is_not_trained(make_custom_estimator, X):
    class WithUnusedLayer(PlainDecoder):
        def __init__(self, *shape):
            super().__init__(*shape)
            self.unused = nn.Linear(2, 2)
            nn.init.ones_(self.unused.weight)

    for pretraining in ("autoencoder", "vae"):
        model = make_custom_estimator(
            decoder=WithUnusedLayer, pretraining=pretraining
        ).fit(X)
        assert (model.to_torch().decoder.backbone.network.unused.weight == 1).all()


def test_a_module_that_the_factory_returns_again_is_copied(make_custom_estimator, X):
    trained = nn.Linear(5, 8)
    before = copy.deepcopy(trained.state_dict())
    model = make_custom_estimator(encoder=lambda n_in, n_out: trained).fit(X)
    again = clone(model).fit(X)
    assert_same_model(again, model)
    assert_array_equal(model.predict(X), model.labels_)
    assert all(torch.equal(trained.state_dict()[k], before[k]) for k in before)


def test_a_layer_that_is_used_twice_stays_one(make_custom_estimator, X):
    def twice(n_in, n_out):
        layer = nn.Linear(8, 8)
        return nn.Sequential(nn.Linear(n_in, 8), layer, nn.Tanh(), layer)

    model = make_custom_estimator(encoder=twice, warm_start=True).fit(X).fit(X)
    layers = model.to_torch().encoder.backbone.network
    assert layers[1].weight is layers[3].weight


def test_predictions_follow_the_networks_that_were_fitted(fitted_custom, X):
    model = copy.deepcopy(fitted_custom).set_params(
        encoder=None, decoder=make_default_decoder
    )
    assert_array_equal(model.predict(X), fitted_custom.labels_)


def test_a_factory_that_builds_another_network_is_rejected(make_custom_estimator, X):
    n_layers = 1

    def changing(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, 8), *[nn.Linear(8, 8)] * (n_layers - 1))

    model = make_custom_estimator(encoder=changing).fit(X)
    n_layers = 2
    with pytest.raises(ValueError, match="no longer build the networks that were fit"):
        model.predict(X)
    n_layers = 1
    model.predict(X)


# --- Further training ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_further_training_needs_the_same_networks(fitted_custom, X, method):
    model = copy.deepcopy(fitted_custom).set_params(warm_start=True)
    model.set_params(encoder=make_default_encoder)
    with pytest.raises(ValueError, match="continues a model with encoder=<function m"):
        getattr(model, method)(X)
    assert_array_equal(model.predict(X), fitted_custom.labels_)
    getattr(model.set_params(encoder=make_encoder), method)(X)


def test_equal_partial_functions_are_the_same_network(make_custom_estimator, X):
    model = make_custom_estimator(
        encoder=partial(make_encoder, width=8), warm_start=True
    ).fit(X)
    model.set_params(encoder=partial(make_encoder, width=8)).fit(X)
    with pytest.raises(ValueError, match="width=4"):
        model.set_params(encoder=partial(make_encoder, width=4)).fit(X)


# --- Copies, searches, callbacks and export -----------------------------------------


@pytest.mark.parametrize(
    "copy_of", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy]
)
def test_copies_give_the_same_predictions(fitted_custom, X, copy_of):
    model = copy_of(fitted_custom)
    assert_array_equal(model.predict_proba(X), fitted_custom.predict_proba(X))
    assert joblib.hash(model) == joblib.hash(fitted_custom)
    model.set_params(warm_start=True).fit(X)


def test_clones_fit_to_the_same(fitted_custom, X):
    fresh = clone(fitted_custom)
    assert fresh.encoder is make_encoder
    assert not hasattr(fresh, "labels_")
    assert_same_model(fresh.fit(X), fitted_custom)


def test_search_over_networks(make_custom_estimator, X):
    grid = {"encoder": [None, make_encoder, partial(make_encoder, width=4)]}
    search = GridSearchCV(make_custom_estimator(), grid, cv=2, error_score="raise")
    search.fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 3


def test_callbacks_change_nothing(make_custom_estimator, blobs, fitted_custom):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    model = make_custom_estimator().set_callbacks(monitor).fit(X, y)
    assert monitor.get_logs().data
    assert_same_model(model, fitted_custom)


def test_skops_asks_to_trust_the_networks(fitted_custom, X):
    skops_io = pytest.importorskip("skops.io")
    dumped = skops_io.dumps(fitted_custom)
    untrusted = skops_io.get_untrusted_types(data=dumped)
    names = {f"{f.__module__}.{f.__qualname__}" for f in (make_encoder, PlainDecoder)}
    assert set(untrusted) == names | {"skvade._estimator.VaDEClusterer"}
    restored = skops_io.loads(dumped, trusted=untrusted)
    assert_array_equal(restored.predict(X), fitted_custom.labels_)


def test_to_torch_gives_a_module_in_evaluation_mode(fitted_custom, X):
    module = fitted_custom.to_torch("cpu")
    assert not any(m.training for m in module.modules())
    samples = torch.tensor(X, dtype=torch.float32)
    with torch.no_grad():
        assert_allclose(
            module(samples).exp(), fitted_custom.predict_proba(X), atol=1e-5
        )
        module.encoder.backbone.network[0].weight.zero_()
    assert_array_equal(fitted_custom.predict(X), fitted_custom.labels_)
    assert module.train().encoder.backbone.network.training
