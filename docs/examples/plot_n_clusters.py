"""
=================
Choose n_clusters
=================

Three steps: search with ``GridSearchCV``, choose by a rule, and check the choice.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer

wine = load_wine(as_frame=True)
X = StandardScaler().set_output(transform="pandas").fit_transform(wine.data)


# %%
# Step 1: search
# --------------
# Two criteria, both on samples held out. The bound says how well a model describes new
# samples. The silhouette in the latent space says how far apart the clusters are.
def bound(model, X, y=None):
    return model.score(X)


def silhouette(model, X, y=None):
    return silhouette_score(model.transform(X), model.predict(X))


# %%
# Step 2: choose
# --------------
# Take the candidates whose bound is within one standard deviation of the highest. Of
# these, take the one with the highest silhouette. As ``refit``, the rule also decides
# which model the search fits to all samples in the end.
def choose(results):
    """Return the index of the candidate to refit."""
    score, separation = results["mean_test_bound"], results["mean_test_silhouette"]
    best = score.argmax()
    is_close = score >= score[best] - results["std_test_bound"][best]
    return np.where(is_close, separation, -np.inf).argmax()


search = GridSearchCV(
    VaDEClusterer(random_state=0),
    {"n_clusters": [2, 3, 4, 5]},
    scoring={"bound": bound, "silhouette": silhouette},
    refit=choose,
    cv=KFold(2, shuffle=True, random_state=0),
).fit(X)

# %%
# A search takes a fit for each candidate and fold, and the last one. The warning is of
# a fit with two clusters, one of which holds several groups.
results = search.cv_results_
seconds = results["mean_fit_time"].sum() * search.n_splits_ + search.refit_time_
print(f"{4 * search.n_splits_ + 1} fits took {seconds:.0f} s")
print(f"chosen: n_clusters={search.best_params_['n_clusters']}")

n_clusters = results["param_n_clusters"].astype(int)
fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for ax, name in zip(axes, ["bound", "silhouette"], strict=True):
    mean, deviation = results[f"mean_test_{name}"], results[f"std_test_{name}"]
    ax.errorbar(n_clusters, mean, deviation, marker="o", capsize=3)
    ax.axvline(search.best_params_["n_clusters"], color="tab:red", linestyle=":")
    ax.set(title=name, xlabel="n_clusters", xticks=n_clusters)
for name in ["bound", "silhouette"]:
    values = ", ".join(f"{value:.2f}" for value in results[f"mean_test_{name}"])
    print(f"{name:10} {values}")

# %%
# The silhouette alone would have chosen four clusters. But a model of four describes
# samples that were held out far worse than a model of two or three does.

# %%
# Step 3: check
# -------------
# Does another seed find the same clusters? An adjusted Rand index of 1 says that both
# are the same.
model = search.best_estimator_
other = VaDEClusterer(**search.best_params_, random_state=1).fit(X)
agreement = adjusted_rand_score(model.labels_, other.labels_)
print(f"adjusted Rand index of two seeds: {agreement:.2f}")

# %%
# Do the clusters differ in a way that means something? Look at their means. A cluster
# without a character of its own is a reason to choose fewer.
means = wine.data.groupby(model.labels_).mean()
columns = ["alcohol", "color_intensity", "flavanoids", "proline"]
print(means[columns].round(2).to_string())

# %%
# In this case the answer is known: there are three cultivars. No rule finds the number
# on all data. On five data sets with a known answer each of the two criteria alone
# found it in a third of the cases (:ref:`choosing`).
cultivars = wine.target_names[wine.target]
table = pd.crosstab(
    model.labels_, cultivars, rownames=["cluster"], colnames=["cultivar"]
)
print(table.to_string())
