"""
=================
Choose n_clusters
=================

Three steps: estimate the number, compare seeds, and look at the clusters.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer

wine = load_wine(as_frame=True)
X = StandardScaler().set_output(transform="pandas").fit_transform(wine.data)

# %%
# Step 1: estimate
# ----------------
# ``n_clusters="auto"`` estimates the number from the neighbor graph of the samples.
model = VaDEClusterer(n_clusters="auto", random_state=0).fit(X)
print(f"estimate: {model.n_clusters_} clusters")

# %%
# Step 2: compare seeds
# ---------------------
# Do two seeds find the same clusters? Try the estimate, one more, one less, and a much
# smaller number, such as half of a large estimate. An adjusted Rand index near 1 says
# that they do. A low one says that there are too many clusters, or that groups overlap.
# Here the seeds agree at every number. That rules none out: the next step decides.
numbers = [2, 3, 4, 5]
agreement = []
for n_clusters in numbers:
    first, second = (
        VaDEClusterer(n_clusters, random_state=seed).fit_predict(X) for seed in (0, 1)
    )
    agreement.append(adjusted_rand_score(first, second))

fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(numbers, agreement, marker="o")
ax.axvline(model.n_clusters_, color="tab:red", linestyle=":", label="estimate")
ax.set(xlabel="n_clusters", ylabel="agreement of two seeds", xticks=numbers)
ax.set_ylim(0, 1.05)
ax.legend()

# %%
# Step 3: look
# ------------
# Do the clusters differ in a way that means something? Look at their means. Clusters of
# nearly equal means are one group, and so are clusters that differ in one categorical
# column only: go down to a smaller number. Here all three differ in several columns.
means = wine.data.groupby(model.labels_).mean()
columns = ["alcohol", "color_intensity", "flavanoids", "proline"]
print(means[columns].round(2).to_string())

# %%
# In this case the answer is known: the wines come from three cultivars.
cultivars = wine.target_names[wine.target]
table = pd.crosstab(
    model.labels_, cultivars, rownames=["cluster"], colnames=["cultivar"]
)
print(table.to_string())
