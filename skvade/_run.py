"""Time: a model on its way through the stages, and the epochs of any of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from skvade._batching import Batch, Moments, Rows, make_generator
from skvade._matrix import Tally
from skvade._networks import VaDE, initialize
from skvade._optimizers import Adam
from skvade._own_networks import lend

__all__ = [
    "LEAST_STEPS",
    "Chance",
    "Plan",
    "Record",
    "Run",
    "Task",
    "adam",
    "autoencoder_parameters",
    "build",
    "epoch",
    "epochs",
    "gradients",
    "report",
    "stage",
]

LEAST_STEPS = 8  # of an epoch in the short stages: on 30 rows two would train nothing
NOISE_RATE = 1e-2  # a step moves the noise variance by a per cent


@dataclass(frozen=True)
class Plan:
    """How to train; the fields are parameters of the estimator."""

    embedding: Any
    embedding_input: str
    embedding_max_samples: int
    embedding_max_iter: int
    init: Any
    n_init: int
    pretraining: str
    pretrain_max_iter: int
    pretrain_learning_rate_init: float | str
    catch_up_max_iter: int
    max_iter: int
    learning_rate_init: float
    mixture_learning_rate_init: float | None
    batch_size: int
    n_draws: int
    responsibilities: str
    beta: float
    tol: float
    n_iter_no_change: int
    verbose: int


class Chance(NamedTuple):
    """Every source of randomness of a fit, all from one seed."""

    numpy: RandomState
    order: Generator  # on the CPU: initial weights, order of the rows
    noise: Generator  # on the device: draws of z
    layers: Generator  # there, if it is CUDA: what a user's own layers draw

    @classmethod
    def of(cls, rng: RandomState, device: torch.device) -> Self:
        seeds = rng.randint(np.iinfo(np.int32).max, size=4).tolist()
        order, noise = make_generator(seeds[1]), make_generator(seeds[2], device)
        layers = make_generator(seeds[3], device if device.type == "cuda" else "cpu")
        return cls(RandomState(seeds[0]), order, noise, layers)


@dataclass
class Record:
    """What happened during training, epoch by epoch."""

    pretrain_loss_curve: list[float] = field(default_factory=list)
    # By pretraining: the fractions of the variance that leading directions explain.
    missed: NDArray = field(default_factory=lambda: np.zeros(0))
    embedding_loss_curve: list[float] = field(default_factory=list)
    away: float = 0.0  # what the whole of imitation left of the coordinates' variance
    init_labels: NDArray | None = None
    loss_curve: list[float] = field(default_factory=list)
    lower_bounds: list[float] = field(default_factory=list)
    reconstruction_terms: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    improved: bool = False  # on the rows held out
    vagueness: float = 0.0  # of the responsibilities, from 0 to 1 where all are equal
    far: NDArray = field(default_factory=lambda: np.zeros(0, bool))  # by `survey`
    converged: bool = False
    stopped: bool = False  # by whoever watched


class Task:
    """A part of a fit, for whoever watches. Nobody watches this one."""

    stopped = False  # whether its parts to come shall be left out

    def part(self, name: str, max_parts: int = 0) -> Self:
        """A part of this task begins, of at most so many parts of its own."""
        return self

    def end(self) -> bool:
        """The task ends; whether those like it that would follow shall be left out."""
        return False


@dataclass
class Run:
    """A model on its way through the stages, and all that goes with it."""

    model: VaDE
    rows: Rows
    held_out: Rows | None
    plan: Plan
    chance: Chance
    record: Record = field(default_factory=Record)
    tally: Tally = field(default_factory=Tally)
    moments: Moments = field(default_factory=dict)
    task: Task = field(default_factory=Task)


@contextmanager
def gradients() -> Iterator[None]:
    """Let gradients flow even where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def build(architecture: dict[str, Any], rows: Rows, chance: Chance) -> VaDE:
    """A model with fresh weights, tied to the place and the unit of the rows."""
    # In float32, whatever the default dtype is.
    model = VaDE(**architecture, generator=chance.order).float()
    initialize(model, chance.order)
    model.to(rows.placement.device, rows.placement.dtype)
    location, scale, average = rows.standardization
    model.likelihood.location.copy_(torch.from_numpy(location))
    model.likelihood.average.copy_(torch.from_numpy(average))
    model.likelihood.scale.fill_(scale)
    return model


def autoencoder_parameters(model: VaDE) -> list[nn.Parameter]:
    """All that an autoencoder trains: neither posterior variances nor the mixture."""
    encoder = model.encoder
    return [
        *encoder.hidden.parameters(),
        *encoder.mean.parameters(),
        *model.decoder.parameters(),
    ]


@contextmanager
def stage(run: Run, name: str, max_epochs: int = 0) -> Iterator[None]:
    """The task of the run is this stage, and then again what it was before."""
    fit, run.task = run.task, run.task.part(name, max_epochs)
    yield
    run.task.end()
    run.task = fit


def epochs(run: Run, at_most: int) -> Iterator[int]:
    """Number the epochs of a stage until it has converged or is asked to stop."""
    for n_done in range(at_most):
        if run.record.converged or run.task.stopped:
            return
        task = run.task.part("epoch")
        yield n_done
        run.task.stopped = task.end()


def epoch(
    run: Run, step: Callable[[Batch], Tensor], blame: str, least_steps: int = 1
) -> list[float]:
    """Call `step` on every batch; the weighted sums that it returns, per row.

    The sums stay on the device until the epoch ends: reading one would wait for it.
    """
    totals: Any = 0.0
    n_visited = 0
    plan = run.plan
    with run.rows.placement.alone(), _learning(run):
        for batch in run.rows.batches(plan.batch_size, run.chance.order, least_steps):
            totals = totals + step(batch)
            n_visited += len(batch.x)
    # Of all rows the mean weight is one, but some may be held out.
    means = (totals / (n_visited * run.rows.weight.mean())).tolist()
    if not all(map(math.isfinite, means)):
        raise ValueError(
            f"Training met a loss of {means[0]}, which is not finite. Lower "
            f"{blame.format(plan)}, or rescale X if it holds extreme values."
        )
    return means


@contextmanager
def _learning(run: Run) -> Iterator[None]:
    """Training mode, in which the user's own layers draw what the seed decides.

    The default ones know no modes and do not draw.
    """
    if not run.model.has_own_networks:
        yield
        return
    run.model.train()
    try:
        with lend(run.chance.layers):
            yield
    finally:
        run.model.eval()


def adam(run: Run, speed: dict[nn.Module, float]) -> Adam:
    """Adam over modules, each at its learning rate; the noise variance has its own."""
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for module, learning_rate in {**speed, run.model.likelihood: NOISE_RATE}.items():
        groups[learning_rate] += module.parameters()
    fused = run.rows.placement.fuses_optimizers
    return Adam([(rate, group) for rate, group in groups.items() if group], fused)


def report(run: Run, stage: str, curve: list[float], name: str) -> None:
    every = run.plan.verbose
    if every and len(curve) % every == 0:
        print(f"{stage} epoch {len(curve)}, {name} = {curve[-1]:.6g}")
