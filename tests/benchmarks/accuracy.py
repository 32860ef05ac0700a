"""Accuracy of the clusters found on labeled data, a CSV row per run.

    python tests/benchmarks/accuracy.py digits mnist --data FOLDER --seeds 0 1 2

Each run has a process of its own, so that its peak memory is its own. Runs that the CSV
already holds are skipped, so an interrupted study resumes. `--change` overrides
parameters of the recipe. Labels judge a result and select nothing.
"""

import argparse
import ast
import csv
import multiprocessing
import re
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from labeled import DATASETS, load
from methods import METHODS, build
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "accuracy.csv"
COLUMNS = [
    *("dataset", "n", "method", "parameters", "seed"),
    *("accuracy", "nmi", "ari", "init_accuracy", "elbo", "n_iter", "clusters_in_use"),
    *("seconds", "peak_mb", "version", "embedding_accuracy"),
]


class SavedEmbedding(TransformerMixin, BaseEstimator):
    """A transformer that saves its coordinates in a file: the model fits a clone."""

    def __init__(self, transformer, path):
        self.transformer, self.path = transformer, path

    def fit_transform(self, X, y=None):
        Z = self.transformer.fit_transform(X)
        np.save(self.path, Z)
        return Z


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


def save_embedding(model, path):
    """Let the model save the coordinates of its `embedding`, if it has one."""
    embedding = getattr(model, "embedding", None)
    if embedding is not None:
        model.set_params(embedding=SavedEmbedding(embedding, path))


def accuracy_of_embedding(path, y, seed):
    """Give that of GaussianMixture on the target coordinates of all samples."""
    if not path.exists() or len(Z := np.load(path)) < len(y):
        return ""
    mixture = GaussianMixture(len(np.unique(y)), random_state=seed)
    return f"{clustering_accuracy(y, mixture.fit_predict(Z)):.4f}"


def run(name, dataset, seed, options):
    """Fit once; give the row of the CSV."""
    X, y = load(dataset, options.data)
    estimator, shown = build(name, dataset, len(np.unique(y)), seed, options)
    model = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coordinates.npy"
        save_embedding(model, path)
        labels, seconds = fitted(estimator, X, f"{name} on {dataset}, seed {seed}")
        embedding_accuracy = accuracy_of_embedding(path, y, seed)
    if name == "AE + GaussianMixture":
        labels = model.init_labels_
    row = {
        "dataset": dataset,
        "n": len(X),
        "method": name,
        "parameters": repr(shown),
        "seed": seed,
        "accuracy": f"{clustering_accuracy(y, labels):.4f}",
        "nmi": f"{normalized_mutual_info_score(y, labels):.4f}",
        "ari": f"{adjusted_rand_score(y, labels):.4f}",
        "clusters_in_use": len(np.unique(labels)),
        "seconds": f"{seconds:.1f}",
        "peak_mb": f"{resident_mb('VmHWM'):.0f}",
        "version": __version__,
        "embedding_accuracy": embedding_accuracy,
    }
    if isinstance(model, VaDEClusterer) and not name.startswith("AE +"):
        row["init_accuracy"] = f"{clustering_accuracy(y, model.init_labels_):.4f}"
        row["elbo"] = f"{model.lower_bound_:.4f}"
        row["n_iter"] = model.n_iter_
        if options.pictures:
            path = Path(options.pictures) / f"{dataset}_generated.png"
            draw(model, path, seed)
    return row


def draw(model, path, seed, n_columns=12):
    """Save decoded draws from each component, a row of the picture per cluster."""
    import matplotlib.pyplot as plt

    side = int(np.sqrt(model.n_features_in_))
    rng = np.random.default_rng(seed)
    shape = (n_columns, model.latent_dim)
    strips = []
    for mean, variance in zip(model.means_, model.covariances_, strict=True):
        images = model.inverse_transform(rng.normal(mean, np.sqrt(variance), shape))
        strips.append(np.hstack(images.reshape(n_columns, side, side)))
    plt.imsave(path, np.vstack(strips), cmap="gray_r", vmin=0, vmax=1)


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


def study(options):
    """Run what the CSV does not hold yet, each run in a process of its own."""
    processes = multiprocessing.get_context("spawn")
    for dataset in options.datasets:
        for seed in options.seeds:
            for name in options.methods:
                _, shown = build(name, dataset, 1, seed, options)
                key = (dataset, name, repr(shown), str(seed))
                if key in finished(options.results):
                    continue
                with processes.Pool(1) as pool:
                    row = pool.apply(run, (name, dataset, seed, options))
                append(options.results, COLUMNS, row)
                print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=["k-means", "GaussianMixture", "skvade"],
    )
    parser.add_argument(
        "--change",
        type=ast.literal_eval,
        default={},
        help="parameters of skvade that differ from the recipe, as a dict",
    )
    parser.add_argument("--peer", help="Python with ClustPy: see clustpy_vade.py")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", help="folder for a picture of generated samples")
    options = parser.parse_args()
    study(options)


if __name__ == "__main__":
    main()
