"""
====================
Customers in a table
====================

Numbers, categories and gaps: from a data frame to a profile of each cluster.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from skvade import VaDEClusterer

# %%
# The table
# ---------
# The customers are generated. There are four kinds, which differ in how often they
# order, in what they pay for an order, and in their channel. Customers of all kinds
# have stayed from half a year to ten years. A tenth of the ages and of the incomes is
# missing.
# For a table of your own, start with ``df = pd.read_csv("customers.csv")``.
KINDS = pd.DataFrame(
    {
        "orders_per_month": [0.25, 1.5, 0.3, 2.0],
        "order_value": [25, 15, 120, 70],
        "age": [28, 38, 48, 58],
        "income": [25_000, 35_000, 45_000, 65_000],
        "discount": [6, 2, 2, 1],
    },
    index=["occasional", "regular", "premium", "business"],
)
CHANNELS = ["app", "shop", "web"]
CHANNEL_SHARES = [[0.6, 0.1, 0.3], [0.3, 0.2, 0.5], [0.1, 0.6, 0.3], [0.1, 0.1, 0.8]]


def generate_customers(months, n_samples=2_000):
    """Generate customers who have stayed from months[0] to months[1] months."""
    rng = np.random.default_rng(0)
    kind = rng.choice(4, n_samples, p=[0.4, 0.3, 0.2, 0.1])
    of_kind = KINDS.iloc[kind].reset_index(drop=True)
    df = pd.DataFrame({"months": np.exp(rng.uniform(*np.log(months), n_samples))})
    orders = (
        df["months"] * of_kind["orders_per_month"] * rng.lognormal(0, 0.2, n_samples)
    )
    df["orders"] = 1 + rng.poisson(orders)
    df["spent"] = (
        df["orders"] * of_kind["order_value"] * rng.lognormal(0, 0.2, n_samples)
    )
    df["age"] = of_kind["age"] + rng.normal(0, 5, n_samples)
    df["income"] = of_kind["income"] * rng.lognormal(0, 0.2, n_samples)
    df["discount"] = rng.beta(of_kind["discount"], 10)
    df["channel"] = [rng.choice(CHANNELS, p=CHANNEL_SHARES[k]) for k in kind]
    for name in ["age", "income"]:
        df.loc[rng.random(n_samples) < 0.1, name] = np.nan
    return df.round(2), kind


df, kind = generate_customers(months=(6, 120))
print(df.head().to_string())

# %%
# From the table to clusters
# --------------------------
# Amounts and counts are skewed: take their logarithm. Scale all numbers, since their
# units differ. Gaps among the numbers stay as they are. Categories become columns of
# zeros and ones. They get a weight of one half, since the numbers matter more here.
amounts = ["months", "orders", "spent", "income"]
numbers = ["age", "discount"]
log = FunctionTransformer(np.log1p, np.expm1, check_inverse=False)
prepare = ColumnTransformer(
    [
        (
            "amounts",
            make_pipeline(log, StandardScaler()),
            amounts,
        ),
        ("numbers", StandardScaler(), numbers),
        ("categories", OneHotEncoder(handle_unknown="ignore"), ["channel"]),
    ],
    sparse_threshold=0,
    transformer_weights={"categories": 0.5},
)
pipeline = make_pipeline(prepare, VaDEClusterer(n_clusters=4, random_state=0))
labels = pipeline.fit_predict(df)

# %%
# Profiles in the original units
# ------------------------------
# Group the table itself by the labels. Nothing has to be scaled back. The clusters are
# the four kinds: they differ in orders, in age, and in the channel, not in months.
print(df.groupby(labels)[amounts + numbers].median().round(2).to_string())
channels = pd.crosstab(labels, df["channel"], rownames=["cluster"], normalize="index")
print(channels.round(2).to_string())

# %%
# Gaps, filled in the original units
# ----------------------------------
# ``impute`` fills the gaps of the scaled columns. Undo the transformer of each group of
# columns.
prepared = prepare.transform(df)
filled = pipeline[-1].impute(prepared)
imputed = df.copy()
for name, columns in {"amounts": amounts, "numbers": numbers}.items():
    transformer = prepare.named_transformers_[name]
    values = filled[:, prepare.output_indices_[name]]
    imputed[columns] = transformer.inverse_transform(values)
has_gap = df["income"].isna()
print(df[has_gap].head(3).to_string())
print(imputed[has_gap].head(3).round(2).to_string())

# %%
# k-means beside it
# -----------------
# k-means takes no gaps, so the median fills them. Its clusters are customers of a year
# and customers of five years, as the column of months shows.
k_means = make_pipeline(
    prepare, SimpleImputer(strategy="median"), KMeans(4, n_init=10, random_state=0)
)
k_means_labels = k_means.fit_predict(df)
print(df.groupby(k_means_labels)[amounts + numbers].median().round(2).to_string())
for name, found in {"VaDEClusterer": labels, "k-means": k_means_labels}.items():
    print(f"{name:14} adjusted Rand index {adjusted_rand_score(kind, found):.2f}")

# %%
# Customers of a kind are not compact in such a table: they spread over all lengths of
# stay. Neighbors still lead from a new one to an old one.
fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
panels = {"Kind": kind, "VaDEClusterer": labels, "k-means": k_means_labels}
for ax, (title, groups) in zip(axes, panels.items(), strict=True):
    for group in range(4):
        members = df[groups == group]
        ax.scatter(members["months"], members["spent"], s=3)
    ax.set(title=title, xlabel="months", xscale="log", yscale="log")
axes[0].set_ylabel("spent")

# %%
# When k-means is enough
# ----------------------
# The same kinds of customers, all of whom have stayed for about a year. Now the groups
# are compact, and k-means finds nearly the same clusters in a fraction of the time.
df, kind = generate_customers(months=(10, 14))
for name, model in {"VaDEClusterer": pipeline, "k-means": k_means}.items():
    start = time.perf_counter()
    found = model.fit_predict(df)
    seconds = time.perf_counter() - start
    agreement = adjusted_rand_score(kind, found)
    print(f"{name:14} adjusted Rand index {agreement:.2f}, {seconds:.1f} s")
