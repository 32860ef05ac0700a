"""A fit with default parameters on labeled data, a CSV row per seed.

    python tests/benchmarks/defaults.py digits har --data FOLDER --seeds 0 1 2

Rows that the CSV already holds are skipped. Labels judge a result and select nothing.
"""

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
from labeled import DATASETS, counts
from labeled import load as load_labeled
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import normalized_mutual_info_score

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "defaults.csv"
COLUMNS = ["dataset", "seed", "n", "accuracy", "nmi", "init_accuracy", "elbo"]
COLUMNS += ["cpu_seconds", "seconds"]


def load(name, folder):
    """Load samples and classes; cells and texts as components of their features."""
    if name == "r8":
        X, arrays = counts(folder, "reuters21578_r52")
        X = TfidfTransformer(sublinear_tf=True).fit_transform(X[arrays["r8"]])
        X, y = TruncatedSVD(100, random_state=0).fit_transform(X), arrays["y"]
        return X.astype(np.float32), y[arrays["r8"]]
    X, y = load_labeled(name, folder)
    if name.startswith("sc_"):
        X = PCA(50, random_state=0).fit_transform(X).astype(np.float32)
    return X, y


def measure(name, seed, X, y):
    """Fit once and give a row of the CSV."""
    model = VaDEClusterer(len(np.unique(y)), random_state=seed)
    cpu_start, start = time.process_time(), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    cpu_seconds = time.process_time() - cpu_start
    seconds = time.perf_counter() - start
    return {
        "dataset": name,
        "seed": seed,
        "n": len(X),
        "accuracy": round(clustering_accuracy(y, model.labels_), 4),
        "nmi": round(normalized_mutual_info_score(y, model.labels_), 4),
        "init_accuracy": round(clustering_accuracy(y, model.init_labels_), 4),
        "elbo": round(model.lower_bound_, 2),
        "cpu_seconds": round(cpu_seconds, 1),
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+", choices=[*DATASETS])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10)])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    done = set()
    if options.results.exists():
        with options.results.open() as file:
            done = {(row["dataset"], row["seed"]) for row in csv.DictReader(file)}
    else:
        options.results.write_text(",".join(COLUMNS) + "\n")
    for name in options.datasets:
        X, y = load(name, options.data)
        for seed in options.seeds:
            if (name, str(seed)) in done:
                continue
            row = measure(name, seed, X, y)
            with options.results.open("a") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
