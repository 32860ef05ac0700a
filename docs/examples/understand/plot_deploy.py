"""
===============================
From a CSV file to an ONNX file
===============================

Fit on a file, export the model, and serve it without PyTorch and skvade.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import VaDEClusterer
from skvade.plotting import LatentSpaceDisplay

# %%
# The file
# --------
# Measurements of 569 tumors. The first 469 are in the file to learn from. The other 100
# arrive later. The diagnosis is used for judging only.
temporary = TemporaryDirectory()
folder = Path(temporary.name)
data = load_breast_cancer(as_frame=True)
data.data[:469].to_csv(folder / "known.csv", index=False)
data.data[469:].to_csv(folder / "new.csv", index=False)

# %%
# Fit
# ---
# The features have different units, so they are scaled first.
known = pd.read_csv(folder / "known.csv")
pipeline = make_pipeline(StandardScaler(), VaDEClusterer(n_clusters=2, random_state=0))
labels = pipeline.fit_predict(known)
agreement = adjusted_rand_score(data.target[:469], labels)
print(f"adjusted Rand index of clusters and diagnoses: {agreement:.2f}")

# %%
# Export
# ------
# ``to_onnx`` writes what ``predict_proba`` or ``transform`` computes. It needs the
# extra ``onnx``. The file holds the model, but not the scaler: the mean and the scale
# of each feature go into a file beside it.
scaler, model = pipeline
for method in ["predict_proba", "transform"]:
    model.to_onnx(folder / f"{method}.onnx", method)
scaling = {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
(folder / "scaling.json").write_text(json.dumps(scaling))
for path in sorted(folder.iterdir()):
    print(f"{path.name:20}{path.stat().st_size / 1024:6.0f} KiB")

# %%
# Serve
# -----
# This program needs NumPy and onnxruntime. It reads new samples, scales them, and
# writes the probability of each cluster and the coordinates in the latent space.
SERVER = """
import json, sys
import numpy as np
import onnxruntime

X = np.loadtxt("new.csv", delimiter=",", skiprows=1)
scaling = json.load(open("scaling.json"))
X = ((X - scaling["mean"]) / scaling["scale"]).astype(np.float32)
for method in ["predict_proba", "transform"]:
    session = onnxruntime.InferenceSession(f"{method}.onnx")
    (result,) = session.run(None, {session.get_inputs()[0].name: X})
    np.save(f"{method}.npy", result)
loaded = {"torch", "sklearn", "skvade"} & {*sys.modules}
print(f"{len(X)} samples; of torch, sklearn and skvade loaded: {len(loaded)}")
"""
(folder / "serve.py").write_text(SERVER)
server = subprocess.run(
    [sys.executable, "serve.py"], cwd=folder, capture_output=True, text=True, check=True
)
print(server.stdout)

# %%
# The results are those of the pipeline, up to the rounding of float32.
new = pd.read_csv(folder / "new.csv")
proba, Z = np.load(folder / "predict_proba.npy"), np.load(folder / "transform.npy")
difference = np.abs(proba - pipeline.predict_proba(new)).max()
print(f"largest difference of a probability: {difference:.0e}")
agreement = adjusted_rand_score(data.target[469:], proba.argmax(axis=1))
print(f"adjusted Rand index on the new samples: {agreement:.2f}")

# %%
# The latent space of the known samples, and the new ones as the server has placed them.
X = scaler.transform(known)
pca = PCA(n_components=2).fit(model.transform(X))
plane = pca.transform(model.transform(X))
display = LatentSpaceDisplay.from_estimator(model, X, projection=plane)
display.ax_.plot(*pca.transform(Z).T, "kx", markersize=5, label="new sample")
display.ax_.set(xlabel="principal component 1", ylabel="principal component 2")
display.ax_.legend(title="cluster")

temporary.cleanup()
