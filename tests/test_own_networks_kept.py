"""Networks of the user's own: what is fitted, kept, copied and continued."""

import copy
import pickle
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from own_networks import (
    PlainDecoder,
    assert_same_model,
    encoder,
    house_decoder,
    house_encoder,
    run_of,
)
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.model_selection import GridSearchCV
from torch import nn

from skvade._inference import embed
from skvade._pretraining import pretrain
from skvade._training import catch_up, start_mixture

# --- State --------------------------------------------------------------------------


def test_answers_do_not_depend_on_the_batch(fitted_own, X, X_new):
    alone = np.concatenate([fitted_own.transform(X[[i]]) for i in range(5)])
    assert_array_equal(alone, fitted_own.transform(X)[:5])
    together = fitted_own.transform(np.concatenate([X[:5], X_new]))
    assert_array_equal(alone, together[:5])


def test_running_statistics_are_fitted_state(fitted_own, own, X):
    names = ["running_mean", "running_var", "num_batches_tracked"]
    state = {n: fitted_own._parameters[f"encoder.hidden.network.1.{n}"] for n in names}
    assert all(type(values) is np.ndarray for values in state.values())
    assert state["num_batches_tracked"] > 0
    assert state["running_mean"].any()
    module = fitted_own.to_torch().encoder.hidden.network[1]
    for name, values in state.items():
        assert_array_equal(getattr(module, name).numpy(), values)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_running_statistics_go_on(fitted_own, X, method):
    model = copy.deepcopy(fitted_own).set_params(warm_start=True)
    name = "encoder.hidden.network.1.num_batches_tracked"
    before = model._parameters[name]
    getattr(model, method)(X)
    n_epochs = model.max_iter if method == "fit" else 1
    n_steps = n_epochs * np.ceil(len(X) / 16)
    assert model._parameters[name] == before + n_steps
    assert_array_equal(model.predict(X), model.labels_)


def test_catching_up_leaves_the_embedding(own, X):
    run = run_of(own(), X)
    pretrain(run)
    start_mixture(run)
    before, weights = embed(run.model, run.rows), run.model.encoder.log_variance.weight
    assert not weights.any()
    catch_up(run)
    assert_array_equal(embed(run.model, run.rows), before)
    assert weights.any()
    assert all(p.requires_grad for p in run.model.parameters())


def test_what_the_user_froze_stays_frozen(own, X):
    def frozen(n_in, n_out):
        return encoder(n_in, n_out).requires_grad_(False)

    run = run_of(own(encoder=frozen), X)
    start = copy.deepcopy(run.model.encoder.hidden.state_dict())
    model = own(encoder=frozen).fit(X)
    module = model.to_torch()
    for name, values in module.encoder.hidden.state_dict().items():
        assert torch.equal(values, start[name]), name
    assert not any(p.requires_grad for p in module.encoder.hidden.parameters())
    assert module.encoder.mean.weight.requires_grad
    assert_array_equal(model.partial_fit(X).predict(X), model.labels_)


def test_a_layer_that_is_not_called_stays_as_it_is(own, X):
    class Spare(PlainDecoder):
        def __init__(self, *shape):
            super().__init__(*shape)
            self.spare = nn.Linear(2, 2)
            nn.init.ones_(self.spare.weight)

    for pretraining in ("autoencoder", "vae"):
        model = own(decoder=Spare, pretraining=pretraining).fit(X)
        assert (model.to_torch().decoder.hidden.network.spare.weight == 1).all()


def test_a_module_that_is_given_again_and_again_is_left_as_it_is(own, X):
    trained = nn.Linear(5, 8)
    before = copy.deepcopy(trained.state_dict())
    model = own(encoder=lambda n_in, n_out: trained).fit(X)
    again = clone(model).fit(X)
    assert_same_model(again, model)
    assert_array_equal(model.predict(X), model.labels_)
    assert all(torch.equal(trained.state_dict()[k], before[k]) for k in before)


def test_a_layer_that_is_called_twice_stays_one(own, X):
    def twice(n_in, n_out):
        layer = nn.Linear(8, 8)
        return nn.Sequential(nn.Linear(n_in, 8), layer, nn.Tanh(), layer)

    model = own(encoder=twice, warm_start=True).fit(X).fit(X)
    body = model.to_torch().encoder.hidden.network
    assert body[1].weight is body[3].weight


def test_predictions_follow_the_networks_that_were_fitted(fitted_own, X):
    model = copy.deepcopy(fitted_own).set_params(encoder=None, decoder=house_decoder)
    assert_array_equal(model.predict(X), fitted_own.labels_)


def test_a_function_that_has_changed_since(own, X):
    n_layers = 1

    def changing(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, 8), *[nn.Linear(8, 8)] * (n_layers - 1))

    model = own(encoder=changing).fit(X)
    n_layers = 2
    with pytest.raises(ValueError, match="no longer build the networks that were fit"):
        model.predict(X)
    n_layers = 1
    model.predict(X)


# --- Continuing ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_needs_the_same_networks(fitted_own, X, method):
    model = copy.deepcopy(fitted_own).set_params(warm_start=True)
    model.set_params(encoder=house_encoder)
    with pytest.raises(ValueError, match=r"continues a model with encoder=<function e"):
        getattr(model, method)(X)
    assert_array_equal(model.predict(X), fitted_own.labels_)
    getattr(model.set_params(encoder=encoder), method)(X)


def test_equal_partial_functions_are_the_same_network(own, X):
    model = own(encoder=partial(encoder, width=8), warm_start=True).fit(X)
    model.set_params(encoder=partial(encoder, width=8)).fit(X)
    with pytest.raises(ValueError, match="width=4"):
        model.set_params(encoder=partial(encoder, width=4)).fit(X)


# --- At home in the ecosystem -------------------------------------------------------


@pytest.mark.parametrize(
    "way", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy]
)
def test_copies_give_the_same_answers(fitted_own, X, way):
    model = way(fitted_own)
    assert_array_equal(model.predict_proba(X), fitted_own.predict_proba(X))
    assert joblib.hash(model) == joblib.hash(fitted_own)
    model.set_params(warm_start=True).fit(X)


def test_clones_fit_to_the_same(fitted_own, X):
    fresh = clone(fitted_own)
    assert fresh.encoder is encoder
    assert not hasattr(fresh, "labels_")
    assert_same_model(fresh.fit(X), fitted_own)


def test_search_over_networks(own, X):
    grid = {"encoder": [None, encoder, partial(encoder, width=4)]}
    search = GridSearchCV(own(), grid, cv=2, error_score="raise").fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 3


def test_watching_changes_nothing(own, blobs, fitted_own):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    model = own().set_callbacks(monitor).fit(X, y)
    assert monitor.get_logs().data
    assert_same_model(model, fitted_own)


def test_skops_asks_to_trust_the_networks(fitted_own, X):
    skops_io = pytest.importorskip("skops.io")
    dumped = skops_io.dumps(fitted_own)
    untrusted = skops_io.get_untrusted_types(data=dumped)
    names = {f"{f.__module__}.{f.__qualname__}" for f in (encoder, PlainDecoder)}
    assert set(untrusted) == names | {"skvade._vade.VaDEClusterer"}
    restored = skops_io.loads(dumped, trusted=untrusted)
    assert_array_equal(restored.predict(X), fitted_own.labels_)


def test_what_goes_to_torch_answers_in_evaluation_mode(fitted_own, X):
    module = fitted_own.to_torch("cpu")
    assert not any(m.training for m in module.modules())
    rows = torch.tensor(X, dtype=torch.float32)
    with torch.no_grad():
        assert_allclose(module(rows).exp(), fitted_own.predict_proba(X), atol=1e-5)
        module.encoder.hidden.network[0].weight.zero_()
    assert_array_equal(fitted_own.predict(X), fitted_own.labels_)
    assert module.train().encoder.hidden.network.training
