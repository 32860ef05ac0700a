"""Missing entries, sparse data, and files larger than memory.

    python tests/benchmarks/data.py missing --data FOLDER --seeds 0 1 2
    python tests/benchmarks/data.py sparse --data FOLDER
    python tests/benchmarks/data.py file --samples 2000000

Appends to data_missing.csv and data_memory.csv under docs/benchmarks. Each run has a
process of its own, so that its memory is its own; runs of the first two that the CSV
already holds are skipped. Memory is read from /proc, so on Linux. Labels judge a result
and select nothing.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished, resident_mb
from labeled import counts, incomplete, load
from sklearn.datasets import make_blobs
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
MISSING = ["dataset", "n", "method", "parameters", "seed", "ari", "error", "seconds"]
MISSING += ["version"]
MEMORY = ["dataset", "n", "method", "parameters", "seed", "ari", "peak_mb", "version"]

# Fractions removed from complete data; None for data that came incomplete.
FRACTIONS = dict.fromkeys(("digits", "generated", "pendigits"), (0.1, 0.3, 0.5))
FRACTIONS |= dict.fromkeys(("dermatology", "mice_protein"), (None,))
FEW_EPOCHS = {"max_iter": 40, "tol": 0}


# --- Missing entries ----------------------------------------------------------------


def complete(dataset, seed, options):
    if dataset == "generated":
        return make_blobs(1000, 20, centers=8, cluster_std=4.0, random_state=seed)
    return load(dataset, options.data)


def remove(X, fraction, seed):
    """Choose random entries to remove, not all of any sample."""
    removed = np.random.default_rng(seed).random(X.shape) < fraction
    removed[removed.all(1), 0] = False
    return removed


def run_missing(dataset, method, fraction, seed, options):
    """Cluster incomplete samples, and measure how well removed entries are imputed.

    Without a fraction the data are as they came.
    """
    removed = None
    if fraction is None:
        X_missing, y = incomplete(options.data, dataset)
    else:
        X, y = complete(dataset, seed, options)
        removed = remove(X, fraction, seed)
        X_missing = np.where(removed, np.nan, X)
    start = time.perf_counter()
    model = VaDEClusterer(len(np.unique(y)), random_state=seed, **FEW_EPOCHS)
    if method == "mean + skvade":
        model = make_pipeline(SimpleImputer(), model)
    labels = model.fit_predict(X_missing)
    row = {
        "dataset": dataset,
        "n": len(X_missing),
        "method": method,
        "parameters": repr({"fraction": fraction, **FEW_EPOCHS}),
        "seed": seed,
        "ari": f"{adjusted_rand_score(y, labels):.4f}",
        "seconds": f"{time.perf_counter() - start:.1f}",
        "version": __version__,
    }
    if removed is not None:
        impute = model[0].transform if method == "mean + skvade" else model.impute
        squares = np.square(impute(X_missing) - X)[removed]
        row["error"] = f"{squares.mean() / X.var(0).mean():.4f}"
    return row


def missing(options):
    for seed in options.seeds:
        for dataset, fractions in FRACTIONS.items():
            for fraction in fractions:
                for method in ("skvade", "mean + skvade"):
                    parameters = repr({"fraction": fraction, **FEW_EPOCHS})
                    key = (dataset, method, parameters, str(seed))
                    arguments = (dataset, method, fraction, seed, options)
                    once("data_missing.csv", MISSING, key, run_missing, arguments)


# --- Sparse data --------------------------------------------------------------------

TEN_EPOCHS = {"max_iter": 10, "tol": 0}


def load_sparse(dataset, folder):
    """Load documents as tf-idf, or cells as logarithms of counts, and their classes."""
    if dataset == "sc_worm_neuron":
        X, arrays = counts(folder, dataset)
        return X.log1p(), arrays["y"]
    X, arrays = counts(folder, "reuters21578_r52")
    documents = np.flatnonzero(arrays["r8"] | (dataset == "r52"))
    X = TfidfTransformer(sublinear_tf=True).fit_transform(X[documents])
    not_empty = np.flatnonzero(np.diff(X.indptr))
    return X[not_empty].astype(np.float32), arrays["y"][documents][not_empty]


def run_sparse(dataset, method, options):
    """Fit, and measure the peak of memory beyond that of sparse X."""
    X, y = load_sparse(dataset, options.data)
    before = resident_mb("VmRSS")
    X = X.toarray() if method == "dense" else X
    model = VaDEClusterer(len(np.unique(y)), random_state=0, **TEN_EPOCHS).fit(X)
    return {
        "dataset": dataset,
        "n": X.shape[0],
        "method": method,
        "parameters": repr(TEN_EPOCHS),
        "seed": 0,
        "ari": f"{adjusted_rand_score(y, model.labels_):.4f}",
        "peak_mb": f"{resident_mb('VmHWM') - before:.0f}",
        "version": __version__,
    }


def sparse(options):
    for dataset in ("r8", "r52", "sc_worm_neuron"):
        for method in ("sparse", "dense"):
            key = (dataset, method, repr(TEN_EPOCHS), "0")
            arguments = (dataset, method, options)
            once("data_memory.csv", MEMORY, key, run_sparse, arguments)


# --- A file larger than memory ------------------------------------------------------

TWO_EPOCHS = {
    "pretrain_max_iter": 1,
    "warmup_max_iter": 1,
    "max_iter": 2,
    "n_init": 1,
    "tol": 0,
    "random_state": 0,
}


def write_file(path, n_samples):
    """Write samples of 100 features around 8 centers, in float32."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(8, 100)).astype(np.float32)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, 100))
    for start in range(0, n_samples, 10_000):
        chunk = X[start : start + 10_000]
        chunk[:] = centers[rng.integers(8, size=len(chunk))]
        chunk += rng.normal(size=chunk.shape)
    X.flush()
    return X.nbytes


def _fit_file(path, is_warm):
    X = np.load(path, mmap_mode="r")
    VaDEClusterer(8, **TWO_EPOCHS).fit(X[:10_000])
    is_warm.set()
    VaDEClusterer(8, **TWO_EPOCHS).fit(X)


def private_mb(pid):
    """Read the memory that is no page of a file, 0 if the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.findall(r"RssAnon:\s*(\d+)", status)
    return int(found[0]) / 1024 if found else 0


def file(options):
    """Record the highest private memory of a fit beyond that of a small one."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        size = write_file(path, options.samples)
        is_warm = context.Event()
        fit = context.Process(target=_fit_file, args=(path, is_warm))
        fit.start()
        is_warm.wait()
        before, peak = private_mb(fit.pid), 0.0
        while fit.is_alive():
            peak = max(peak, private_mb(fit.pid) - before)
            time.sleep(1)
    row = {
        "dataset": "generated",
        "n": options.samples,
        "method": f"a file of {size / 2**20:.0f} MB",
        "parameters": repr(TWO_EPOCHS),
        "seed": 0,
        "peak_mb": f"{peak:.0f}",
        "version": __version__,
    }
    append(RESULTS / "data_memory.csv", MEMORY, row)


# --- Running ------------------------------------------------------------------------


def run_without_warnings(run, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(*arguments)


def once(name, columns, key, run, arguments):
    """Append a run to the CSV unless it is there."""
    if key in finished(RESULTS / name):
        return
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(run_without_warnings, (run, arguments))
    append(RESULTS / name, columns, row)
    print(row, flush=True)


STUDIES = {"missing": missing, "sparse": sparse, "file": file}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=2_000_000)
    options = parser.parse_args()
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()
