"""What the last step of the start gains and loses: groups that are made even.

    python tests/benchmarks/even_groups.py digits har "gaussians 3:1" --data FOLDER \\
        --seeds 0 1 2

A CSV row per data set, seed, and start with and without this step; the joint training
runs for a single epoch. The sets *gaussians r:1* are generated: eight groups of sizes
from 1 to r, which overlap. Labels judge and select nothing.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from labeled import DATASETS as LABELED
from labeled import load
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import ParameterGrid

import skvade._training.communities as communities
from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "even_groups.csv"
COLUMNS = ["dataset", "n", "seed", "even", "accuracy", "nmi", "evenness", "version"]
RATIOS = {f"gaussians {ratio}:1": ratio for ratio in (1, 2, 3, 5, 10)}
N_GROUPS = 8
MAX_EVEN_GROUPS = communities.MAX_EVEN_GROUPS


def gaussians(ratio, seed):
    """Draw 2,000 samples of overlapping groups, of sizes from 1 to `ratio`."""
    sizes = np.linspace(1, ratio, N_GROUPS)
    sizes = np.round(2000 * sizes / sizes.sum()).astype(int)
    centers = 1.4 * np.random.RandomState(seed).normal(size=(N_GROUPS, 5))
    return make_blobs(sizes, centers=centers, cluster_std=0.7, random_state=seed)


def run(dataset, seed, even, options):
    if dataset in RATIOS:
        X, y = gaussians(RATIOS[dataset], seed)
    else:
        X, y = load(dataset, options.data)
    communities.MAX_EVEN_GROUPS = MAX_EVEN_GROUPS if even else 0
    model = VaDEClusterer(
        len(np.unique(y)), warmup_max_iter=0, max_iter=1, random_state=seed
    ).fit(X)
    labels = model.init_labels_
    evenness = communities._evenness(labels, np.ones(len(X)))
    return {
        "dataset": dataset,
        "n": len(X),
        "seed": seed,
        "even": even,
        "accuracy": f"{clustering_accuracy(y, labels):.4f}",
        "nmi": f"{normalized_mutual_info_score(y, labels):.4f}",
        "evenness": f"{evenness:.3f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=[*RATIOS, *LABELED])
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    grid = ParameterGrid(
        {"dataset": options.datasets, "seed": options.seeds, "even": [0, 1]}
    )
    done = finished(options.results, "dataset", "seed", "even")
    for case in grid:
        if (case["dataset"], str(case["seed"]), str(case["even"])) not in done:
            row = run(case["dataset"], case["seed"], case["even"], options)
            append(options.results, COLUMNS, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
