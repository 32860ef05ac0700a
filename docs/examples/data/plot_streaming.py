"""
=========================
A file larger than memory
=========================

Learn batch by batch with ``partial_fit``, see when the data change, and resume.
"""

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import adjusted_rand_score

from skvade import VaDEClusterer

# %%
# A file of measurements
# ----------------------
# 24 batches of 1,000 samples from twelve sensors: five groups in four dimensions, bent
# by a random map. From batch 12 on, a quarter of the sensors read too high, as after a
# repair. The groups stay the same. They are in a column of their own, for judging only.
# Reading Parquet needs the package ``pyarrow``.
N_BATCHES, N_SAMPLES, REPAIR, STOP = 24, 1_000, 12, 6
rng = np.random.default_rng(0)
centers = rng.normal(scale=2, size=(5, 4))
first, second = rng.normal(size=(4, 16)), rng.normal(size=(16, 12)) / 4
offset = np.repeat([1.0, 0.0], [3, 9])


def measure(batch):
    group = rng.integers(5, size=N_SAMPLES)
    Z = centers[group] + rng.normal(scale=0.6, size=(N_SAMPLES, 4))
    X = np.tanh(Z @ first / 2) @ second + rng.normal(scale=0.2, size=(N_SAMPLES, 12))
    return X + offset * (batch >= REPAIR), group


folder = TemporaryDirectory()
path = Path(folder.name) / "measurements.parquet"
sensors = [f"sensor_{i}" for i in range(12)]
schema = pa.schema([(name, pa.float64()) for name in sensors] + [("group", pa.int64())])
with pq.ParquetWriter(path, schema) as writer:
    for batch in range(N_BATCHES):
        X, group = measure(batch)
        writer.write_table(pa.table([*X.T, group], schema=schema))


# %%
# The reader holds one batch in memory, whatever the size of the file.
def batches(start=0):
    reader = pq.ParquetFile(path).iter_batches(batch_size=N_SAMPLES)
    for i, table in enumerate(reader):
        if i >= start:
            columns = [table[name].to_numpy() for name in sensors]
            yield np.column_stack(columns), table["group"].to_numpy()


# %%
# Score first, then learn
# -----------------------
# The first batch decides where the clusters start, so it should have samples of every
# group. Each later batch is one pass. A batch that is scored before the model learns
# from it is new to the model, so no samples need to be held out. A second model stops
# after the first batch.
model = VaDEClusterer(n_clusters=5, random_state=0)
scores, agreements, frozen_scores = [], [], []
for i, (X, group) in enumerate(batches()):
    if i == 0:
        frozen = pickle.loads(pickle.dumps(model.partial_fit(X)))
        continue
    scores.append(model.score(X))
    frozen_scores.append(frozen.score(X))
    agreements.append(adjusted_rand_score(group, model.predict(X)))
    model.partial_fit(X)
    if i == STOP:
        kept = pickle.dumps(model)

print(f"samples learned from: {model.n_samples_seen_}")
print("adjusted Rand index of clusters and groups, before learning:")
print(f"  batches before the repair: {np.mean(agreements[: REPAIR - 1]):.2f}")
print(f"  the first one after it: {agreements[REPAIR - 1]:.2f}")
print(f"  the last six: {np.mean(agreements[-6:]):.2f}")

# %%
# The scores rise while the model learns, fall steeply where the sensors change, and
# recover in a few batches. The model that has stopped neither improves nor recovers.
# A score that falls is a sign to look at the data. It needs no labels.
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
number = np.arange(1, N_BATCHES)
ax.plot(number, scores, "-o", markersize=4, label="learns from each batch")
ax.plot(number, frozen_scores, "--s", markersize=4, label="learned from batch 0 only")
ax.axvline(REPAIR, color="black", linestyle=":", label="repair")
ax.set(xlabel="batch", ylabel="score before learning (nats)", xticks=number[::2])
ax.legend()

# %%
# Stop and resume
# ---------------
# The model was pickled in the middle of the file. The loaded one continues exactly as
# the other did: the state of the optimizer is kept with the rest.
resumed = pickle.loads(kept)
print(f"resumed after {resumed.n_samples_seen_} samples")
for X, _ in batches(start=STOP + 1):
    resumed.partial_fit(X)

for what in ("means_", "weights_", "cluster_centers_"):
    same = np.array_equal(getattr(model, what), getattr(resumed, what))
    print(f"{what} identical: {same}")
same = np.array_equal(model.score_samples(X), resumed.score_samples(X))
print(f"scores of the last batch identical: {same}")

# %%
# ``partial_fit`` passes over the samples once. Where several passes are possible, give
# ``fit`` an array of the file: one opened by ``np.load(path, mmap_mode="r")`` is read
# batch by batch.
folder.cleanup()
