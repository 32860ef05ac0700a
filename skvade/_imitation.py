"""The stage that teaches the encoder the coordinates of somebody else's embedding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from torch import Tensor

from skvade._batching import Batch, Rows
from skvade._inference import completed, pretrained_embedding
from skvade._initial_mixture import seeded_clone
from skvade._matrix import UNIT
from skvade._objective import squared_error
from skvade._optimizers import Adam
from skvade._run import (
    LEAST_STEPS,
    Run,
    autoencoder_parameters,
    epoch,
    epochs,
    report,
)
from skvade._warnings import noting

__all__ = ["coordinates", "imitate"]

# Of Adam at the start, from where it falls to zero in a straight line. The coordinates
# are in a unit of their own, so the value does not depend on their scale.
LEARNING_RATE = 3e-3

# Coordinates whose largest is about one vary by more than this, or not at all.
ROUNDING = 1e-14

_BLAME = "embedding_max_iter={0.embedding_max_iter!r}"


def coordinates(
    transformer: BaseEstimator, X: Any, latent_dim: int, rng: RandomState
) -> NDArray:
    """What a clone of the transformer makes of X, centered, of average variance one.

    If it gives fewer than `latent_dim` columns, zeros follow: what the embedding leaves
    out has its place there, and the joint training finds it.

    Raises
    ------
    ValueError
        If that is not up to `latent_dim` finite numbers per row, or the same for all.
    """
    Z = _transformed(transformer, X, latent_dim, rng)
    # In a power of two near the largest, an exact change: squares do not overflow.
    Z = np.ldexp(Z, -np.frexp(np.abs(Z).max())[1])
    Z -= Z.mean(axis=0)
    Z = np.pad(Z, ((0, 0), (0, latent_dim - Z.shape[1])))
    spread = np.sqrt(np.square(Z).mean())
    if spread < ROUNDING:
        raise ValueError(
            f"embedding={transformer!r} gives the same coordinates for all rows, so "
            "there is nothing to imitate. Check the transformer on the same rows."
        )
    return Z / spread


def _transformed(
    transformer: BaseEstimator, X: Any, latent_dim: int, rng: RandomState
) -> NDArray[np.float64]:
    """Coordinates as the transformer gives them, if they are any."""
    with noting(
        f"This came from embedding={transformer!r}, which was given {X.shape[0]} rows "
        f"of {X.shape[1]} columns: see embedding_input and embedding_max_samples."
    ):
        Z: Any = seeded_clone(transformer, rng).fit_transform(X)
        Z = np.asarray(Z.toarray() if issparse(Z) else Z)
    gives = f"embedding={transformer!r} gives coordinates"
    if Z.ndim != 2 or len(Z) != X.shape[0] or not np.isrealobj(Z):
        raise ValueError(
            f"{gives} of shape {Z.shape} and type {Z.dtype}, but a row of real numbers "
            f"is needed for each of the {X.shape[0]} rows that the transformer was "
            "given. Check what its fit_transform returns."
        )
    if not 1 <= Z.shape[1] <= latent_dim:
        raise ValueError(
            f"{gives} of shape {Z.shape}, but latent_dim={latent_dim} takes at most "
            f"{latent_dim} columns. Set latent_dim to the number of columns that the "
            "transformer gives, or more."
        )
    Z = Z.astype(np.float64)
    if not np.isfinite(Z).all():
        raise ValueError(
            f"{gives} that are not all finite. Check the transformer on the same rows."
        )
    return Z


def imitate(run: Run) -> None:
    """Train the encoder to give a transformer's coordinates, the decoder to invert it.

    The transformer sees rows of X, or their embedding by the pretrained encoder, at
    most `embedding_max_samples` of them; from these the encoder learns to place any
    row. The curves hold what is left unexplained of the coordinates' variance, and of
    the variance of the data.
    """
    plan, record = run.plan, run.record
    rows = run.rows.some(plan.embedding_max_samples, run.chance.numpy)
    taught = replace(run, rows=rows)
    parameters = autoencoder_parameters(run.model)
    fused = run.rows.placement.fuses_optimizers
    optimizer = Adam([(LEARNING_RATE, parameters)], fused)
    step = _step(taught, _target(taught), optimizer)
    for n_done in epochs(run, plan.embedding_max_iter):
        optimizer.groups[0].rate = LEARNING_RATE * (
            1 - n_done / plan.embedding_max_iter
        )
        away, unexplained = epoch(taught, step, _BLAME, LEAST_STEPS)
        record.embedding_loss_curve.append(away)
        record.pretrain_loss_curve.append(unexplained)
        report(run, "Imitation", record.embedding_loss_curve, "unexplained variance")
    if not run.task.stopped:
        record.away = record.embedding_loss_curve[-1]


def _averaged(rows: Rows) -> Any:
    """Rows of X with the average in the place of missing entries."""
    X = rows.X[rows.members]
    if not rows.incomplete:
        return X
    return np.where(np.isnan(X), rows.standardization.average.astype(X.dtype), X)


def _target(run: Run) -> Tensor:
    """The coordinates of the rows, (n, L)."""
    plan, rows = run.plan, run.rows
    of_data = plan.embedding_input == "data"
    source = _averaged(rows) if of_data else pretrained_embedding(run.model, rows)
    latent_dim = run.model.prior.means.shape[1]
    Z = coordinates(plan.embedding, source, latent_dim, run.chance.numpy)
    return rows.placement(Z)


def _step(run: Run, target: Tensor, optimizer: Adam) -> Callable[[Batch], Tensor]:
    """A step towards the target; gives both errors.

    The decoder sends no gradient back: it would move the rows that reconstruct badly
    away from their places.
    """
    encoder, decoder = run.model.encoder, run.model.decoder

    def step(batch: Batch) -> Tensor:
        batch = completed(run.model, batch, pretrains=True)
        z = encoder.embed(batch.x)
        away = (z - target[batch.positions]).square().mean(1)
        decoded = decoder(z.detach())
        unexplained = squared_error(batch.x, decoded, batch.observed) / UNIT**2
        errors = batch.weight * torch.stack([away, unexplained])
        optimizer.descend(errors.mean(1).sum())
        return errors.detach().sum(1)

    return step
