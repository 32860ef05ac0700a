import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade.plotting import LatentSpaceDisplay


def test_two_latent_dimensions_are_not_projected(fitted, X):
    display = LatentSpaceDisplay.from_estimator(fitted, X)
    assert_allclose(display.points, fitted.transform(X))
    assert_allclose(display.means, fitted.means_, atol=1e-6)
    expected = [np.diag(variances) for variances in fitted.covariances_]
    assert_allclose(display.covariances, expected, atol=1e-6)
    assert display.ax_.get_xlabel() == "latent dimension 1"


def test_each_cluster_is_a_scatter_of_its_members(fitted, X):
    display = LatentSpaceDisplay.from_estimator(fitted, X)
    labels = fitted.predict(X)
    clusters = np.unique(labels)
    assert len(display.ax_.collections) == len(clusters)
    for cluster, scatter in zip(clusters, display.ax_.collections, strict=True):
        members = fitted.transform(X[labels == cluster])
        assert_allclose(scatter.get_offsets(), members)
        assert scatter.get_label() == str(cluster)


def test_more_dimensions_and_components_are_projected_by_PCA(fitted_3d, X):
    display = LatentSpaceDisplay.from_estimator(fitted_3d, X)
    pca = PCA(2, random_state=0).fit(fitted_3d.transform(X))
    assert_allclose(display.points, pca.transform(fitted_3d.transform(X)), atol=1e-5)
    assert_allclose(display.means, pca.transform(fitted_3d.means_), atol=1e-5)
    W = pca.components_
    for covariance, variances in zip(
        display.covariances, fitted_3d.covariances_, strict=True
    ):
        assert_allclose(covariance, W @ np.diag(variances) @ W.T, atol=1e-5)
    ratio = pca.explained_variance_ratio_[0]
    assert display.ax_.get_xlabel() == f"principal component 1 ({ratio:.0%})"


def test_ellipses_are_two_standard_deviations_from_the_mean():
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.8], [0.8, 0.5]])
    points = np.random.default_rng(0).normal(size=(20, 2))
    display = LatentSpaceDisplay(
        points=points, groups=np.zeros(20, int), means=[mean], covariances=[covariance]
    ).plot()
    (ellipse,) = display.ellipses_
    # `get_verts` returns pixel coordinates.
    vertices = display.ax_.transData.inverted().transform(ellipse.get_verts())
    deviations = vertices - mean
    precision = np.linalg.inv(covariance)
    squared_distances = np.einsum("ij,jk,ik->i", deviations, precision, deviations)
    assert_allclose(np.sqrt(squared_distances), 2, rtol=1e-3)


def test_a_title_explains_the_ellipses_unless_there_is_one(fitted, X, plt):
    display = LatentSpaceDisplay.from_estimator(fitted, X)
    caption = "Ellipses: Gaussians at two standard deviations"
    assert display.ax_.get_title() == caption
    _, ax = plt.subplots()
    ax.set_title("customers")
    assert display.plot(ax=ax).ax_.get_title() == "customers"
    display.means = None  # as where the projection is not affine
    assert display.plot().ax_.get_title() == ""


@pytest.mark.parametrize(
    ("n_samples", "size"), [(100, 25), (600, 10), (1500, 4), (9000, 4)]
)
@pytest.mark.parametrize("continuous", [False, True])
def test_markers_shrink_with_the_number_of_samples(n_samples, size, continuous):
    points = np.random.default_rng(0).normal(size=(n_samples, 2))
    groups = points[:, 0] if continuous else np.zeros(n_samples, int)
    display = LatentSpaceDisplay(points=points, groups=groups).plot()
    (scatter,) = display.ax_.collections
    assert_allclose(scatter.get_sizes(), size)


def test_projection_by_a_transformer(fitted_3d, X):
    Z = fitted_3d.transform(X)
    whitening = make_pipeline(StandardScaler(), PCA(2, whiten=True, random_state=0))
    display = LatentSpaceDisplay.from_estimator(fitted_3d, X, projection=whitening)
    expected = whitening.fit(Z).transform(np.vstack([Z, fitted_3d.means_]))
    assert_allclose(display.points, expected[: len(Z)], atol=1e-4)
    assert_allclose(display.means, expected[len(Z) :], atol=1e-3)


def test_projection_by_an_array(fitted_3d, X):
    display = LatentSpaceDisplay.from_estimator(
        fitted_3d, X, projection=fitted_3d.transform(X)[:, [2, 0]]
    )
    assert_allclose(display.means, fitted_3d.means_[:, [2, 0]], atol=1e-5)
    assert display.ax_.get_xlabel() == "coordinate 1"


def test_no_ellipses_without_an_affine_projection(fitted_3d, X):
    coordinates = np.random.default_rng(0).normal(size=(len(X), 2))
    display = LatentSpaceDisplay.from_estimator(fitted_3d, X, projection=coordinates)
    assert display.ellipses_ == []
    # Every projection of four samples in three dimensions is affine.
    display = LatentSpaceDisplay.from_estimator(
        fitted_3d, X[:4], projection=coordinates[:4]
    )
    assert display.ellipses_ == []


def test_color_of_classes(fitted, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cow"])[y]
    display = LatentSpaceDisplay.from_estimator(
        fitted, X, pd.Series(names, name="animal")
    )
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["ant", "bee", "cow"]
    assert legend.get_title().get_text() == "animal"
    assert len(display.ellipses_) == 3


def test_color_of_continuous_values(fitted, X):
    scores = fitted.score_samples(X)
    display = LatentSpaceDisplay.from_estimator(fitted, X, scores)
    assert_array_equal(display.ax_.collections[0].get_array(), scores)
    assert display.ax_.get_legend() is None


def test_forty_groups_differ_in_color_or_marker():
    points = np.random.default_rng(0).normal(size=(80, 2))
    display = LatentSpaceDisplay(points=points, groups=np.arange(80) % 40).plot()
    styles = {
        (tuple(scatter.get_facecolor()[0]), scatter.get_paths()[0].vertices.tobytes())
        for scatter in display.ax_.collections
    }
    assert len(styles) == 40


@pytest.mark.parametrize(
    "projection, shape",
    [(PCA(3), r"\(150, 3\)"), (np.zeros((10, 2)), r"\(10, 2\)")],
)
def test_invalid_shape_of_projection(fitted_3d, X, projection, shape):
    message = rf"projection must .* shape \(150, 2\). Got shape {shape} instead. Pass"
    with pytest.raises(ValueError, match=message):
        LatentSpaceDisplay.from_estimator(fitted_3d, X, projection=projection)


def test_single_latent_dimension(make_estimator, X):
    model = make_estimator(latent_dim=1).fit(X)
    message = r"projection=None .* shape \(150, 1\) instead. Pass .* histogram"
    with pytest.raises(ValueError, match=message):
        LatentSpaceDisplay.from_estimator(model, X)


def test_inconsistent_length_of_y(fitted, X):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples.*150, 7"):
        LatentSpaceDisplay.from_estimator(fitted, X, np.zeros(7))


def test_projection_must_not_be_a_string(fitted_3d, X):
    with pytest.raises(ValueError, match=r"projection must be .* Got 'pca' instead"):
        LatentSpaceDisplay.from_estimator(fitted_3d, X, projection="pca")
