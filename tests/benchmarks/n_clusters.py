"""How often the search of the user guide finds the number of clusters.

    python tests/benchmarks/n_clusters.py wine iris blobs digits --seeds 0 1 2

A CSV row per data set and seed: the number that each criterion prefers, the number that
the rule of docs/user_guide.rst chooses from both, and the time of the search. Labels
judge and select nothing.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from choosing import DATASETS as CHOOSING
from choosing import candidates, silhouette
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "n_clusters.csv"
COLUMNS = ["dataset", "n", "true_k", "seed", "bound", "silhouette", "rule"]
COLUMNS += ["n_fits", "cpu_seconds", "version"]
N_SPLITS = 2


def iris(folder):
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def blobs(folder):
    return make_blobs(1000, 10, centers=5, cluster_std=2, random_state=0)


DATASETS = {**CHOOSING, "iris": iris, "blobs": blobs, "overlapping": CHOOSING["blobs"]}


def bound_score(model, X, y=None):
    return model.score(X)


def silhouette_score(model, X, y=None):
    return silhouette(model, X)


SCORING = {"bound": bound_score, "silhouette": silhouette_score}


def choose(results):
    """Of the bounds near the best, choose the highest silhouette, as in the guide."""
    score, separation = results["mean_test_bound"], results["mean_test_silhouette"]
    best = score.argmax()
    is_close = score >= score[best] - results["std_test_bound"][best]
    return np.where(is_close, separation, -np.inf).argmax()


def run(dataset, seed, options):
    X, y = DATASETS[dataset](options.data)
    true_k = len(np.unique(y))
    numbers = np.array(candidates(true_k))
    search = GridSearchCV(
        VaDEClusterer(random_state=seed),
        {"n_clusters": numbers},
        scoring=SCORING,
        refit=False,
        cv=KFold(N_SPLITS, shuffle=True, random_state=seed),
    )
    start = time.process_time()
    results = search.fit(X).cv_results_
    return {
        "dataset": dataset,
        "n": len(X),
        "true_k": true_k,
        "seed": seed,
        "bound": numbers[results["mean_test_bound"].argmax()],
        "silhouette": numbers[results["mean_test_silhouette"].argmax()],
        "rule": numbers[choose(results)],
        "n_fits": N_SPLITS * len(numbers),
        "cpu_seconds": f"{time.process_time() - start:.0f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    # Empty clusters are part of what is studied.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for dataset in options.datasets:
        for seed in options.seeds:
            if (dataset, str(seed)) not in finished(options.results, "dataset", "seed"):
                row = run(dataset, seed, options)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
