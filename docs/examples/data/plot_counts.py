"""
================
Counts of events
================

Stations of a city's bikes, clustered by the hours of their trips: counts go in as they
are, and expected counts come out.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import train_test_split

from skvade import VaDEClusterer

# %%
# Trips
# -----
# They are generated: how many trips of a week began at a station in each hour of the
# day. There are four kinds of stations. The largest have thirty times the trips of the
# smallest, and the counts vary more than those of a Poisson distribution would.
rng = np.random.default_rng(0)
hours = np.arange(24)


def peak(hour, width):
    """Give a share of the trips around an hour of the day."""
    distance = (hours - hour + 12) % 24 - 12
    return np.exp(-0.5 * (distance / width) ** 2) / width


kinds = {
    "homes": 3 * peak(8, 1) + peak(18, 3) + 0.1,
    "offices": 3 * peak(17, 1.2) + peak(12, 2) + 0.1,
    "parks": 3 * peak(15, 3.5) + 0.1,
    "bars": 2 * peak(23, 2.5) + peak(19, 3) + 0.1,
}
profiles = np.array([profile / profile.sum() for profile in kinds.values()])
kind = rng.choice(4, 800, p=[0.4, 0.3, 0.2, 0.1])
trips = np.exp(rng.uniform(np.log(40), np.log(1200), size=(800, 1)))
variation = rng.gamma(4, 1 / 4, size=(800, 24))
counts = rng.poisson(trips * profiles[kind] * variation)
print("the first station:", counts[0])
print(f"totals from {counts.sum(axis=1).min()} to {counts.sum(axis=1).max()}")

# %%
# Clusters of profiles, not of sizes
# ----------------------------------
# To a Gaussian likelihood large and small stations are far apart, whatever their kind.
# One of counts takes the total of a station as given, and clusters what remains.
train, test, kind_train, _ = train_test_split(counts, kind, random_state=0)
models = {
    name: VaDEClusterer(n_clusters=4, likelihood=name, random_state=0).fit(train)
    for name in ("gaussian", "poisson", "negative_binomial")
}
for name, model in models.items():
    agreement = adjusted_rand_score(kind_train, model.labels_)
    print(f"{name:18} adjusted Rand index {agreement:.2f}")

# %%
# How much do counts vary?
# ------------------------
# A Poisson count has the variance of its mean. A negative binomial one has ``mean +
# dispersion * mean**2``, and the dispersion of each feature is learned. Both scores are
# log-probabilities of the same counts, so held-out stations tell which describes them.
for name in ("poisson", "negative_binomial"):
    print(f"{name:18} held-out score {models[name].score(test):7.1f}")
model = models["negative_binomial"]
print(f"median dispersion {np.median(model.dispersion_):.2f}, that of the data 0.25")

# %%
# Expected counts
# ---------------
# ``cluster_centers_`` has a row for each cluster: the expected counts in a station of
# the average total. The bars are what was counted in the stations of the cluster
# together, in the same unit.
mean_total = train.sum(axis=1).mean()
fig, axes = plt.subplots(2, 2, figsize=(8, 5), sharex=True, layout="constrained")
for c, ax in enumerate(axes.flat):
    pooled = train[model.labels_ == c].sum(axis=0)
    counted = mean_total * pooled / pooled.sum()
    ax.bar(hours, counted, color="lightgray", label="counted")
    ax.plot(hours, model.cluster_centers_[c], label="cluster_centers_")
    ax.set(title=f"cluster {c}: {model.weights_[c]:.0%} of stations", ylabel="trips")
axes[0, 0].legend()
for ax in axes[1]:
    ax.set(xlabel="hour", xticks=range(0, 25, 6))

# %%
# A counter that was broken
# -------------------------
# A missing count is NaN. The counts that are there tell the cluster and the total, and
# ``impute`` expects the rest.
broken = test[:1].astype(float)
broken[:, 7:10] = np.nan
imputed = model.impute(broken)
for hour in range(6, 11):
    print(f"{hour:2} h: counted {test[0, hour]:3}, imputed {imputed[0, hour]:6.1f}")

# %%
# New stations
# ------------
# ``sample`` draws counts, for stations of the average total.
samples, cluster = model.sample(3, random_state=0)
print(cluster)
print(samples.astype(int))
