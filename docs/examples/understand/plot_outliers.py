"""
==================================
Uncertain samples and unusual ones
==================================

Find samples between two clusters, and samples unlike all that were trained on.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer
from skvade.plotting import ResponsibilityDisplay

# %%
# The model is fitted to the digits 0 to 8. The nines, and a fifth of the others, are
# held out.
X, y = load_digits(return_X_y=True)
X = X / 16
known, nines = X[y < 9], X[y == 9]
train, test = train_test_split(known, test_size=0.2, random_state=0)
model = VaDEClusterer(n_clusters=9, random_state=0).fit(train)

# %%
# How sure are the assignments?
# -----------------------------
# ``predict_proba`` gives the probability of each cluster.
# Most samples belong to one cluster without a doubt. The dotted line is the entropy of
# a sample that could belong to any of them.
display = ResponsibilityDisplay.from_estimator(model, test)


# %%
# The most uncertain images, with the two clusters they might belong to.
def show(images, titles):
    _, axes = plt.subplots(1, len(images), figsize=(10, 1.7), layout="constrained")
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, fontsize="small")
        ax.set_axis_off()


uncertain = display.entropies_.argsort()[-8:][::-1]
first, second = display.responsibilities[uncertain].argsort(axis=1)[:, -1:-3:-1].T
show(test[uncertain], [f"{a} or {b}" for a, b in zip(first, second, strict=True)])

# %%
# How usual are they?
# -------------------
# ``score_samples`` bounds the log-likelihood of each sample. Compare the digits that
# were held out with the nines, and with images whose pixels were shuffled. Most nines
# score lower than the known digits, and shuffled pixels lower still.
rng = np.random.default_rng(0)
groups = {
    "digits 0 to 8": test,
    "nines": nines,
    "shuffled pixels": rng.permuted(test, axis=1),
}
scores = {name: model.score_samples(samples) for name, samples in groups.items()}

fig, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
ax.boxplot(scores.values(), tick_labels=scores.keys(), orientation="horizontal")
ax.set(xlabel="score (nats)")
for name, values in scores.items():
    print(f"{name}: median score {np.median(values):.0f} nats")

# %%
# The area under the ROC curve is the probability that a known digit scores higher than
# a sample of the other group. 0.5 is chance.
usual = scores.pop("digits 0 to 8")
for name, unusual in scores.items():
    is_usual = np.repeat([1, 0], [len(usual), len(unusual)])
    area = roc_auc_score(is_usual, np.concatenate([usual, unusual]))
    print(f"{name}: area under the ROC curve {area:.3f}")

# %%
# The nines with the highest and the lowest scores.
order = scores["nines"].argsort()
shown = np.concatenate([order[-4:][::-1], order[:4]])
show(nines[shown], [f"{score:.0f} nats" for score in scores["nines"][shown]])

# sphinx_gallery_thumbnail_number = 3
