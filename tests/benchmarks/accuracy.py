"""Accuracy of the clusters found on labeled data, a CSV row per run.

    python tests/benchmarks/accuracy.py digits mnist --data FOLDER --seeds 0 1 2

Runs that the CSV already holds are skipped, so an interrupted study resumes. `--change`
overrides parameters of the recipe. Labels judge a result and select nothing.
`mnist` is read from FOLDER/mnist.npz with the arrays X (70000, 784) of uint8 and y;
`digits` comes with scikit-learn.
"""

import argparse
import ast
import csv
import resource
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "accuracy.csv"
COLUMNS = [
    *("dataset", "n", "method", "parameters", "seed"),
    *("accuracy", "nmi", "ari", "init_accuracy", "elbo", "n_iter", "clusters_in_use"),
    *("seconds", "peak_mb", "version"),
]

# Parameters of VaDEClusterer that differ from the defaults.
RECIPES = {
    "digits": {},
    "mnist": {
        "likelihood": "bernoulli",
        "hidden_layer_sizes": (500, 500, 2000),
        "pretrain_max_iter": 120,
        "pretrain_learning_rate_init": 1.0,
        "learning_rate_init": 2e-4,
        "mixture_learning_rate_init": 1e-5,
        "beta": 0.1,
        "max_iter": 20,
        "tol": 0,
        "verbose": 1,
    },
}


def load(dataset, folder):
    """Rows in [0, 1] and their labels."""
    if dataset == "digits":
        X, y = load_digits(return_X_y=True)
        return (X / 16).astype(np.float32), y
    with np.load(Path(folder) / f"{dataset}.npz") as arrays:
        return (arrays["X"] / 255).astype(np.float32), arrays["y"]


def method(name, dataset, n_clusters, seed, change):
    """An estimator, and those of its parameters that the table should show."""
    if name == "k-means":
        return KMeans(n_clusters, n_init=10, random_state=seed), {"n_init": 10}
    if name == "GaussianMixture":
        shown = {"covariance_type": "diag"} if dataset == "mnist" else {}
        return GaussianMixture(n_clusters, random_state=seed, **shown), shown
    recipe = {**RECIPES[dataset], **change}
    return VaDEClusterer(n_clusters, random_state=seed, **recipe), recipe


def run(name, dataset, X, y, seed, options):
    """Fit once; the row of the CSV."""
    estimator, shown = method(name, dataset, len(np.unique(y)), seed, options.change)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = estimator.fit_predict(X)
    seconds = time.perf_counter() - start
    for warning in caught:
        print(f"{name} on {dataset}, seed {seed}: {warning.message}")
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
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "version": __version__,
    }
    if isinstance(estimator, VaDEClusterer):
        row["init_accuracy"] = f"{clustering_accuracy(y, estimator.init_labels_):.4f}"
        row["elbo"] = f"{estimator.lower_bound_:.4f}"
        row["n_iter"] = estimator.n_iter_
        if options.pictures:
            path = Path(options.pictures) / f"{dataset}_generated.png"
            draw(estimator, path, seed)
    return row


def draw(model, path, seed, n_columns=12):
    """Decoded draws from each component, a row of the picture per cluster."""
    import matplotlib.pyplot as plt

    side = int(np.sqrt(model.n_features_in_))
    rng = np.random.default_rng(seed)
    shape = (n_columns, model.latent_dim)
    strips = []
    for mean, variance in zip(model.means_, model.covariances_, strict=True):
        images = model.inverse_transform(rng.normal(mean, np.sqrt(variance), shape))
        strips.append(np.hstack(images.reshape(n_columns, side, side)))
    plt.imsave(path, np.vstack(strips), cmap="gray_r", vmin=0, vmax=1)


def finished(path):
    if not path.exists():
        return set()
    with path.open() as file:
        key = ("dataset", "method", "parameters", "seed")
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--methods", nargs="+", default=["k-means", "GaussianMixture", "skvade"]
    )
    parser.add_argument(
        "--change",
        type=ast.literal_eval,
        default={},
        help="parameters of skvade that differ from the recipe, as a dict",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", help="folder for a picture of generated rows")
    options = parser.parse_args()
    for dataset in options.datasets:
        X, y = load(dataset, options.data)
        for seed in options.seeds:
            for name in options.methods:
                _, shown = method(name, dataset, 1, seed, options.change)
                key = (dataset, name, repr(shown), str(seed))
                if key not in finished(options.results):
                    row = run(name, dataset, X, y, seed, options)
                    append(options.results, COLUMNS, row)
                    print(row)


if __name__ == "__main__":
    main()
