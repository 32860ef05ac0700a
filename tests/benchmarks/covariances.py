"""Accuracy and bounds by the covariances of the mixture, a CSV row per run.

    python tests/benchmarks/covariances.py digits pendigits --data FOLDER --seeds 0 1 2

A random fifth of the samples is held out of each fit; the seed chooses it. Runs that
the CSV already holds are skipped, so an interrupted study resumes. Labels judge a
result and select nothing.
"""

import numpy as np
from accuracy import RESULTS, append, finished, fitted, limit_threads, make_parser
from labeled import load
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

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
    results = RESULTS.with_name("covariances.csv")
    options = make_parser(__doc__.partition("\n")[0], results).parse_args()
    limit_threads(options.threads)
    for dataset in options.datasets:
        X, y = load(dataset, options.data)
        for seed in options.seeds:
            for covariance_type in TYPES:
                key = (dataset, covariance_type, str(seed))
                is_finished = key in finished(options.results, *KEY)
                if is_finished and not options.replace:
                    continue
                row = run(dataset, X, y, covariance_type, seed, options)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
