"""
===================================
Topics of documents, in sparse rows
===================================

Documents become rows of thousands of numbers, nearly all of them zero. This script
takes generated documents through a :class:`~sklearn.pipeline.Pipeline` from text to
clusters, in which the rows stay sparse, and reads the words of each cluster from its
center. The topics are used for judging only.
"""

import tracemalloc

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skvade import VaDEClusterer
from skvade.metrics import clustering_accuracy
from skvade.plotting import ResponsibilityDisplay, TrainingCurveDisplay

# %%
# Documents
# ---------
# A few words are typical of a topic, and some are typical of several: courts are for
# judges and for players. The other 3,000 words are made up and occur in all topics,
# some more often in one than in another. Each document has a main topic and borrows
# from a second.
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
# Counts of words that at least five documents have, weighted by how rare they are. Most
# of the variance is chance, spread over more than a thousand words, so the neighbors of
# a document are searched in fifty principal components. With as many words as documents
# the networks can memorize; ``early_stopping`` keeps the model that is best on
# documents held out.
pipeline = make_pipeline(
    CountVectorizer(min_df=5),
    TfidfTransformer(sublinear_tf=True),
    VaDEClusterer(n_clusters=6, max_iter=40, early_stopping=True, random_state=0),
).fit(documents)
vectorizer, model = pipeline[:-1], pipeline[-1]
TrainingCurveDisplay.from_estimator(model)

# %%
# What the clusters are about
# ---------------------------
# A center is a decoded mean, a weight for each word. The words that a center has more
# of than the average center tell what its cluster is about.
names = vectorizer.get_feature_names_out()
centers = model.cluster_centers_
excess = centers - centers.mean(axis=0)
for c, order in enumerate(np.argsort(-excess, axis=1)):
    print(f"{c} ({model.weights_[c]:.2f}): {' '.join(names[order[:9]])}")

# %%
# The agreement with the topics, beside k-means on the same rows, and both on twenty and
# a hundred dimensions of latent semantic analysis, in which the direction of a document
# counts.
X = vectorizer.transform(documents)
k_means = KMeans(n_clusters=6, n_init=10, random_state=0)
found = {"VaDEClusterer": model.labels_, "KMeans": k_means.fit_predict(X)}
for n in (20, 100):
    Z = make_pipeline(TruncatedSVD(n, random_state=0), Normalizer()).fit_transform(X)
    found[f"LSA({n}), VaDEClusterer"] = VaDEClusterer(6, random_state=0).fit_predict(Z)
    found[f"LSA({n}), KMeans"] = k_means.fit_predict(Z)
for name, labels in found.items():
    accuracy = clustering_accuracy(topic, labels)
    print(f"{name:23} accuracy {accuracy:.3f}, ", end="")
    print(f"adjusted Rand index {adjusted_rand_score(topic, labels):.3f}")

# %%
# k-means does better throughout, and is quicker: these topics are compact groups. What
# it does not give is a probability of each cluster, and a density of documents. Twenty
# dimensions hold the topics no worse than the words do. A hundred are many for 1,500
# documents, most of them chance. Of thousands of real news a hundred do as well as
# twenty: :doc:`../benchmarks`.

# %%
# How sure the assignments are
# ----------------------------
# Nearly all documents belong to one cluster without a doubt. That is surer than the
# accuracy above warrants: a model of many words, each of which counts as a witness of
# its own, is easily too sure. Take a doubt for a doubt, but not its absence for truth.
proba = pipeline.predict_proba(documents)
ResponsibilityDisplay.from_predictions(proba)
print(f"mean of the highest responsibility: {proba.max(axis=1).mean():.3f}")

# %%
# The pipeline takes new documents as they are. Each of the first three words is as
# typical of music as of sport, and still the model is fairly sure; a fourth can change
# its mind.
new = ["star score record", "star score record planet", "star score record goal"]
for text, row in zip(new, pipeline.predict_proba(new), strict=True):
    print(f"{text:25}" + "".join(f"{p:6.2f}" for p in row))

# %%
# Memory
# ------
# The rows are made dense some at a time, in fitting as in predicting. Here that is the
# peak of NumPy's memory in a prediction; PyTorch's own is not counted.
n_bytes = {
    "sparse": X.data.nbytes + X.indices.nbytes + X.indptr.nbytes,
    "dense": X.dtype.itemsize * np.prod(X.shape),
}
tracemalloc.start()
model.predict(X)
n_bytes["arrays of predict"] = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
print(
    f"{X.shape[0]} documents, {X.shape[1]} words, {X.nnz / np.prod(X.shape):.1%} stored"
)
for name, number in n_bytes.items():
    print(f"{name:17} {number / 2**20:5.1f} MiB")
