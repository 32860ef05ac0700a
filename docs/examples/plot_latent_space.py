"""
==================
Look at the result
==================

Curves show whether training went well, and pictures whether the clusters are good.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer
from skvade.plotting import (
    ClusterSamplesDisplay,
    LatentSpaceDisplay,
    ReconstructionDisplay,
    ResponsibilityDisplay,
    TrainingCurveDisplay,
)

# %%
# Images of 8 x 8 pixels in [0, 1].
X, y = load_digits(return_X_y=True)
X = X / 16
model = VaDEClusterer(n_clusters=10, random_state=0).fit(X)

# %%
# The curves
# ----------
# On the left is the contrastive loss of pretraining: how badly the encoder tells the
# neighbors of a sample from all others. On the right is the bound that the joint
# training maximizes. Its learning rate falls to zero in the end, so the curve levels
# off. Below are the two parts of the bound: the reconstruction gains more than the
# latent terms lose.
TrainingCurveDisplay.from_estimator(model)

# %%
# The clusters
# ------------
# The picture shows the two principal components of the latent space. The axes say how
# much of the variance they hold. Clusters that overlap here may lie apart in the other
# dimensions. The ellipses are the components of the mixture. On the left the colors are
# the clusters; on the right they are the digits, which training did not use.
_, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
LatentSpaceDisplay.from_estimator(model, X, ax=axes[0])
LatentSpaceDisplay.from_estimator(model, X, y, ax=axes[1])

# %%
# Each row is a cluster: its decoded center, and ten images of X that belong to it. A
# row with two digits is a cluster that holds two groups. Here some ones are among the
# eights, and others have a small cluster of their own.
ClusterSamplesDisplay.from_estimator(model, X, image_shape=(8, 8))

# %%
# How sure the assignments are
# ----------------------------
# Most images belong to one cluster without a doubt. The dotted line is the entropy of a
# sample that could belong to any of them.
ResponsibilityDisplay.from_estimator(model, X)

# %%
# What the latent space keeps
# ---------------------------
# Reconstructions show what ten numbers say about an image of 64 pixels: the stroke and
# its slant, less so the weight of single pixels.
ReconstructionDisplay.from_estimator(model, X, image_shape=(8, 8))

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

# sphinx_gallery_thumbnail_number = 2
