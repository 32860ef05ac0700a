"""Three ways to learn to reconstruct before there is a mixture."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.preprocessing import minmax_scale
from torch import nn
from torch.distributions import Normal, kl_divergence

from skvade import VaDEClusterer, _pretraining
from skvade._fitting import fresh_run
from skvade._matrix import UNIT
from skvade._pretraining import PRETRAINING, pretrain

KINDS = sorted(PRETRAINING)


def pretrained(model, X):
    run = fresh_run(model, X, np.ones(X.shape[0]))
    pretrain(run)
    return run


def unexplained(run):
    """What the reconstruction leaves of the variance of standardized rows."""
    x = run.rows.take(np.arange(len(run.rows))).x
    with torch.no_grad():
        error = run.model.decoder(run.model.encoder.embed(x)) - x
    return float(error.square().mean()) / UNIT**2


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_reconstruct(make_estimator, X, kind):
    settings = {"pretrain_max_iter": 60, "learning_rate_init": 1e-2}
    run = pretrained(make_estimator(pretraining=kind, **settings), X)
    linear = 1 - PCA(2).fit(X).explained_variance_ratio_.sum()
    assert unexplained(run) < 2 * linear
    assert len(run.record.pretrain_loss_curve) == 60


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_ends_where_the_network_is(make_estimator, X, kind):
    run = pretrained(make_estimator(pretraining=kind, pretrain_max_iter=30), X)
    # The variational one is measured at draws of z.
    assert run.record.pretrain_loss_curve[-1] == pytest.approx(
        unexplained(run), rel=0.3 if kind == "vae" else 0.1
    )


@pytest.fixture
def curve_of():
    """The curve that a learning rate gives in ten epochs of small networks."""

    def pretrain_at(rate, X):
        model = VaDEClusterer(
            3, pretrain_learning_rate_init=rate, batch_size=16, random_state=0
        )
        return pretrained(model, X).record.pretrain_loss_curve

    return pretrain_at


def thin_groups(n_features):
    """Three groups; the two directions that part them hold little of the variance."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, n_features))
    spread = 0.3 * np.sqrt(n_features)
    places = spread * np.array([[0, 1], [1, 0], [-1, -1]])
    X[:, :2] += places[rng.integers(3, size=300)]
    return X


def test_the_automatic_rate_learns_what_thousands_of_features_hide(curve_of):
    X = thin_groups(2000)
    slow, automatic = curve_of(1.0, X), curve_of("auto", X)
    leading = PCA(1).fit(X).explained_variance_ratio_[0]
    assert slow[-1] > 1 - leading / 4
    assert automatic[:3] == slow[:3]
    assert automatic[-1] < 1 - leading / 2


def test_the_automatic_rate_is_one_where_that_learns(curve_of, X):
    assert curve_of("auto", X) == curve_of(1.0, X)


@pytest.mark.parametrize("n_features", [500, 2000])
def test_noise_does_not_raise_the_rate(curve_of, n_features):
    """Nothing is learned of it, and nothing should be."""
    X = np.random.default_rng(0).normal(size=(300, n_features))
    curve = curve_of("auto", X)
    assert curve == curve_of(1.0, X)
    assert curve[2] > 0.99


@pytest.mark.parametrize("n_rows, n_features", [(300, 100), (300, 2000), (512, 500)])
def test_what_one_direction_of_noise_explains(n_rows, n_features):
    X = np.random.default_rng(0).normal(size=(n_rows, n_features))
    rows = fresh_run(VaDEClusterer(3), X, np.ones(n_rows)).rows
    leading = PCA(1).fit(X).explained_variance_ratio_[0]
    assert _pretraining._share_of_noise(rows) == pytest.approx(leading, rel=0.1)


@pytest.fixture
def missed():
    """What ten directions explain, where pretraining explained a given share."""

    def missed_of(X, explained, weight=None):
        weight = np.ones(len(X)) if weight is None else weight
        run = fresh_run(VaDEClusterer(3), X, weight)
        run.record.pretrain_loss_curve.append(1 - explained)
        return _pretraining._missed(run, 10)

    return missed_of


def test_directions_that_are_weak_alone_count_together(missed):
    """Five that explain 2 % each; of the noise beside them none counts."""
    X = np.random.default_rng(0).normal(size=(500, 2000))
    X[:, :5] *= np.sqrt(2000 * 0.02 / 0.9)
    shares = PCA(5).fit(X).explained_variance_ratio_
    assert shares[0] / 4 < 0.01
    np.testing.assert_allclose(missed(X, 0.01), shares, rtol=1e-3)
    assert not len(missed(X, 1.01 * shares.sum() / 4))


def test_there_is_nothing_to_miss_in_noise(missed):
    X = np.random.default_rng(0).normal(size=(500, 2000))
    assert not len(missed(X, 0))


def test_directions_count_by_the_weight_of_their_rows(missed):
    """Rows that count for next to nothing hold the first direction of all."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 1000))
    X[:, 0] *= 10
    X[:100, 1] += rng.choice([-100, 100], 100)
    weight = np.r_[np.full(100, 1e-8), np.ones(400)]
    expected = PCA(1).fit(X[100:]).explained_variance_ratio_
    np.testing.assert_allclose(missed(X, 0, weight), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", ["sparse", "incomplete", "float64"])
def test_the_automatic_rate_serves_all_kinds(kind):
    X = thin_groups(1000)
    if kind == "incomplete":
        X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    model = VaDEClusterer(
        3,
        precision="float64" if kind == "float64" else "float32",
        batch_size=16,
        pretrain_max_iter=15,
        random_state=0,
    )
    rows = csr_array(X) if kind == "sparse" else X
    curve = pretrained(model, rows).record.pretrain_loss_curve
    assert curve[2] > 0.99
    assert curve[-1] < 0.97


def test_a_raised_rate_is_told_where_epochs_are(capsys):
    model = VaDEClusterer(3, batch_size=16, verbose=1, random_state=0)
    pretrained(model, thin_groups(1000))
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "goes on" in x]
    # D / 100: less than 1 / s here.
    assert line == "Pretraining goes on at a learning rate of 10"


def test_an_automatic_rate_that_diverges_gets_a_number_to_try(make_estimator, X):
    model = make_estimator(pretrain_learning_rate_init="auto")
    run = fresh_run(model, X, np.ones(len(X)))
    with torch.no_grad():
        run.model.decoder.output.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"rate_init='auto', for instance to 0\.3, or"):
        pretrain(run)


def test_a_rate_that_is_given_is_kept(curve_of):
    curve = curve_of(1e-9, thin_groups(2000))
    assert curve == pytest.approx([curve[0]] * 10, rel=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("n_features", [1, 2, 3, 5, 50])
def test_the_default_rate_suits_any_width(n_features, likelihood):
    X = minmax_scale(make_blobs(150, n_features, centers=3, random_state=0)[0])
    model = VaDEClusterer(
        likelihood=likelihood, pretrain_max_iter=30, batch_size=16, random_state=0
    )
    # 1 is what the mean of the features alone reaches.
    assert pretrained(model, X).record.pretrain_loss_curve[-1] < 0.6


@pytest.mark.parametrize("scale, offset", [(1e3, 5), (1e-6, 0), (1, -100)])
def test_the_unit_of_the_data_changes_nothing(make_estimator, X, scale, offset):
    expected, found = (
        pretrained(make_estimator(precision="float64"), rows).record.pretrain_loss_curve
        for rows in (X, scale * X + offset)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_fit(make_estimator, X, kind):
    models = (
        make_estimator(pretraining=kind, learning_rate_init=1e-2) for _ in range(2)
    )
    first, second = (model.fit(X) for model in models)
    np.testing.assert_array_equal(first.means_, second.means_)
    assert np.isfinite(first.lower_bound_)


def test_the_kinds_differ(make_estimator, X):
    models = [
        make_estimator(pretraining=kind, learning_rate_init=1e-2) for kind in KINDS
    ]
    ends = {model.fit(X).pretrain_loss_curve_[-1] for model in models}
    assert len(ends) == len(KINDS)


def test_stacked_learns_one_pair_of_layers_at_a_time(make_estimator, X, monkeypatch):
    """Before the fine-tuning, a pair leaves every other layer as it was."""
    run = fresh_run(
        make_estimator(pretraining="stacked", hidden_layer_sizes=(8, 6)),
        X,
        np.ones(len(X)),
    )
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    changed = []

    def noting(run, *rest):
        epoch(run, *rest)
        now = run.model.state_dict()
        layers = {
            name.rpartition(".")[0]
            for name in now
            if not torch.equal(now[name], before[name])
        }
        changed.append(frozenset(layers))
        before.update({k: v.clone() for k, v in now.items()})
        return [1.0]

    epoch = _pretraining.epoch
    monkeypatch.setattr(_pretraining, "epoch", noting)
    pretrain(run)
    pairs = [
        {"encoder.hidden.0", "decoder.output"},
        {"encoder.hidden.2", "decoder.hidden.2"},
        {"encoder.mean", "decoder.hidden.0"},
    ]
    assert list(dict.fromkeys(changed))[:-1] == pairs
    assert changed[-1] == frozenset.union(*map(frozenset, pairs))
    assert len(changed) == 40


@pytest.mark.parametrize(
    "rows, change",
    [
        (np.random.default_rng(0).normal(size=(40, 1)), {"batch_size": 1}),
        (np.ones((40, 4)), {"likelihood": "bernoulli"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*clusters")
def test_stacked_takes_batches_that_do_not_vary(make_estimator, rows, change):
    model = make_estimator(pretraining="stacked", **change).fit(rows)
    assert np.isfinite(model.lower_bound_)


def test_stacked_masks_a_fifth_of_what_a_layer_sees(make_estimator, X):
    run = fresh_run(make_estimator(pretraining="stacked"), X, np.ones(len(X)))
    pair = nn.Sequential(nn.Linear(5, 5))
    seen = []
    pair.register_forward_pre_hook(lambda module, arguments: seen.extend(arguments))
    step = _pretraining._denoising_step(run, nn.Sequential(), pair)
    (batch,) = run.rows.batches(150, run.chance.order)
    step(batch)
    (masked,) = seen
    assert (masked == 0).double().mean() == pytest.approx(0.2, abs=0.05)
    kept = masked != 0
    assert torch.equal(masked[kept], batch.x[kept])


def test_the_variational_loss_is_a_bound(make_estimator, X, monkeypatch):
    """Up to constants, D/2 log error + KL(q(z|x) | N(0, I)) by torch's own."""
    losses = []

    class Descent:
        def descend(self, loss):
            losses.append(loss.detach())

    monkeypatch.setattr(_pretraining, "Adam", lambda *args: Descent())
    run = fresh_run(
        make_estimator(pretraining="vae", batch_size=150, precision="float64"),
        X,
        np.ones(len(X)),
    )
    run.model.encoder.reset_variance(torch.tensor(0.3))
    pretrain(run)
    x = run.rows.take(np.arange(150)).x
    with torch.no_grad():
        mean, log_variance = run.model.encoder(x)
    q = Normal(mean, (0.5 * log_variance).exp())
    divergence = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    # Over steps the error alone varies: with the draws of z.
    errors = np.array(run.record.pretrain_loss_curve[:1]) * UNIT**2
    constant = 0.5 * 2 * np.log(2 * np.pi)  # of the entropy alone; the prior's cancels
    n_draws = len(losses) // len(run.record.pretrain_loss_curve)
    logs = 2 * (np.array(losses[:n_draws]) - float(divergence) + constant) / X.shape[1]
    assert np.exp(logs).mean() == pytest.approx(errors[0], rel=1e-6)


def test_an_unknown_kind_is_rejected(make_estimator, X):
    with pytest.raises(ValueError, match=r"The 'pretraining' parameter .* 'greedy'"):
        make_estimator(pretraining="greedy").fit(X)


def test_rounded_weights_do_not_outlive_their_step(make_estimator, X):
    """In bfloat16 the autoencoder learns as in float32, but for the rounding."""
    exact, rounded = (
        make_estimator(precision=precision).fit(X).pretrain_loss_curve_
        for precision in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(rounded, exact, rtol=0.05)


@pytest.mark.parametrize("own, rate", [("auto", 0.02), (0.005, 0.005)])
def test_the_rate_of_the_variational_one(make_estimator, X, monkeypatch, own, rate):
    """That of the last stage, unless pretraining has one of its own."""
    rates = []

    class Watched(_pretraining.Adam):
        def __init__(self, groups, fused):
            rates.extend(rate for rate, _ in groups)
            super().__init__(groups, fused)

    monkeypatch.setattr(_pretraining, "Adam", Watched)
    settings = {"pretrain_learning_rate_init": own, "learning_rate_init": 0.02}
    pretrained(make_estimator(pretraining="vae", pretrain_max_iter=1, **settings), X)
    assert rates == [rate]
