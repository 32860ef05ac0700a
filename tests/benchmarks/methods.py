"""The methods that the accuracy benchmark compares, and their parameters.

Every method gets the same samples and the true number of clusters. A method is a
function of the name of the data set, the number of clusters, a seed and the options of
the run. It gives an estimator, and the parameters that the CSV should hold.
"""

import json
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline

from skvade import VaDEClusterer

__all__ = ["FORMER", "IMAGE_NETWORK", "METHODS", "make_umap", "peer"]

# The former defaults, with which some of the experiments were run.
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
# The network of the paper, for images in the tens of thousands.
IMAGE_NETWORK = {"hidden_layer_sizes": (500, 500, 2000), "likelihood": "bernoulli"}
# Epochs of ClustPy's VaDE: of pretraining, and of joint training. 50 each elsewhere.
CLUSTPY_EPOCHS = {
    "mnist": (120, 20),
    "fashion_mnist": (30, 10),
    "sc_worm_neuron": (30, 50),
}
# Few enough features for full covariances.
FULL_COVARIANCES = ("digits", "optdigits", "pendigits", "dermatology", "shuttle")
# UMAP gets principal components of these, with which it does better and is faster.
UMAP_COMPONENTS = {"har": 50}


# --- k-means and mixtures -----------------------------------------------------------


def _k_means(dataset, k, seed, options):
    return KMeans(k, n_init=10, random_state=seed), {"n_init": 10}


def _mixture(dataset, k, seed, options):
    shown = {} if dataset in FULL_COVARIANCES else {"covariance_type": "diag"}
    return GaussianMixture(k, random_state=seed, **shown), shown


def _pca_mixture(dataset, k, seed, options):
    mixture = GaussianMixture(k, random_state=seed)
    pca = PCA(10, random_state=seed)
    return make_pipeline(pca, mixture), {"n_components": 10}


# --- UMAP ---------------------------------------------------------------------------


def make_umap(dataset, seed, n_threads=1, **parameters):
    """Make a UMAP of ten dimensions.

    UMAP is reproducible with one thread only, and with a seed it uses no more.
    """
    from umap import UMAP

    random_state = seed if n_threads == 1 else None
    umap = UMAP(
        n_components=10,
        min_dist=0.0,
        n_jobs=n_threads,
        random_state=random_state,
        **parameters,
    )
    if dataset in UMAP_COMPONENTS:
        return make_pipeline(PCA(UMAP_COMPONENTS[dataset], random_state=seed), umap)
    return umap


def _after_umap(dataset, seed, options, clusterer, **shown):
    shown = {"n_components": 10, "min_dist": 0.0, **shown}
    if dataset in UMAP_COMPONENTS:
        shown["principal_components"] = UMAP_COMPONENTS[dataset]
    return make_pipeline(make_umap(dataset, seed, options.threads), clusterer), shown


def _umap_mixture(dataset, k, seed, options):
    mixture = GaussianMixture(k, random_state=seed)
    return _after_umap(dataset, seed, options, mixture)


class DensityClusterer(ClusterMixin, BaseEstimator):
    """HDBSCAN with a least size of clusters that depends on the number of samples."""

    def __init__(self, n_clusters):
        self.n_clusters = n_clusters

    def fit(self, X, y=None):
        size = max(5, len(X) // (10 * self.n_clusters))
        hdbscan = HDBSCAN(min_cluster_size=size, min_samples=10, copy=True)
        self.labels_ = hdbscan.fit_predict(X)
        return self


def _umap_hdbscan(dataset, k, seed, options):
    clusterer = DensityClusterer(k)
    return _after_umap(dataset, seed, options, clusterer, min_samples=10)


# --- Communities of the neighbor graph ----------------------------------------------


class Leiden(ClusterMixin, BaseEstimator):
    """Communities of the nearest-neighbor graph, by the method of Leiden of igraph.

    The resolution is bisected until there are `n_clusters` of them. If there never are,
    the partition with the nearest number is taken.
    """

    N_BISECTIONS = 20
    MIN_RESOLUTION, MAX_RESOLUTION = 1e-3, 30.0

    def __init__(self, n_clusters, n_neighbors=15, random_state=0):
        self.n_clusters = n_clusters
        self.n_neighbors = n_neighbors
        self.random_state = random_state

    def fit(self, X, y=None):
        import igraph

        # Only the seed of the process decides: igraph takes no generator of a call.
        igraph.set_random_number_generator(random.Random(self.random_state))
        edges = kneighbors_graph(X, self.n_neighbors).tocoo()
        pairs = np.column_stack([edges.row, edges.col])
        graph = igraph.Graph(len(X), pairs).simplify()
        low, high, nearest = self.MIN_RESOLUTION, self.MAX_RESOLUTION, None
        for _ in range(self.N_BISECTIONS):
            resolution = np.sqrt(low * high)
            labels = np.array(
                graph.community_leiden(
                    "modularity", resolution=resolution, n_iterations=-1
                ).membership
            )
            difference = labels.max() + 1 - self.n_clusters
            if nearest is None or abs(difference) < abs(nearest):
                nearest, self.labels_ = difference, labels
            if difference == 0:
                break
            if difference > 0:
                high = resolution
            else:
                low = resolution
        return self


def _leiden(dataset, k, seed, options):
    return Leiden(k, random_state=seed), {"n_neighbors": 15}


# --- Autoencoders -------------------------------------------------------------------

# The steps after pretraining are too small to matter.
PRETRAINING_ALONE = {
    "init": "kmeans",
    "warmup_max_iter": 0,
    "max_iter": 1,
    "learning_rate_init": 1e-12,
}


def _autoencoder_k_means(dataset, k, seed, options):
    """Cluster the embedding of skvade's autoencoder."""
    shown = {"pretraining": "autoencoder", "pretrain_max_iter": 50}
    if dataset == "mnist":
        shown |= {"pretrain_max_iter": 120, **IMAGE_NETWORK}
    model = VaDEClusterer(k, random_state=seed, **shown, **PRETRAINING_ALONE)
    return make_pipeline(model, KMeans(k, n_init=10, random_state=seed)), shown


def peer(python, X, **settings):
    """Fit ClustPy's VaDE in another environment; give its times and labels."""
    script = Path(__file__).with_name("clustpy_vade.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        np.save(path, X)
        command = [python, str(script), json.dumps({"X": str(path), **settings})]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


class Peer(ClusterMixin, BaseEstimator):
    """ClustPy's VaDE as a clusterer; its likelihood needs X in [0, 1]."""

    def __init__(self, python, settings):
        self.python = python
        self.settings = settings

    def fit(self, X, y=None):
        X = (X - X.min()) / np.ptp(X)
        self.labels_ = np.array(peer(self.python, X, **self.settings)["labels"])
        return self


def _clustpy(dataset, k, seed, options):
    pretrain_epochs, epochs = CLUSTPY_EPOCHS.get(dataset, (50, 50))
    is_image = dataset in ("mnist", "fashion_mnist")
    shown = {"pretrain_epochs": pretrain_epochs, "epochs": epochs}
    settings = {
        **shown,
        "n_clusters": k,
        "hidden_layer_sizes": (500, 500, 2000) if is_image else (128, 64),
        "batch_size": 256,
        "threads": options.threads,
        "seed": seed,
    }
    return Peer(options.peer, settings), shown


# --- skvade -------------------------------------------------------------------------


def _skvade(dataset, k, seed, options):
    return VaDEClusterer(k, random_state=seed), {}


METHODS = {
    "k-means": _k_means,
    "GaussianMixture": _mixture,
    "PCA + GaussianMixture": _pca_mixture,
    "AE + k-means": _autoencoder_k_means,
    "Leiden": _leiden,
    "UMAP + HDBSCAN": _umap_hdbscan,
    "UMAP + GaussianMixture": _umap_mixture,
    "ClustPy VaDE": _clustpy,
    "skvade": _skvade,
}
