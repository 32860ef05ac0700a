"""Draw the figures of the README and of the benchmarks page into docs/_static.

    python tests/benchmarks/figures.py digits accuracy large-fits

*digits* is a default fit of scikit-learn's digits; *accuracy* shows the rows of
accuracy.csv, and *large-fits* those of large_fits_curve.csv.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from methods import METHODS
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tables import DOCS, FILES, column, data_title, grouped, sorted_groups

from skvade import VaDEClusterer

STATIC = DOCS / "_static"
COLORS = plt.get_cmap("tab10").colors
N_COLUMNS = 12  # generated digits of a cluster


def save(fig, name):
    """Save a figure with few colors, as a small file."""
    fig.savefig(STATIC / name, dpi=110)
    with Image.open(STATIC / name) as image:
        image.convert("RGB").quantize(64).save(STATIC / name, optimize=True)


def generate_typical(model, cluster, rng):
    """Decode draws from a cluster: those of a larger number that are nearest to it."""
    scales = np.sqrt(model.covariances_[cluster])
    noise = rng.normal(size=(2 * N_COLUMNS, model.latent_dim))
    nearest = np.argsort(np.square(noise).sum(1))[:N_COLUMNS]
    return model.inverse_transform(model.means_[cluster] + noise[nearest] * scales)


def draw_digits():
    """Draw the latent space of digits beside digits generated from each cluster."""
    X = load_digits().data / 16
    model = VaDEClusterer(n_clusters=10, random_state=0).fit(X)
    Z = model.transform(X)
    # The plane that separates the clusters most.
    plane = LinearDiscriminantAnalysis(n_components=2).fit(Z, model.labels_)
    points, centers = plane.transform(Z), plane.transform(model.means_)
    order = np.argsort(np.arctan2(*(centers - centers.mean(0)).T))
    rng = np.random.default_rng(0)

    fig = plt.figure(figsize=(8, 3.6), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.1))
    ax = left.subplots()
    for cluster in order:
        members = points[model.labels_ == cluster]
        ax.scatter(*members.T, s=5, color=COLORS[cluster], linewidths=0)
    ax.set_axis_off()
    ax.set_title("Latent space of 1,797 digits", fontsize=10)
    axes = right.subplots(10, 1)
    axes[0].set_title("New digits from each cluster", fontsize=10)
    for ax, cluster in zip(axes, order, strict=True):
        images = generate_typical(model, cluster, rng).reshape(-1, 8, 8)
        strip = np.hstack(np.pad(images, [(0, 0), (1, 1), (1, 1)]))
        ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color=COLORS[cluster], linewidth=2)
    save(fig, "digits.png")


def draw_accuracy():
    """Draw mean and range of the accuracy, a panel for each data set."""
    groups = sorted_groups(FILES / "accuracy.csv")
    datasets = list(dict.fromkeys((dataset, n) for dataset, n, _ in groups))
    names = list(METHODS)[::-1]
    n_rows = -(-len(datasets) // 3)
    fig, axes = plt.subplots(
        n_rows, 3, figsize=(9, 1.9 * n_rows), sharey=True, layout="constrained"
    )
    for ax, (dataset, n) in zip(axes.flat, datasets, strict=False):
        for height, name in enumerate(names):
            runs = groups.get((dataset, n, name))
            if runs:
                accuracy = column(runs, "accuracy")
                color = "tab:red" if name == "skvade" else "0.35"
                ax.plot([accuracy.min(), accuracy.max()], [height] * 2, color=color)
                ax.plot(accuracy.mean(), height, "o", color=color, markersize=5)
        ax.set_title(data_title(dataset, n), fontsize=9)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(axis="x", color="0.9")
    for ax in axes.flat[len(datasets) :]:
        ax.set_axis_off()
    fig.supxlabel("accuracy", fontsize=9)
    save(fig, "accuracy.png")


def draw_large_fits():
    """Draw the loss of the joint training of the fits in large_fits.csv."""
    groups = grouped(
        FILES / "large_fits_curve.csv", "dataset", "n", "processes", "seed"
    )
    datasets = list(dict.fromkeys((dataset, n) for dataset, n, *_ in groups))
    fig, axes = plt.subplots(
        1, len(datasets), figsize=(4.5 * len(datasets), 3), layout="constrained"
    )
    for ax, title in zip(np.atleast_1d(axes), datasets, strict=True):
        for (*key, processes, _), points in groups.items():
            if tuple(key) == title:
                color = COLORS[int(processes) - 1]
                loss = column(points, "loss")
                plural = "es" if int(processes) > 1 else ""
                label = f"{processes} process{plural}"
                ax.plot(column(points, "epoch"), loss, color=color, label=label)
        ax.set(title=data_title(*title), xlabel="epoch", ylabel="loss [nats]")
        handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        ax.legend(handles.values(), handles.keys())
    save(fig, "large_fits.png")


FIGURES = {
    "digits": draw_digits,
    "accuracy": draw_accuracy,
    "large-fits": draw_large_fits,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", nargs="+", choices=list(FIGURES))
    for name in parser.parse_args().figures:
        FIGURES[name]()


if __name__ == "__main__":
    main()
