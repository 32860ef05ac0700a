"""Memory that a fit takes: X may be larger than the memory that there is."""

import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from skvade._training import initialization

ROOT = Path(__file__).resolve().parents[1]

FIT_A_FILE = """
import sys
import numpy as np
from skvade import VaDEClusterer

model = VaDEClusterer(
    2, latent_dim=2, hidden_layer_sizes=(8,), pretrain_max_iter=1, n_init=1,
    warmup_max_iter=1, max_iter=1, tol=0, random_state=0,
    batch_size=256, pretraining=sys.argv[2], init=sys.argv[3],
)
X = np.load(sys.argv[1], mmap_mode="r")
model.fit(X[:3000]).predict(X[:3000])
print("warm", flush=True)
sys.stdin.readline()
model.fit(X).predict(X)
"""


def private_memory(process):
    """Bytes that are no pages of a file, 0 if the process has ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = re.findall(r"RssAnon:\s*(\d+)", status)
    return 1024 * int(kilobytes[0]) if kilobytes else 0


# X with its mask is too large to be cached. Fifty principal components of each sample,
# and the graph, are another twentieth of it; the samples that missing entries are
# imputed from are a few megabytes. A mask, a byte for each entry, exceeds the limits.
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "params, limit",
    [(["autoencoder", "kmeans"], 0.25), (["neighbors", "communities"], 0.5)],
)
def test_a_memory_map_is_fitted_without_copying_it(tmp_path, params, limit):
    rng, path = np.random.default_rng(0), tmp_path / "X.npy"
    X = np.lib.format.open_memmap(path, "w+", np.float32, (12_000, 1000))
    for chunk in np.array_split(X, 40):
        chunk[:] = rng.normal(size=(1, 1000)) + rng.normal(size=(len(chunk), 1))
    X[5, 3] = np.nan
    X.flush()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", FIT_A_FILE, str(path), *params]
    # What is freed is given back at once: fragments of the heap are not measured.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout.readline() == "warm\n"
        before = peak = private_memory(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        # Measured from outside: a thread beside would allocate among the arrays.
        while process.poll() is None:
            peak = max(peak, private_memory(process))
            time.sleep(0.005)
    assert process.returncode == 0
    assert peak - before < limit * X.nbytes


def test_a_fit_keeps_few_bytes_per_sample(make_estimator, monkeypatch):
    """Ten latent coordinates or ten responsibilities would take 80 bytes each."""
    monkeypatch.setattr(initialization, "MAX_INIT_SAMPLES", 500)
    settings = {"latent_dim": 10, "n_clusters": 10, "batch_size": 1000, "max_iter": 1}
    model = make_estimator(**settings, pretrain_max_iter=1)

    def peak_of_fit(n_samples):
        X = np.random.default_rng(0).normal(size=(n_samples, 4))
        model.fit(X[:100])
        tracemalloc.start()
        model.fit(X)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert (peak_of_fit(60_000) - peak_of_fit(20_000)) / 40_000 < 60
