"""NaN: entries that are missing, which count for nothing and are filled on request."""

import copy
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from torch import nn

from skvade._batching import Rows, make_generator, place
from skvade._inference import _fixed_noise
from skvade._likelihoods import bernoulli_log_density, gaussian_log_density
from skvade._matrix import UNIT, Standardization
from skvade._objective import Posterior, reparameterize, squared_error

# Few epochs on such rows may end without clusters, and the warning is right to say so.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = ["predict_log_proba", "transform", "reconstruct", "score_samples"]


def with_holes(X, fraction=0.3):
    removed = np.random.default_rng(0).random(X.shape) < fraction
    removed[removed.all(1), 0] = False
    return np.where(removed, np.nan, X)


@pytest.fixture(scope="module")
def holed(X):
    return with_holes(X)


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def model_and_rows(request, tiny, X_unit):
    """A model in float64 that was fitted to incomplete rows, and these."""
    holed = with_holes(X_unit)
    parameters = {"likelihood": request.param, "precision": "float64"}
    return tiny(**parameters).fit(holed), holed


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
def test_the_average_stands_for_what_is_missing(holed, center):
    standard = Standardization.of(holed, center)
    rows = Rows.of(holed, standard, place("cpu", "float64"))
    filled = np.where(np.isnan(holed), np.nanmean(holed, axis=0), holed)
    for batch in rows.batches(40, make_generator(0)):
        expected = (filled[batch.positions] - standard.location) / standard.scale
        assert_allclose(batch.x, expected, atol=1e-12)
        assert_array_equal(batch.observed, ~np.isnan(holed[batch.positions]))
        assert batch.observed.dtype == torch.float64


def test_complete_rows_have_no_mask(X):
    rows = Rows.of(X, Standardization.of(X, True), place("cpu", "float64"))
    assert rows.take(np.arange(3)).observed is None
    assert all(batch.observed is None for batch, _ in rows.chunks(256))


# --- Answers ------------------------------------------------------------------------


def averaged(holed):
    return np.where(np.isnan(holed), np.nanmean(holed, axis=0), holed)


def test_the_encoder_sees_what_the_model_expects(model_and_rows):
    """That is what it reconstructs from an average in the place of what is missing."""
    model, holed = model_and_rows
    expected = model.reconstruct(averaged(holed))
    filled = np.where(np.isnan(holed), expected, holed)
    for method in METHODS[:3]:
        answer = getattr(model, method)(holed)
        assert_allclose(answer, getattr(model, method)(filled), atol=1e-9)
        of_average = getattr(model, method)(averaged(holed))
        assert abs(answer - of_average).max() > 1e-3
    assert (model.score_samples(holed) != model.score_samples(filled)).sum() > 100


def test_a_missing_entry_takes_its_density_out_of_the_bound(model_and_rows):
    """With what is expected in its place the posterior is the same: the rest cancels"""
    model, holed = model_and_rows
    x = np.nanmean(holed, axis=0)[None]
    missing = x.copy()
    missing[0, 2] = np.nan
    x[0, 2] = model.reconstruct(x)[0, 2]
    difference = model.score_samples(x) - model.score_samples(missing)

    module = model.to_torch()
    with torch.no_grad():
        posterior = Posterior(*module.encode(torch.from_numpy(x)))
        draws = reparameterize(posterior, _fixed_noise(module))
        decoded = module.decode(draws)[..., 2]
    if model.likelihood == "gaussian":
        density = torch.distributions.Normal(decoded, model.noise_variance_**0.5)
        log_density = density.log_prob(torch.tensor(x[0, 2]))
    else:
        p, value = decoded, x[0, 2]
        log_density = value * p.log() + (1 - value) * (1 - p).log()
    assert_allclose(difference, log_density.mean(), rtol=1e-6)


def test_what_is_expected_far_from_the_origin(tiny, holed):
    """In float32 the model may not know the distance, or it would round there."""
    near, far = tiny().fit(holed), tiny().fit(holed + 1e6)
    expected = near.transform(holed)
    assert_allclose(far.transform(holed + 1e6), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_answers_do_not_depend_on_the_rows_beside(model_and_rows, method):
    model, holed = model_and_rows
    complete = np.where(np.isnan(holed), 0.5, holed)
    X = np.where(np.arange(len(holed))[:, None] % 2, holed, complete)
    together = getattr(model, method)(X)
    for i in (0, 1, 6, 7):
        assert_array_equal(getattr(model, method)(X[i : i + 1]), together[i : i + 1])


def test_the_module_takes_nan_too(model_and_rows):
    model, holed = model_and_rows
    with torch.no_grad():
        found = model.to_torch()(torch.from_numpy(holed))
    assert_allclose(found, model.predict_log_proba(holed), atol=1e-6)


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
        {"embedding": PCA(2)},
    ],
)
def test_incomplete_rows_are_clustered(tiny, blobs, X_unit, change):
    holed, y = with_holes(X_unit, 0.2), blobs[1]
    model = tiny(pretrain_max_iter=40, **change).fit(holed)
    assert adjusted_rand_score(y, model.labels_) > 0.7
    assert_array_equal(model.predict(holed), model.labels_)
    assert model.score(holed) == pytest.approx(model.lower_bound_, rel=1e-12)
    assert np.isfinite(model.cluster_centers_).all()
    assert np.isfinite(model.lower_bounds_).all()


@pytest.mark.parametrize("pretraining", ["autoencoder", "stacked", "vae"])
def test_pretraining_learns_the_observed_entries(tiny, holed, pretraining):
    model = tiny(pretraining=pretraining, pretrain_max_iter=30).fit(holed)
    curve = model.pretrain_loss_curve_
    assert curve[-1] < 0.97 * curve[0]


class Watched(nn.Linear):
    """A body that says in which mode it was asked."""

    modes: ClassVar[list[bool]] = []

    def forward(self, x):
        self.modes.append(self.training)
        return super().forward(x)


@pytest.mark.parametrize("change", [{}, {"pretraining": "vae"}, {"embedding": PCA(2)}])
def test_what_a_step_expects_is_a_prediction(tiny, X, holed, change):
    """In every stage, without the dropout that is for what is learned from."""
    model = tiny(encoder=lambda n_features_in, _: Watched(n_features_in, 9), **change)
    for rows, passes_before in ((holed, {False}), (X, {False, True})):
        Watched.modes.clear()
        model.fit(rows)
        steps = [i for i, learns in enumerate(Watched.modes) if learns]
        assert {Watched.modes[i - 1] for i in steps} == passes_before


def test_incomplete_rows_in_a_stream_and_a_warm_start(tiny, X, holed):
    model = tiny(warm_start=True).partial_fit(holed).partial_fit(X)
    model.partial_fit(with_holes(X, 0.5)).fit(holed)
    assert np.isfinite(model.score(holed))
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
def test_ways_to_say_that_an_entry_is_missing(tiny, holed, contain):
    model = tiny().fit(contain(holed))
    assert_array_equal(model.labels_, tiny().fit(holed).labels_)
    assert not np.isnan(model.impute(contain(holed))).any()


def test_a_memory_map_with_holes(tiny, holed, tmp_path):
    np.save(tmp_path / "X.npy", holed)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(tiny().fit(mapped).means_, tiny().fit(holed).means_)


# --- Filling ------------------------------------------------------------------------


def test_impute_fills_the_holes_and_nothing_else(model_and_rows):
    model, holed = model_and_rows
    before = holed.copy()
    filled = model.impute(holed)
    missing = np.isnan(holed)
    assert_array_equal(filled[~missing], holed[~missing])
    assert_array_equal(filled[missing], model.reconstruct(holed)[missing])
    assert_array_equal(holed, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impute_keeps_the_type_of_the_numbers(fitted, holed, dtype):
    assert fitted.impute(holed.astype(dtype)).dtype == dtype


def test_imputing_complete_rows_gives_a_copy(fitted, X):
    for rows in (X, sparse.csr_array(X)):
        filled = fitted.impute(rows)
        assert type(filled) is type(rows)
        assert not np.shares_memory(filled.data, rows.data)
        assert abs(filled - rows).max() == 0


def test_impute_beats_the_average(tiny, X, holed):
    missing = np.isnan(holed)
    model = tiny(pretrain_max_iter=40, max_iter=60).fit(holed)
    error = np.square(model.impute(holed) - X)[missing].mean()
    of_average = np.square(np.nanmean(holed, axis=0) - X)[missing].mean()
    assert error < 0.5 * of_average


def test_imputing_first_is_another_model(tiny, holed):
    """Filled entries would count as if they had been seen."""
    imputed = make_pipeline(SimpleImputer(), tiny()).fit(holed)
    model = tiny().fit(holed)
    assert model.noise_variance_ != pytest.approx(imputed[-1].noise_variance_, rel=0.02)


# --- Errors -------------------------------------------------------------------------


def unseen(X, rows=(), column=None):
    X = X.copy()
    X[list(rows)] = np.nan
    if column is not None:
        X[:, column] = np.nan
    return X


@pytest.mark.parametrize("method", ["fit", "partial_fit", *METHODS, "impute"])
def test_rows_of_which_nothing_is_known(fitted, X, method):
    model = copy.deepcopy(fitted)
    before = dict(vars(model))
    message = r"All entries of X are missing in row 7, 9\. Drop such rows"
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(unseen(X, [7, 9]))
    assert vars(model) == before


def test_many_rows_of_which_nothing_is_known(fitted, X):
    with pytest.raises(ValueError, match=r"in row 0, 1, 2, 3, 4 and 145 more\. Drop"):
        fitted.predict(unseen(X, range(150)))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_feature_of_which_nothing_is_known(tiny, X, method):
    message = r"All entries of X are missing in column 3\. A feature of which nothing"
    with pytest.raises(ValueError, match=message):
        getattr(tiny(), method)(unseen(X, column=3))
    X = np.where(np.arange(150)[:, None] < 9, X, unseen(X, column=3))
    with pytest.raises(ValueError, match=message):
        getattr(tiny(), method)(X, sample_weight=np.arange(150) >= 9)


def test_a_feature_missing_later_is_filled(fitted, X):
    assert not np.isnan(fitted.impute(unseen(X, column=3))).any()


def test_infinity_beside_nan_is_an_error(tiny, fitted, holed):
    X = np.where(np.isnan(holed), np.inf, holed)
    X[0, 0] = np.nan
    for call in (tiny().fit, tiny().partial_fit, fitted.predict, fitted.impute):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            call(X)


def test_incomplete_rows_outside_of_the_unit_interval(tiny, X_unit):
    holed = with_holes(X_unit)
    holed[0] = [np.nan, 1.5, np.nan, np.nan, np.nan]
    with pytest.raises(ValueError, match=r"Got values from 0 to 1\.5 instead"):
        tiny(likelihood="bernoulli").fit(holed)


def test_sparse_rows_can_not_say_that_an_entry_is_missing(tiny, fitted, holed):
    message = "Sparse X contains NaN. Missing entries are understood in dense X only"
    for call in (tiny().fit, tiny().partial_fit, fitted.predict, fitted.impute):
        with pytest.raises(ValueError, match=message):
            call(sparse.csr_array(holed))
