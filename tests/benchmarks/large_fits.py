"""Fits of many samples by one process or several: accuracy, bound, time and memory.

    python tests/benchmarks/large_fits.py mnist --data FOLDER --processes 2 --seeds 0 1
    python tests/benchmarks/large_fits.py generated --samples 5000000 --processes 2

Every process has one thread and a random share of the samples; generated ones lie in a
file that is read as a memory map. Appends to large_fits.csv and, an entry per epoch, to
large_fits_curve.csv, both under docs/benchmarks. Fits that the CSV already holds are
skipped. Memory is the highest of any process, beyond that before the fit and without
the pages of the file; it is read from /proc, so on Linux. MNIST is fitted with the
default parameters.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch.distributed as dist
from accuracy import append, finished, limit_threads
from data import private_mb
from labeled import load

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
COLUMNS = ["dataset", "n", "processes", "seed", "accuracy", "lower_bound"]
COLUMNS += ["seconds", "peak_mb", "version"]
CURVE = ["dataset", "n", "processes", "seed", "epoch", "loss"]
# Of generated samples: large steps, so that the exchange of gradients is a small part.
SETTINGS = {
    "generated": {"pretrain_max_iter": 100, "batch_size": 8192, "max_iter": 10},
    "mnist": {},
}
N_GROUPS, N_FEATURES = 20, 50
CHUNK = 100_000


def generated_share(path, n_samples, seed):
    """Write samples of overlapping Gaussian groups to a file; give both as arrays."""
    centers = np.random.default_rng(0).normal(size=(N_GROUPS, N_FEATURES))
    rng = np.random.default_rng([1, seed])
    y = rng.integers(N_GROUPS, size=n_samples).astype(np.int8)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, N_FEATURES))
    for start in range(0, n_samples, CHUNK):
        rows = slice(start, start + CHUNK)
        X[rows] = centers[y[rows]] + 1.5 * rng.normal(size=(*y[rows].shape, N_FEATURES))
    X.flush()
    return np.load(path, mmap_mode="r"), y


def own_share(options, seed, rank, path):
    """Give the samples of this process, and their classes."""
    if options.dataset == "generated":
        n_samples = len(range(rank, options.samples, options.processes))
        return generated_share(path, n_samples, rank)
    X, y = load(options.dataset, options.data)
    order = np.random.default_rng(seed).permutation(len(X))
    own = order[rank :: options.processes]
    return X[own], y[own]


@contextmanager
def peak_memory():
    """Give a list that will hold the peak of the private memory, in MB."""
    before, found, is_over = private_mb("self"), [], threading.Event()

    def watch():
        peak = before
        while not is_over.wait(0.2):
            peak = max(peak, private_mb("self"))
        found.append(peak - before)

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    is_over.set()
    thread.join()


def gather(value):
    """List the values of all processes."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def fit(options, seed):
    """Fit as one of several processes; the first writes the rows."""
    rank = dist.get_rank()
    with tempfile.TemporaryDirectory() as folder:
        X, y = own_share(options, seed, rank, Path(folder) / "X.npy")
        n_clusters = len(np.unique(y))
        # What a process loads once is not part of the memory of a fit.
        VaDEClusterer(2, pretrain_max_iter=1, max_iter=1).fit(X[:500])
        settings = {**SETTINGS[options.dataset], "random_state": seed}
        model = VaDEClusterer(n_clusters, distributed=True, **settings)
        start = time.perf_counter()
        with peak_memory() as peak:
            model.fit(X)
        seconds = time.perf_counter() - start
    classes, labels = map(np.concatenate, zip(*gather((y, model.labels_)), strict=True))
    peak_mb = max(gather(peak[0]))
    if rank:
        return
    run = [options.dataset, len(labels), options.processes, seed]
    for epoch, loss in enumerate(model.loss_curve_, start=1):
        point = dict(zip(CURVE, [*run, epoch, f"{loss:.4f}"], strict=True))
        append(RESULTS / "large_fits_curve.csv", CURVE, point)
    values = [*run, f"{clustering_accuracy(classes, labels):.4f}"]
    values += [f"{model.lower_bound_:.3f}", f"{seconds:.0f}", f"{peak_mb:.0f}"]
    row = dict(zip(COLUMNS, [*values, __version__], strict=True))
    append(RESULTS / "large_fits.csv", COLUMNS, row)
    print(row, flush=True)


def start_processes():
    """Run this script again with the same arguments, by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(parse().processes), *sys.argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=list(SETTINGS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--samples", type=int, default=5_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser.parse_args()


def main():
    if "WORLD_SIZE" not in os.environ:
        start_processes()
        return
    options = parse()
    limit_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    n_samples = str(options.samples if options.dataset == "generated" else 70_000)
    for seed in options.seeds:
        key = (options.dataset, n_samples, str(options.processes), str(seed))
        if key not in finished(RESULTS / "large_fits.csv", *COLUMNS[:4]):
            fit(options, seed)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
