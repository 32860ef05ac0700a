"""The methods that the accuracy benchmark compares, and their parameters."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.manifold import TSNE
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skvade import VaDEClusterer

__all__ = ["ALONE", "FORMER", "METHODS", "RECIPES", "build", "peer"]

# The former defaults, beside which the recipes below were found.
FORMER = {
    "pretraining": "autoencoder",
    "pretrain_max_iter": 10,
    "init": "kmeans",
    "warmup_max_iter": 3,
    "beta": 1.0,
    "max_iter": 300,
    "learning_rate": "constant",
    "learning_rate_init": 1e-3,
    "tol": 0.1,
}
# Parameters of VaDEClusterer that differ from the former defaults.
PAPER = {"hidden_layer_sizes": (500, 500, 2000)}
IMAGES = {
    **PAPER,
    "likelihood": "bernoulli",
    "pretrain_max_iter": 120,
    "learning_rate_init": 2e-4,
    "mixture_learning_rate_init": 1e-5,
    "beta": 0.1,
    "max_iter": 20,
    "tol": 0,
}
# A variational autoencoder separates clothes better, and a mixture with full
# covariances finds them there. The latent terms keep their weight of pretraining.
CLOTHES = {
    **IMAGES,
    "pretraining": "vae",
    "pretrain_max_iter": 30,
    "pretrain_learning_rate_init": 1e-3,
    "init": GaussianMixture(10, n_init=5),
    "beta": 1.0,
    "max_iter": 10,
}
RECIPES = {
    "mnist": IMAGES,
    "fashion_mnist": CLOTHES,
    # Three times the former default, as the warning of `fit` advises.
    "sc_worm_neuron": {"pretrain_max_iter": 30},
}
# Beside these, where an embedding is learned: its groups are far apart, and stay so.
EMBEDDING = {
    "embedding_input": "autoencoder",
    "embedding_max_samples": 70_000,
    "embedding_max_iter": 10,
    "beta": 1.0,
    "max_iter": 10,
}
UMAP_RECIPES = {
    "mnist": {**EMBEDDING, "pretrain_max_iter": 60},
    "fashion_mnist": EMBEDDING,
}
# scikit-learn's t-SNE takes minutes for 20,000 samples, and gives two columns.
TSNE_RECIPES = {
    "mnist": {
        **UMAP_RECIPES["mnist"],
        "learning_rate_init": 1e-4,
        "embedding_max_samples": 20_000,
        "embedding_max_iter": 30,
        "latent_dim": 10,
    }
}
# Hundreds of features and more, without an autoencoder before UMAP: UMAP gets their
# principal components, which saves noise and time.
WIDE = ("har", "sc_pbmc4k")
N_COMPONENTS = 50
# The embedding alone: the steps after it are too small to matter.
ALONE = {
    "warmup_max_iter": 0,
    "max_iter": 1,
    "learning_rate_init": 1e-12,
    "mixture_learning_rate_init": None,
}


def _umap(dataset):
    from umap import UMAP

    # UMAP is reproducible with one thread only; to set it avoids a warning.
    umap = UMAP(n_components=10, min_dist=0.0, n_jobs=1)
    return make_pipeline(PCA(N_COMPONENTS), umap) if dataset in WIDE else umap


def _seeded(transformer, seed):
    """Clone a transformer and set all its seeds."""
    transformer = clone(transformer)
    seeds = [name for name in transformer.get_params() if name.endswith("random_state")]
    return transformer.set_params(**dict.fromkeys(seeds, seed))


def peer(python, X, **settings):
    """Fit ClustPy's VaDE in another environment; give its times and labels."""
    script = Path(__file__).with_name("clustpy_vade.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        np.save(path, X)
        command = [python, str(script), json.dumps({"X": str(path), **settings})]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


class Peer:
    """ClustPy's VaDE as a clusterer; its likelihood needs X in [0, 1]."""

    def __init__(self, python, **settings):
        self.python, self.settings = python, settings

    def fit_predict(self, X):
        X = (X - X.min()) / np.ptp(X)
        return np.array(peer(self.python, X, **self.settings)["labels"])


def _k_means(dataset, k, seed, options):
    return KMeans(k, n_init=10, random_state=seed), {"n_init": 10}


def _mixture(dataset, k, seed, options):
    """Full covariances have too many parameters where features are many."""
    small = ("digits", "optdigits", "pendigits", "dermatology", "shuttle")
    shown = {} if dataset in small else {"covariance_type": "diag"}
    return GaussianMixture(k, random_state=seed, **shown), shown


def _pca_mixture(dataset, k, seed, options):
    mixture = GaussianMixture(k, random_state=seed)
    pca = PCA(10, random_state=seed)
    return make_pipeline(pca, mixture), {"n_components": 10}


def _umap_mixture(dataset, k, seed, options):
    mixture = GaussianMixture(k, random_state=seed)
    umap = _seeded(_umap(dataset), seed)
    shown = {"n_components": 10, "min_dist": 0.0}
    if dataset in WIDE:
        shown["principal_components"] = N_COMPONENTS
    return make_pipeline(umap, mixture), shown


def _vade(dataset, k, seed, options, **more):
    """Take the defaults; with a recipe, or what one line adds, the former ones."""
    recipe = {**RECIPES.get(dataset, {}), **more}
    if recipe:
        recipe = {**FORMER, **recipe}
    shown = {**recipe, **options.change}
    model = VaDEClusterer(k, random_state=seed, **shown)
    return model, {name: _shown(value) for name, value in shown.items()}


def _shown(value):
    """Give a literal for the CSV."""
    return " ".join(repr(value).split()) if hasattr(value, "get_params") else value


def _autoencoder_k_means(dataset, k, seed, options):
    model, shown = _vade(dataset, k, seed, options, **ALONE)
    return make_pipeline(model, KMeans(k, n_init=10, random_state=seed)), shown


def _autoencoder_mixture(dataset, k, seed, options):
    """Fit a model whose `init_labels_` are those of EM on the embedding."""
    alone = {"init": "gmm", "warmup_max_iter": 0, "max_iter": 1, "tol": 0}
    return _vade(dataset, k, seed, options, **alone)


def _vade_of_umap(dataset, k, seed, options):
    more = UMAP_RECIPES.get(dataset, {})
    return _vade(dataset, k, seed, options, embedding=_umap(dataset), **more)


def _vade_of_tsne(dataset, k, seed, options):
    more = {"latent_dim": 2, **TSNE_RECIPES.get(dataset, {})}
    return _vade(dataset, k, seed, options, embedding=TSNE(), **more)


def _clustpy(dataset, k, seed, options):
    """Take network and epochs from our recipe, or 50 epochs per stage."""
    recipe = RECIPES.get(dataset, {})
    settings = {
        "n_clusters": k,
        "hidden_layer_sizes": recipe.get("hidden_layer_sizes", (128, 64)),
        "batch_size": 256,
        "pretrain_epochs": recipe.get("pretrain_max_iter", 50),
        "epochs": recipe.get("max_iter", 50),
        "threads": 1,
        "seed": seed,
    }
    shown = {name: settings[name] for name in ("pretrain_epochs", "epochs")}
    return Peer(options.peer, **settings), shown


def _after(components, method):
    """Make a method that gets leading components, for which there is no recipe."""

    def build(dataset, k, seed, options):
        estimator, shown = method(None, k, seed, options)
        return make_pipeline(_seeded(components, seed), estimator), shown

    return build


def _lsa(n_components):
    """Make a latent semantic analysis: the direction of a document counts."""
    return make_pipeline(TruncatedSVD(n_components), Normalizer())


METHODS = {
    "k-means": _k_means,
    "GaussianMixture": _mixture,
    "PCA + GaussianMixture": _pca_mixture,
    "UMAP + GaussianMixture": _umap_mixture,
    "AE + k-means": _autoencoder_k_means,
    "AE + GaussianMixture": _autoencoder_mixture,
    "skvade": _vade,
    "skvade of t-SNE": _vade_of_tsne,
    "skvade of UMAP": _vade_of_umap,
    "PCA(20) + k-means": _after(PCA(20), _k_means),
    "PCA(20) + skvade": _after(PCA(20), _vade),
    "PCA(20) + skvade of UMAP": _after(PCA(20), _vade_of_umap),
    "PCA(50) + skvade": _after(PCA(50), _vade),
    "LSA(20) + k-means": _after(_lsa(20), _k_means),
    "LSA(20) + skvade": _after(_lsa(20), _vade),
    "LSA(20) + skvade of UMAP": _after(_lsa(20), _vade_of_umap),
    "LSA(50) + skvade": _after(_lsa(50), _vade),
    "LSA(100) + k-means": _after(_lsa(100), _k_means),
    "LSA(100) + GaussianMixture": _after(_lsa(100), _mixture),
    "LSA(100) + skvade": _after(_lsa(100), _vade),
    "LSA(100) + skvade of UMAP": _after(_lsa(100), _vade_of_umap),
    "ClustPy VaDE": _clustpy,
}


def build(name, dataset, n_clusters, seed, options):
    """Build an estimator; give it with the parameters that the table should show."""
    return METHODS[name](dataset, n_clusters, seed, options)
