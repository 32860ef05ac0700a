"""How far `n_clusters="auto"` is from the number of classes.

    python tests/benchmarks/n_clusters.py wine iris digits har --data FOLDER \\
        --seeds 0 1 2

A CSV row per data set and seed. The estimate comes before the joint training, of which
a single epoch is run. Labels judge and select nothing.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from labeled import DATASETS as LABELED
from labeled import load
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "n_clusters.csv"
COLUMNS = ["dataset", "n", "true_k", "seed", "n_clusters", "cpu_seconds", "version"]


def standardized(loader):
    def load(folder):
        X, y = loader(return_X_y=True)
        return StandardScaler().fit_transform(X), y

    return load


def blobs(folder):
    return make_blobs(1000, 10, centers=5, cluster_std=2, random_state=0)


def one_blob(folder):
    return make_blobs(1000, 10, centers=1, random_state=0)


OTHERS = {
    "wine": standardized(load_wine),
    "iris": standardized(load_iris),
    "breast cancer": standardized(load_breast_cancer),
    "blobs": blobs,
    "one blob": one_blob,
}


def run(dataset, seed, options):
    if dataset in OTHERS:
        X, y = OTHERS[dataset](options.data)
    else:
        X, y = load(dataset, options.data)
    model = VaDEClusterer("auto", warmup_max_iter=0, max_iter=1, random_state=seed)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    return {
        "dataset": dataset,
        "n": len(X),
        "true_k": len(np.unique(y)),
        "seed": seed,
        "n_clusters": model.n_clusters_,
        "cpu_seconds": f"{time.process_time() - start:.1f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=[*LABELED, *OTHERS])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(10))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    done = finished(options.results, "dataset", "seed")
    for dataset in options.datasets:
        for seed in options.seeds:
            if (dataset, str(seed)) not in done:
                row = run(dataset, seed, options)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
