"""The epoch loop. Nothing in this file depends on the model that is trained."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from skvade._data.dataset import Batch
from skvade._model.custom_networks import training_mode
from skvade._model.module import LossOutput
from skvade._training.optim import Optimizer
from skvade._training.state import Stateful, TrainingState

__all__ = [
    "MIN_STEPS",
    "LossFunction",
    "check_finite_loss",
    "iter_epochs",
    "log_epoch",
    "stage",
    "train_epoch",
]

# Of an epoch in the stages before the last: on 30 samples two would train nothing.
MIN_STEPS = 8

LossFunction = Callable[[TrainingState, Batch], LossOutput]


@contextmanager
def stage(state: TrainingState, name: str, max_epochs: int = 0) -> Iterator[None]:
    """Report a stage to the callbacks; of its epochs, those that are to come."""
    parent, progress = state.task, state.progress
    progress.begin_stage(name)
    state.task = parent.subtask(name, max_epochs - progress.saved_epoch)
    yield
    state.task.end()
    state.task = parent


def iter_epochs(
    state: TrainingState, max_epochs: int, **objects: Stateful
) -> Iterator[int]:
    """Count the epochs of a stage until it has converged or a callback stops it.

    Of several processes, the callbacks of the first decide.

    Parameters
    ----------
    state : TrainingState
        Of the fit. Between two epochs its `progress` says where to go on.
    max_epochs : int
        Number of epochs, from the start of the stage or of a part of it.
    **objects : Stateful
        What the epochs change beside the state. In a resumed fit they get the states
        that they had, and the count goes on.

    Yields
    ------
    epoch : int
        From 0 in a fit that is not resumed.
    """
    for epoch in range(state.progress.begin_loop(max_epochs, objects), max_epochs):
        if state.history.converged or state.task.stopped:
            return
        task = state.task.subtask("epoch")
        yield epoch
        state.progress.epoch += 1
        state.task.stopped = state.group.broadcast(task.end())


def train_epoch(
    state: TrainingState,
    loss_function: LossFunction,
    optimizer: Optimizer,
    remedy: str,
    min_steps: int = 1,
    batches: Iterable[Batch] | None = None,
) -> dict[str, float]:
    """Take a step of the optimizer for every batch of an epoch.

    Parameters
    ----------
    state : TrainingState
        Its module is trained on its dataset.
    loss_function : callable
        From the state and a batch to a `LossOutput`.
    optimizer : Optimizer
        Holds the parameters to train.
    remedy : str
        What to do if the loss is not finite, for the message.
    min_steps : int, default=1
        The samples are visited repeatedly where one visit makes fewer steps.
    batches : iterable of Batch, default=None
        The batches of the epoch, drawn by the weights of the samples; by default every
        sample once, in random order.

    Returns
    -------
    means : dict of str to float
        Mean of each term of the loss, per sample of all processes. The sums stay on the
        device until the epoch ends: reading one would wait for it.

    Raises
    ------
    ValueError
        If the loss or another term is not finite. Of several processes, those raise it
        whose own loss is not, at the step where it happens.
    """
    dataset, group = state.dataset, state.group
    totals: Any = 0.0
    names: list[str] = []
    n_visited, mean_weight = 0, 1.0
    if batches is None:
        shares = group.gather(len(dataset))
        # One over all samples, but some may be held out.
        mean_weight = float(group.sum(dataset.weights.sum()) / sum(shares))
        batches = dataset.iter_batches(
            state.config.batch_size, state.random.shuffle, min_steps, shares
        )
    with training_mode(state.module, state.random.dropout):
        for batch in batches:
            optimizer.zero_grad()
            output = loss_function(state, batch)
            if group.world_size > 1:
                # Once gradients are added, the loss is finite in no process.
                check_finite_loss({"loss": float(output.loss.detach())}, remedy)
            output.loss.backward()
            group.sum_(optimizer.gradients())
            optimizer.step()
            names = [*output.terms]
            totals = totals + torch.stack([*output.terms.values()])
            n_visited += batch.size
    optimizer.zero_grad()
    # Custom networks may have buffers that training changes.
    group.broadcast_(state.module.buffers())
    sums = group.sum(totals.numpy(force=True))
    values = (sums / (n_visited * mean_weight)).tolist()
    means = dict(zip(names, values, strict=True))
    check_finite_loss(means, remedy)
    return means


def check_finite_loss(terms: dict[str, float], remedy: str) -> None:
    """Reject a loss, or another term, that is not finite.

    Raises
    ------
    ValueError
        Names the remedy that the stage knows.
    """
    if not all(map(math.isfinite, terms.values())):
        raise ValueError(
            f"Training met a loss of {terms['loss']}, which is not finite. {remedy}, "
            "or rescale X if it holds extreme values."
        )


def log_epoch(state: TrainingState, stage: str, curve: list[float], name: str) -> None:
    """Print the latest value of a curve every `verbose` epochs."""
    interval = state.config.verbose
    if interval and len(curve) % interval == 0 and state.group.rank == 0:
        print(f"{stage} epoch {len(curve)}, {name} = {curve[-1]:.6g}")
