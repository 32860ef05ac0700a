"""
======================
Convolutional networks
======================

Give ``encoder`` and ``decoder`` networks of your own, here for images.
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
# Two functions build the networks. The encoder maps samples to features, here 32 images
# of 2 x 2. The layers for mean and variance of q(z|x) are added to it. The decoder maps
# points of the latent space to samples, with no activation at the end.
def encoder(n_features_in, latent_dim):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )


def decoder(latent_dim, n_features_in):
    return nn.Sequential(
        nn.Linear(latent_dim, 128),
        nn.ReLU(),
        nn.Unflatten(1, (32, 2, 2)),
        nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1),
        nn.Flatten(),
    )


# %%
# Fit each once.
models = {
    "default": VaDEClusterer(n_clusters=10, random_state=0),
    "convolutional": VaDEClusterer(
        n_clusters=10, encoder=encoder, decoder=decoder, random_state=0
    ),
}
print(f"{'':15}{'accuracy':>10}{'NMI':>10}{'seconds':>10}")
for name, model in models.items():
    start = time.perf_counter()
    labels = model.fit_predict(X)
    seconds = time.perf_counter() - start
    accuracy = clustering_accuracy(y, labels)
    nmi = normalized_mutual_info_score(y, labels)
    print(f"{name:15}{accuracy:10.3f}{nmi:10.3f}{seconds:10.1f}")

# %%
# The pair is no better here. Compare on data of your own before you use convolutions.
#
# What the two keep of a digit of each kind.
images = X[[np.flatnonzero(y == digit)[0] for digit in range(10)]]
lines = {"image": images}
lines |= {name: model.reconstruct(images) for name, model in models.items()}

fig, axes = plt.subplots(3, 10, figsize=(8, 2.5), layout="constrained")
for row, (name, line) in zip(axes, lines.items(), strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, pixels in zip(row, line, strict=True):
        ax.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
