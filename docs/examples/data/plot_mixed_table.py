"""
=============
A mixed table
=============

People of a census, clustered by numbers, categories and counts: the table goes in as it
is, gaps included, and categories come out.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer

# %%
# A table as it comes
# -------------------
# It is generated. There are four kinds of people: students, workers, managers and
# pensioners. No column tells them all apart.
rng = np.random.default_rng(0)
n_people = 1000
names = np.array(["student", "worker", "manager", "pensioner"])
kind = rng.choice(4, n_people, p=[0.2, 0.4, 0.2, 0.2])


def draw(options, shares):
    """Draw a category for each person, by the shares in each kind."""
    cumulative = np.cumsum(shares, axis=1)[kind, :-1]
    drawn = (rng.random((n_people, 1)) > cumulative).sum(axis=1)
    return np.array(options, dtype=object)[drawn]


people = pd.DataFrame(
    {
        "age": rng.normal(np.array([22, 40, 45, 71])[kind], 6),
        "hours": rng.normal(np.array([14, 39, 50, 2])[kind], 4).clip(0),
        "income": rng.lognormal(np.array([9.4, 10.5, 11.4, 10.2])[kind], 0.35),
        "education": draw(
            ["school", "college", "degree"],
            [[0.5, 0.5, 0.0], [0.6, 0.3, 0.1], [0.0, 0.2, 0.8], [0.5, 0.3, 0.2]],
        ),
        "work": draw(
            ["none", "private", "state", "own"],
            [
                [0.5, 0.4, 0.1, 0.0],
                [0.0, 0.7, 0.2, 0.1],
                [0.0, 0.5, 0.2, 0.3],
                [0.9, 0.0, 0.0, 0.1],
            ],
        ),
        "married": rng.random(n_people) < np.array([0.1, 0.5, 0.7, 0.6])[kind],
        "children": rng.poisson(np.array([0.05, 1.2, 1.4, 0.1])[kind]),
    }
)
people["education"] = people["education"].astype("category")
gaps = rng.random(people.shape) < 0.05
people = people.mask(gaps)
print(people.head())
print(people.dtypes)

# %%
# A likelihood for each kind of column
# ------------------------------------
# Incomes are skewed, so the Gaussian gets their logarithm. Nothing else is prepared: no
# scaling, no one-hot encoding, and no filling of gaps.
table = people.assign(income=np.log10(people["income"]))
model = VaDEClusterer(
    n_clusters=4,
    likelihood=[
        ("gaussian", ["age", "hours", "income"]),
        ("categorical", ["education", "work", "married"]),
        ("poisson", ["children"]),
    ],
    random_state=0,
)
labels = model.fit_predict(table)
print(f"adjusted Rand index {adjusted_rand_score(kind, labels):.2f}")
print(pd.crosstab(labels, names[kind], rownames=["cluster"], colnames=["kind"]))

# %%
# Profiles in the units of the table
# ----------------------------------
# The clusters are groups of rows, so ``groupby`` describes them by the table itself.
print(people.groupby(labels)[["age", "hours", "income", "children"]].median())
for name in ("education", "work", "married"):
    shares = pd.crosstab(labels, people[name], rownames=["cluster"], normalize="index")
    print(shares.round(2))

# %%
# The model has its own: ``cluster_centers_`` is a table of expected numbers, and of the
# most probable categories.
centers = model.cluster_centers_
centers["income"] = 10 ** centers["income"]
print(centers.round(1))

# %%
# Numbers and categories side by side, by cluster:
fig, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
titles = [f"{c}: {share:.0%}" for c, share in enumerate(model.weights_)]
for name, ax in zip(["age", "hours", "income"], axes[0], strict=True):
    values = [people[name][labels == c].dropna() for c in range(4)]
    ax.boxplot(values, tick_labels=titles, showfliers=False)
    ax.set(title=name, yscale="log" if name == "income" else "linear")
for name, ax in zip(["education", "work", "married"], axes[1], strict=True):
    shares = pd.crosstab(labels, people[name], normalize="index")
    shares.plot.bar(ax=ax, stacked=True, width=0.8, rot=0)
    ax.legend(title="", fontsize="small", loc="upper center", ncols=2)
    ax.set(title=name, xlabel="cluster", ylabel="share", ylim=(0, 1.35))

# %%
# Gaps
# ----
# ``impute`` fills them by what the model expects of the person.
incomplete = table[table.isna().any(axis=1)].head(4)
print(incomplete)
print(model.impute(incomplete).round(2))

# %%
# New people
# ----------
# ``predict`` takes people with gaps. A category that the fit has not seen is missing,
# too. ``sample`` draws people of a cluster.
new = table.head(2).astype({"work": object, "education": object})
new.loc[0, "work"] = "space"
print(model.predict_proba(new).round(3))
print(model.sample(4, label=0, random_state=0)[0].round(1))
