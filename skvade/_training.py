"""Time: one epoch loop, and the stages that a model goes through, in order."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from skvade._batching import UNIT, Rows, make_generator
from skvade._inference import (
    elbo_per_row,
    embed,
    log_responsibilities_per_row,
    mixture_labels,
)
from skvade._initial_mixture import initial_mixture
from skvade._networks import VaDE, initialize
from skvade._objective import elbo, reparameterize

__all__ = [
    "Chance",
    "Plan",
    "Record",
    "Run",
    "build",
    "continue_training",
    "gradients",
    "train",
]

MOMENTUM = 0.9
LEAST_VARIANCE = 1e-10  # of a component at the start, should reg_covar be zero
MANY_FEATURES = 8  # with fewer, pretraining at the full rate is unstable
LEAST_STEPS = 8  # of an epoch in the short stages: on 30 rows two would train nothing
GRADIENT_NORM = 1.0  # cap on the norm of a pretraining gradient
CATCH_UP_SPEED = 5  # learning rate of the new parts, in learning_rate_init
START_VARIANCE = 0.05  # of q(z|x), as a fraction of the average component's
NOISE_RATE = 1e-2  # a step moves the noise variance by a per cent

_BLAME_PRETRAINING = "pretrain_learning_rate_init={0.pretrain_learning_rate_init!r}"
_BLAME_TRAINING = "learning_rate_init={0.learning_rate_init!r}"


@dataclass(frozen=True)
class Plan:
    """How to train; the fields are parameters of the estimator."""

    init: Any
    n_init: int
    pretrain_max_iter: int
    pretrain_learning_rate_init: float
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

    @classmethod
    def of(cls, rng: RandomState, device: torch.device) -> Self:
        seeds = rng.randint(np.iinfo(np.int32).max, size=3).tolist()
        order, noise = make_generator(seeds[1]), make_generator(seeds[2], device)
        return cls(RandomState(seeds[0]), order, noise)


@dataclass
class Record:
    """What happened during training, epoch by epoch."""

    pretrain_loss_curve: list[float] = field(default_factory=list)
    init_labels: NDArray | None = None
    loss_curve: list[float] = field(default_factory=list)
    lower_bounds: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    converged: bool = False


@dataclass
class Run:
    """A model on its way through the stages, and all that goes with it."""

    model: VaDE
    rows: Rows
    held_out: Rows | None
    plan: Plan
    chance: Chance
    record: Record = field(default_factory=Record)


class Plateau:
    """Tells when a score has not risen by `tol` for `patience` epochs in a row.

    With `tol=0` it never does: the whole budget is used.
    """

    def __init__(self, tol: float, patience: int) -> None:
        self.tol, self.patience = tol, patience
        self.best, self.waited = -math.inf, 0

    def reached(self, score: float) -> bool:
        self.waited = 0 if score > self.best + self.tol else self.waited + 1
        self.best = max(self.best, score)
        return self.tol > 0 and self.waited >= self.patience


@contextmanager
def gradients() -> Iterator[None]:
    """Let gradients flow even where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


# --- The stages, from first to last -------------------------------------------------


def build(architecture: dict[str, Any], rows: Rows, chance: Chance) -> VaDE:
    """A model with fresh weights, tied to the place and the unit of the rows."""
    model = VaDE(**architecture).float()  # whatever the default dtype is
    initialize(model, chance.order)
    location, scale = rows.standardization
    model.likelihood.location.copy_(torch.from_numpy(location))
    model.likelihood.scale.fill_(scale)
    return model.to(rows.placement.device, rows.placement.dtype)


def train(run: Run) -> None:
    """Take a fresh model through all stages."""
    pretrain(run)
    start_mixture(run)
    catch_up(run)
    continue_training(run)


def continue_training(run: Run) -> None:
    """Take a model that has a mixture through the last stages."""
    maximize_elbo(run)
    number_components(run)


def pretrain(run: Run) -> None:
    """Train encoder and decoder to reconstruct, by plain stochastic gradient descent.

    From small weights this learns simple features first and keeps the groups of the
    data apart; adaptive steps reach the same error with a tangled embedding. The curve
    holds the squared error as a fraction of the variance of the data.
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    parameters = [
        *encoder.hidden.parameters(),
        *encoder.mean.parameters(),
        *decoder.parameters(),
    ]
    few_features = min(1.0, run.rows.X.shape[1] / MANY_FEATURES)
    learning_rate = few_features * run.plan.pretrain_learning_rate_init
    fused = run.rows.placement.fuses_optimizers
    optimizer = SGD(parameters, learning_rate, MOMENTUM, fused=fused)

    def step(x: Tensor) -> Tensor:
        loss = (decoder(encoder.embed(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        optimizer.step()
        return loss.detach().expand(1) * len(x)

    curve = run.record.pretrain_loss_curve
    for _ in range(run.plan.pretrain_max_iter):
        (error,) = _epoch(run, step, _BLAME_PRETRAINING, LEAST_STEPS)
        curve.append(error / UNIT**2)
        _report(run, "Pretraining", curve, "unexplained variance")


def start_mixture(run: Run) -> None:
    """Fit a mixture on the embedding, and give q(z|x) a width that suits it."""
    model, plan, place = run.model, run.plan, run.rows.placement
    given = isinstance(plan.init, np.ndarray)
    start = initial_mixture(
        embed(model, run.rows),
        plan.init[run.rows.members] if given else plan.init,
        len(model.prior.logits),
        plan.n_init,
        run.chance.numpy,
    )
    variances = np.maximum(start.variances + model.prior.reg_covar, LEAST_VARIANCE)
    model.prior.assign(place(start.weights), place(start.means), place(variances))
    model.encoder.reset_variance(START_VARIANCE * float(variances.mean()))
    run.record.init_labels = mixture_labels(model, run.rows.whole())


def catch_up(run: Run) -> None:
    """Train the new parts, variance head and decoder, while all else is frozen.

    A decoder that does not yet speak the likelihood, or a variance head that says
    anything, would throw the embedding away with its first gradients.
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    unexplained = [1.0, *run.record.pretrain_loss_curve][-1]
    run.model.likelihood.adopt(decoder.output, unexplained * UNIT**2)
    learning_rate = CATCH_UP_SPEED * run.plan.learning_rate_init
    speed = dict.fromkeys((encoder.log_variance, decoder), learning_rate)
    step = _elbo_step(run, _adam(run, speed))
    with _frozen(encoder.hidden, encoder.mean, run.model.prior):
        for _ in range(run.plan.catch_up_max_iter):
            _epoch(run, step, _BLAME_TRAINING, LEAST_STEPS)


def maximize_elbo(run: Run) -> None:
    """Train networks and mixture together until the bound stops rising.

    With rows held out, theirs is the bound that counts, and the best model is kept.
    """
    model, plan, record = run.model, run.plan, run.record
    speed = dict.fromkeys((model.encoder, model.decoder), plan.learning_rate_init)
    mixture_speed = plan.mixture_learning_rate_init
    speed[model.prior] = mixture_speed or plan.learning_rate_init
    step = _elbo_step(run, _adam(run, speed))
    plateau = Plateau(plan.tol, plan.n_iter_no_change)
    best = None
    try:
        while len(record.lower_bounds) < plan.max_iter and not record.converged:
            loss, bound = _epoch(run, step, _BLAME_TRAINING)
            record.loss_curve.append(loss)
            record.lower_bounds.append(bound)
            _report(run, "Training", record.lower_bounds, "ELBO")
            score = _validate(run) if run.held_out else bound
            if run.held_out and score > plateau.best:
                best = deepcopy(model.state_dict())
            record.converged = plateau.reached(score)
    except KeyboardInterrupt:
        warnings.warn(
            f"Interrupted after {len(record.lower_bounds)} epochs of training; the "
            "model is what was learned so far.",
            stacklevel=2,
        )
    if best is not None:
        model.load_state_dict(best)


def number_components(run: Run) -> None:
    """Sort the components by the rows they hold; empty ones come last."""
    model, rows, record = run.model, run.rows.whole(), run.record
    log_r = log_responsibilities_per_row(model, rows, run.plan.responsibilities)
    counts = np.bincount(log_r.argmax(1), minlength=log_r.shape[1])
    order = np.argsort(-counts, kind="stable")
    model.prior.permute(torch.from_numpy(order).to(rows.placement.device))
    record.init_labels = np.argsort(order)[record.init_labels]


# --- What the stages are made of ----------------------------------------------------


def _epoch(
    run: Run, step: Callable[[Tensor], Tensor], blame: str, least_steps: int = 1
) -> list[float]:
    """Call `step` on every batch; the sums that it returns, per row.

    The sums stay on the device until the epoch ends: reading one would wait for it.
    """
    totals, n_visited = 0.0, 0
    plan = run.plan
    for x in run.rows.batches(plan.batch_size, run.chance.order, least_steps):
        totals = totals + step(x)
        n_visited += len(x)
    means = (totals / n_visited).tolist()
    if not all(map(math.isfinite, means)):
        raise ValueError(
            f"Training met a loss of {means[0]}, which is not finite. Lower "
            f"{blame.format(plan)}, or rescale X if it holds extreme values."
        )
    return means


def _elbo_step(run: Run, optimizer: Optimizer) -> Callable[[Tensor], Tensor]:
    """A step up the bound, its latent terms weighed by beta; gives loss and ELBO."""
    model, plan = run.model, run.plan
    sampled = plan.responsibilities == "sampled"

    def step(x: Tensor) -> Tensor:
        posterior = model.encoder(x)
        shape = (plan.n_draws, *posterior.mean.shape)
        noise = torch.empty(shape, dtype=x.dtype, device=x.device)
        draws = reparameterize(posterior, noise.normal_(generator=run.chance.noise))
        density = model.likelihood.log_density(x, model.decoder(draws))
        terms = elbo(density, posterior, model.prior, draws if sampled else None)
        loss = -(terms.reconstruction + plan.beta * terms.latent).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return torch.stack([loss.detach() * len(x), terms.total.detach().sum()])

    return step


def _adam(run: Run, speed: dict[nn.Module, float]) -> Adam:
    """Adam over modules, each at its learning rate; the noise variance has its own."""
    groups = defaultdict(list)
    for module, learning_rate in {**speed, run.model.likelihood: NOISE_RATE}.items():
        groups[learning_rate] += module.parameters()
    fused = run.rows.placement.fuses_optimizers
    return Adam([{"params": p, "lr": r} for r, p in groups.items() if p], fused=fused)


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)


def _validate(run: Run) -> float:
    terms = elbo_per_row(run.model, run.held_out, run.plan.responsibilities)
    score = float(terms.sum(1).mean())
    run.record.validation_scores.append(score)
    return score


def _report(run: Run, stage: str, curve: list[float], name: str) -> None:
    every = run.plan.verbose
    if every and len(curve) % every == 0:
        print(f"{stage} epoch {len(curve)}, {name} = {curve[-1]:.6g}")
