"""Accuracy and time of clustering methods on labeled data, a CSV row per run.

    python tests/benchmarks/accuracy.py digits har --data FOLDER --seeds 0 1 2
    python tests/benchmarks/accuracy.py digits har --data FOLDER --threads 2 \\
        --results docs/benchmarks/timing.csv

All runs of a data set follow each other in this process, seed by seed and in the order
of the methods, so that their times can be compared. What UMAP compiles is compiled
before the first run. Runs that the CSV already holds are skipped, so an interrupted
study resumes; with `--replace` they are run again, and the new row replaces the old
one. Labels judge a result and select nothing. "Leiden" needs the package igraph, and
"ClustPy VaDE" an environment of its own, see clustpy_vade.py.
"""

import argparse
import csv
import os
import re
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from labeled import DATASETS, load
from methods import METHODS, make_umap
from sklearn.metrics import normalized_mutual_info_score
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "accuracy.csv"
COLUMNS = [
    *("dataset", "n", "method", "parameters", "seed", "threads"),
    *("accuracy", "nmi", "init_accuracy", "seconds", "cpu_seconds", "version"),
]
KEY = ("dataset", "method", "parameters", "seed", "threads")


def limit_threads(n_threads):
    """Limit the threads of this process, those of numba before it is imported."""
    os.environ["NUMBA_NUM_THREADS"] = str(n_threads)
    torch.set_num_threads(n_threads)
    threadpool_limits(n_threads)


def resident_mb(name):
    """Read the memory of this process now, "VmRSS", or at its peak, "VmHWM".

    The peak that `resource.getrusage` gives is no less than that of the parent.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s*(\d+)", status)[0]) / 1024


def fitted(estimator, X, what):
    """Fit; give labels and seconds. Warnings are printed with what was fitted."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = estimator.fit_predict(X)
    seconds = time.perf_counter() - start
    for warning in caught:
        print(f"{what}: {warning.message}")
    return labels, seconds


def accuracy_without_noise(y, labels):
    """Compute the accuracy; noise, of label -1, agrees with no class."""
    is_noise = labels == -1
    if is_noise.all():
        return 0.0
    accuracy = clustering_accuracy(y[~is_noise], labels[~is_noise])
    return accuracy * np.mean(~is_noise)


def as_text(parameters):
    """Write parameters in one line, also where some are estimators."""
    return " ".join(repr(parameters).split())


def run(dataset, X, y, name, methods, seed, options):
    """Fit once; give the row of the CSV."""
    estimator, shown = methods[name](dataset, len(np.unique(y)), seed, options)
    cpu_start = time.process_time()
    labels, seconds = fitted(estimator, X, f"{name} on {dataset}, seed {seed}")
    cpu_seconds = time.process_time() - cpu_start
    model = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    row = {
        "dataset": dataset,
        "n": len(X),
        "method": name,
        "parameters": as_text(shown),
        "seed": seed,
        "threads": options.threads,
        "accuracy": f"{accuracy_without_noise(y, labels):.4f}",
        "nmi": f"{normalized_mutual_info_score(y, labels):.4f}",
        "seconds": f"{seconds:.2f}",
        "cpu_seconds": f"{cpu_seconds:.2f}",
        "version": __version__,
    }
    if isinstance(model, VaDEClusterer):
        row["init_accuracy"] = f"{clustering_accuracy(y, model.init_labels_):.4f}"
    return row


def finished(path, *key):
    """List the runs that a CSV holds, by the columns of the key."""
    if not path.exists():
        return set()
    key = key or ("dataset", "method", "parameters", "seed")
    with path.open() as file:
        return {tuple(row[name] for name in key) for row in csv.DictReader(file)}


def append(path, columns, row):
    """Add a row to a CSV, below a line of names if it is new."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def replace(path, columns, row):
    """Add a row to a CSV in the place of those of the same run, of any parameters."""
    same = ("dataset", "method", "seed", "threads")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    path.unlink()
    for old in rows:
        # The oldest rows do not have their number of threads.
        if any(old[name] not in ("", str(row[name])) for name in same):
            append(path, columns, old)
    append(path, columns, row)


def study(methods, options):
    """Run what the CSV does not hold yet."""
    limit_threads(options.threads)
    for dataset in options.datasets:
        X, y = load(dataset, options.data)
        if any(name.startswith("UMAP") for name in methods):
            make_umap(dataset, 0, options.threads, n_epochs=1).fit(X[:5000])
        for seed in options.seeds:
            for name in methods:
                _, shown = methods[name](dataset, 1, seed, options)
                key = (dataset, name, as_text(shown), str(seed))
                # The oldest rows do not have their number of threads.
                keys = {(*key, str(options.threads)), (*key, "")}
                is_finished = keys & finished(options.results, *KEY)
                if is_finished and not options.replace:
                    continue
                row = run(dataset, X, y, name, methods, seed, options)
                if options.results.exists() and options.replace:
                    replace(options.results, COLUMNS, row)
                else:
                    append(options.results, COLUMNS, row)
                print(row, flush=True)


def make_parser(description, results):
    """Make a parser with the options that every study of this kind has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument(
        "--replace", action="store_true", help="run again, and replace the rows"
    )
    return parser


def main():
    parser = make_parser(__doc__.partition("\n")[0], RESULTS)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=["k-means", "GaussianMixture", "UMAP + GaussianMixture", "skvade"],
    )
    parser.add_argument("--peer", help="Python with ClustPy: see clustpy_vade.py")
    options = parser.parse_args()
    study({name: METHODS[name] for name in options.methods}, options)


if __name__ == "__main__":
    main()
