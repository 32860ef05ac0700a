"""Accuracy and bounds by the covariances of the mixture, a CSV row per run.

    python tests/benchmarks/covariances.py digits pendigits optdigits har \\
        --data FOLDER --seeds 0 1 2

A random fifth of the samples is held out of each fit; the seed chooses it. Runs that
the CSV already holds are skipped, so an interrupted study resumes. Labels judge a
result and select nothing.
"""

import argparse
from pathlib import Path

import numpy as np
from accuracy import append, finished, fitted, limit_threads
from labeled import DATASETS, load
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "covariances.csv"
TYPES = ("diag", "full", "tied", "spherical")
COLUMNS = [
    *("dataset", "n", "covariance_type", "seed", "threads", "accuracy", "nmi"),
    *("init_accuracy", "lower_bound", "held_out_bound", "seconds", "version"),
]
KEY = ("dataset", "covariance_type", "seed")


def run(dataset, X, y, covariance_type, seed, options):
    """Fit once; give the row of the CSV."""
    X_train, X_test, y_train, _ = train_test_split(
        X, y, test_size=0.2, random_state=seed
    )
    model = VaDEClusterer(
        len(np.unique(y)), covariance_type=covariance_type, random_state=seed
    )
    what = f"{covariance_type} on {dataset}, seed {seed}"
    labels, seconds = fitted(model, X_train, what)
    return {
        "dataset": dataset,
        "n": len(X),
        "covariance_type": covariance_type,
        "seed": seed,
        "threads": options.threads,
        "accuracy": f"{clustering_accuracy(y_train, labels):.4f}",
        "nmi": f"{normalized_mutual_info_score(y_train, labels):.4f}",
        "init_accuracy": f"{clustering_accuracy(y_train, model.init_labels_):.4f}",
        "lower_bound": f"{model.lower_bound_:.3f}",
        "held_out_bound": f"{model.score(X_test):.3f}",
        "seconds": f"{seconds:.2f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    limit_threads(options.threads)
    for dataset in options.datasets:
        X, y = load(dataset, options.data)
        for seed in options.seeds:
            for covariance_type in TYPES:
                key = (dataset, covariance_type, str(seed))
                if key in finished(options.results, *KEY):
                    continue
                row = run(dataset, X, y, covariance_type, seed, options)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
