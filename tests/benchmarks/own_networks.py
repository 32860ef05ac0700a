"""Convolutions against the default networks on images of MNIST, at about equal time.

    python tests/benchmarks/own_networks.py --data FOLDER --seeds 0 1 2

The epochs are such that all take about as long, with one thread, on 10,000 random
images. A CSV row per run; runs that the CSV already holds are skipped.
"""

import argparse
from pathlib import Path

from accuracy import append, finished, fitted
from labeled import load
from methods import FORMER
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import nn

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "own_networks.csv"
COLUMNS = ["dataset", "n", "networks", "seed", "pretrain_epochs", "epochs"]
COLUMNS += ["accuracy", "init_accuracy", "nmi", "ari", "elbo", "seconds", "version"]


def encoder(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def decoder(latent_dim, n_features_in):
    return nn.Sequential(
        nn.Linear(latent_dim, 32 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1),
        nn.Flatten(),
    )


# Beside the former defaults. Convolutions are pretrained by Adam, as a variational
# autoencoder: plain gradient descent can fail to start.
COMMON = {**FORMER, "n_clusters": 10, "likelihood": "bernoulli", "tol": 0}
LONG = {"pretrain_max_iter": 80, "max_iter": 80}
NETWORKS = {
    "default": LONG,
    "default, pretraining='vae'": {"pretraining": "vae", **LONG},
    "convolutional": {
        "encoder": encoder,
        "decoder": decoder,
        "pretraining": "vae",
        "pretrain_max_iter": 6,
        "max_iter": 6,
    },
}


def run(name, seed, X, y):
    model = VaDEClusterer(**{**COMMON, **NETWORKS[name]}, random_state=seed)
    labels, seconds = fitted(model, X, f"{name}, seed {seed}")
    return {
        "dataset": "mnist",
        "n": len(X),
        "networks": name,
        "seed": seed,
        "pretrain_epochs": model.pretrain_max_iter,
        "epochs": model.n_iter_,
        "accuracy": f"{clustering_accuracy(y, labels):.4f}",
        "init_accuracy": f"{clustering_accuracy(y, model.init_labels_):.4f}",
        "nmi": f"{normalized_mutual_info_score(y, labels):.4f}",
        "ari": f"{adjusted_rand_score(y, labels):.4f}",
        "elbo": f"{model.lower_bound_:.4f}",
        "seconds": f"{seconds:.1f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    X, y = load("mnist_10k", options.data)
    for seed in options.seeds:
        for name in NETWORKS:
            if (name, str(seed)) in finished(options.results, "networks", "seed"):
                continue
            row = run(name, seed, X, y)
            append(options.results, COLUMNS, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
