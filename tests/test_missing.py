"""NaN: entries that are missing, which count for nothing and are filled on request."""

import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from incomplete import averaged, with_holes
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skvade._batching import Rows, make_generator, place
from skvade._inference import _fixed_noise, _normal_table
from skvade._likelihoods import bernoulli_log_density, gaussian_log_density
from skvade._matrix import UNIT, Standardization
from skvade._networks import VaDE
from skvade._objective import Posterior, reparameterize, squared_error

# Few epochs on such rows may end without clusters, and the warning is right to say so.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = ["predict_log_proba", "transform", "reconstruct", "score_samples"]


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def model_and_rows(request, make_estimator, X_unit):
    """A model in float64 that was fitted to incomplete rows, and these."""
    X_missing = with_holes(X_unit)
    parameters = {"likelihood": request.param, "precision": "float64"}
    return make_estimator(**parameters).fit(X_missing), X_missing


# --- Mathematics --------------------------------------------------------------------


def test_densities_are_those_of_the_observed_features(normal):
    x, output, mask = normal(4, 6), normal(3, 4, 6), normal(4, 6) > 0
    observed = mask.double()
    log_variance = normal()
    gaussian = gaussian_log_density(x, output, log_variance, observed)
    bernoulli = bernoulli_log_density(x.sigmoid(), output, observed)
    for i, of_row in enumerate(mask):
        seen, given = x[i, of_row], output[:, i, of_row]
        expected = gaussian_log_density(seen, given, log_variance)
        torch.testing.assert_close(gaussian[:, i], expected)
        expected = bernoulli_log_density(seen.sigmoid(), given)
        torch.testing.assert_close(bernoulli[:, i], expected)


def test_what_is_missing_has_no_gradient(normal):
    output, observed = normal(4, 6).requires_grad_(), normal(4, 6) > 0
    squared_error(normal(4, 6), output, observed.double()).sum().backward()
    assert ((output.grad != 0) == observed).all()


def test_squared_error_counts_observed_entries_alike(normal):
    x, output, observed = normal(9, 6), normal(9, 6), normal(9, 6) > 0
    found = squared_error(x, output, observed.double()).mean()
    torch.testing.assert_close(found, (x - output)[observed].square().mean())
    complete = squared_error(x, output, torch.ones(9, 6, dtype=torch.float64))
    torch.testing.assert_close(complete, squared_error(x, output))


@pytest.mark.parametrize("n_rows", [40, 50_000])
def test_the_unit_is_that_of_the_observed_entries(n_rows):
    X = with_holes(np.random.default_rng(1).normal(5, [1, 4, 9], (n_rows, 3)))
    location, scale, average = Standardization.of(X, center=True)
    assert_allclose(location, np.nanmean(X, axis=0), rtol=1e-12)
    deviations = (X - location)[~np.isnan(X)]
    assert_allclose(scale, np.sqrt(np.square(deviations).mean()) / UNIT, rtol=1e-9)
    assert_array_equal(average, location)
    uncentered = Standardization.of(X, center=False)
    assert_array_equal(uncentered.location, np.zeros(3))
    assert_array_equal(uncentered.average, average)


def test_the_unit_of_weighted_rows_is_that_of_repeated_ones():
    X = with_holes(np.random.default_rng(1).normal(5, [1, 4, 9], (60, 3)))
    weight = np.arange(60) % 4
    found = Standardization.of(X, True, weight.astype(float))
    expected = Standardization.of(np.repeat(X, weight, axis=0), True)
    assert_allclose(found.location, expected.location)
    assert_allclose(found.scale, expected.scale)


def test_incomplete_constant_data_have_scale_one():
    assert Standardization.of(with_holes(np.full((5000, 3), 0.1)), True).scale == 1


# --- Rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("center", [True, False])
def test_the_average_stands_for_what_is_missing(X_missing, center):
    standard = Standardization.of(X_missing, center)
    rows = Rows.of(X_missing, standard, place("cpu", "float64"))
    filled = np.where(np.isnan(X_missing), np.nanmean(X_missing, axis=0), X_missing)
    for batch in rows.batches(40, make_generator(0)):
        expected = (filled[batch.positions] - standard.location) / standard.scale
        assert_allclose(batch.x, expected, atol=1e-12)
        assert_array_equal(batch.observed, ~np.isnan(X_missing[batch.positions]))
        assert batch.observed.dtype == torch.float64


def test_complete_rows_have_no_mask(X):
    rows = Rows.of(X, Standardization.of(X, True), place("cpu", "float64"))
    assert rows.take(np.arange(3)).observed is None
    assert all(batch.observed is None for batch, _ in rows.chunks(256))


# --- Answers ------------------------------------------------------------------------


def test_the_encoder_sees_what_the_model_expects(model_and_rows):
    """That is what it reconstructs from an average in the place of what is missing."""
    model, X_missing = model_and_rows
    expected = model.reconstruct(averaged(X_missing))
    filled = np.where(np.isnan(X_missing), expected, X_missing)
    for method in METHODS[:3]:
        answer = getattr(model, method)(X_missing)
        assert_allclose(answer, getattr(model, method)(filled), atol=1e-9)
        of_average = getattr(model, method)(averaged(X_missing))
        assert abs(answer - of_average).max() > 1e-3
    assert (model.score_samples(X_missing) != model.score_samples(filled)).sum() > 100


def log_density_of(x, decoded, model):
    """log p(x|z) of each entry, from what z is decoded to."""
    if model.likelihood == "gaussian":
        return Normal(decoded, model.noise_variance_**0.5).log_prob(x)
    return x * decoded.log() + (1 - x) * (1 - decoded).log()


def test_a_missing_entry_takes_its_density_out_of_the_bound(model_and_rows):
    """What is expected in its place leaves the posterior as it is: the rest cancels."""
    model, X_missing = model_and_rows
    x = np.nanmean(X_missing, axis=0)[None]
    missing = x.copy()
    missing[0, 2] = np.nan
    x[0, 2] = model.reconstruct(x)[0, 2]
    difference = model.score_samples(x) - model.score_samples(missing)

    module = model.to_torch()
    with torch.no_grad():
        posterior = Posterior(*module.encode(torch.from_numpy(x)))
        draws = reparameterize(posterior, _fixed_noise(module))
        decoded = module.decode(draws)[..., 2]
    log_density = log_density_of(torch.tensor(x[0, 2]), decoded, model)
    assert_allclose(difference, log_density.mean(), rtol=1e-6)


def test_the_weighted_bound_is_that_of_the_observed_entries(model_and_rows):
    model, X_missing = model_and_rows
    row, n_draws = X_missing[np.isnan(X_missing).any(1)][:1], 16
    observed = ~np.isnan(row[0])
    module = model.to_torch()
    with torch.no_grad():
        posterior = Posterior(*module.encode(torch.from_numpy(row)))
        z = reparameterize(posterior, _normal_table(module, n_draws))
        decoded = module.decode(z)[:, 0, observed]
    x = torch.from_numpy(row[0, observed])
    log_density = log_density_of(x, decoded, model).sum(1)
    fitted = model.weights_, model.means_, np.sqrt(model.covariances_)
    weights, means, deviations = map(torch.from_numpy, fitted)
    components = Independent(Normal(means, deviations), 1)
    prior = MixtureSameFamily(Categorical(weights), components)
    q = Normal(posterior.mean, (posterior.log_variance / 2).exp())
    log_ratios = log_density + (prior.log_prob(z) - q.log_prob(z).sum(-1))[:, 0]
    expected = log_ratios.logsumexp(0) - np.log(n_draws)
    found = model.score_samples(row, n_draws=n_draws)
    assert_allclose(found, expected, rtol=1e-6)


def test_the_effective_clusters_are_those_of_what_is_predicted(model_and_rows):
    model, X_missing = model_and_rows
    predicted, of_average = (
        np.exp(entropy(model.predict_proba(rows).mean(0)))
        for rows in (X_missing, averaged(X_missing))
    )
    assert model.n_effective_clusters_ == pytest.approx(predicted, rel=1e-9)
    assert abs(of_average - predicted) > 1e-4


def test_a_row_beyond_all_bounds(fitted):
    row = np.array([[1e25, np.nan, 0, 0, 0]])
    assert fitted.score_samples(row) == -np.inf


def test_what_is_expected_far_from_the_origin(make_estimator, X_missing):
    """In float32 the model may not know the distance, or it would round there."""
    near, far = make_estimator().fit(X_missing), make_estimator().fit(X_missing + 1e6)
    expected = near.transform(X_missing)
    assert_allclose(far.transform(X_missing + 1e6), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_answers_do_not_depend_on_the_rows_beside(model_and_rows, method):
    model, X_missing = model_and_rows
    complete = np.where(np.isnan(X_missing), 0.5, X_missing)
    X = np.where(np.arange(len(X_missing))[:, None] % 2, X_missing, complete)
    together = getattr(model, method)(X)
    for i in (0, 1, 6, 7):
        assert_array_equal(getattr(model, method)(X[i : i + 1]), together[i : i + 1])


def test_the_module_takes_nan_too(model_and_rows):
    model, X_missing = model_and_rows
    with torch.no_grad():
        found = model.to_torch()(torch.from_numpy(X_missing))
    assert_allclose(found, model.predict_log_proba(X_missing), atol=1e-6)


def test_the_module_learns_nothing_from_what_it_expects(model_and_rows):
    model, X_missing = model_and_rows
    slopes = []
    for step in ("seen", "filled"):
        module, x = model.to_torch(), torch.from_numpy(X_missing)
        if step == "filled":
            x = module.likelihood.restore(module.seen(x).detach())
        module(x)[:, 0].sum().backward()
        slopes.append(module.encoder.mean.weight.grad)
    torch.testing.assert_close(*slopes)


def test_the_module_can_be_mapped_and_exported(model_and_rows):
    """No branch hangs on the rows."""
    model, X_missing = model_and_rows
    module, x = model.to_torch(), torch.from_numpy(X_missing)
    mapped = torch.vmap(lambda row: module(row[None])[0])(x)
    torch.testing.assert_close(mapped, module(x))
    exported = torch.export.export(module, (x,)).module()
    for rows in (x, x.nan_to_num(0.5)):
        torch.testing.assert_close(exported(rows), module(rows))


# --- Fitting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"likelihood": "bernoulli"},
        {"early_stopping": True},
        {"responsibilities": "sampled"},
        {"init": "gmm"},
        {"precision": "float64"},
        {"pretraining": "stacked"},
        {"embedding": PCA(2), "pretrain_max_iter": 0},
    ],
)
def test_incomplete_rows_are_clustered(make_estimator, blobs, X_unit, change):
    X_missing, y = with_holes(X_unit, 0.2), blobs[1]
    model = make_estimator(**{"pretrain_max_iter": 40, **change}).fit(X_missing)
    assert adjusted_rand_score(y, model.labels_) > 0.7
    assert_array_equal(model.predict(X_missing), model.labels_)
    assert model.score(X_missing) == pytest.approx(model.lower_bound_, rel=1e-12)
    assert np.isfinite(model.cluster_centers_).all()
    assert np.isfinite(model.lower_bounds_).all()


@pytest.mark.parametrize("pretraining", ["autoencoder", "stacked", "vae"])
def test_pretraining_learns_the_observed_entries(
    make_estimator, X_missing, pretraining
):
    model = make_estimator(pretraining=pretraining, pretrain_max_iter=30).fit(X_missing)
    curve = model.pretrain_loss_curve_
    assert curve[-1] < 0.97 * curve[0]


class Watched(nn.Linear):
    """A body that says in which mode it was asked."""

    modes: ClassVar[list[bool]] = []

    def forward(self, x):
        self.modes.append(self.training)
        return super().forward(x)


@pytest.mark.parametrize(
    "change",
    [{}, {"pretraining": "vae"}, {"embedding": PCA(2), "pretrain_max_iter": 0}],
)
def test_what_a_step_expects_is_a_prediction(make_estimator, X, X_missing, change):
    """In every stage, without the dropout that is for what is learned from."""
    model = make_estimator(
        encoder=lambda n_features_in, _: Watched(n_features_in, 9), **change
    )
    for rows, passes_before in ((X_missing, {False}), (X, {False, True})):
        Watched.modes.clear()
        model.fit(rows)
        steps = [i for i, learns in enumerate(Watched.modes) if learns]
        assert {Watched.modes[i - 1] for i in steps} == passes_before


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain_max_iter": 0},
        {},
        {"pretraining": "stacked"},
        {"pretraining": "vae"},
        {"embedding": PCA(2), "embedding_input": "autoencoder"},
    ],
)
def test_when_the_decoder_speaks_the_likelihood(
    make_estimator, X_unit, monkeypatch, change
):
    """Not in pretraining, nor when the mixture starts: first the embedding, then it."""
    pretrained, complete = [], VaDE.complete

    def spy(model, x, observed, pretrains):
        pretrained.append(pretrains)
        return complete(model, x, observed, pretrains)

    monkeypatch.setattr(VaDE, "complete", spy)
    make_estimator(likelihood="bernoulli", **change).fit(with_holes(X_unit))
    n_before = sum(pretrained)
    assert pretrained == [True] * n_before + [False] * (len(pretrained) - n_before)
    assert n_before == 2 if change == {"pretrain_max_iter": 0} else n_before > 2


def test_incomplete_rows_in_a_stream_and_a_warm_start(make_estimator, X, X_missing):
    model = make_estimator(warm_start=True).partial_fit(X_missing).partial_fit(X)
    model.partial_fit(with_holes(X, 0.5)).fit(X_missing)
    assert np.isfinite(model.score(X_missing))
    assert model.n_iter_ == 3


@pytest.mark.parametrize(
    "contain",
    [
        lambda X: X.astype(np.float32),
        pd.DataFrame,
        lambda X: pd.DataFrame(X).astype(object).where(~np.isnan(X), None),
        lambda X: pd.DataFrame(X).convert_dtypes(),
        lambda X: X.tolist(),
    ],
    ids=["float32", "frame", "None", "pandas.NA", "list"],
)
def test_ways_to_say_that_an_entry_is_missing(make_estimator, X_missing, contain):
    model = make_estimator().fit(contain(X_missing))
    assert_array_equal(model.labels_, make_estimator().fit(X_missing).labels_)
    assert not np.isnan(model.impute(contain(X_missing))).any()


def test_a_memory_map_with_holes(make_estimator, X_missing, tmp_path):
    np.save(tmp_path / "X.npy", X_missing)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(
        make_estimator().fit(mapped).means_, make_estimator().fit(X_missing).means_
    )


# --- Filling ------------------------------------------------------------------------


def test_impute_fills_the_holes_and_nothing_else(model_and_rows):
    model, X_missing = model_and_rows
    before = X_missing.copy()
    filled = model.impute(X_missing)
    missing = np.isnan(X_missing)
    assert_array_equal(filled[~missing], X_missing[~missing])
    assert_array_equal(filled[missing], model.reconstruct(X_missing)[missing])
    assert_array_equal(X_missing, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impute_keeps_the_type_of_the_numbers(fitted, X_missing, dtype):
    assert fitted.impute(X_missing.astype(dtype)).dtype == dtype


def test_imputing_complete_rows_gives_a_copy(fitted, X):
    for rows in (X, sparse.csr_array(X)):
        filled = fitted.impute(rows)
        assert type(filled) is type(rows)
        assert not np.shares_memory(filled.data, rows.data)
        assert abs(filled - rows).max() == 0


def test_impute_knows_the_names_of_the_features(make_estimator, X_missing):
    frame = pd.DataFrame(X_missing, columns=list("abcde"))
    model = make_estimator().fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(
            model.impute(frame), make_estimator().fit(X_missing).impute(X_missing)
        )


def test_impute_beats_the_average(make_estimator, X, X_missing):
    missing = np.isnan(X_missing)
    model = make_estimator(pretrain_max_iter=40, max_iter=60).fit(X_missing)
    error = np.square(model.impute(X_missing) - X)[missing].mean()
    of_average = np.square(np.nanmean(X_missing, axis=0) - X)[missing].mean()
    assert error < 0.5 * of_average


def test_imputing_first_is_another_model(make_estimator, X_missing):
    """Filled entries would count as if they had been seen."""
    imputed = make_pipeline(SimpleImputer(), make_estimator()).fit(X_missing)
    model = make_estimator().fit(X_missing)
    assert model.noise_variance_ != pytest.approx(imputed[-1].noise_variance_, rel=0.02)
