"""Fits by several processes, for test_distributed.py, which starts this as a script.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        tests/distributed_fits.py FOLDER

Each process writes what it found to a pickle in the folder.
"""

import os
import pickle
import runpy
import sys
import warnings
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from missing_data import remove_entries
from recorders import PropagatedRecorder
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from skvade import VaDEClusterer
from skvade._data import process_group
from skvade._data.dataset import Dataset
from skvade._data.neighbors import NeighborGraph
from skvade._training import joint, neighbor_embedding, pretraining
from skvade._training.state import RandomStreams
from skvade.callbacks import Checkpoint

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "distributed.py"

SETTINGS = {
    "n_clusters": 3,
    "latent_dim": 2,
    "hidden_layer_sizes": (16,),
    "pretraining": "autoencoder",
    "pretrain_max_iter": 2,
    "init": "kmeans",
    "n_init": 1,
    "warmup_max_iter": 1,
    "max_iter": 10,
    "batch_size": 30,
    "precision": "float64",
    "random_state": 0,
}

# The joint training takes 50 steps.
PARITY_CASES = {
    "autoencoder": {},
    "neighbors": {
        "pretraining": "neighbors",
        "pretrain_max_iter": 1,
        "init": "communities",
        "neighbors": 5,
    },
    "vae": {"pretraining": "vae", "init": "gmm", "n_draws": 2},
    "stacked": {"pretraining": "stacked", "likelihood": "bernoulli"},
    "counts": {"likelihood": "negative_binomial"},
}
CASES_OF_GROUP = {2: [*PARITY_CASES], 3: ["autoencoder", "neighbors"]}
SHARES = {2: [90, 60], 3: [70, 50, 30]}  # samples of each process


def load(case):
    """Give the samples of a case and their weights."""
    X, y = make_blobs(150, 5, centers=3, random_state=0)
    X[:, 1] += 1e3  # moments far from the origin
    weight = np.random.default_rng(0).uniform(0.5, 2, 150)
    if case == "counts":
        rates = np.random.default_rng(1).lognormal(1, 1, (3, 5))
        X = np.random.default_rng(2).poisson(weight[:, None] * rates[y]).astype(float)
    if case == "stacked":
        X = (X - X.min(0)) / np.ptp(X, axis=0)
    if case in ("autoencoder", "vae"):
        X = remove_entries(X)
    return X, (None if case == "vae" else weight)


def share_slices(world_size):
    ends = np.cumsum([0, *SHARES[world_size]])
    return [slice(*pair) for pair in pairwise(ends)]


# --- The same batches and draws in one process and in several -----------------------


def noise_of_samples(streams, shape, like):
    """Draw what depends on the samples alone, and not on their order."""
    phases = like.sum(1)[:, None] * torch.arange(1.0, 1 + shape[0] * shape[2])
    draws = 1.4 * torch.sin(50 * phases)
    return draws.unflatten(1, (shape[0], shape[2])).movedim(1, 0).to(like.dtype)


@contextmanager
def reproducible_draws():
    """Leave the samples in their order, mask nothing, and draw noise from them."""
    with (
        mock.patch.object(RandomStreams, "normal", noise_of_samples),
        mock.patch.object(pretraining, "CORRUPTION_RATE", 0.0),
        mock.patch.object(torch, "randperm", lambda n, **_: torch.arange(n)),
        mock.patch.object(neighbor_embedding, "STEPS_PER_EPOCH", 20),
    ):
        yield


@contextmanager
def in_one_process(world_size):
    """Let a single process make the batches and the graph that several would make."""
    slices = share_slices(world_size)

    def iter_batches(dataset, batch_size, generator, min_batches=1, shares=None):
        n_batches = -(-len(dataset) // batch_size)
        parts = [np.array_split(np.arange(s.start, s.stop), n_batches) for s in slices]
        for _ in range(-(-min_batches // n_batches)):
            for i in range(n_batches):
                yield dataset.get_batch(np.concatenate([part[i] for part in parts]))

    compute_graph = neighbor_embedding._compute_graph

    def graph_of_shares(state, dataset):
        datasets = [dataset.subset(np.arange(s.start, s.stop)) for s in slices]
        return NeighborGraph.concatenate([compute_graph(state, d) for d in datasets])

    with (
        reproducible_draws(),
        mock.patch.object(Dataset, "iter_batches", iter_batches),
        mock.patch.object(neighbor_embedding, "_compute_graph", graph_of_shares),
    ):
        yield


def learned(model):
    """Give all that must be the same in every process."""
    return {
        "weights": model.weights_,
        "means": model.means_,
        "covariances": model.covariances_,
        "noise_variance": np.array(getattr(model, "noise_variance_", 0.0)),
        "dispersion": np.array(getattr(model, "dispersion_", 0.0)),
        **{
            f"{part}.{name}": values
            for part, state in model._network_state.items()
            for name, values in state.items()
        },
        **{
            name: np.array(values)
            for name, values in model._scaling.items()
            if values is not None
        },
        "pretrain_loss_curve": np.array(model.pretrain_loss_curve_),
        "lower_bounds": np.array(model.lower_bounds_),
        "validation_scores": np.array(model.validation_scores_),
        "lower_bound": np.array(model.lower_bound_),
        "n_effective_clusters": np.array(model.n_effective_clusters_),
        "n_samples_seen": np.array(model.n_samples_seen_),
    }


def fit_case(case, own=slice(None), **changes):
    """Fit a case to all samples, or to the own ones of a process."""
    X, weight = load(case)
    weight = None if weight is None else weight[own]
    model = VaDEClusterer(**SETTINGS | PARITY_CASES[case] | changes)
    model.fit(X[own], sample_weight=weight)
    return learned(model) | {"labels": model.labels_, "init": model.init_labels_}


def partial_fit_case(own=slice(None), **changes):
    """Fit a model to two chunks of a stream."""
    X, weight = load("neighbors")
    model = VaDEClusterer(**SETTINGS | changes)
    for factor in (1.0, 2.0):
        model.partial_fit(X[own], sample_weight=factor * weight[own])
    return learned(model)


# --- What the processes do ----------------------------------------------------------


def caught(function):
    """Give the type and the message of the error of a function."""
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return None, ""


def change_loss(n_steps, change):
    """Make a loss that is a function of the right one after some steps."""
    count = iter(range(n_steps))

    def loss(state, batch):
        output = elbo_loss(state, batch)
        return change(output) if next(count, None) is None else output

    elbo_loss = joint.elbo_loss
    return mock.patch.object(joint, "elbo_loss", loss)


def fail(output):
    raise OSError("the file is gone")


def make_nan(output):
    return output._replace(loss=output.loss * np.nan)


def check_errors(X, rank):
    """Collect the errors of fits of which one process, or each of them, fails."""

    def make(**changes):
        return VaDEClusterer(**SETTINGS | {"distributed": True} | changes)

    infinite = X.copy()
    if rank == 1:
        infinite[3, 0] = np.inf
    errors = {"infinite": caught(lambda: make().fit(infinite))}
    errors["n_features"] = caught(lambda: make().fit(X[:, : 5 - rank]))
    errors["params"] = caught(lambda: make(n_draws=1 + rank).fit(X))
    errors["shares"] = caught(lambda: make().fit(X[:2] if rank == 1 else X))
    errors["embedding"] = caught(
        lambda: make(embedding=VaDEClusterer(latent_dim=2)).fit(X)
    )
    diverging = make(learning_rate_init=1e200)
    errors["loss"] = caught(lambda: diverging.fit(X))
    for name, change in {"step": fail, "nan": make_nan}.items():
        with change_loss(7 if rank == 1 else 1000, change):
            errors[name] = caught(lambda: make().fit(X))
    return errors


def check_options(X, rank):
    """Fit with options of which every process has its own part."""
    model = VaDEClusterer(**SETTINGS | {"distributed": True, "random_state": None})
    model.set_params(early_stopping=True, tol=1e9, n_iter_no_change=2, max_iter=20)
    model.fit(X)
    found = {"early stopping": learned(model)}
    found["n_iter"], found["converged"] = model.n_iter_, model.converged_
    found["predicts labels"] = bool((model.predict(X) == model.labels_).all())
    found["score"], found["lower_bound"] = model.score(X), model.lower_bound_

    # The callbacks of the first process decide.
    model = VaDEClusterer(**SETTINGS | {"distributed": True})
    n_epochs = {"end": 0}

    def stop(task_name, *_):
        n_epochs["end"] += task_name == "epoch"
        return n_epochs["end"] == (5 if rank == 0 else 4)

    model.set_callbacks(PropagatedRecorder(end=stop)).fit(X)
    found["stopped after"] = n_epochs["end"]

    model = VaDEClusterer(**SETTINGS | {"distributed": True, "n_clusters": 8})
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        model.fit(X)
    found["warnings"] = sum(r.category is ConvergenceWarning for r in records)

    # The number of clusters is estimated once; the last file lacks an epoch.
    path = Path(sys.argv[1]) / "fit.npz"
    model = VaDEClusterer(**SETTINGS | {"distributed": True, "n_clusters": "auto"})
    model.set_callbacks(Checkpoint(path, every=6)).fit(X)
    found["checkpointed"] = learned(model)
    dist.barrier()
    found["resumed"] = learned(VaDEClusterer().resume(path, X))
    return found


def check_killed(X, rank):
    """Fit while the second process ends in the middle."""

    def end(*_):
        if rank == 1:
            os._exit(0)

    model = VaDEClusterer(**SETTINGS | {"distributed": True})
    return caught(lambda: model.set_callbacks(PropagatedRecorder(end=end)).fit(X))


def main():
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own = share_slices(world_size)[rank]
    warnings.simplefilter("ignore", ConvergenceWarning)
    found = {}
    with reproducible_draws():
        for case in CASES_OF_GROUP[world_size]:
            found[case] = fit_case(case, own, distributed=True)
        # Most gradients are then large enough to travel without a copy.
        with mock.patch.object(process_group, "MIN_LARGE_SIZE", 20):
            found["partial_fit"] = partial_fit_case(own, distributed=True)
    X = load("neighbors")[0][own]
    if world_size == 2:
        found["errors"] = check_errors(X, rank)
        found["options"] = check_options(X, rank)
    path = Path(sys.argv[1]) / f"{rank}.pkl"
    path.write_bytes(pickle.dumps(found))
    if world_size == 2:
        found["killed"] = check_killed(X, rank)
        path.write_bytes(pickle.dumps(found))
    else:
        # The example of the documentation, with a small network; it ends the group.
        small = {"hidden_layer_sizes": (16,), "pretrain_max_iter": 1}
        with (
            mock.patch.dict(VaDEClusterer.__init__.__kwdefaults__, small),
            mock.patch.object(dist, "init_process_group"),
        ):
            runpy.run_path(str(EXAMPLE), run_name="__main__")


if __name__ == "__main__":
    main()
