"""The stages that a model goes through, in order, up to the bound at its highest."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skvade._backward import way_back
from skvade._batching import Batch, dump_moments, load_moments
from skvade._imitation import imitate
from skvade._inference import (
    completed,
    labels_per_row,
    mean_elbo,
    mixture_labels,
    pretrained_embedding,
)
from skvade._initial_mixture import initial_mixture
from skvade._matrix import UNIT
from skvade._optimizers import Adam
from skvade._pretraining import max_pretraining_epochs, pretrain
from skvade._run import LEAST_STEPS, Plan, Run, adam, epoch, epochs, report, stage
from skvade._warnings import warn

__all__ = [
    "begin_stream",
    "continue_stream",
    "continue_training",
    "n_stages",
    "train",
]

LEAST_VARIANCE = 1e-10  # of a component at the start, should reg_covar be zero
MOST_ROWS = 200_000  # that the initial mixture is fitted on
CATCH_UP_SPEED = 5  # learning rate of the new parts, in learning_rate_init
START_VARIANCE = 0.05  # of q(z|x), as a fraction of the average component's
MOST_START_VARIANCE = 0.5  # and of the components' in any one dimension

_BLAME = "learning_rate_init={0.learning_rate_init!r}"


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


# --- The stages, from first to last -------------------------------------------------


def train(run: Run) -> None:
    """Take a fresh model through all stages."""
    _start(run)
    continue_training(run)


def _start(run: Run) -> None:
    """The stages up to the last one, in which everything learns together."""
    plan = run.plan
    if _pretrains(plan):
        with stage(run, "pretrain", max_pretraining_epochs(run)):
            pretrain(run)
    if plan.embedding is not None:
        with stage(run, "imitate", plan.embedding_max_iter):
            imitate(run)
    with stage(run, "init"):
        start_mixture(run)
    with stage(run, "catch up", plan.catch_up_max_iter):
        catch_up(run)


def _pretrains(plan: Plan | BaseEstimator) -> bool:
    return plan.embedding is None or plan.embedding_input == "autoencoder"


def n_stages(plan: Plan | BaseEstimator, warm: bool) -> int:
    """How many stages there are for a fresh model, or for one that was fitted."""
    return 1 if warm else 3 + _pretrains(plan) + (plan.embedding is not None)


def continue_training(run: Run) -> None:
    """Take a model that has a mixture through the last stage."""
    with stage(run, "train", run.plan.max_iter):
        maximize_elbo(run)
    number_components(run)


def begin_stream(run: Run) -> None:
    """Take a fresh model through the first rows of a stream."""
    _start(run)
    number_components(run)
    continue_stream(run)


def continue_stream(run: Run) -> None:
    """One pass over the next rows of a stream, each row once.

    The components keep their numbers and the optimizer goes on from the last rows.
    """
    optimizer = _joint_adam(run)
    load_moments(run.model, optimizer.memory(), run.moments)
    _joint_epoch(run, _elbo_step(run, optimizer))
    run.moments = dump_moments(run.model, optimizer.memory())


def start_mixture(run: Run) -> None:
    """Fit a mixture on the embedding, and give q(z|x) a width that suits it."""
    model, plan, place = run.model, run.plan, run.rows.placement
    rows, given = run.rows, isinstance(plan.init, np.ndarray)
    if len(rows) > MOST_ROWS and not given:
        rows = rows.some(MOST_ROWS, run.chance.numpy)
    start = initial_mixture(
        pretrained_embedding(model, rows),
        plan.init[rows.members] if given else plan.init,
        len(model.prior.logits),
        plan.n_init,
        run.chance.numpy,
        rows.weight,
    )
    variances = np.maximum(start.variances + model.prior.reg_covar, LEAST_VARIANCE)
    model.prior.assign(place(start.weights), place(start.means), place(variances))
    # Wider than a component, it would decide about the responsibilities.
    most = MOST_START_VARIANCE * variances.mean(axis=0)
    width = np.minimum(START_VARIANCE * variances.mean(), most)
    model.encoder.reset_variance(torch.from_numpy(width))
    run.record.init_labels = mixture_labels(model, run.rows.whole())


def catch_up(run: Run) -> None:
    """Train the new parts, variance head and decoder, while all else is frozen.

    The first gradients of a decoder that does not yet speak the likelihood, or of a
    variance head that says anything, could throw the embedding away.
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    unexplained = [1.0, *run.record.pretrain_loss_curve][-1]
    run.model.likelihood.adopt(decoder.output, unexplained * UNIT**2)
    learning_rate = CATCH_UP_SPEED * run.plan.learning_rate_init
    speed = dict.fromkeys((encoder.log_variance, decoder), learning_rate)
    step = _elbo_step(run, adam(run, speed))
    with _frozen(encoder.hidden, encoder.mean, run.model.prior):
        for _ in epochs(run, run.plan.catch_up_max_iter):
            epoch(run, step, _BLAME, LEAST_STEPS)


def maximize_elbo(run: Run) -> None:
    """Train networks and mixture together until the bound stops rising.

    With rows held out, theirs is the bound that counts, and the best model is kept, be
    it the one at the start.
    """
    model, plan, record, held_out = run.model, run.plan, run.record, run.held_out
    step = _elbo_step(run, _joint_adam(run))
    plateau = Plateau(plan.tol, plan.n_iter_no_change)
    best = None
    if held_out:
        plateau.reached(mean_elbo(model, held_out, plan.responsibilities))
        best = deepcopy(model.state_dict())
    try:
        for _ in epochs(run, plan.max_iter):
            score = _joint_epoch(run, step)
            if held_out:
                score = mean_elbo(model, held_out, plan.responsibilities)
                record.validation_scores.append(score)
                if score > plateau.best:
                    best = deepcopy(model.state_dict())
                    record.improved = True
            record.converged = plateau.reached(score)
    except KeyboardInterrupt:
        warn(
            f"Interrupted after {len(record.lower_bounds)} epochs of training; the "
            "model is what was learned so far."
        )
    record.stopped = run.task.stopped
    if best is not None:
        model.load_state_dict(best)


def number_components(run: Run) -> None:
    """Sort the components by the weight of their rows; empty ones come last."""
    model, rows, record = run.model, run.rows.whole(), run.record
    labels = labels_per_row(model, rows, run.plan.responsibilities)
    n_components = len(model.prior.logits)
    weights = np.bincount(labels, rows.weight, minlength=n_components)
    # A component may hold rows that all weigh nothing: it comes before empty ones.
    order = np.lexsort((-np.bincount(labels, minlength=n_components), -weights))
    model.prior.permute(torch.from_numpy(order).to(rows.placement.device))
    record.init_labels = np.argsort(order)[record.init_labels]


# --- What the stages are made of ----------------------------------------------------


def _joint_adam(run: Run) -> Adam:
    """The optimizer of networks and mixture together."""
    model, plan = run.model, run.plan
    speed = dict.fromkeys((model.encoder, model.decoder), plan.learning_rate_init)
    mixture_speed = plan.mixture_learning_rate_init
    speed[model.prior] = mixture_speed or plan.learning_rate_init
    return adam(run, speed)


def _joint_epoch(run: Run, step: Callable[[Batch], Tensor]) -> float:
    """One epoch in which all learns together; gives its ELBO."""
    record = run.record
    loss, bound, reconstruction = epoch(run, step, _BLAME)
    record.loss_curve.append(loss)
    record.lower_bounds.append(bound)
    record.reconstruction_terms.append(reconstruction)
    report(run, "Training", record.lower_bounds, "ELBO")
    return bound


def _elbo_step(run: Run, optimizer: Adam) -> Callable[[Batch], Tensor]:
    """A step up the bound, its latent terms weighed by beta.

    It gives the loss, the ELBO, and of that the reconstruction.
    """
    model, plan = run.model, run.plan
    back = way_back(model, plan.responsibilities == "sampled")

    def step(batch: Batch) -> Tensor:
        batch = completed(model, batch)
        x, weight = batch.x, batch.weight
        shape = (plan.n_draws, len(x), model.prior.means.shape[1])
        noise = torch.empty(shape, dtype=x.dtype, device=x.device)
        noise.normal_(generator=run.chance.noise)
        terms, gradients = back.bound(batch, noise, plan.beta, optimizer.parameters)
        optimizer.step(gradients)
        reconstruction, latent = weight @ terms.reconstruction, weight @ terms.latent
        loss = -(reconstruction + plan.beta * latent)
        return torch.stack([loss, reconstruction + latent, reconstruction])

    return step


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Let nothing in the modules learn; what the user had frozen stays so."""
    parameters = [p for module in modules for p in module.parameters()]
    learning = [p for p in parameters if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
