"""
==========================
Look into the latent space
==========================

Training is judged by its curves, the result by what lies where. This script fits
scikit-learn's digits and draws both with the Displays of :mod:`skvade.plotting`.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer
from skvade.plotting import (
    LatentSpaceDisplay,
    ReconstructionDisplay,
    TrainingCurveDisplay,
)

# %%
# Images of 8 x 8 pixels in [0, 1]. A tenth of them is held out, to see what the
# networks memorize.
X, y = load_digits(return_X_y=True)
X = X / 16
model = VaDEClusterer(n_clusters=10, early_stopping=True, random_state=0).fit(X)

# %%
# The curves
# ----------
# On the left, the contrastive loss: how badly the encoder tells the neighbors of a
# sample from all others. On the right, the bound that the joint training maximizes,
# with a learning rate that falls to zero in the end. Held-out rows lie below those
# that were trained on, since the networks memorize a little. As long as their curve
# does not fall, that does no harm. Below are the two parts of the bound.
TrainingCurveDisplay.from_estimator(model)

# %%
# What the latent space keeps
# ---------------------------
# Reconstructions show what ten numbers can say about an image of 64 pixels: the stroke
# and its slant, less so the weight of single pixels.
ReconstructionDisplay.from_estimator(model, X, image_shape=(8, 8))

# %%
# The clusters
# ------------
# The plane of the two principal components holds only part of the variance (the axes
# say how much), so clusters that overlap here may lie apart in the other dimensions.
# The ellipses are the components of the mixture in that plane.
LatentSpaceDisplay.from_estimator(model, X)

# %%
# Any transformer to two dimensions can take the place of the principal components.
# t-SNE keeps neighbors together, but its map is curved, so there are no ellipses.
# Computed once, its coordinates serve for two pictures: colored by the cluster and, as
# a check that training never saw, by the digit.
plane = TSNE(random_state=0).fit_transform(model.transform(X))
_, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
LatentSpaceDisplay.from_estimator(model, X, projection=plane, ax=axes[0])
LatentSpaceDisplay.from_estimator(model, X, y, projection=plane, ax=axes[1])

# %%
# What the joint training changed
# -------------------------------
# ``init_labels_`` are the clusters before it. The first number says how much of that
# partition is left, the others how well each agrees with the digits.
for name, labels in {
    "start and end": (model.init_labels_, model.labels_),
    "start and digits": (model.init_labels_, y),
    "end and digits": (model.labels_, y),
}.items():
    print(f"adjusted Rand index of {name}: {adjusted_rand_score(*labels):.2f}")
