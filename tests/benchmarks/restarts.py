"""Do inertia and likelihood rank the restarts of the initial mixture?

    python tests/benchmarks/restarts.py digits pendigits --data FOLDER --seeds 0 1 2

Restarts "kmeans" and "gmm" twenty times on the embedding of a default autoencoder, and
on one learned from UMAP, and writes what each restart is chosen by beside its
accuracy, a CSV row per restart. Embeddings that the CSV already holds are skipped.
Labels judge and select nothing.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from labeled import DATASETS, load
from methods import ALONE, FORMER, RECIPES, build
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from skvade import __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "restarts.csv"
COLUMNS = [
    *("dataset", "n", "embedding", "seed", "init", "restart"),
    *("criterion", "accuracy", "version"),
]
N_RESTARTS = 20


def fit_kmeans(Z, n_clusters, restart):
    """Give a partition and the negative inertia."""
    kmeans = KMeans(n_clusters, n_init=1, random_state=restart).fit(Z)
    return kmeans.labels_, -kmeans.inertia_


def fit_gmm(Z, n_clusters, restart):
    """Give a partition and the mean log-likelihood."""
    mixture = GaussianMixture(n_clusters, covariance_type="diag", random_state=restart)
    labels = mixture.fit_predict(Z)
    return labels, mixture.score(Z)


INITIALIZERS = {"kmeans": fit_kmeans, "gmm": fit_gmm}
# By the method whose encoder gives it.
EMBEDDINGS = {"autoencoder": "skvade", "UMAP": "skvade of UMAP"}


def study(dataset, embedding, seed, options):
    """Give the CSV rows of an embedding."""
    X, y = load(dataset, options.data)
    n_clusters = len(np.unique(y))
    change = ALONE
    if embedding == "autoencoder":
        change = {**FORMER, **RECIPES.get(dataset, {}), **ALONE}
    alone = argparse.Namespace(change=change)
    model, _ = build(EMBEDDINGS[embedding], dataset, n_clusters, seed, alone)
    Z = model.fit_transform(X)
    for init, fit in INITIALIZERS.items():
        for restart in range(N_RESTARTS):
            labels, criterion = fit(Z, n_clusters, restart)
            yield {
                "dataset": dataset,
                "n": len(X),
                "embedding": embedding,
                "seed": seed,
                "init": init,
                "restart": restart,
                "criterion": f"{criterion:.6g}",
                "accuracy": f"{clustering_accuracy(y, labels):.4f}",
                "version": __version__,
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for dataset in options.datasets:
        for seed in options.seeds:
            for embedding in EMBEDDINGS:
                key = (dataset, embedding, str(seed))
                if key in finished(options.results, "dataset", "embedding", "seed"):
                    continue
                for row in [*study(dataset, embedding, seed, options)]:
                    append(options.results, COLUMNS, row)
                print(*key, flush=True)


if __name__ == "__main__":
    main()
