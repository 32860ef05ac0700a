"""Rows, features and values of which too little is known, or what is not understood."""

import copy

import numpy as np
import pytest
from incomplete import with_holes
from scipy import sparse


def unseen(X, rows=(), column=None):
    X = X.copy()
    X[list(rows)] = np.nan
    if column is not None:
        X[:, column] = np.nan
    return X


@pytest.mark.parametrize(
    "method", ["fit", "partial_fit", "predict", "transform", "score_samples", "impute"]
)
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
def test_a_feature_of_which_nothing_is_known(make_estimator, X, method):
    message = r"All entries of X are missing in column 3\. A feature of which nothing"
    with pytest.raises(ValueError, match=message):
        getattr(make_estimator(), method)(unseen(X, column=3))
    X = np.where(np.arange(150)[:, None] < 9, X, unseen(X, column=3))
    with pytest.raises(ValueError, match=message):
        getattr(make_estimator(), method)(X, sample_weight=np.arange(150) >= 9)


def test_a_feature_missing_later_is_filled(fitted, X):
    assert not np.isnan(fitted.impute(unseen(X, column=3))).any()


def test_infinity_beside_nan_is_an_error(make_estimator, fitted, X_missing):
    X = np.where(np.isnan(X_missing), np.inf, X_missing)
    X[0, 0] = np.nan
    for call in (
        make_estimator().fit,
        make_estimator().partial_fit,
        fitted.predict,
        fitted.impute,
    ):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            call(X)


def test_incomplete_rows_outside_of_the_unit_interval(make_estimator, X_unit):
    X_missing = with_holes(X_unit)
    X_missing[0] = [np.nan, 1.5, np.nan, np.nan, np.nan]
    with pytest.raises(ValueError, match=r"Got values from 0 to 1\.5 instead"):
        make_estimator(likelihood="bernoulli").fit(X_missing)


def test_sparse_rows_can_not_say_that_an_entry_is_missing(
    make_estimator, fitted, X_missing
):
    message = "Sparse X contains NaN. Missing entries are understood in dense X only"
    for call in (
        make_estimator().fit,
        make_estimator().partial_fit,
        fitted.predict,
        fitted.impute,
    ):
        with pytest.raises(ValueError, match=message):
            call(sparse.csr_array(X_missing))
