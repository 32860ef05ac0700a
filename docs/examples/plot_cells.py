"""
==============================
Kinds of cells, and a rare one
==============================

Which genes a cell reads tells what kind of cell it is. Tables of such counts are
sparse, and the cells differ in how much of them was read at all. This script generates
one, with six kinds of cells of which one is rare, clusters it without making it dense
as a whole, and asks which genes mark each cluster.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from skvade import VaDEClusterer
from skvade.plotting import LatentSpaceDisplay

# %%
# Counts
# ------
# Each kind reads 40 of 1,000 genes several times as often as the others do. A cell
# deviates from its kind by itself, and what is counted is a Poisson sample of it, from
# fewer molecules in some cells than in others. So the counts are negative binomial.
N_GENES = 1_000
sizes = {"A": 500, "B": 350, "C": 250, "D": 200, "E": 150, "rare": 40}
rng = np.random.default_rng(0)
kind = np.repeat(np.arange(6), list(sizes.values()))

profiles = np.tile(rng.lognormal(sigma=2, size=N_GENES), (6, 1))
markers = [rng.choice(N_GENES, 40, replace=False) for _ in sizes]
for profile, genes in zip(profiles, markers, strict=True):
    profile[genes] *= rng.lognormal(2, 0.5, size=40)
profiles /= profiles.sum(axis=1, keepdims=True)
molecules = rng.lognormal(np.log(2_000), 0.4, size=(len(kind), 1))
variation = rng.gamma(3, 1 / 3, size=(len(kind), N_GENES))
counts = sparse.csr_array(rng.poisson(molecules * profiles[kind] * variation))

share = counts.nnz / np.prod(counts.shape)
print(f"{counts.shape[0]} cells, {N_GENES} genes, {share:.0%} of the counts not zero")


# %%
# The usual unit: how many of 10,000 molecules of its cell a gene makes up, plus one, as
# a logarithm. Zero stays zero, so sparse rows stay sparse.
def log_per_10_000(X):
    return (1e4 * X).log1p()


normalize = make_pipeline(Normalizer("l1"), FunctionTransformer(log_per_10_000))
X = normalize.fit_transform(counts)
print(type(X).__name__)

# %%
# Does the pretraining learn anything?
# ------------------------------------
# Most of the variance of such data is chance, spread over a thousand genes. The nearest
# neighbors of a cell are therefore searched in fifty principal components, and the
# encoder learns to put them close together. Its contrastive loss is to fall well below
# that of an embedding with all cells in one place, the logarithm of 255.
#
# Nobody knows in advance how many kinds there are, so the model gets eight clusters.
model = VaDEClusterer(n_clusters=8, random_state=0).fit(X)
print(f"contrastive loss {model.pretrain_loss_curve_[-1]:.2f}, of one place", end=" ")
print(f"{np.log(255):.2f}")

# %%
# Clusters
# --------
# The rows of the tables are the kinds, the columns the clusters.
k_means = KMeans(n_clusters=8, n_init=10, random_state=0).fit(X)


def show(name, labels):
    print(f"{name}: adjusted Rand index {adjusted_rand_score(kind, labels):.2f}")
    for type_name, row in zip(sizes, contingency_matrix(kind, labels), strict=True):
        print(f"{type_name:>6}" + "".join(f"{number:6}" for number in row))


show("VaDEClusterer", model.labels_)
show("KMeans", k_means.labels_)
print("weights_", np.round(model.weights_, 3))
print(f"n_effective_clusters_ {model.n_effective_clusters_:.1f}")

# %%
# The rare kind has a cluster of its own, and the two clusters that are left over cut
# the largest kind, A, into three pieces. k-means splits the two largest kinds, and puts
# the rare cells with those of kind E. Neither the weights nor the number of effective
# clusters tells of the splits: they count what the model uses, not what is there.
# ``fit`` does not warn of them, either: between the pieces the density has a valley. In
# the picture, of two directions, the pieces lie next to each other. The cells of a
# cluster lie so close together that they are hidden by its number: with a thousand
# features ``beta`` is 10 by default, and the latent space keeps little else.
# With ``beta=1`` it keeps more.
_, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
LatentSpaceDisplay.from_estimator(model, X, ax=axes[0])
LatentSpaceDisplay.from_estimator(model, X, np.array(list(sizes))[kind], ax=axes[1])

# %%
# Which genes mark a cluster?
# ---------------------------
# ``cluster_centers_`` are expected rows, so genes that a center has more of than the
# average center are markers. Two clusters that are marked by the same genes are one
# kind.
centers = model.cluster_centers_
excess = centers - centers.mean(axis=0)
found = np.argsort(-excess, axis=1)[:, :5]
for c, genes in enumerate(found):
    of_cluster = kind[model.labels_ == c]
    of_kind = np.bincount(of_cluster).argmax()
    n_true = np.isin(genes, markers[of_kind]).sum()
    print(f"cluster {c}: {n_true} of 5 mark kind {list(sizes)[of_kind]}")

fig, ax = plt.subplots(figsize=(9, 3), layout="constrained")
image = ax.imshow(centers[:, found.ravel()], aspect="auto", cmap="Blues")
ax.vlines(np.arange(5, 40, 5) - 0.5, -0.5, 7.5, color="black", linewidth=0.5)
ax.set_xticks(np.arange(8) * 5 + 2, [f"of cluster {c}" for c in range(8)])
ax.tick_params(length=0)
ax.set(xlabel="five genes", ylabel="center of cluster")
fig.colorbar(image, label="expected value")

# %%
# With as many clusters as kinds
# ------------------------------
# Had one known that there are six, what would have become of the rare kind?
for seed in range(2):
    six = VaDEClusterer(n_clusters=6, random_state=seed).fit(X)
    agreement = adjusted_rand_score(kind, six.labels_)
    homes = np.bincount(six.labels_[kind == 5])
    others = np.sum(six.labels_ == homes.argmax()) - homes.max()
    print(f"seed {seed}: adjusted Rand index {agreement:.2f}, score {six.score(X):.1f}")
    print(f"  {homes.max()} of 40 rare cells are in one cluster, with {others} others")
print(f"eight clusters: score {model.score(X):.1f}")

# %%
# With both seeds each kind has a cluster, the rare one as well. But the score is higher
# with eight clusters, so it does not tell how many kinds there are. Where a rare kind
# matters, rather ask for some clusters too many, and look at their markers.
