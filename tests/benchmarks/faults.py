"""What faults of public implementations cost, on one fitted model, a CSV row each.

    python tests/benchmarks/faults.py

The model is fitted to scikit-learn's digits with the former defaults; each fault then
replaces the right formula, and the two results are compared. Faults of the training
objective are fitted, by the `beta` that they amount to.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from methods import FORMER
from scipy.special import softmax
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "faults.csv"
COLUMNS = ["fault", "what was measured", "right", "faulty"]


def log_joint(model, Z, weight_exponent=1):
    """Compute log p(c) + log p(z|c) of points by SciPy: (n, K)."""
    scale = np.sqrt(model.covariances_)
    density = norm.logpdf(Z[:, None], model.means_, scale).sum(-1)
    return weight_exponent * np.log(model.weights_) + density


def epsilon(model, X):
    """Use exp(log p) + 1e-10 instead of log-sum-exp, the latent space stretched.

    Stretching space and mixture together changes no true responsibility.
    """
    Z, stretch = model.transform(X), 3
    right = softmax(log_joint(model, Z), axis=1)
    stretched = log_joint(model, Z) - Z.shape[1] * np.log(stretch)
    p = np.exp(stretched) + 1e-10
    wrong = p / p.sum(1, keepdims=True)
    what = f"mean largest responsibility, latent space stretched {stretch} times"
    yield what, right.max(1).mean(), wrong.max(1).mean()


def weights_per_dimension(model, X):
    Z = model.transform(X)
    right = softmax(log_joint(model, Z), axis=1)
    wrong = softmax(log_joint(model, Z, weight_exponent=Z.shape[1]), axis=1)
    yield (
        "rows in the largest cluster",
        *(r.argmax(1).tolist().count(0) for r in (right, wrong)),
    )


def sampled_z(model, X):
    """Compare the labels of two draws of z."""
    with torch.inference_mode():
        posterior = model.to_torch("cpu").encode(torch.from_numpy(X).float())
    rng = np.random.default_rng(0)
    mean, scale = posterior.mean.numpy(), (posterior.log_variance / 2).exp().numpy()
    first, second = (
        log_joint(model, rng.normal(mean, scale)).argmax(1) for _ in range(2)
    )
    again = np.mean(model.predict(X) != model.predict(X))
    yield (
        "share of labels that change between two calls",
        again,
        np.mean(first != second),
    )


def no_half(model, X):
    """Take the log-variance for the logarithm of the standard deviation."""
    module = model.to_torch("cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        posterior = module.encode(torch.from_numpy(X).float())
        noise = torch.randn(posterior.mean.shape, generator=generator)
        errors = [
            float(
                (module.decode(posterior.mean + s * noise) - torch.from_numpy(X))
                .square()
                .mean()
            )
            for s in ((posterior.log_variance / 2).exp(), posterior.log_variance.exp())
        ]
    yield "squared error of the reconstruction at a draw of z", *errors


def raw_weights(model, X):
    """Train weights that are free numbers by Adam."""
    scaled = torch.from_numpy(log_joint(model, model.transform(X), weight_exponent=0))
    weights = torch.tensor(model.weights_, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (-torch.logsumexp(weights.clamp_min(1e-10).log() + scaled, 1).mean()).backward()
        optimizer.step()
    yield (
        "sum of the weights after 200 steps",
        model.weights_.sum(),
        float(weights.detach().sum()),
    )


def standard_normal(model, X):
    """Decode draws from N(0, I); measure how far they are from any sample."""
    rng = np.random.default_rng(0)
    labels = rng.choice(len(model.weights_), 1000, p=model.weights_)
    scale = np.sqrt(model.covariances_[labels])
    drawn = rng.normal(model.means_[labels], scale), rng.normal(size=scale.shape)
    neighbors = NearestNeighbors(n_neighbors=1).fit(X)
    distances = [
        neighbors.kneighbors(model.inverse_transform(z))[0].mean() for z in drawn
    ]
    yield "mean distance of a generated digit to the nearest true one", *distances


def second_mixture(model, X):
    _, y = load_digits(return_X_y=True)
    mixture = GaussianMixture(10, random_state=0).fit(model.transform(X))
    both = model.labels_, mixture.predict(model.transform(X))
    yield "accuracy", *(clustering_accuracy(y, labels) for labels in both)


def compare_beta(model, X, beta):
    _, y = load_digits(return_X_y=True)
    parameters = {**FORMER, "beta": beta}
    other = VaDEClusterer(n_clusters=10, random_state=0, **parameters).fit(X)
    pair = model, other
    yield "accuracy", *(clustering_accuracy(y, m.labels_) for m in pair)
    yield "effective clusters", *(m.n_effective_clusters_ for m in pair)


def mean_over_features(model, X):
    yield from compare_beta(model, X, beta=float(X.shape[1]))


def mean_over_batch(model, X):
    yield from compare_beta(model, X, beta=1 / 56)


FAULTS = {
    "1e-10 added to probabilities": epsilon,
    "pi counted once per latent dimension": weights_per_dimension,
    "labels from a draw of z": sampled_z,
    "log-variance without its 1/2": no_half,
    "pi as free numbers": raw_weights,
    "new rows from N(0, I)": standard_normal,
    "labels from a second mixture": second_mixture,
    "error averaged over features": mean_over_features,
    "error summed over the batch": mean_over_batch,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    X = load_digits().data / 16
    model = VaDEClusterer(n_clusters=10, random_state=0, **FORMER).fit(X)
    with options.results.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for fault, measure in FAULTS.items():
            for what, *values in measure(model, X):
                row = [fault, what, *(f"{value:.3g}" for value in values)]
                writer.writerow(row)
                print(*row, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
