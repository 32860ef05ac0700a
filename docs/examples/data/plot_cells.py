"""
======================
Cells, and a rare kind
======================

Sparse counts of genes: how to normalize them, and which genes mark each cluster.
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

# %%
# Counts
# ------
# They are generated. Each kind reads 40 of 1,000 genes several times as often as the
# others do. Each cell deviates from its kind, and fewer molecules are counted in some
# cells than in others. So the counts are negative binomial.
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
# The usual unit: the share of a gene in its cell, per 10,000 molecules, plus one, as a
# logarithm. Zero stays zero, so the table stays sparse.
def log_per_10_000(X):
    return (1e4 * X).log1p()


normalize = make_pipeline(Normalizer("l1"), FunctionTransformer(log_per_10_000))
X = normalize.fit_transform(counts)
print(type(X).__name__)

# %%
# Clusters
# --------
# Nobody knows in advance how many kinds there are, so ask for eight clusters. The model
# takes the sparse counts. Each line is a kind, each column a cluster.
model = VaDEClusterer(n_clusters=8, random_state=0).fit(X)
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
# The rare kind has a cluster of its own. The two clusters that are left over cut the
# largest kind, A, into pieces. k-means splits the two largest kinds, and puts the rare
# cells with those of kind E. Neither the weights nor the number of effective clusters
# reveals the splits: they count the clusters that the model uses.

# %%
# Which genes mark a cluster?
# ---------------------------
# ``cluster_centers_`` are expected samples. Genes that a center has more of than the
# average center are markers. Two clusters with the same markers are one kind: ask for
# some clusters too many, and merge those.
centers = model.cluster_centers_
excess = centers - centers.mean(axis=0)
found = np.argsort(-excess, axis=1)[:, :5]
for c in np.unique(model.labels_):
    of_kind = np.bincount(kind[model.labels_ == c]).argmax()
    n_true = np.isin(found[c], markers[of_kind]).sum()
    print(f"cluster {c}: {n_true} of 5 mark kind {list(sizes)[of_kind]}")

fig, ax = plt.subplots(figsize=(9, 3), layout="constrained")
image = ax.imshow(centers[:, found.ravel()], aspect="auto", cmap="Blues")
ax.vlines(np.arange(5, 40, 5) - 0.5, -0.5, 7.5, color="black", linewidth=0.5)
ax.set_xticks(np.arange(8) * 5 + 2, [f"of cluster {c}" for c in range(8)])
ax.tick_params(length=0)
ax.set(xlabel="five genes", ylabel="center of cluster")
fig.colorbar(image, label="expected value")
