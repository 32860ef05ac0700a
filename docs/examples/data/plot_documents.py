"""
===============
Counts of words
===============

Short and long messages in one table of word counts, and the words that each cluster
uses more often than the others do.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from skvade import VaDEClusterer

# %%
# Messages
# --------
# They are generated: what people write to the office of a town. A third of the words
# belong to a concern, and some of these to several: trucks collect waste, dig up roads
# and make noise. The others are common to all messages. The longest messages have
# twenty times the words of the shortest. The concerns are used for judging only.
concerns = {
    "water": "water pipe leak pressure meter tap flood drain cold valve brown cellar",
    "waste": "bin waste collection truck glass paper compost smell missed full rats",
    "roads": "road hole lamp light sign dark truck bus crossing snow repair gravel",
    "noise": "noise night music party loud bar dog truck sleep drilling shout weekend",
    "parks": "park bench tree playground swing grass dog glass light flood branch pond",
}
common = (
    "the our street since again please house week there still nobody called yesterday "
    "morning could somebody look thank family children town waiting answer days front "
    "already reported near behind corner school new old very much neighbors office"
)
rng = np.random.default_rng(0)
common_shares = 1 / np.arange(1, len(common.split()) + 1)  # the law of Zipf
common_shares /= common_shares.sum()
own_shares = {
    name: rng.dirichlet(np.ones(len(text.split()))) for name, text in concerns.items()
}


def message(name, length):
    n_own = rng.binomial(length, 0.35)
    own = rng.choice(concerns[name].split(), n_own, p=own_shares[name])
    others = rng.choice(common.split(), length - n_own, p=common_shares)
    return " ".join(rng.permutation([*own, *others]))


concern = rng.choice(list(concerns), 1_000, p=[0.3, 0.25, 0.2, 0.15, 0.1])
lengths = np.exp(rng.uniform(np.log(6), np.log(120), len(concern))).astype(int)
messages = [message(*pair) for pair in zip(concern, lengths, strict=True)]
print(messages[0])

# %%
# Counts
# ------
# The counts of words stay as they are, in a sparse matrix.
vectorizer = CountVectorizer()
counts = vectorizer.fit_transform(messages)
words = vectorizer.get_feature_names_out()
print(f"{counts.shape[0]} messages of {counts.shape[1]} words")
print(f"{counts.nnz / np.prod(counts.shape):.0%} of the counts are not zero")

# %%
# Clusters
# --------
# ``likelihood="multinomial"`` takes the length of a message as given, and models the
# shares of the words. k-means gets the shares, or log1p of the counts: it then finds
# short and long messages rather than concerns.
model = VaDEClusterer(n_clusters=5, likelihood="multinomial", random_state=0)
k_means = KMeans(n_clusters=5, n_init=10, random_state=0)
found = {
    "multinomial": model.fit_predict(counts),
    "k-means on shares": k_means.fit_predict(normalize(counts, "l1")),
    "k-means on log1p": k_means.fit_predict(counts.log1p()),
}
for name, labels in found.items():
    print(f"{name:18} adjusted Rand index {adjusted_rand_score(concern, labels):.2f}")

# %%
# What the clusters are about
# ---------------------------
# ``cluster_centers_`` are expected counts in a message of the average length. Divided
# by their sum they are rates. A bar is the rate of a word in the cluster, and the line
# across it that in all messages. Words with the largest difference come first.
rates = 100 * normalize(model.cluster_centers_, "l1")
average = 100 * np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
fig, axes = plt.subplots(1, 5, figsize=(10, 3.4), sharex=True, layout="constrained")
for c, ax in enumerate(axes):
    top = np.argsort(rates[c] - average)[-7:]
    ax.barh(words[top], rates[c, top], color="lightsteelblue")
    ax.vlines(average[top], np.arange(7) - 0.4, np.arange(7) + 0.4, color="black")
    ax.set_title(f"cluster {c}\n{model.weights_[c]:.0%} of messages", fontsize="medium")
fig.supxlabel("of a hundred words")

# %%
# New messages
# ------------
# The vectorizer leaves out words that no message had.
new = ["a truck all night, loud", "the bin is full", "valve of our cellar broken"]
for text, row in zip(new, model.predict_proba(vectorizer.transform(new)), strict=True):
    print(f"{text:27}" + "".join(f"{p:6.2f}" for p in row))

# %%
# Generated messages
# ------------------
# ``sample`` draws counts, which are messages whose words have lost their order.
samples, clusters = model.sample(5, random_state=0)
for sample, c in zip(samples, clusters, strict=True):
    often = np.argsort(-sample, kind="stable")[:8]
    print(c, ", ".join(f"{words[i]} {sample[i]:.0f}" for i in often))
