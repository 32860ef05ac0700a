"""
========================
20,000 embedding vectors
========================

Whether to normalize them, whether to reduce them, and how long a fit takes.
"""

import time

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skvade import VaDEClusterer
from skvade.plotting import LatentSpaceDisplay

# %%
# The vectors
# -----------
# They are generated: 20,000 vectors of 384 features, on 12 topics of different size.
# All vectors share a direction, as those of language models do. Within a topic they
# vary along a curve and in a few directions of their own. Their lengths say nothing
# about the topic.
N_SAMPLES, N_FEATURES, N_TOPICS = 20_000, 384, 12
rng = np.random.default_rng(0)
topic = rng.choice(N_TOPICS, N_SAMPLES, p=rng.dirichlet(np.full(N_TOPICS, 5)))


def random_directions(*shape):
    directions = rng.normal(size=(*shape, N_FEATURES))
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


shared, centers = random_directions(1), random_directions(N_TOPICS)
ends, axes = random_directions(N_TOPICS), random_directions(N_TOPICS, 5)
position = rng.uniform(-1, 1, size=(N_SAMPLES, 1))
X = shared + centers[topic] + 1.2 * position * ends[topic]
X += np.einsum("na,naf->nf", 0.25 * rng.normal(size=(N_SAMPLES, 5)), axes[topic])
X += rng.normal(scale=0.7 / np.sqrt(N_FEATURES), size=X.shape)
X *= rng.lognormal(0, 0.5, size=(N_SAMPLES, 1))
X = X.astype(np.float32)
print(X.shape, X.dtype)

# %%
# Normalize? Reduce?
# ------------------
# Models of language are trained for the angle between vectors, not for their length.
# ``Normalizer`` keeps the angle and drops the length. The principal components keep
# the directions in which the vectors vary most.
model = VaDEClusterer(n_clusters=N_TOPICS, random_state=0)
k_means = KMeans(n_clusters=N_TOPICS, n_init=10, random_state=0)
reduce = PCA(n_components=50, random_state=0)
pipelines = {
    "k-means": make_pipeline(k_means),
    "Normalizer, k-means": make_pipeline(Normalizer(), k_means),
    "Normalizer, PCA, k-means": make_pipeline(Normalizer(), reduce, k_means),
    "Normalizer, VaDEClusterer": make_pipeline(Normalizer(), model),
    "Normalizer, PCA, VaDEClusterer": make_pipeline(Normalizer(), reduce, model),
}
print(f"{'':32}adjusted Rand index  seconds")
for name, pipeline in pipelines.items():
    start = time.perf_counter()
    labels = pipeline.fit_predict(X)
    seconds = time.perf_counter() - start
    print(f"{name:32}{adjusted_rand_score(topic, labels):19.2f}{seconds:9.1f}")

# %%
# The length of the vectors hides the topics: normalize first. The clusters of
# ``VaDEClusterer`` are then the topics. k-means cuts some of the curves. The components
# change the clusters of neither, and make both faster.
#
# The picture shows two directions of the latent space, for a quarter of the vectors.
X = pipeline[:-1].transform(X)
LatentSpaceDisplay.from_estimator(model, X[:5_000])
