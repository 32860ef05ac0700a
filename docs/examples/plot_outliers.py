"""
==============================
Doubtful rows and unusual ones
==============================

A row can be hard to assign, because it lies between clusters, or unlike anything the
model has seen. These are two questions: ``predict_proba`` answers the first,
``score_samples`` the second.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer
from skvade.plotting import ResponsibilityDisplay

# %%
# The model gets to see the digits 0 to 8. The nines, and a fifth of the others, are
# kept from it.
X, y = load_digits(return_X_y=True)
X = X / 16
known, nines = X[y < 9], X[y == 9]
train, test = train_test_split(known, test_size=0.2, random_state=0)
model = VaDEClusterer(n_clusters=9, random_state=0).fit(train)

# %%
# How sure are the assignments?
# -----------------------------
# Most rows belong to one cluster without a doubt. The dotted line is the entropy of a
# row that could belong to any of them.
display = ResponsibilityDisplay.from_estimator(model, test)


# %%
# The most doubtful images, with the two clusters they might belong to.
def show(images, titles):
    _, axes = plt.subplots(1, len(images), figsize=(10, 1.7), layout="constrained")
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, fontsize="small")
        ax.set_axis_off()


doubtful = display.entropies_.argsort()[-8:][::-1]
first, second = display.responsibilities[doubtful].argsort(axis=1)[:, -1:-3:-1].T
show(test[doubtful], [f"{a} or {b}" for a, b in zip(first, second, strict=True)])

# %%
# How usual are they?
# -------------------
# ``score_samples`` bounds the log-likelihood of each row. Besides the digits that were
# held out it gets nines, and images whose pixels were shuffled.
rng = np.random.default_rng(0)
groups = {
    "digits 0 to 8": test,
    "nines": nines,
    "shuffled pixels": rng.permuted(test, axis=1),
}
scores = {name: model.score_samples(rows) for name, rows in groups.items()}

fig, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
ax.boxplot(scores.values(), tick_labels=scores.keys(), orientation="horizontal")
ax.set(xlabel="score (nats)")
for name, values in scores.items():
    print(f"{name}: median score {np.median(values):.0f} nats")

# %%
# The area under the ROC curve is the probability that a known digit scores higher than
# a row of the other group: 0.5 is chance.
usual = scores.pop("digits 0 to 8")
for name, unusual in scores.items():
    is_usual = np.repeat([1, 0], [len(usual), len(unusual)])
    area = roc_auc_score(is_usual, np.concatenate([usual, unusual]))
    print(f"{name}: area under the ROC curve {area:.3f}")

# %%
# The nines that look most and least usual to a model without nines.
order = scores["nines"].argsort()
shown = np.concatenate([order[-4:][::-1], order[:4]])
show(nines[shown], [f"{score:.0f} nats" for score in scores["nines"][shown]])
