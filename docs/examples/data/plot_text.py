"""
===================
Topics of documents
===================

From texts to clusters in one pipeline, and the words of each cluster.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skvade import VaDEClusterer

# %%
# Documents
# ---------
# They are generated. A few words are typical of a topic, and some are typical of
# several: courts are for judges and for players. The other 3,000 words are made up and
# occur in all topics, some more often in one than in another. Each document has a main
# topic and borrows from a second. The topics are used for judging only.
topics = {
    "astronomy": "star planet orbit telescope galaxy comet light field mass record",
    "music": "star note score pitch band key play record conductor scale",
    "sport": "star score pitch field goal court play team coach record",
    "law": "court bar judge case trial record evidence key bench scale",
    "cooking": "bar plate oven salt recipe mix season dish scale light",
    "weather": "season front pressure cloud wind rain field storm mass light",
}
rng = np.random.default_rng(0)
typical = sorted({word for words in topics.values() for word in words.split()})
syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
words = np.array(["".join(rng.choice(syllables, 3)) for _ in range(3_000)] + typical)

common = np.zeros(len(words))
common[:3_000] = 1 / np.arange(1, 3_001)  # the law of Zipf
common /= common.sum()


def word_probabilities(own_words):
    often = common * rng.lognormal(size=len(words))
    own = np.isin(words, own_words.split())
    return 0.85 * often / often.sum() + 0.15 * own / own.sum()


def document(probabilities):
    main, second = rng.choice(len(probabilities), 2, replace=False)
    share = rng.beta(4, 1.5)
    p = share * probabilities[main]
    p += (1 - share) * (0.25 * probabilities[second] + 0.75 * common)
    length = 10 + rng.poisson(rng.lognormal(3.5, 0.5))
    return " ".join(rng.choice(words, length, p=p)), main


probabilities = [word_probabilities(own_words) for own_words in topics.values()]
documents, topic = zip(*(document(probabilities) for _ in range(1_500)), strict=True)
print(documents[0][:75])

# %%
# From text to clusters
# ---------------------
# Count the words that at least five documents have, and weight them by how rare they
# are. Keep twenty components of these thousands of features, and of each document only
# the direction: its length says nothing about the topic.
pipeline = make_pipeline(
    TfidfVectorizer(min_df=5, sublinear_tf=True),
    TruncatedSVD(n_components=20, random_state=0),
    Normalizer(),
    VaDEClusterer(n_clusters=6, random_state=0),
).fit(documents)
vectorizer, svd, _, model = pipeline

# %%
# What the clusters are about
# ---------------------------
# The components turn a center back into weights of words. The words that a center has
# more of than the average center tell what its cluster is about. Among them are made-up
# words that a topic has more often than the others.
words = vectorizer.get_feature_names_out()
centers = svd.inverse_transform(model.cluster_centers_)
excess = centers - centers.mean(axis=0)
fig, axes = plt.subplots(2, 3, figsize=(8, 5), layout="constrained")
for c, ax in enumerate(axes.flat):
    top = np.argsort(excess[c])[-8:]
    ax.barh(words[top], excess[c, top])
    ax.set(title=f"cluster {c} ({model.weights_[c]:.0%})", xticks=[])

# %%
# Words or components?
# --------------------
# ``VaDEClusterer`` takes the sparse counts of words, too, and makes them dense batch by
# batch. Beside it is k-means on the same features.
X_words = vectorizer.transform(documents)
X_components = pipeline[:-1].transform(documents)
k_means = KMeans(n_clusters=6, n_init=10, random_state=0)
found = {
    "components, VaDEClusterer": model.labels_,
    "components, k-means": k_means.fit_predict(X_components),
    "words, VaDEClusterer": VaDEClusterer(6, random_state=0).fit_predict(X_words),
    "words, k-means": k_means.fit_predict(X_words),
}
for name, labels in found.items():
    print(f"{name:25} adjusted Rand index {adjusted_rand_score(topic, labels):.3f}")

# %%
# k-means is better here, and quicker: these topics are compact groups. Try it first.
# The components lose nothing, and a fit on the words takes longer.

# %%
# New documents
# -------------
# The pipeline takes new documents as they are.
new = ["court judge trial evidence", "oven recipe salt dish", "rain storm wind cloud"]
for text, row in zip(new, pipeline.predict_proba(new), strict=True):
    print(f"{text:28}" + "".join(f"{p:6.2f}" for p in row))
