"""Seconds of a default fit by the number of samples and features, a CSV row per fit.

    python tests/benchmarks/fit_time.py
    python tests/benchmarks/fit_time.py --cells 1000x20 --threads 1 --results FILE

The data are ten Gaussian groups. Fits that the CSV already holds are skipped, so an
interrupted study resumes; `--replace` begins anew.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished, limit_threads
from sklearn.datasets import make_blobs

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "fit_time.csv"
COLUMNS = ["n", "n_features", "threads", "seconds", "cpu_seconds", "version"]
CELLS = [
    *((1_000, 20), (1_000, 200)),
    *((10_000, 20), (10_000, 200), (10_000, 784)),
    *((50_000, 20), (50_000, 200)),
]


def as_cell(text):
    """Read the numbers of samples and features, such as "1000x20"."""
    n, n_features = map(int, text.split("x"))
    return n, n_features


def measure(n, n_features, threads):
    """Fit once; give the row of the CSV."""
    X, _ = make_blobs(n, n_features, centers=10, cluster_std=5.0, random_state=0)
    X = X.astype(np.float32)
    cpu_start, start = time.process_time(), time.perf_counter()
    VaDEClusterer(10, random_state=0).fit(X)
    return {
        "n": n,
        "n_features": n_features,
        "threads": threads,
        "seconds": f"{time.perf_counter() - start:.2f}",
        "cpu_seconds": f"{time.process_time() - cpu_start:.2f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=as_cell, nargs="+", default=CELLS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--replace", action="store_true")
    options = parser.parse_args()
    if options.replace:
        options.results.unlink(missing_ok=True)
    warnings.simplefilter("ignore")
    # The first fit of a process imports what later ones need.
    X, _ = make_blobs(200, random_state=0)
    VaDEClusterer(3, pretrain_max_iter=1, max_iter=1, random_state=0).fit(X)
    for threads in options.threads:
        limit_threads(threads)
        for n, n_features in options.cells:
            key = tuple(map(str, (n, n_features, threads)))
            if key not in finished(options.results, "n", "n_features", "threads"):
                row = measure(n, n_features, threads)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
