"""
==================================
Learn from a stream, and resume it
==================================

Rows that come in pieces, or lie in a file that is larger than memory, go through
``partial_fit`` one piece after the other. This script reads a Parquet file batch by
batch, watches how well each batch is expected before it is learned from, and stops and
resumes in the middle. Reading Parquet needs the package ``pyarrow``.
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
# 24 batches of 1,000 rows from twelve sensors: five groups in four dimensions, bent by
# a random map. From batch 12 on, a quarter of the sensors read too high, as after a
# repair. The groups stay what they are. They are kept in a column of their own, for
# judging only.
N_BATCHES, N_ROWS, REPAIR, STOP = 24, 1_000, 12, 6
rng = np.random.default_rng(0)
centers = rng.normal(scale=2, size=(5, 4))
first, second = rng.normal(size=(4, 16)), rng.normal(size=(16, 12)) / 4
offset = np.repeat([1.0, 0.0], [3, 9])


def measure(batch):
    group = rng.integers(5, size=N_ROWS)
    Z = centers[group] + rng.normal(scale=0.6, size=(N_ROWS, 4))
    X = np.tanh(Z @ first / 2) @ second + rng.normal(scale=0.2, size=(N_ROWS, 12))
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
    reader = pq.ParquetFile(path).iter_batches(batch_size=N_ROWS)
    for i, table in enumerate(reader):
        if i >= start:
            columns = [table[name].to_numpy() for name in sensors]
            yield np.column_stack(columns), table["group"].to_numpy()


# %%
# Score first, then learn
# -----------------------
# The first batch decides where the clusters start, so it should have rows of every
# group. Each later batch is one pass. A batch that is scored before it is learned from
# is always new to the model, so no rows need to be held out. Beside it, a second model
# stops after the first batch.
model = VaDEClusterer(n_clusters=5, batch_size=50, random_state=0)
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

print(f"rows learned from: {model.n_samples_seen_}")
print("adjusted Rand index of clusters and groups, before learning:")
print(f"  batches before the repair: {np.mean(agreements[: REPAIR - 1]):.2f}")
print(f"  the first one after it: {agreements[REPAIR - 1]:.2f}")
print(f"  the last six: {np.mean(agreements[-6:]):.2f}")

# %%
# The scores rise while the model learns, fall steeply where the sensors change, and
# recover in a few batches. The model that has stopped neither improves nor recovers.
# A score that falls is a sign to look at the data, as no labels are needed to see it.
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
# The model was pickled in the middle of the stream. The loaded one goes on exactly as
# if nothing had happened: the state of the optimizer is kept with the rest.
resumed = pickle.loads(kept)
print(f"resumed after {resumed.n_samples_seen_} rows")
for X, _ in batches(start=STOP + 1):
    resumed.partial_fit(X)

for what in ("means_", "weights_", "cluster_centers_"):
    same = np.array_equal(getattr(model, what), getattr(resumed, what))
    print(f"{what} identical: {same}")
same = np.array_equal(model.score_samples(X), resumed.score_samples(X))
print(f"scores of the last batch identical: {same}")

# %%
# Several passes over a file
# --------------------------
# A stream is read once. Samples that can be read again are better given to ``fit``,
# which takes many passes. An array in a ``.npy`` file need not be loaded for that:
# opened with ``mmap_mode="r"``, no more than a batch of it is copied at a time if it is
# large, and the result is that of the array in memory.
in_memory = np.concatenate([X for X, _ in batches(start=REPAIR)])
np.save(path.with_suffix(".npy"), in_memory)
on_disk = np.load(path.with_suffix(".npy"), mmap_mode="r")

several_passes = VaDEClusterer(n_clusters=5, max_iter=5, random_state=0)
labels = several_passes.fit_predict(on_disk)
same = np.array_equal(labels, several_passes.fit_predict(in_memory))
print(f"{type(on_disk).__name__} and array in memory, the same labels: {same}")

folder.cleanup()
