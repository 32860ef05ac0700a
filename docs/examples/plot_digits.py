"""
================================
Handwritten digits, and new ones
================================

Cluster scikit-learn's bundled digits with :class:`~skvade.VaDEClusterer`, beside
k-means and a Gaussian mixture on the same data: once with the defaults, once with an
encoder that first learns to imitate t-SNE. Then draw new digits from each cluster. The
classes are used for judging only.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy

parser = argparse.ArgumentParser(description="Cluster and generate digits.")
parser.add_argument(
    "--seeds", type=int, nargs="+", default=[0], help="print the mean over these"
)
seeds = parser.parse_args().seeds

# %%
# Images of 8 x 8 pixels, scaled from 0..16 to [0, 1].
X, y = load_digits(return_X_y=True)
X = X / 16


# %%
# Every method gets the same rows and is told only how many clusters there are. By
# default the encoder first learns which digits are neighbors, which keeps the ten kinds
# apart better than the pixels do. t-SNE does that, too, but by itself it can neither
# place a new digit nor draw one. With ``embedding`` the encoder learns its map, and the
# rest of the model is trained from there.
def models(seed):
    return {
        "KMeans": KMeans(n_clusters=10, n_init=10, random_state=seed),
        "GaussianMixture": GaussianMixture(n_components=10, random_state=seed),
        "VaDEClusterer": VaDEClusterer(n_clusters=10, random_state=seed),
        "  from t-SNE": VaDEClusterer(
            n_clusters=10, latent_dim=2, embedding=TSNE(), random_state=seed
        ),
    }


metrics = {
    "accuracy": clustering_accuracy,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}
scores = {name: [] for name in models(0)}
for seed in seeds:
    for name, model in models(seed).items():
        labels = model.fit_predict(X)
        scores[name].append([metric(y, labels) for metric in metrics.values()])

print(f"{'':15}" + "".join(f"{name:>10}" for name in metrics))
for name, rows in scores.items():
    print(f"{name:15}" + "".join(f"{mean:10.3f}" for mean in np.mean(rows, axis=0)))

# %%
# A new digit is a point drawn from the Gaussian of its cluster, decoded. The decoder
# gives the expected image; ``sample`` would add the noise of the pixels. Where two
# clusters meet a digit may be of either kind, so of 24 points from each cluster the
# picture shows the 12 that belong to it most clearly.
rng = np.random.default_rng(0)
scales = np.sqrt(model.covariances_)
Z = rng.normal(
    model.means_[:, None],
    scales[:, None],
    size=(10, 24, model.means_.shape[1]),  # clusters, points of each, latent
)
densities = norm.logpdf(Z[:, :, None], model.means_, scales).sum(axis=-1)
probabilities = softmax(np.log(model.weights_) + densities, axis=-1)
own = np.array([probabilities[c, :, c] for c in range(10)])
clearest = np.argsort(-own, axis=1)[:, :12]
Z = np.take_along_axis(Z, clearest[:, :, None], axis=1)
images = model.inverse_transform(Z.reshape(120, -1)).reshape(10, 12, 8, 8)

# %%
# One row per cluster, with the number of images that the cluster holds.
tiles = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
canvas = tiles.transpose(0, 2, 1, 3).reshape(10 * 10, 12 * 10)
sizes = np.bincount(model.labels_, minlength=10)

fig, ax = plt.subplots(figsize=(7, 6), layout="constrained")
ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
ax.set_xticks([])
ax.set_yticks(np.arange(10) * 10 + 4.5, [f"{size} images" for size in sizes])
ax.tick_params(left=False)
ax.set_title("Generated from each cluster")
fig.savefig("digits_generated.png", dpi=120)
