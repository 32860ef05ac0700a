"""
============================
A map that takes new samples
============================

The encoder learns the map that t-SNE draws, and places new samples on it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy
from skvade.plotting import LatentSpaceDisplay

# %%
# Learn a map
# -----------
# ``embedding`` takes a transformer. The encoder learns its coordinates, and the model
# is trained from there. A map has two dimensions. A fifth of the digits is held out.
X, y = load_digits(return_X_y=True)
X = X / 16
train, test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
model = VaDEClusterer(
    n_clusters=10, latent_dim=2, embedding=TSNE(random_state=0), random_state=0
).fit(train)

for name, samples, classes in [("train", train, y_train), ("test", test, y_test)]:
    accuracy = clustering_accuracy(classes, model.predict(samples))
    print(f"{name:5} accuracy {accuracy:.3f}")

# %%
# New samples on the map
# ----------------------
# On the left the digits that the model was fitted to, colored by cluster. On the right
# those that were held out, colored by the digit they show.
_, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
LatentSpaceDisplay.from_estimator(model, train, ax=axes[0])
LatentSpaceDisplay.from_estimator(model, test, y_test, ax=axes[1])
axes[0].set_title("1,437 training samples, by cluster")
axes[1].set_title("360 new samples, by digit")

# %%
# The map, drawn by the decoder
# -----------------------------
# The decoder gives an image for every point of the map. These points form a grid
# between the outermost centers of clusters.
low, high = model.means_.min(axis=0), model.means_.max(axis=0)
grid = np.meshgrid(*np.linspace(low, high, 20).T)
points = np.stack(grid, axis=-1)[::-1].reshape(-1, 2)
images = model.inverse_transform(points).reshape(20, 20, 8, 8)

fig, ax = plt.subplots(figsize=(5, 5), layout="constrained")
ax.imshow(images.swapaxes(1, 2).reshape(160, 160), cmap="gray_r", vmin=0, vmax=1)
ax.set(xticks=[], yticks=[], xlabel="latent dimension 1", ylabel="latent dimension 2")

# sphinx_gallery_thumbnail_number = 2
