"""
==============================
Convolutional networks, or any
==============================

:class:`~skvade.VaDEClusterer` sees a row as a list of numbers. Images have neighbors in
two directions, which networks of convolutions know about. Give such a pair as
``encoder`` and ``decoder``, and compare it with the default networks at about equal
time, over three seeds, on scikit-learn's bundled digits. Here the pair is no better.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from torch import nn

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy

X, y = load_digits(return_X_y=True)
X = X / 16  # 8 x 8 pixels in [0, 1]


# %%
# Two functions build the networks. The encoder goes from rows to features, 32 images of
# 2 x 2; the layers for mean and variance of q(z|x) come on top. The decoder goes from
# points of the latent space to rows, with no activation at the end.
def encoder(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def decoder(latent_dim, n_features_in):
    return nn.Sequential(
        nn.Linear(latent_dim, 128),
        nn.ReLU(),
        nn.Unflatten(1, (32, 2, 2)),
        nn.ConvTranspose2d(32, 32, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, kernel_size=4, stride=2, padding=1),
        nn.Flatten(),
    )


# %%
# Both encoders are pretrained on the neighbors of each image. The pair gets fewer
# epochs, such that both take about the same time: an epoch of it takes several times as
# long.
def models(seed):
    common = {"n_clusters": 10, "random_state": seed}
    return {
        "default": VaDEClusterer(**common),
        "convolutional": VaDEClusterer(
            encoder=encoder,
            decoder=decoder,
            pretrain_max_iter=10,
            max_iter=25,
            **common,
        ),
    }


results = {name: [] for name in models(0)}
for seed in range(3):
    fitted = models(seed)
    for name, model in fitted.items():
        start = time.perf_counter()
        labels = model.fit_predict(X)
        seconds = time.perf_counter() - start
        nmi = normalized_mutual_info_score(y, labels)
        results[name].append([clustering_accuracy(y, labels), nmi, seconds])

names = ["accuracy", "std", "lowest", "highest", "NMI", "seconds"]
print(f"{'':15}", *(f"{name:>8}" for name in names))
for name, rows in results.items():
    accuracy, nmi, seconds = np.transpose(rows)
    spread = [accuracy.mean(), accuracy.std(), accuracy.min(), accuracy.max()]
    figures = [*spread, nmi.mean(), seconds.mean()]
    print(f"{name:15}", *(f"{figure:8.3f}" for figure in figures))

# %%
# The pair does not beat the default: accuracy and normalized mutual information are a
# little lower. Nor does one on images of MNIST (:doc:`../benchmarks`). Measure on data
# of your own before you pay for convolutions.
#
# What the two keep of a digit of each kind, by the models of the last seed.
images = X[[np.flatnonzero(y == digit)[0] for digit in range(10)]]
lines = {"image": images}
lines |= {name: model.reconstruct(images) for name, model in fitted.items()}

fig, axes = plt.subplots(3, 10, figsize=(8, 2.5), layout="constrained")
for row, (name, line) in zip(axes, lines.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, pixels in zip(row, line, strict=True):
        ax.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
