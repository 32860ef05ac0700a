"""Processes that fit, or write files, until they are killed."""

import multiprocessing
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import make_blobs

from skvade import VaDEClusterer
from skvade._archive import write_archive
from skvade.callbacks import Checkpoint

PRETRAINING = {
    "neighbors": {"pretrain_max_iter": 5},
    "autoencoder": {"pretrain_max_iter": 30, "init": "kmeans"},
    "stacked": {"pretrain_max_iter": 10, "init": "kmeans"},
    "vae": {"pretrain_max_iter": 30, "init": "kmeans"},
}


def kill(target, args, path, wait):
    """Run a function in a new process and kill it so long after a file appears.

    Tell whether the process was still running. The processes are forked from one that
    has imported skvade, which takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["skvade", "sklearn.datasets"])
    process = context.Process(target=target, args=(path, *args), daemon=True)
    process.start()
    while not path.exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(wait)
    process.kill()
    process.join()
    assert path.exists()
    return process.exitcode == -9


def make_data():
    return make_blobs(200, 10, centers=4, random_state=0)[0]


def make_model(pretraining, precision="float32", max_iter=40):
    return VaDEClusterer(
        n_clusters=4,
        hidden_layer_sizes=(32,),
        pretraining=pretraining,
        precision=precision,
        warmup_max_iter=5,
        max_iter=max_iter,
        random_state=0,
        device="cpu",
        **PRETRAINING[pretraining],
    )


def fit(path, n_threads, *args):
    """Fit with a checkpoint after every epoch."""
    torch.set_num_threads(n_threads)
    warnings.simplefilter("ignore")
    make_model(*args).set_callbacks(Checkpoint(path)).fit(make_data())


def write(path, size):
    """Write archives without an end, whose values are all the same number."""
    number = 0
    while True:
        number += 1
        x = np.full(size, number)
        write_archive(path, {"first": number, "x": x, "last": number})
