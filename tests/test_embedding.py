"""The stage in which the encoder learns the coordinates of a given embedding."""

import pickle

import numpy as np
import pytest
import torch
from custom_modules import make_state
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE, SpectralEmbedding
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training_states import all_samples, make_training_state, run_stages

from skvade import VaDEClusterer
from skvade._data.scaling import TARGET_STD
from skvade._inference import embed, predict_labels
from skvade._state import init_training
from skvade._training import embedding
from skvade._training.embedding import fit_embedding, target_embedding
from skvade._training.initialization import initialize_mixture

# `make_estimator` sets a learning rate of pretraining, which not every fit has.
pytestmark = pytest.mark.filterwarnings("ignore:pretrain_learning_rate_init has no eff")


class RecordingTransformer(TransformerMixin, BaseEstimator):
    """Give the first columns of X; the class records the input of all clones."""

    inputs: list = []

    def __init__(self, n_columns=2, random_state=None):
        self.n_columns = n_columns
        self.random_state = random_state

    def fit(self, X, y=None):
        return self

    def fit_transform(self, X, y=None):
        self.inputs.append((X, self.random_state))
        return 3 * X[:, : self.n_columns] + 7


class ConstantTransformer(TransformerMixin, BaseEstimator):
    """Give the same coordinates, whatever X is."""

    def __init__(self, coordinates):
        self.coordinates = coordinates

    def fit(self, X, y=None):
        return self

    def fit_transform(self, X, y=None):
        return self.coordinates


@pytest.fixture
def inputs(monkeypatch):
    """What was given to any `RecordingTransformer`, and its seed."""
    monkeypatch.setattr(RecordingTransformer, "inputs", [])
    return RecordingTransformer.inputs


@pytest.fixture
def random_state():
    return np.random.RandomState(0)


# --- Target coordinates -------------------------------------------------------------


def test_coordinates_are_centered_and_of_average_variance_one(X, random_state):
    Z = target_embedding(PCA(2), X, 2, random_state)
    assert_allclose(Z.mean(0), 0, atol=1e-12)
    assert np.square(Z).mean() == pytest.approx(1)
    expected = PCA(2).fit_transform(X)
    assert_allclose(Z / Z[0, 0], expected / expected[0, 0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e200])
def test_the_same_coordinates_for_all_samples_are_rejected(random_state, value):
    transformer = ConstantTransformer(np.full((9, 2), value))
    with pytest.raises(ValueError, match="the same coordinates for all samples"):
        target_embedding(transformer, np.ones((9, 4)), 2, random_state)


@pytest.mark.parametrize("exponent", [-900, 900])
def test_squares_of_coordinates_neither_vanish_nor_overflow(X, random_state, exponent):
    Z = X[:, :2]
    expected = target_embedding(ConstantTransformer(Z), X, 2, random_state)
    scaled = ConstantTransformer(np.ldexp(Z, exponent))
    assert_array_equal(target_embedding(scaled, X, 2, random_state), expected)


def test_sparse_coordinates_are_made_dense(X, random_state):
    Z = np.where(X > 0, X, 0)
    expected = target_embedding(ConstantTransformer(Z), X, 5, random_state)
    sparse = ConstantTransformer(csr_array(Z))
    assert_array_equal(target_embedding(sparse, X, 5, random_state), expected)


def test_dimensions_without_a_coordinate_are_zero(X, random_state):
    Z = target_embedding(PCA(2), X, 5, random_state)
    assert Z.shape == (150, 5)
    assert not Z[:, 2:].any()
    assert np.square(Z).mean() == pytest.approx(1)


def test_an_open_seed_is_drawn_from_our_generator(X, inputs, random_state):
    target_embedding(RecordingTransformer(), X, 2, random_state)
    target_embedding(RecordingTransformer(), X, 2, random_state)
    target_embedding(RecordingTransformer(random_state=5), X, 2, random_state)
    first, second, given = (seed for _, seed in inputs)
    assert None not in (first, second)
    assert first != second
    assert given == 5


def test_more_coordinates_than_latent_dimensions_are_rejected(X, random_state):
    message = r"shape \(150, 3\), but latent_dim=2 .* at most 2 columns. Set latent_dim"
    with pytest.raises(ValueError, match=message):
        target_embedding(RecordingTransformer(3), X, 2, random_state)


@pytest.mark.parametrize(
    "given, shape",
    [
        (np.ones((149, 2)), r"\(149, 2\)"),
        (np.ones(150), r"\(150,\)"),
        (np.ones((150, 2), complex), r"\(150, 2\) and type complex128"),
        (None, r"\(\) and type object"),
    ],
)
def test_anything_but_real_coordinates_per_sample_is_rejected(
    X, random_state, given, shape
):
    message = f"shape {shape}.* each of the 150 samples .* its fit_transform returns"
    with pytest.raises(ValueError, match=message):
        target_embedding(ConstantTransformer(given), X, 2, random_state)


def test_coordinates_that_are_not_finite_are_rejected(X, random_state):
    infinite = np.where(np.arange(150) == 3, np.inf, X[:, 0])[:, None]
    with pytest.raises(ValueError, match="not all finite"):
        target_embedding(RecordingTransformer(1), infinite, 1, random_state)


def test_an_error_of_the_transformer_gets_a_note(make_estimator, X):
    model = make_estimator(embedding=TSNE(), embedding_max_samples=20)
    with pytest.raises(ValueError, match="perplexity") as caught:
        model.fit(X)
    assert "embedding=TSNE(), which was given 20 samples" in caught.value.__notes__[0]


# --- What the networks learn --------------------------------------------------------

PCA_EMBEDDING = {"embedding": PCA(2), "embedding_max_iter": 100}


def target_of(X):
    """Give the coordinates that a fit with `PCA(2)` learns, up to rounding."""
    random_state = np.random.RandomState(0)
    return target_embedding(PCA(2, random_state=0), X, 2, random_state)


def test_encoder_learns_the_coordinates(make_estimator, X):
    state = run_stages(make_state(make_estimator(**PCA_EMBEDDING), X), fit_embedding)
    error = np.square(embed(state.module, state.dataset) - target_of(X)).mean()
    assert error < 0.01
    curve = state.history.pretraining["embedding_error"]
    assert curve[-1] == pytest.approx(error, rel=0.5)
    assert state.history.embedding_error == curve[-1]


def test_decoder_learns_to_invert_the_encoder(make_estimator, X):
    """Two components explain a fraction of the variance; a network, no less."""
    model = make_estimator(**PCA_EMBEDDING).fit(X)
    explained = PCA(2).fit(X).explained_variance_ratio_.sum()
    assert model.pretrain_loss_curve_[-1] < 1.1 * (1 - explained)


def test_encoder_does_not_depend_on_the_decoder(make_estimator, X):
    def encoded(shift):
        estimator = make_estimator(embedding=PCA(2), embedding_max_iter=3)
        state = make_state(estimator, X)
        state.module.decoder.output.bias.data += shift
        run_stages(state, fit_embedding)
        return embed(state.module, state.dataset)

    assert_array_equal(encoded(0.0), encoded(10.0))


def test_curves_are_weighted_means_of_both_errors(X_missing, monkeypatch):
    monkeypatch.setattr(embedding, "LEARNING_RATE", 1e-12)
    weight = np.random.default_rng(0).uniform(0.5, 2, 150)
    weight /= weight.mean()
    target = np.random.default_rng(1).normal(size=(150, 2))
    state = make_training_state(
        X_missing,
        sample_weight=weight,
        embedding=ConstantTransformer(target),
        embedding_input="data",
        embedding_max_samples=20_000,
        embedding_max_iter=1,
        batch_size=150,
    )
    target = target_embedding(state.config.embedding, X_missing, 2, state.random.numpy)
    run_stages(state, fit_embedding)

    module, batch = state.module, all_samples(state)
    observed = batch.mask.bool()
    with torch.no_grad():
        first = module.decoder(module.encoder.encode_mean(batch.x))
        imputed = torch.where(observed, batch.x, first)
        z = module.encoder.encode_mean(imputed)
        squares = (observed * (module.decoder(z) - batch.x)).square().sum(1)
    curves = state.history.pretraining
    away = np.square(z.numpy() - target).mean(1)
    assert_allclose(curves["embedding_error"], (weight * away).mean())
    unexplained = squares.numpy() / observed.sum(1).double().mean().item()
    expected = (weight * unexplained).mean() / TARGET_STD**2
    assert_allclose(curves["unexplained_variance"], expected)


def test_coordinates_that_the_encoder_does_not_learn_warn(make_estimator, blobs):
    """The transformer scales the features, so it finds what is lost in X itself."""
    X, _ = blobs
    noise = np.random.default_rng(0).normal(scale=1e4, size=(150, 1))
    X = np.hstack([X, noise])
    within = make_pipeline(StandardScaler(), PCA(2))
    message = r"it leaves \d\d% .* before fit .* raise embedding_max_iter=100"
    with (
        pytest.warns(UserWarning, match="features of very unequal scale: .* column 5"),
        pytest.warns(ConvergenceWarning, match=message),
    ):
        make_estimator(embedding=within, embedding_max_iter=100).fit(X)
    make_estimator(**PCA_EMBEDDING).fit(StandardScaler().fit_transform(X))


def test_samples_of_large_weight_are_learned_first(make_estimator, X):
    """A network too small for all coordinates gives those of the samples that count."""
    estimator = make_estimator(hidden_layer_sizes=(1,), embedding=PCA(2))

    def error_of_first_half(weight):
        state = run_stages(init_training(estimator, X, weight), fit_embedding)
        away = embed(state.module, state.dataset) - target_of(X)
        return np.square(away)[:75].mean()

    weight = np.where(np.arange(150) < 75, 100.0, 1.0)
    assert error_of_first_half(weight) < 0.97 * error_of_first_half(weight[::-1])


# --- The clusters that start there --------------------------------------------------


def test_an_embedding_of_fewer_dimensions_starts_the_clusters(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(latent_dim=5, **PCA_EMBEDDING).fit(X)
    assert adjusted_rand_score(y, model.init_labels_) > 0.95
    variance = model.transform(X).var(0)
    assert variance[2:].max() < 0.05 * variance[:2].min()


def test_dimensions_that_start_at_zero_do_not_decide(make_estimator, X):
    """The posterior variances leave the labels those of the mixture alone."""
    state = make_state(make_estimator(latent_dim=5, **PCA_EMBEDDING), X)
    run_stages(state, fit_embedding, initialize_mixture)
    labels = predict_labels(state.module, state.dataset, "expected")
    assert np.mean(labels == state.history.init_labels) > 0.98
    width = state.module.encoder.log_variance.bias.exp()
    assert (width < 0.51 * state.module.prior.variances.mean(0)).all()


def test_groups_that_only_neighborhoods_separate():
    """Half moons: k-means does not find them, an embedding of neighbors does."""
    X, y = make_moons(300, noise=0.05, random_state=0)
    kmeans = KMeans(2, random_state=0)
    assert adjusted_rand_score(y, kmeans.fit_predict(X)) < 0.6
    neighbors = SpectralEmbedding(2, affinity="rbf", gamma=30)
    model = VaDEClusterer(
        2, latent_dim=2, embedding=neighbors, max_iter=20, random_state=0
    ).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    X_new, y_new = make_moons(300, noise=0.05, random_state=1)
    assert adjusted_rand_score(y_new, model.predict(X_new)) > 0.9


def test_the_last_stage_keeps_the_groups_of_the_embedding(make_estimator):
    """On digits the joint training must not dissolve what t-SNE found."""
    X, y = load_digits(return_X_y=True)
    model = make_estimator(
        n_clusters=10,
        hidden_layer_sizes=(128, 64),
        embedding=TSNE(),
        embedding_max_iter=20,
        max_iter=10,
        batch_size=32,
    ).fit(X[:600] / 16)
    assert adjusted_rand_score(y[:600], model.labels_) > 0.7
    assert adjusted_rand_score(model.init_labels_, model.labels_) > 0.85


# --- The input of the transformer ---------------------------------------------------


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_transformer_gets_X_as_given(make_estimator, X, inputs):
    estimator = make_estimator(embedding=RecordingTransformer(), embedding_max_iter=4)
    model = estimator.fit(100 + X)
    ((data, _),) = inputs
    assert_array_equal(data, 100 + X)
    assert len(model.embedding_loss_curve_) == len(model.pretrain_loss_curve_) == 4


@pytest.mark.filterwarnings("ignore:The encoder does not reproduce")
def test_transformer_gets_the_embedding_of_the_autoencoder(make_estimator, X, inputs):
    params = {"embedding": RecordingTransformer(), "embedding_max_iter": 4}
    params["embedding_input"] = "autoencoder"
    model = make_estimator(pretrain_max_iter=6, **params).fit(X)
    ((data, _),) = inputs
    assert data.shape == (150, 2)
    assert len(model.pretrain_loss_curve_) == 10
    plain = make_estimator(pretrain_max_iter=6).fit(X)
    assert model.pretrain_loss_curve_[:6] == plain.pretrain_loss_curve_


def test_transformer_gets_at_most_max_samples(make_estimator, X, inputs):
    params = {"embedding": RecordingTransformer(), "embedding_max_samples": 40}
    make_estimator(**params).fit(X)
    ((data, _),) = inputs
    samples = {tuple(x) for x in X}
    assert len({tuple(x) for x in data} & samples) == len(data) == 40


def test_transformer_gets_no_validation_samples(make_estimator, X, inputs):
    make_estimator(embedding=RecordingTransformer(), early_stopping=True).fit(X)
    ((data, _),) = inputs
    assert len(data) == 135


def test_transformer_gets_no_samples_of_weight_zero(make_estimator, X, inputs):
    weight = (np.arange(150) % 3 > 0).astype(float)
    make_estimator(embedding=RecordingTransformer()).fit(X, sample_weight=weight)
    ((data, _),) = inputs
    assert_array_equal(data, X[weight > 0])


def test_the_given_transformer_is_not_fitted(make_estimator, X):
    transformer = PCA(2)
    model = make_estimator(embedding=transformer).fit(X)
    assert model.embedding is transformer
    assert not hasattr(transformer, "components_")


# --- As part of the estimator -------------------------------------------------------


def test_same_seed_same_result(make_estimator, X):
    first, second = (
        make_estimator(embedding=TSNE(perplexity=5)).fit(X) for _ in range(2)
    )
    assert_array_equal(first.means_, second.means_)


def test_a_warm_start_does_not_fit_the_embedding_again(make_estimator, X, inputs):
    model = make_estimator(embedding=RecordingTransformer(), warm_start=True)
    model.fit(X).fit(X)
    assert len(inputs) == 1
    assert model.embedding_loss_curve_ == []


def test_without_embedding_its_curve_is_empty(fitted):
    assert fitted.embedding_loss_curve_ == []


@pytest.mark.filterwarnings("ignore:.* no effect", "ignore:The encoder does not repr")
def test_clone_pickle_and_search(make_estimator, X):
    model = make_estimator(
        embedding=TSNE(perplexity=5),
        embedding_max_iter=5,
        pretraining="autoencoder",
        pretrain_max_iter=5,
    )
    search = GridSearchCV(clone(model), {"embedding": [None, PCA(2)]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fitted = model.fit(X)
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.predict(X), fitted.labels_)


def test_n_components_above_latent_dim_is_rejected(make_estimator, X):
    message = r"n_components=3, but latent_dim=2\. Make them equal"
    with pytest.raises(ValueError, match=message):
        make_estimator(embedding=PCA(3)).fit(X)


def test_an_untrained_autoencoder_is_rejected_as_input(make_estimator, X, inputs):
    params = {"embedding_input": "autoencoder", "pretrain_max_iter": 0}
    model = make_estimator(embedding=RecordingTransformer(), **params)
    with pytest.raises(ValueError, match=r"Got pretrain_max_iter=0\. Raise it"):
        model.fit(X)
    assert not inputs


def test_embedding_parameters_warn_without_embedding(make_estimator, X):
    model = make_estimator(embedding_input="autoencoder", embedding_max_iter=4)
    message = "^embedding_input and embedding_max_iter have no effect: embedding=None"
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(X)
    assert len(caught) == 1
    assert_array_equal(model.labels_, make_estimator().fit(X).labels_)


def test_pretraining_parameters_warn_without_pretraining(make_estimator, X):
    params = {"pretraining": "vae", "pretrain_learning_rate_init": 0.01}
    model = make_estimator(embedding=PCA(2), **params)
    message = "^pretraining and pretrain_learning_rate_init have no effect: an"
    with pytest.warns(UserWarning, match=message):
        model.fit(X)
    labels = model.labels_
    params = {"pretraining": "autoencoder", "pretrain_max_iter": 0}
    assert_array_equal(model.set_params(**params).fit(X).labels_, labels)
