"""
=========================
Rows with missing entries
=========================

NaN in X is a missing entry: the model learns from what is there, and ``impute`` fills
the holes with what it expects. Here three of ten pixels are removed from scikit-learn's
digits. The pixels that were removed, and the digits, are used for judging only.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer

# %%
# Images of 8 x 8 pixels in [0, 1], each with holes of its own.
X, y = load_digits(return_X_y=True)
X = X / 16
is_missing = np.random.default_rng(0).random(X.shape) < 0.3
X_missing = np.where(is_missing, np.nan, X)

# %%
# What to do with the holes
# -------------------------
# ``SimpleImputer`` fills in the mean of the pixel, ``KNNImputer`` the mean of the five
# most similar rows. After either, k-means and :class:`~skvade.VaDEClusterer` can be
# fitted as if nothing were missing. Or ``VaDEClusterer`` gets the rows with the holes.
X_mean = SimpleImputer().fit_transform(X_missing)
X_neighbors = KNNImputer().fit_transform(X_missing)
rows_of = {"mean": X_mean, "neighbors": X_neighbors, "none": X_missing}


def fit(rows, seed):
    return VaDEClusterer(n_clusters=10, random_state=seed).fit(rows)


def error(filled):
    return np.sqrt(np.mean((filled - X)[is_missing] ** 2))


# %%
# How well the clusters agree with the digits, the mean of two seeds.
seeds = [0, 1]
models = {name: [fit(rows, s) for s in seeds] for name, rows in rows_of.items()}
print("filled by   clusterer       adjusted Rand index")
for name, rows in rows_of.items():
    labels = {"VaDEClusterer": [model.labels_ for model in models[name]]}
    if name != "none":
        k_means = [KMeans(10, n_init=10, random_state=s) for s in seeds]
        labels["KMeans"] = [model.fit_predict(rows) for model in k_means]
    for clusterer, of_seeds in labels.items():
        agreement = np.mean([adjusted_rand_score(y, each) for each in of_seeds])
        print(f"{name:11} {clusterer:15} {agreement:.2f}")

# %%
# How far what was filled in is from the truth, in the unit of the pixels.
X_imputed = [model.impute(X_missing) for model in models["none"]]
print(f"mean       {error(X_mean):.3f}")
print(f"neighbors  {error(X_neighbors):.3f}")
print(f"impute     {np.mean([error(filled) for filled in X_imputed]):.3f}")

# %%
# What ``impute`` fills in is much closer to the truth than means are, and about as
# close as the nearest neighbors on these digits. So it is with the clusters: those of
# rows with holes agree with the digits as those of rows filled by neighbors do, and a
# little better than those of rows filled with means. The nearest neighbors ask for all
# rows to be kept, and searched for each new one, which grows slow with their number;
# ``impute`` is two passes through the networks.

# %%
# Twelve images at random: with holes (crossed), filled, and as they were.
shown = np.random.default_rng(1).choice(len(X), 12, replace=False)
stages = {
    "with holes": X_missing,
    "SimpleImputer": X_mean,
    "KNNImputer": X_neighbors,
    "impute": X_imputed[0],
    "true": X,
}
fig, axes = plt.subplots(5, 1, figsize=(8, 3.9), layout="constrained")
for ax, (name, rows) in zip(axes, stages.items(), strict=True):
    tiles = np.pad(rows[shown].reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)])
    canvas = np.hstack(tiles)
    ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
    down, across = np.nonzero(np.isnan(canvas))
    ax.plot(across, down, "x", color="tab:red", markersize=2.5, markeredgewidth=0.7)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.spines[:].set_visible(False)
