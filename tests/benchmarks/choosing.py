"""How often criteria without labels find the number of clusters.

    python tests/benchmarks/choosing.py blobs warped wine digits dermatology \\
        --data FOLDER --seeds 0 1 2

For each number of clusters two models, of different seeds, are fitted to the same four
fifths of the samples; the criteria are taken on the rest. A CSV row per number; what
the CSV already holds is skipped. Labels judge and select nothing.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from labeled import load
from sklearn.datasets import load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "choosing.csv"
COLUMNS = ["dataset", "n", "true_k", "seed", "n_clusters"]
COLUMNS += ["elbo", "weighted_bound", "silhouette", "stability"]
COLUMNS += ["clusters_in_use", "ari", "seconds", "version"]
KEY = ("dataset", "seed", "n_clusters")
N_DRAWS = 64


def blobs(folder):
    return make_blobs(1000, 10, centers=5, cluster_std=5, random_state=0)


def warped(folder):
    """Map four groups of a plane to 20 dimensions by random waves, with noise."""
    z, y = make_blobs(1000, 2, centers=4, cluster_std=1.0, random_state=4)
    rng = np.random.default_rng(0)
    directions, phases = rng.normal(size=(2, 20)), rng.uniform(0, 2 * np.pi, 20)
    X = np.sin(z @ directions / 2 + phases)
    return X + rng.normal(scale=0.1, size=X.shape), y


def wine(folder):
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


DATASETS = {
    "blobs": blobs,
    "warped": warped,
    "wine": wine,
    "digits": lambda folder: load("digits", folder),
    "dermatology": lambda folder: load("dermatology", folder),
}


def agreement(models, X):
    return adjusted_rand_score(*(model.predict(X) for model in models))


def silhouette(model, X):
    labels = model.predict(X)
    several = 1 < len(np.unique(labels)) < len(X)
    return silhouette_score(model.transform(X), labels) if several else -1.0


def run(dataset, seed, n_clusters, options):
    X, y = DATASETS[dataset](options.data)
    X_train, X_test, _, y_test = train_test_split(
        X, y, test_size=0.2, random_state=seed
    )
    start = time.perf_counter()
    models = [
        VaDEClusterer(n_clusters, random_state=2 * seed + i).fit(X_train)
        for i in (0, 1)
    ]
    seconds = time.perf_counter() - start
    first = models[0]
    labels = first.predict(X_test)
    return {
        "dataset": dataset,
        "n": len(X),
        "true_k": len(np.unique(y)),
        "seed": seed,
        "n_clusters": n_clusters,
        "elbo": f"{first.score(X_test):.4f}",
        "weighted_bound": f"{first.score_samples(X_test, n_draws=N_DRAWS).mean():.4f}",
        "silhouette": f"{silhouette(first, X_test):.4f}",
        "stability": f"{agreement(models, X_test):.4f}",
        "clusters_in_use": len(np.unique(first.labels_)),
        "ari": f"{adjusted_rand_score(y_test, labels):.4f}",
        "seconds": f"{seconds:.1f}",
        "version": __version__,
    }


def candidates(true_k):
    """Give three numbers on each side of the true one, from two on."""
    return range(max(2, true_k - 3), true_k + 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    # Empty clusters and fits that end at max_iter are part of what is studied.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for dataset in options.datasets:
        true_k = len(np.unique(DATASETS[dataset](options.data)[1]))
        for seed in options.seeds:
            for n_clusters in candidates(true_k):
                key = (dataset, str(seed), str(n_clusters))
                if key not in finished(options.results, *KEY):
                    row = run(dataset, seed, n_clusters, options)
                    append(options.results, COLUMNS, row)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
