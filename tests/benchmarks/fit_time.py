"""Seconds of a default fit by the number of samples and features, a CSV row per fit.

    python tests/benchmarks/fit_time.py --threads 1 --samples 1000 10000 --features 10

The data are ten Gaussian groups. Fits that the CSV already holds are skipped;
`--replace` begins anew.
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


def measure(n, n_features, threads):
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[1_000, 10_000, 100_000]
    )
    parser.add_argument("--features", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--replace", action="store_true")
    options = parser.parse_args()
    if options.replace:
        options.results.unlink(missing_ok=True)
    limit_threads(options.threads)
    warnings.simplefilter("ignore")
    # The first fit of a process imports what later ones need.
    measure(500, 10, options.threads)
    for n in options.samples:
        for n_features in options.features:
            key = tuple(map(str, (n, n_features, options.threads)))
            if key not in finished(options.results, "n", "n_features", "threads"):
                row = measure(n, n_features, options.threads)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
