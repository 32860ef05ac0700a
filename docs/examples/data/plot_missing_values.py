"""
==============
Missing values
==============

Fit samples with NaN as they are, and fill in what the model expects there.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline

from skvade import VaDEClusterer

# %%
# Three of ten pixels are removed from images of 8 x 8. These pixels, and the digits,
# are used for judging only.
X, y = load_digits(return_X_y=True)
X = X / 16
is_missing = np.random.default_rng(0).random(X.shape) < 0.3
X_missing = np.where(is_missing, np.nan, X)

# %%
# Clusters
# --------
# k-means needs an imputer before it. ``SimpleImputer`` fills in the mean of the pixel,
# ``KNNImputer`` the mean of the five most similar samples. ``VaDEClusterer`` takes
# either, or the samples as they are.
k_means = KMeans(n_clusters=10, n_init=10, random_state=0)
model = VaDEClusterer(n_clusters=10, random_state=0)
pipelines = {
    "SimpleImputer, KMeans": make_pipeline(SimpleImputer(), k_means),
    "KNNImputer, KMeans": make_pipeline(KNNImputer(), k_means),
    "KNNImputer, VaDEClusterer": make_pipeline(KNNImputer(), model),
    "VaDEClusterer": make_pipeline(model),
}
for name, pipeline in pipelines.items():
    labels = pipeline.fit_predict(X_missing)
    agreement = adjusted_rand_score(y, labels)
    print(f"{name:26} adjusted Rand index {agreement:.2f}")

# %%
# ``VaDEClusterer`` agrees with the digits better than k-means does, with an imputer
# before it and without one.

# %%
# Imputation
# ----------
# How far what was filled in is from the truth, in the unit of the pixels.
filled = {
    "SimpleImputer": SimpleImputer().fit_transform(X_missing),
    "KNNImputer": KNNImputer().fit_transform(X_missing),
    "impute": model.impute(X_missing),
}
for name, images in filled.items():
    error = np.sqrt(np.mean((images - X)[is_missing] ** 2))
    print(f"{name:14} root mean squared error {error:.3f}")

# %%
# ``impute`` needs no other samples: a new one takes two passes through the networks.
# ``KNNImputer`` searches all samples for each new one.
#
# Twelve images at random: with missing pixels (crossed), filled, and as they were.
shown = np.random.default_rng(1).choice(len(X), 12, replace=False)
stages = {"missing": X_missing} | filled | {"true": X}
fig, axes = plt.subplots(5, 1, figsize=(8, 3.9), layout="constrained")
for ax, (name, images) in zip(axes, stages.items(), strict=True):
    tiles = np.pad(images[shown].reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)])
    canvas = np.hstack(tiles)
    ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
    down, across = np.nonzero(np.isnan(canvas))
    ax.plot(across, down, "x", color="tab:red", markersize=2.5, markeredgewidth=0.7)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.spines[:].set_visible(False)
