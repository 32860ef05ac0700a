"""
===============================
Generate and interpolate digits
===============================

The fitted model is a generative one: a cluster is drawn, then a point from its
Gaussian, then an image from the decoder. So each cluster can show what it stands for,
and one image can be turned into another through the latent space.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvade import VaDEClusterer
from skvade.plotting import ClusterSamplesDisplay

# %%
# Images of 8 x 8 pixels in [0, 1].
X, y = load_digits(return_X_y=True)
X = X / 16
model = VaDEClusterer(n_clusters=10, random_state=0).fit(X)

# %%
# What each cluster stands for
# ----------------------------
# The decoded mean of each component, and the expected images at points drawn from it.
ClusterSamplesDisplay.from_estimator(model, image_shape=(8, 8))

# %%
# The same with images of X that were assigned to the cluster. Where they are of two
# kinds, so are the generated ones.
ClusterSamplesDisplay.from_estimator(model, X, image_shape=(8, 8))


# %%
# With the noise of the likelihood
# --------------------------------
# ``sample`` draws from the likelihood, too: to the expected image it adds noise of the
# variance ``noise_variance_``, independent for each pixel.
def show(rows, title, n_columns=10):
    images = np.reshape(rows, (-1, n_columns, 8, 8))
    canvas = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)]).swapaxes(1, 2)
    _, ax = plt.subplots(figsize=(7, 0.7 * len(images) + 0.4), layout="constrained")
    ax.imshow(canvas.reshape(-1, 10 * n_columns), cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_title(title)


noisy, clusters = model.sample(10, label=0, random_state=0)
show(noisy, "Cluster 0, drawn by sample")

# %%
# From one digit to another
# -------------------------
# Straight lines in the latent space, from an image of each digit to one of the next.
# The ends are reconstructions of the two images.
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
# Which of them stay close to what the model takes for digits? The mean score along the
# lines says so. Decoded images have no noise, so they score higher throughout: compare
# how deep the lines sink.
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for rows, name, style in [
    (through_latent_space, "latent space", "-"),
    (through_pixels, "pixels", "--"),
]:
    ax.plot(steps, model.score_samples(rows).reshape(5, 10).mean(axis=0), style)
    ax.lines[-1].set_label(name)
ax.set(xlabel="part of the way", ylabel="mean score (nats)")
ax.legend()
