"""
==========================
Cluster handwritten digits
==========================

The first fit, beside k-means and a Gaussian mixture, and new digits of each cluster.
"""

from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy
from skvade.plotting import ClusterSamplesDisplay, LatentSpaceDisplay

# %%
# Images of 8 x 8 pixels, scaled from 0..16 to [0, 1].
X, y = load_digits(return_X_y=True)
X = X / 16

# %%
# Fit
# ---
# All methods get the same images and the number of clusters. The classes are used for
# judging only.
model = VaDEClusterer(n_clusters=10, random_state=0)
methods = {
    "KMeans": KMeans(n_clusters=10, n_init=10, random_state=0),
    "GaussianMixture": GaussianMixture(n_components=10, random_state=0),
    "VaDEClusterer": model,
}
metrics = {
    "accuracy": clustering_accuracy,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}
print(f"{'':15}" + "".join(f"{name:>10}" for name in metrics))
for name, method in methods.items():
    labels = method.fit_predict(X)
    scores = [metric(y, labels) for metric in metrics.values()]
    print(f"{name:15}" + "".join(f"{score:10.3f}" for score in scores))

# %%
# Look at the clusters
# --------------------
# The encoder puts images of the same cluster close together. The picture shows two
# directions of the ten of the latent space. The ellipses are the components of the
# mixture.
LatentSpaceDisplay.from_estimator(model, X)

# %%
# Draw new digits
# ---------------
# A new digit is a point drawn from the Gaussian of a cluster, and decoded. There is a
# row for each cluster: its center, and ten new digits.
display = ClusterSamplesDisplay.from_estimator(model, image_shape=(8, 8))
display.figure_.savefig("digits_generated.png", dpi=120)

# %%
# Most clusters hold one digit. Their sizes, beside the rows, are a hint: there are
# about 180 images of each digit. A much larger cluster holds two digits, and a much
# smaller one a part of a digit.

# sphinx_gallery_thumbnail_number = 2
