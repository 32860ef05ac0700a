"""Fit and time the VaDE of ClustPy 0.0.3, in an environment of its own.

    PEER_PYTHON tests/benchmarks/clustpy_vade.py SETTINGS

`pip install -c tests/constraints.txt clustpy==0.0.3 torch` builds the environment, and
`--peer` of the benchmarks is the path of its interpreter, which `peer` in `methods.py`
calls. SETTINGS is JSON, and so is the line that is printed. ClustPy imports torchvision
for its data sets alone, so an empty module takes its place.
"""

import json
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
import tqdm


class EmptyModule(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class EmptyTorchvision(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return EmptyModule(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, EmptyTorchvision())  # before one that does not fit torch

epoch_times = []  # a list of time stamps per call of trange: pretraining, clustering


class EpochTimer:
    """Replace `tqdm.trange` and record when each epoch begins and ends."""

    def __init__(self, n_epochs, **kwargs):
        self.n_epochs = n_epochs

    def __iter__(self):
        stamps = [time.perf_counter()]
        epoch_times.append(stamps)
        for epoch in range(self.n_epochs):
            yield epoch
            stamps.append(time.perf_counter())

    def set_postfix(self, *args, **kwargs):
        pass


tqdm.trange = EpochTimer

from clustpy.deep import VaDE  # noqa: E402
from clustpy.deep.vade import _VaDE_VAE  # noqa: E402


def main(settings):
    torch.set_num_threads(settings["threads"])
    X = np.load(settings["X"])
    layers = [X.shape[1], *settings["hidden_layer_sizes"], 10]
    network = {"layers": layers, "activation_fn": torch.nn.ReLU}
    seed = settings["seed"]
    model = VaDE(
        settings["n_clusters"],
        batch_size=settings["batch_size"],
        pretrain_epochs=settings["pretrain_epochs"],
        clustering_epochs=settings["epochs"],
        neural_network=(_VaDE_VAE, {**network, "random_state": seed}),
        initial_clustering_params={"n_init": 1, "covariance_type": "diag"},
        device="cpu",
        random_state=seed,
    )
    start = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    model.predict(X)
    result = {
        "fit": seconds,
        "predict": time.perf_counter() - start,
        "pretrain_epoch": float(np.median(np.diff(epoch_times[0]))),
        "epoch": float(np.median(np.diff(epoch_times[1]))),
        "labels": model.vade_labels_.tolist(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
