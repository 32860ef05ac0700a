"""skvade together with pandas and with the meta-estimators of scikit-learn."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone, is_clusterer
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import estimator_html_repr

from skvade import VaDEClusterer

NAMES = ["height", "width", "depth", "weight", "age"]


@pytest.fixture(scope="module")
def frame(X):
    return pd.DataFrame(X, columns=NAMES, index=np.arange(1000, 1150))


# --- Pipelines and searches ---------------------------------------------------------


def test_pipeline_that_ends_in_the_clusterer(make_estimator, blobs):
    X, y = blobs
    pipeline = make_pipeline(StandardScaler(), make_estimator(pretrain_max_iter=20))
    labels = pipeline.fit_predict(X)
    assert adjusted_rand_score(y, labels) > 0.95
    assert_array_equal(pipeline.predict(X), labels)
    assert_allclose(pipeline.predict_proba(X).sum(1), 1)
    assert pipeline.score(X) == pipeline[-1].lower_bound_


def test_pipeline_that_clusters_the_coordinates(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(pretrain_max_iter=20)
    pipeline = make_pipeline(model, KMeans(3, n_init=3, random_state=0))
    assert adjusted_rand_score(y, pipeline.fit_predict(X)) > 0.95


def test_pipeline_inverts_its_transform(make_estimator, X):
    scaler = MinMaxScaler()
    pipeline = make_pipeline(scaler, make_estimator(likelihood="bernoulli")).fit(X)
    reconstructed = pipeline.inverse_transform(pipeline.transform(X))
    assert reconstructed.shape == X.shape
    assert (reconstructed >= X.min(0)).all()
    assert (reconstructed <= X.max(0)).all()


def test_grid_search_over_the_number_of_clusters_needs_no_scoring(make_estimator, X):
    model = make_estimator(pretrain_max_iter=20)
    search = GridSearchCV(model, {"n_clusters": [1, 3]}, cv=2).fit(X)
    assert search.best_params_ == {"n_clusters": 3}
    assert search.best_estimator_.weights_.shape == (3,)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(X) == search.best_estimator_.score(X)


def test_two_processes_give_the_result_of_one(make_estimator, X):
    def search(n_jobs):
        grid = {"n_clusters": [2, 3]}
        return (
            GridSearchCV(make_estimator(), grid, cv=2, n_jobs=n_jobs).fit(X).cv_results_
        )

    one, two = search(1), search(2)
    assert_array_equal(one["mean_test_score"], two["mean_test_score"])


def test_grid_search_with_a_score_against_classes(make_estimator, blobs):
    X, y = blobs
    search = GridSearchCV(
        make_estimator(pretrain_max_iter=20),
        {"n_clusters": [1, 3]},
        scoring=make_scorer(adjusted_rand_score),
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"n_clusters": 3}


def test_cross_validation_scores_samples_that_were_not_fitted(make_estimator, X):
    scores = cross_val_score(make_estimator(), X, cv=3)
    assert len(set(scores)) == 3
    expected = make_estimator().fit(X[50:]).score(X[:50])
    assert scores[0] == pytest.approx(expected, rel=1e-12)


def test_cross_validated_probabilities(make_estimator, X):
    proba = cross_val_predict(make_estimator(), X, method="predict_proba", cv=3)
    assert proba.shape == (150, 3)
    assert_allclose(proba.sum(1), 1)
    assert_array_equal(proba[:50], make_estimator().fit(X[50:]).predict_proba(X[:50]))


def test_frozen_estimator_is_not_fitted_again(fitted, X, X_new):
    frozen = FrozenEstimator(fitted)
    assert clone(frozen).fit(X_new, None).estimator is fitted
    pipeline = make_pipeline(frozen, KMeans(2, n_init=1)).fit(X_new)
    assert_array_equal(pipeline[:-1].transform(X), fitted.transform(X))
    assert_array_equal(frozen.predict_proba(X), fitted.predict_proba(X))


def test_frozen_unfitted_estimator_stays_unfitted(X):
    with pytest.raises(ValueError, match="is not fitted"):
        FrozenEstimator(VaDEClusterer()).fit(X, None)


# --- pandas -------------------------------------------------------------------------


def test_frame_in(make_estimator, fitted, frame):
    model = make_estimator().fit(frame)
    assert model.feature_names_in_.tolist() == NAMES
    assert_array_equal(model.means_, fitted.means_)
    assert_array_equal(model.predict(frame), model.labels_)
    assert model.score(frame) == model.lower_bound_


def test_frame_with_columns_in_another_order_is_an_error(make_estimator, frame):
    model = make_estimator().fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[NAMES[::-1]])


def test_array_into_a_model_of_a_frame_warns(make_estimator, X, frame):
    model = make_estimator().fit(frame)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        labels = model.predict(X)
    assert_array_equal(labels, model.labels_)


def test_warm_start_on_a_frame(make_estimator, frame):
    model = make_estimator(warm_start=True).fit(frame).fit(frame)
    assert model.feature_names_in_.tolist() == NAMES


def test_frame_out(make_estimator, fitted, X, frame):
    model = make_estimator().set_output(transform="pandas")
    Z = model.fit_transform(frame)
    assert isinstance(Z, pd.DataFrame)
    assert Z.columns.tolist() == ["vadeclusterer0", "vadeclusterer1"]
    assert Z.index.tolist() == frame.index.tolist()
    assert_array_equal(Z, fitted.transform(X))
    pd.testing.assert_frame_equal(model.transform(frame), Z)
    assert isinstance(model.labels_, np.ndarray)


def test_frame_out_by_configuration(fitted, X):
    with config_context(transform_output="pandas"):
        Z = fitted.transform(X)
        centers = fitted.inverse_transform(fitted.means_)
    assert Z.columns.tolist() == ["vadeclusterer0", "vadeclusterer1"]
    assert isinstance(centers, np.ndarray)


def test_fit_under_a_configured_output(make_estimator, X, fitted):
    with config_context(transform_output="pandas"):
        model = make_estimator().fit(X)
    assert isinstance(model.cluster_centers_, np.ndarray)
    assert_array_equal(model.means_, fitted.means_)


def test_columns_of_a_table(make_estimator, frame):
    table = frame.assign(name=list("abc") * 50)
    columns = make_column_transformer(
        (make_estimator(), NAMES[:3]),
        ("passthrough", NAMES[3:]),
        verbose_feature_names_out=False,
    )
    out = columns.set_output(transform="pandas").fit_transform(table)
    assert out.columns.tolist() == ["vadeclusterer0", "vadeclusterer1", *NAMES[3:]]


# --- Tags and representations -------------------------------------------------------


def test_it_is_a_clusterer():
    assert is_clusterer(VaDEClusterer())


def test_it_has_representations(fitted):
    assert "VaDEClusterer" in estimator_html_repr(fitted)
    assert "VaDEClusterer" in estimator_html_repr(VaDEClusterer())
    assert repr(VaDEClusterer(latent_dim=3)) == "VaDEClusterer(latent_dim=3)"


def fitted_attribute_names(model):
    """Collect the names of public attributes that end with one underscore."""
    return {name for name in dir(model) if re.fullmatch("[a-z].*_", name)}


def test_a_notebook_lists_every_parameter_and_every_attribute(fitted):
    page = fitted._repr_html_()
    attributes = fitted_attribute_names(fitted)
    assert {"lower_bound_", "cluster_centers_"} < attributes
    cells = set(re.findall(r'<td class="param">(?:<a [^>]*>)?([a-z]\w*)<', page))
    assert cells == attributes | set(fitted.get_params())


def test_a_notebook_links_to_no_page_of_scikit_learn(fitted):
    assert "href=" not in re.sub(r"<style.*?</style>", "", fitted._repr_html_())


def test_every_parameter_and_attribute_has_a_tooltip_where_there_is_a_site(
    fitted, monkeypatch
):
    address = "https://docs.example/{estimator_module}.{estimator_name}.html"
    monkeypatch.setattr(VaDEClusterer, "_doc_link_module", "skvade")
    monkeypatch.setattr(VaDEClusterer, "_doc_link_template", address)
    page = fitted._repr_html_()
    assert "https://docs.example/skvade.VaDEClusterer.html#" in page
    explained = set(re.findall(r"position-anchor: --doc-link-(\w+);", page))
    assert explained == fitted_attribute_names(fitted) | set(fitted.get_params())


@pytest.mark.parametrize("state", ["unfitted", "fitted"])
def test_reading_any_attribute_raises_nothing_but_attribute_error(fitted, state):
    model = fitted if state == "fitted" else VaDEClusterer()
    names = [name for name in dir(model) if not name.startswith("__")]
    assert "predict" in names
    for name in names:
        getattr(model, name, None)
