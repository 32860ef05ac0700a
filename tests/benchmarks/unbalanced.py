"""Clusters of very different sizes, a CSV row per run.

    python tests/benchmarks/unbalanced.py rare shuttle --data FOLDER --seeds 0 1 2

Each method gets the true number of clusters, and twice as many. Runs that the CSV
already holds are skipped. Labels judge and select nothing.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from labeled import load
from scipy.stats import entropy
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, f1_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "unbalanced.csv"
COLUMNS = ["dataset", "n", "method", "parameters", "seed", "ari", "rarest_f1"]
COLUMNS += ["clusters_in_use", "effective_clusters", "warned", "seconds", "version"]


def load_samples(dataset, seed, options):
    """Load a data set, or generate *rare*, of clusters of 2000 to 20 samples."""
    if dataset != "rare":
        return load(dataset, options.data)
    sizes = [2000, 1000, 200, 20]
    return make_blobs(sizes, 10, cluster_std=3.0, random_state=seed)


def bayesian_mixture(k, seed, X):
    return BayesianGaussianMixture(
        n_components=k,
        covariance_type="diag",
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=1e-3,
        max_iter=500,
        random_state=seed,
    )


METHODS = {
    "k-means": lambda k, seed, X: KMeans(k, n_init=10, random_state=seed),
    "GaussianMixture": lambda k, seed, X: GaussianMixture(
        k, covariance_type="diag", random_state=seed
    ),
    "BayesianGaussianMixture": bayesian_mixture,
    "skvade": lambda k, seed, X: VaDEClusterer(k, random_state=seed),
    "skvade, init=BayesianGaussianMixture": lambda k, seed, X: VaDEClusterer(
        k, init=bayesian_mixture(k, seed, X), random_state=seed
    ),
}


def rarest_f1(y, labels):
    """Compute F1 of the smallest class and the cluster that matches it best."""
    classes, sizes = np.unique(y, return_counts=True)
    rare = y == classes[sizes.argmin()]
    return max(f1_score(rare, labels == cluster) for cluster in np.unique(labels))


def run(dataset, name, times, seed, options):
    X, y = load_samples(dataset, seed, options)
    k = times * len(np.unique(y))
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = METHODS[name](k, seed, X).fit_predict(X)
    return {
        "dataset": dataset,
        "n": len(X),
        "method": name,
        "parameters": repr({"n_clusters": k}),
        "seed": seed,
        "ari": f"{adjusted_rand_score(y, labels):.4f}",
        "rarest_f1": f"{rarest_f1(y, labels):.4f}",
        "clusters_in_use": len(np.unique(labels)),
        "effective_clusters": f"{np.exp(entropy(np.bincount(labels))):.3f}",
        "warned": sum("cluster" in str(w.message) for w in caught),
        "seconds": f"{time.perf_counter() - start:.1f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), default=list(METHODS)
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for dataset in options.datasets:
        for seed in options.seeds:
            n_classes = len(np.unique(load_samples(dataset, seed, options)[1]))
            for times in (1, 2):
                for name in options.methods:
                    shown = repr({"n_clusters": times * n_classes})
                    key = (dataset, name, shown, str(seed))
                    if key not in finished(options.results):
                        row = run(dataset, name, times, seed, options)
                        append(options.results, COLUMNS, row)
                        print(row, flush=True)


if __name__ == "__main__":
    main()
