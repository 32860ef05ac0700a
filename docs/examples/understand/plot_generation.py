"""
=============================
From one digit to another one
=============================

Generate samples, and turn one image into another through the latent space.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvade import VaDEClusterer

# %%
# Images of 8 x 8 pixels in [0, 1].
X, y = load_digits(return_X_y=True)
X = X / 16
model = VaDEClusterer(n_clusters=10, random_state=0).fit(X)


# %%
# Samples of a cluster
# --------------------
# ``sample`` draws a point of the latent space, decodes it, and adds noise of the
# variance ``noise_variance_`` to each pixel.
def show(images, title, n_columns=10):
    tiles = np.reshape(images, (-1, n_columns, 8, 8))
    canvas = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)]).swapaxes(1, 2)
    _, ax = plt.subplots(figsize=(7, 0.7 * len(tiles) + 0.4), layout="constrained")
    ax.imshow(canvas.reshape(-1, 10 * n_columns), cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_title(title)


noisy, clusters = model.sample(10, label=0, random_state=0)
show(noisy, "Cluster 0, drawn by sample")

# %%
# Encoded and decoded again, they have no noise. Points of the latent space can be
# decoded directly, too, by ``inverse_transform``.
show(model.reconstruct(noisy), "The same without noise")

# %%
# A straight line in the latent space
# -----------------------------------
# From an image of each digit to one of the next. The ends are reconstructions of the
# two images.
starts = np.array([np.flatnonzero(y == digit)[0] for digit in range(6)])
steps = np.linspace(0, 1, 10)[:, None]


def lines(points):
    return np.vstack([(1 - steps) * a + steps * b for a, b in pairwise(points)])


through_latent_space = model.inverse_transform(lines(model.transform(X[starts])))
show(through_latent_space, "0 to 1, 1 to 2, ... 4 to 5, in the latent space")

# %%
# Straight lines in the space of the pixels lay one image over the other.
through_pixels = lines(X[starts])
show(through_pixels, "The same, in the space of the pixels")

# %%
# ``score_samples`` says how probable the images on the way are: here its mean over the
# five lines. Decoded images have no noise, so they score higher throughout. Compare how
# far each curve falls between its ends.
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for images, name, style in [
    (through_latent_space, "latent space", "-"),
    (through_pixels, "pixels", "--"),
]:
    scores = model.score_samples(images).reshape(5, 10).mean(axis=0)
    ax.plot(steps, scores, style, label=name)
    print(f"{name:13} falls by {scores[[0, -1]].mean() - scores.min():.0f} nats")
ax.set(xlabel="part of the way", ylabel="mean score (nats)")
ax.legend()

# sphinx_gallery_thumbnail_number = 3
