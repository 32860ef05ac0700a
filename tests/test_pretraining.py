"""Pretraining: three methods to learn to reconstruct before there is a mixture."""

import numpy as np
import pytest
import torch
from custom_modules import make_state
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.preprocessing import minmax_scale
from torch import nn
from torch.distributions import Normal, kl_divergence
from training_states import (
    all_samples,
    changed_parameters,
    copy_parameters,
    make_training_state,
    run_stages,
)

from skvade import VaDEClusterer
from skvade._data.scaling import TARGET_STD
from skvade._state import init_training
from skvade._training import pretraining
from skvade._training.pretraining import (
    CORRUPTION_RATE,
    PRETRAINING,
    DenoisingPair,
    marchenko_pastur_ratio,
    max_pretraining_epochs,
    pretrain,
    reconstruction_loss,
    unlearned_components,
    variational_loss,
)

# Those by reconstruction; for neighbors see test_neighbor_embedding.py.
METHODS = sorted({*PRETRAINING} - {"neighbors"})


def pretrained(estimator, X):
    return run_stages(make_state(estimator, X), pretrain)


def curve_of(state):
    return state.history.pretraining["unexplained_variance"]


def unexplained_variance(state):
    """Compute the fraction of the variance that the reconstruction does not explain."""
    x, module = all_samples(state).x, state.module
    with torch.no_grad():
        error = module.decoder(module.encoder.encode_mean(x)) - x
    return error.square().mean().item() / TARGET_STD**2


# --- All methods --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_networks_learn_to_reconstruct(make_estimator, X, method):
    settings = {"pretrain_max_iter": 60, "learning_rate_init": 1e-2}
    state = pretrained(make_estimator(pretraining=method, **settings), X)
    linear = 1 - PCA(2).fit(X).explained_variance_ratio_.sum()
    assert unexplained_variance(state) < 2 * linear
    assert len(curve_of(state)) == 60


@pytest.mark.parametrize("method", METHODS)
def test_curve_ends_at_the_error_of_the_networks(make_estimator, X, method):
    state = pretrained(make_estimator(pretraining=method, pretrain_max_iter=30), X)
    # The error of the variational autoencoder is taken at draws of z.
    assert curve_of(state)[-1] == pytest.approx(
        unexplained_variance(state), rel=0.3 if method == "vae" else 0.1
    )


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_curve_falls_with_either_likelihood(X, X_unit, likelihood):
    samples = X if likelihood == "gaussian" else X_unit
    state = make_training_state(samples, likelihood=likelihood, pretrain_max_iter=30)
    curve = curve_of(run_stages(state, pretrain))
    assert len(curve) == 30
    assert curve[-1] < 0.3 < np.mean(curve[:3])


def test_curve_is_the_unexplained_fraction_of_the_variance(X):
    state = make_training_state(
        X, pretrain_max_iter=1, pretrain_learning_rate_init=1e-12
    )
    run_stages(state, pretrain)
    x = all_samples(state).x
    with torch.no_grad():
        z = state.module.encoder.encode_mean(x)
        error = (state.module.decoder(z) - x).square().mean()
    assert_allclose(curve_of(state), error / x.square().mean())


def test_neither_posterior_variances_nor_the_mixture_are_trained(X):
    state = make_training_state(X)
    before = copy_parameters(state.module)
    run_stages(state, pretrain)
    changed = changed_parameters(before, state.module)
    assert {name.rsplit(".", 2)[0] for name in changed} == {
        "encoder.backbone",
        "encoder",
        "decoder.backbone",
        "decoder",
    }
    assert not {name for name in changed if "log_variance" in name}


@pytest.mark.parametrize("method", METHODS)
def test_epochs_are_as_many_as_announced(X, method, monkeypatch):
    sizes = {"pretrain_max_iter": 2, "hidden_layer_sizes": (8, 6)}
    state = make_training_state(X, pretraining=method, **sizes)
    n_epochs, epoch = 0, pretraining.train_epoch

    def counting_epoch(*args):
        nonlocal n_epochs
        n_epochs += 1
        return epoch(*args)

    monkeypatch.setattr(pretraining, "train_epoch", counting_epoch)
    pretrain(state)
    assert (
        n_epochs == max_pretraining_epochs(state) == (8 if method == "stacked" else 2)
    )


def test_a_loss_that_is_not_finite_is_an_error(X):
    message = r"not finite. Lower pretrain_learning_rate_init=1e\+200"
    with pytest.raises(ValueError, match=message):
        pretrain(make_training_state(X, pretrain_learning_rate_init=1e200))


# --- The learning rate --------------------------------------------------------------


@pytest.fixture
def curve_at():
    """The curve that a learning rate gives in ten epochs of small networks."""

    def pretrain_at(rate, X):
        estimator = VaDEClusterer(
            3,
            pretraining="autoencoder",
            pretrain_learning_rate_init=rate,
            batch_size=16,
            random_state=0,
        )
        return curve_of(pretrained(estimator, X))

    return pretrain_at


def groups_of_little_variance(n_features):
    """Make three groups; the two directions that separate them vary little."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, n_features))
    spread = 0.3 * np.sqrt(n_features)
    centers = spread * np.array([[0, 1], [1, 0], [-1, -1]])
    X[:, :2] += centers[rng.integers(3, size=300)]
    return X


def test_automatic_rate_learns_little_variance_among_thousands_of_features(curve_at):
    X = groups_of_little_variance(2000)
    slow, automatic = curve_at(1.0, X), curve_at("auto", X)
    leading = PCA(1).fit(X).explained_variance_ratio_[0]
    assert slow[-1] > 1 - leading / 4
    assert automatic[:3] == slow[:3]
    assert automatic[-1] < 1 - leading / 2


def test_automatic_rate_is_one_where_that_learns(curve_at, X):
    assert curve_at("auto", X) == curve_at(1.0, X)


@pytest.mark.parametrize("n_features", [500, 2000])
def test_automatic_rate_is_not_raised_for_noise(curve_at, n_features):
    """Nothing is learned of it, and nothing should be."""
    X = np.random.default_rng(0).normal(size=(300, n_features))
    curve = curve_at("auto", X)
    assert curve == curve_at(1.0, X)
    assert curve[2] > 0.99


@pytest.mark.parametrize("kind", ["sparse", "missing entries", "float64"])
def test_automatic_rate_is_raised_for_all_kinds_of_data(kind):
    X = groups_of_little_variance(1000)
    if kind == "missing entries":
        X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    estimator = VaDEClusterer(
        3,
        pretraining="autoencoder",
        precision="float64" if kind == "float64" else "float32",
        batch_size=16,
        pretrain_max_iter=15,
        random_state=0,
    )
    samples = csr_array(X) if kind == "sparse" else X
    state = init_training(estimator, samples, np.ones(len(X)))
    curve = curve_of(run_stages(state, pretrain))
    assert curve[2] > 0.99
    assert curve[-1] < 0.97


def test_a_raised_rate_is_printed_where_epochs_are(capsys):
    params = {"pretraining": "autoencoder", "batch_size": 16, "verbose": 1}
    estimator = VaDEClusterer(3, random_state=0, **params)
    pretrained(estimator, groups_of_little_variance(1000))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "goes on" in x]
    # D / 100: less than the inverse of the fraction of variance here.
    assert line == "Pretraining goes on at a learning rate of 10"


def test_an_automatic_rate_that_diverges_gets_a_number_to_try(make_estimator, X):
    state = make_state(make_estimator(pretrain_learning_rate_init="auto"), X)
    with torch.no_grad():
        state.module.decoder.output.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"rate_init='auto', for instance to 0\.3, or"):
        pretrain(state)


def test_a_given_rate_is_kept(curve_at):
    curve = curve_at(1e-9, groups_of_little_variance(2000))
    assert curve == pytest.approx([curve[0]] * 10, rel=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("n_features", [1, 2, 3, 5, 50])
def test_default_rate_learns_from_any_number_of_features(n_features, likelihood):
    X = minmax_scale(make_blobs(150, n_features, centers=3, random_state=0)[0])
    estimator = VaDEClusterer(
        likelihood=likelihood,
        pretraining="autoencoder",
        pretrain_max_iter=30,
        batch_size=16,
        random_state=0,
    )
    # 1 is what the mean of the features alone reaches.
    assert curve_of(pretrained(estimator, X))[-1] < 0.6


@pytest.mark.parametrize("given, rate", [("auto", 0.02), (0.005, 0.005)])
def test_rate_of_the_variational_autoencoder(
    make_estimator, X, monkeypatch, given, rate
):
    """That of the last stage, unless pretraining has one of its own."""
    rates = []

    class RecordingAdam(pretraining.Adam):
        def __init__(self, groups, fused):
            rates.extend(rate for rate, _ in groups)
            super().__init__(groups, fused)

    monkeypatch.setattr(pretraining, "Adam", RecordingAdam)
    settings = {"pretrain_learning_rate_init": given, "learning_rate_init": 0.02}
    pretrained(make_estimator(pretraining="vae", pretrain_max_iter=1, **settings), X)
    assert rates == [rate]


@pytest.mark.parametrize("scale, offset", [(1e3, 5), (1e-6, 0), (1, -100)])
def test_unit_of_the_data_changes_nothing(make_estimator, X, scale, offset):
    expected, found = (
        curve_of(pretrained(make_estimator(precision="float64"), samples))
        for samples in (X, scale * X + offset)
    )
    assert_allclose(found, expected, rtol=1e-6)


# --- Principal components that were not learned -------------------------------------


@pytest.mark.parametrize("n_samples, n_features", [(300, 100), (300, 2000), (512, 500)])
def test_variance_that_one_component_of_noise_explains(n_samples, n_features):
    X = np.random.default_rng(0).normal(size=(n_samples, n_features))
    dataset = make_state(VaDEClusterer(3), X).dataset
    leading = PCA(1).fit(X).explained_variance_ratio_[0]
    assert marchenko_pastur_ratio(dataset) == pytest.approx(leading, rel=0.1)


@pytest.fixture
def unlearned():
    """Those of ten components, where pretraining explained a given fraction."""

    def unlearned_of(X, explained, weight=None):
        weight = np.ones(len(X)) if weight is None else weight
        state = init_training(VaDEClusterer(3), X, weight)
        curve_of(state).append(1 - explained)
        return unlearned_components(state, 10)

    return unlearned_of


def test_components_that_explain_little_each_count_together(unlearned):
    """Five that explain 2 % each; of the noise beside them none counts."""
    X = np.random.default_rng(0).normal(size=(500, 2000))
    X[:, :5] *= np.sqrt(2000 * 0.02 / 0.9)
    ratios = PCA(5).fit(X).explained_variance_ratio_
    assert ratios[0] / 4 < 0.01
    assert_allclose(unlearned(X, 0.01), ratios, rtol=1e-3)
    assert not len(unlearned(X, 1.01 * ratios.sum() / 4))


def test_no_component_of_noise_counts(unlearned):
    X = np.random.default_rng(0).normal(size=(500, 2000))
    assert not len(unlearned(X, 0))


def test_components_are_those_of_the_weighted_samples(unlearned):
    """Samples of next to no weight vary most, in a direction of their own."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 1000))
    X[:, 0] *= 10
    X[:100, 1] += rng.choice([-100, 100], 100)
    weight = np.r_[np.full(100, 1e-8), np.ones(400)]
    expected = PCA(1).fit(X[100:]).explained_variance_ratio_
    assert_allclose(unlearned(X, 0, weight), expected, rtol=1e-3)


# --- As part of a fit ---------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_fit_is_finite_and_reproducible(make_estimator, X, method):
    first, second = (
        make_estimator(pretraining=method, learning_rate_init=1e-2).fit(X)
        for _ in range(2)
    )
    assert_array_equal(first.means_, second.means_)
    assert np.isfinite(first.lower_bound_)


def test_methods_differ(make_estimator, X):
    models = [
        make_estimator(pretraining=method, learning_rate_init=1e-2)
        for method in METHODS
    ]
    errors = {model.fit(X).pretrain_loss_curve_[-1] for model in models}
    assert len(errors) == len(METHODS)


def test_an_unknown_method_is_rejected(make_estimator, X):
    with pytest.raises(ValueError, match=r"The 'pretraining' parameter .* 'greedy'"):
        make_estimator(pretraining="greedy").fit(X)


def test_bfloat16_learns_as_float32_but_for_the_rounding(make_estimator, X):
    """Rounded weights are not used beyond their step."""
    exact, rounded = (
        make_estimator(precision=precision).fit(X).pretrain_loss_curve_
        for precision in ("float32", "bfloat16")
    )
    assert_allclose(rounded, exact, rtol=0.05)


# --- Pairs of layers ----------------------------------------------------------------


def test_stacked_trains_one_pair_of_layers_at_a_time(make_estimator, X, monkeypatch):
    """Before the fine-tuning, all layers but those of a pair stay as they are."""
    estimator = make_estimator(pretraining="stacked", hidden_layer_sizes=(8, 6))
    state = make_state(estimator, X)
    before = copy_parameters(state.module)
    changed = []

    def recording_epoch(state, *rest):
        means = train_epoch(state, *rest)
        names = changed_parameters(before, state.module)
        changed.append(frozenset(name.rpartition(".")[0] for name in names))
        before.update(copy_parameters(state.module))
        return means

    train_epoch = pretraining.train_epoch
    monkeypatch.setattr(pretraining, "train_epoch", recording_epoch)
    pretrain(state)
    pairs = [
        {"encoder.backbone.0", "decoder.output"},
        {"encoder.backbone.2", "decoder.backbone.2"},
        {"encoder.mean", "decoder.backbone.0"},
    ]
    assert list(dict.fromkeys(changed))[:-1] == pairs
    assert changed[-1] == frozenset.union(*map(frozenset, pairs))
    assert len(changed) == 40


@pytest.mark.parametrize(
    "samples, params",
    [
        (np.random.default_rng(0).normal(size=(40, 1)), {"batch_size": 1}),
        (np.ones((40, 4)), {"likelihood": "bernoulli"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*clusters")
def test_stacked_takes_batches_without_variance(make_estimator, samples, params):
    model = make_estimator(pretraining="stacked", **params).fit(samples)
    assert np.isfinite(model.lower_bound_)


def test_stacked_masks_a_fifth_of_the_inputs_of_a_layer(X):
    state = make_training_state(X)
    pair = nn.Sequential(nn.Linear(5, 5)).double()
    inputs = []
    pair.register_forward_pre_hook(lambda module, arguments: inputs.extend(arguments))
    batch = all_samples(state)
    DenoisingPair(nn.Sequential(), pair).loss(state, batch)
    (masked,) = inputs
    assert CORRUPTION_RATE == 0.2
    assert (masked == 0).double().mean() == pytest.approx(0.2, abs=0.05)
    kept = masked != 0
    assert torch.equal(masked[kept], batch.x[kept])


# --- Losses against formulas of their own -------------------------------------------


@pytest.fixture
def weighted_state(X_missing):
    weight = np.random.default_rng(0).uniform(0.5, 2, 150)
    return make_training_state(X_missing, sample_weight=weight / weight.mean())


def weighted_error(batch, output):
    """Average the squared error over the observed entries, weighted by sample."""
    errors = (batch.mask * (output - batch.x)).square().sum(1)
    per_entry = errors / batch.mask.sum(1).mean()
    return (batch.sample_weight * per_entry).mean()


def test_reconstruction_loss_is_the_error_of_observed_entries(weighted_state):
    state, batch = weighted_state, all_samples(weighted_state)
    module = state.module
    with torch.no_grad():
        first = module.decoder(module.encoder.encode_mean(batch.x))
        imputed = torch.where(batch.mask.bool(), batch.x, first)
        output = module.decoder(module.encoder.encode_mean(imputed))
        expected = weighted_error(batch, output)
        loss, terms = reconstruction_loss(state, batch)
    assert_allclose(loss, expected)
    assert_allclose(terms["loss"], 150 * expected)


def test_variational_loss_is_a_bound(X):
    """Up to constants, D/2 log error + KL(q(z|x) | N(0, I)) by torch's own."""
    state = make_training_state(X)
    module, batch = state.module, all_samples(state)
    module.encoder.reset_variance(torch.tensor(0.3))
    state.random.noise.manual_seed(0)
    loss, terms = variational_loss(state, batch)
    state.random.noise.manual_seed(0)
    noise = state.random.normal((150, 2), batch.x)
    with torch.no_grad():
        mean, log_variance = module.encoder(batch.x)
        q = Normal(mean, (0.5 * log_variance).exp())
        error = (module.decoder(mean + q.stddev * noise) - batch.x).square().mean()
    divergence = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    constant = 0.5 * 2 * np.log(2 * np.pi)  # of the entropy alone; the prior's cancels
    expected = 0.5 * X.shape[1] * error.log() + divergence - constant
    assert_allclose(loss.detach(), expected)
    assert_allclose(terms["loss"], 150 * error)
