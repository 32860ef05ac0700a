"""The encoder learns the coordinates of another embedding, whatever made them."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE, SpectralEmbedding
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer
from skvade._fitting import fresh_run
from skvade._imitation import coordinates, imitate
from skvade._inference import embed, labels_per_row
from skvade._training import start_mixture

# `make_estimator` is pretrained at a rate of its own where there is an autoencoder.
pytestmark = pytest.mark.filterwarnings("ignore:pretrain_learning_rate_init has no eff")


class Spy(TransformerMixin, BaseEstimator):
    """The first columns of X, kept on the class with what was shown to any clone."""

    seen: list = []

    def __init__(self, columns=2, random_state=None):
        self.columns = columns
        self.random_state = random_state

    def fit(self, X, y=None):
        return self

    def fit_transform(self, X, y=None):
        self.seen.append((X, self.random_state))
        return 3 * X[:, : self.columns] + 7


class Gives(TransformerMixin, BaseEstimator):
    """The coordinates that it holds, whatever the rows are."""

    def __init__(self, coordinates):
        self.coordinates = coordinates

    def fit(self, X, y=None):
        return self

    def fit_transform(self, X, y=None):
        return self.coordinates


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(Spy, "seen", [])
    return Spy.seen


@pytest.fixture
def rng():
    return np.random.RandomState(0)


def test_coordinates_are_centered_and_of_average_variance_one(X, rng):
    Z = coordinates(PCA(2), X, 2, rng)
    np.testing.assert_allclose(Z.mean(0), 0, atol=1e-12)
    assert np.square(Z).mean() == pytest.approx(1)
    expected = PCA(2).fit_transform(X)
    np.testing.assert_allclose(Z / Z[0, 0], expected / expected[0, 0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e200])
def test_the_same_coordinates_for_all_rows_are_rejected(rng, value):
    with pytest.raises(ValueError, match="the same coordinates for all rows"):
        coordinates(Gives(np.full((9, 2), value)), np.ones((9, 4)), 2, rng)


@pytest.mark.parametrize("exponent", [-900, 900])
def test_squares_of_coordinates_neither_vanish_nor_overflow(X, rng, exponent):
    expected = coordinates(Gives(X[:, :2]), X, 2, rng)
    actual = coordinates(Gives(np.ldexp(X[:, :2], exponent)), X, 2, rng)
    np.testing.assert_array_equal(actual, expected)


def test_sparse_coordinates_are_made_dense(X, rng):
    Z = np.where(X > 0, X, 0)
    expected = coordinates(Gives(Z), X, 5, rng)
    np.testing.assert_array_equal(coordinates(Gives(csr_array(Z)), X, 5, rng), expected)


def test_dimensions_without_a_coordinate_are_zero(X, rng):
    Z = coordinates(PCA(2), X, 5, rng)
    assert Z.shape == (150, 5)
    assert not Z[:, 2:].any()
    assert np.square(Z).mean() == pytest.approx(1)


def test_a_map_of_fewer_dimensions_starts_the_clusters(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(latent_dim=5, embedding=PCA(2), embedding_max_iter=100).fit(
        X
    )
    assert adjusted_rand_score(y, model.init_labels_) > 0.95
    spread = model.transform(X).var(0)
    assert spread[2:].max() < 0.05 * spread[:2].min()


def test_dimensions_that_start_at_zero_do_not_decide(make_estimator, X):
    """With the width of q(z|x) the rows are where the mixture alone would put them."""
    run = fresh_run(
        make_estimator(latent_dim=5, embedding=PCA(2), embedding_max_iter=100),
        X,
        np.ones(len(X)),
    )
    imitate(run)
    start_mixture(run)
    labels = labels_per_row(run.model, run.rows, "expected")
    assert np.mean(labels == run.record.init_labels) > 0.98
    width = run.model.encoder.log_variance.bias.exp()
    components = run.model.prior.log_variances.exp().mean(0)
    assert (width < 0.51 * components).all()


def test_an_open_seed_is_ours(X, seen, rng):
    coordinates(Spy(), X, 2, rng)
    coordinates(Spy(), X, 2, rng)
    coordinates(Spy(random_state=5), X, 2, rng)
    first, second, given = (seed for _, seed in seen)
    assert None not in (first, second)
    assert first != second
    assert given == 5


def test_coordinates_of_another_shape_are_rejected(X, rng):
    message = r"shape \(150, 3\), but latent_dim=2 .* at most 2 columns. Set latent_dim"
    with pytest.raises(ValueError, match=message):
        coordinates(Spy(3), X, 2, rng)


@pytest.mark.parametrize(
    "given, shape",
    [
        (np.ones((149, 2)), r"\(149, 2\)"),
        (np.ones(150), r"\(150,\)"),
        (np.ones((150, 2), complex), r"\(150, 2\) and type complex128"),
        (None, r"\(\) and type object"),
    ],
)
def test_what_is_no_row_of_numbers_each_is_rejected(X, rng, given, shape):
    message = f"shape {shape}.* each of the 150 rows .* its fit_transform returns"
    with pytest.raises(ValueError, match=message):
        coordinates(Gives(given), X, 2, rng)


def test_an_error_of_the_transformer_says_where_it_came_from(make_estimator, X):
    model = make_estimator(embedding=TSNE(), embedding_max_samples=20)
    with pytest.raises(ValueError, match="perplexity") as caught:
        model.fit(X)
    assert "embedding=TSNE(), which was given 20 rows" in caught.value.__notes__[0]


def test_coordinates_that_are_not_finite_are_rejected(X, rng):
    broken = np.where(np.arange(150) == 3, np.inf, X[:, 0])[:, None]
    with pytest.raises(ValueError, match="not all finite"):
        coordinates(Spy(1), broken, 1, rng)


def test_the_encoder_learns_the_coordinates(make_estimator, X):
    run = fresh_run(
        make_estimator(embedding=PCA(2), embedding_max_iter=100), X, np.ones(len(X))
    )
    imitate(run)
    Z = coordinates(PCA(2, random_state=0), X, 2, np.random.RandomState(0))
    error = np.square(embed(run.model, run.rows) - Z).mean()
    assert error < 0.01
    assert run.record.embedding_loss_curve[-1] == pytest.approx(error, rel=0.5)


def test_coordinates_that_the_encoder_can_not_see_warn(make_estimator, blobs):
    """The transformer scales the features, so it finds what drowns in X itself."""
    X, _ = blobs
    noise = np.random.default_rng(0).normal(scale=1e4, size=(150, 1))
    X = np.hstack([X, noise])
    within = make_pipeline(StandardScaler(), PCA(2))
    message = r"it leaves \d\d% .* before fit .* raise embedding_max_iter=100"
    with pytest.warns(ConvergenceWarning, match=message):
        make_estimator(embedding=within, embedding_max_iter=100).fit(X)
    make_estimator(embedding=PCA(2), embedding_max_iter=100).fit(
        StandardScaler().fit_transform(X)
    )


def test_the_decoder_learns_to_invert_it(make_estimator, X):
    """Two components explain a share of the data; a network, no less."""
    model = make_estimator(embedding=PCA(2), embedding_max_iter=100).fit(X)
    explained = PCA(2).fit(X).explained_variance_ratio_.sum()
    assert model.pretrain_loss_curve_[-1] < 1.1 * (1 - explained)


def test_the_decoder_does_not_move_the_encoder(make_estimator, X):
    def embedding(shift):
        run = fresh_run(
            make_estimator(embedding=PCA(2), embedding_max_iter=3), X, np.ones(len(X))
        )
        run.model.decoder.output.bias.data += shift
        imitate(run)
        return embed(run.model, run.rows)

    np.testing.assert_array_equal(embedding(0.0), embedding(10.0))


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_data_is_shown_as_given(make_estimator, X, seen):
    model = make_estimator(embedding=Spy(), embedding_max_iter=4).fit(100 + X)
    ((shown, _),) = seen
    np.testing.assert_array_equal(shown, 100 + X)
    assert len(model.embedding_loss_curve_) == len(model.pretrain_loss_curve_) == 4


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_the_autoencoder_is_shown_where_asked_for(make_estimator, X, seen):
    parameters = {"embedding": Spy(), "embedding_max_iter": 4, "pretrain_max_iter": 6}
    model = make_estimator(embedding_input="autoencoder", **parameters).fit(X)
    ((shown, _),) = seen
    assert shown.shape == (150, 2)
    assert len(model.pretrain_loss_curve_) == 10
    plain = make_estimator(pretrain_max_iter=6).fit(X)
    assert model.pretrain_loss_curve_[:6] == plain.pretrain_loss_curve_


def test_no_more_rows_than_allowed_are_shown(make_estimator, X, seen):
    make_estimator(embedding=Spy(), embedding_max_samples=40).fit(X)
    ((shown, _),) = seen
    everything = {tuple(row) for row in X}
    assert len({tuple(row) for row in shown} & everything) == len(shown) == 40


def test_rows_held_out_are_not_shown(make_estimator, X, seen):
    make_estimator(embedding=Spy(), early_stopping=True).fit(X)
    ((shown, _),) = seen
    assert len(shown) == 135


def test_rows_without_weight_are_not_shown(make_estimator, X, seen):
    weight = (np.arange(150) % 3 > 0).astype(float)
    make_estimator(embedding=Spy()).fit(X, sample_weight=weight)
    ((shown, _),) = seen
    np.testing.assert_array_equal(shown, X[weight > 0])


def test_a_heavy_row_gets_its_place_first(make_estimator, X):
    """A network too small for all places serves the rows that count."""
    model = make_estimator(hidden_layer_sizes=(1,), embedding=PCA(2))

    def error_of_first_half(weight):
        run = fresh_run(model, X, weight / weight.mean())
        imitate(run)
        Z = coordinates(PCA(2, random_state=0), X, 2, np.random.RandomState(0))
        return np.square(embed(run.model, run.rows) - Z)[:75].mean()

    first = np.where(np.arange(150) < 75, 100.0, 1.0)
    assert error_of_first_half(first) < 0.97 * error_of_first_half(first[::-1])


def test_the_transformer_given_is_left_alone(make_estimator, X):
    transformer = PCA(2)
    model = make_estimator(embedding=transformer).fit(X)
    assert model.embedding is transformer
    assert not hasattr(transformer, "components_")


def test_same_seed_same_result(make_estimator, X):
    first, second = (
        make_estimator(embedding=TSNE(perplexity=5)).fit(X) for _ in range(2)
    )
    np.testing.assert_array_equal(first.means_, second.means_)


def test_a_warm_start_does_not_imitate_again(make_estimator, X, seen):
    model = make_estimator(embedding=Spy(), warm_start=True).fit(X).fit(X)
    assert len(seen) == 1
    assert model.embedding_loss_curve_ == []


def test_without_embedding_its_curve_is_empty(fitted):
    assert fitted.embedding_loss_curve_ == []


def test_clone_pickle_and_search(make_estimator, X):
    model = make_estimator(embedding=TSNE(perplexity=5))
    search = GridSearchCV(clone(model), {"embedding": [None, PCA(2)]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fitted = model.fit(X)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.labels_)


def test_groups_that_only_neighborhoods_tell_apart():
    """Half moons: a default model does not find them, one that sees neighbors does."""
    X, y = make_moons(300, noise=0.05, random_state=0)
    plain = VaDEClusterer(2, latent_dim=2, random_state=0)
    assert adjusted_rand_score(y, plain.fit_predict(X)) < 0.6
    neighbors = SpectralEmbedding(2, affinity="rbf", gamma=30)
    model = clone(plain).set_params(embedding=neighbors).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    X_new, y_new = make_moons(300, noise=0.05, random_state=1)
    assert adjusted_rand_score(y_new, model.predict(X_new)) > 0.9


def test_the_main_phase_keeps_the_groups_of_the_map(make_estimator):
    """On digits the joint training must not dissolve what t-SNE found."""
    X, y = load_digits(return_X_y=True)
    model = make_estimator(
        n_clusters=10, hidden_layer_sizes=(128, 64), embedding=TSNE(), max_iter=10
    ).fit(X[:600] / 16)
    assert adjusted_rand_score(y[:600], model.labels_) > 0.7
    assert adjusted_rand_score(model.init_labels_, model.labels_) > 0.85


def test_another_number_of_components_is_foretold(make_estimator, X):
    message = r"n_components=3, but latent_dim=2\. Make them equal"
    with pytest.raises(ValueError, match=message):
        make_estimator(embedding=PCA(3)).fit(X)


def test_an_untrained_autoencoder_is_no_input(make_estimator, X, seen):
    model = make_estimator(
        embedding=Spy(), embedding_input="autoencoder", pretrain_max_iter=0
    )
    with pytest.raises(ValueError, match=r"Got pretrain_max_iter=0\. Raise it"):
        model.fit(X)
    assert not seen


def test_parameters_of_no_embedding_are_warned_of(make_estimator, X):
    model = make_estimator(embedding_input="autoencoder", embedding_max_iter=4)
    message = "^embedding_input and embedding_max_iter have no effect: embedding=None"
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(X)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(model.labels_, make_estimator().fit(X).labels_)


def test_parameters_of_no_pretraining_are_warned_of(make_estimator, X):
    given = {"pretraining": "vae", "pretrain_learning_rate_init": 0.01}
    model = make_estimator(embedding=PCA(2), **given)
    message = "^pretraining and pretrain_learning_rate_init have no effect: an"
    with pytest.warns(UserWarning, match=message):
        model.fit(X)
    unchanged = {"pretraining": "autoencoder", "pretrain_max_iter": 0}
    np.testing.assert_array_equal(
        model.labels_, model.set_params(**unchanged).fit(X).labels_
    )
