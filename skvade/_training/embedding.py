"""The stage in which the encoder learns the coordinates of a given embedding."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from torch import Tensor

from skvade._data.dataset import Batch
from skvade._data.scaling import TARGET_STD
from skvade._inference import pretrained_embedding
from skvade._model.custom_networks import add_note_on_error
from skvade._model.elbo import squared_error
from skvade._model.module import LossOutput
from skvade._training.optim import Adam
from skvade._training.pretraining import autoencoder_parameters
from skvade._training.state import EmbeddingTarget, TrainingState, seeded_clone
from skvade._training.trainer import (
    MIN_STEPS,
    iter_epochs,
    log_epoch,
    train_epoch,
)

__all__ = ["fit_embedding", "target_embedding"]

# Of Adam at the start, from where it falls to zero in a straight line. The coordinates
# are in a unit of their own, so the value does not depend on their scale.
LEARNING_RATE = 3e-3

# Coordinates whose largest is about one vary by more than this, or not at all.
ROUNDING = 1e-14


def target_embedding(
    transformer: BaseEstimator, X: Any, latent_dim: int, random_state: RandomState
) -> NDArray:
    """Fit a clone of the transformer and standardize its coordinates.

    They are centered, of variance one on average. If there are fewer than `latent_dim`
    columns, zeros follow: what the embedding leaves out has its place there, and the
    joint training finds it.

    Raises
    ------
    ValueError
        If the transformer does not give up to `latent_dim` finite numbers per sample,
        or gives the same ones for all.
    """
    Z = _fit_transform(transformer, X, latent_dim, random_state)
    # In a power of two near the largest, an exact change: squares do not overflow.
    Z = np.ldexp(Z, -np.frexp(np.abs(Z).max())[1])
    Z -= Z.mean(axis=0)
    Z = np.pad(Z, ((0, 0), (0, latent_dim - Z.shape[1])))
    std = np.sqrt(np.square(Z).mean())
    if std < ROUNDING:
        raise ValueError(
            f"embedding={transformer!r} gives the same coordinates for all samples, so "
            "there is nothing to learn. Check the transformer on the same samples."
        )
    return Z / std


def _fit_transform(
    transformer: BaseEstimator, X: Any, latent_dim: int, random_state: RandomState
) -> NDArray[np.float64]:
    with add_note_on_error(
        f"This came from embedding={transformer!r}, which was given {X.shape[0]} "
        f"samples of {X.shape[1]} features: see embedding_input and "
        "embedding_max_samples."
    ):
        Z: Any = seeded_clone(transformer, random_state).fit_transform(X)
        Z = np.asarray(Z.toarray() if issparse(Z) else Z)
    result = f"embedding={transformer!r} gives coordinates"
    if Z.ndim != 2 or len(Z) != X.shape[0] or not np.isrealobj(Z):
        raise ValueError(
            f"{result} of shape {Z.shape} and type {Z.dtype}, but a row of real "
            f"numbers is needed for each of the {X.shape[0]} samples that the "
            "transformer was given. Check what its fit_transform returns."
        )
    if not 1 <= Z.shape[1] <= latent_dim:
        raise ValueError(
            f"{result} of shape {Z.shape}, but latent_dim={latent_dim} takes at most "
            f"{latent_dim} columns. Set latent_dim to the number of columns that the "
            "transformer gives, or more."
        )
    Z = Z.astype(np.float64)
    if not np.isfinite(Z).all():
        raise ValueError(
            f"{result} that are not all finite. Check the transformer on the same "
            "samples."
        )
    return Z


@dataclass(frozen=True)
class _EmbeddingLoss:
    """Squared error of the encoder on target coordinates, and of the decoder.

    The decoder sends no gradient back: it would move samples that it reconstructs badly
    away from their targets.
    """

    target: Tensor  # (n_samples, L)

    def __call__(self, state: TrainingState, batch: Batch) -> LossOutput:
        module = state.module
        batch = module.impute_batch(batch, pretraining=True)
        z = module.encoder.encode_mean(module.likelihood.encoder_input(batch.x))
        away = (z - self.target[batch.indices]).square().mean(1)
        decoded = module.decoder(z.detach())
        unexplained = squared_error(batch.x, decoded, batch.mask) / TARGET_STD**2
        loss = (batch.sample_weight * (away + unexplained)).mean()
        terms = {
            "loss": loss.detach() * len(away),
            "embedding_error": batch.sample_weight @ away.detach(),
            "unexplained_variance": batch.sample_weight @ unexplained.detach(),
        }
        return LossOutput(loss, terms)


def fit_embedding(state: TrainingState) -> None:
    """Train the encoder to give a transformer's coordinates, the decoder to invert it.

    The transformer is fitted on samples of X, or on their embedding by the pretrained
    encoder, at most `embedding_max_samples` of them; from these the encoder learns to
    place any sample. The curves hold what is left unexplained of the coordinates'
    variance, and of the variance of the data.
    """
    config, history = state.config, state.history
    if state.embedding_target is None:
        state.embedding_target = _compute_target(state)
    indices, coordinates = state.embedding_target
    dataset = replace(state.dataset, indices=indices)
    substate = replace(state, dataset=dataset)
    parameters = autoencoder_parameters(state.module)
    fused = dataset.device_config.has_fused_optimizers
    optimizer = Adam([(LEARNING_RATE, parameters)], fused)
    loss = _EmbeddingLoss(dataset.device_config.to_tensor(coordinates))
    remedy = f"Lower embedding_max_iter={config.embedding_max_iter!r}"
    curves = history.pretraining
    max_epochs = config.embedding_max_iter
    for epoch in iter_epochs(state, max_epochs, optimizer=optimizer):
        (group,) = optimizer.param_groups
        group["lr"] = LEARNING_RATE * (1 - epoch / max_epochs)
        means = train_epoch(substate, loss, optimizer, remedy, MIN_STEPS)
        for name in ("embedding_error", "unexplained_variance"):
            curves[name].append(means[name])
        error = curves["embedding_error"]
        log_epoch(state, "Embedding", error, "unexplained variance")
    state.embedding_target = None
    if not state.task.stopped:
        history.embedding_error = curves["embedding_error"][-1]


def _compute_target(state: TrainingState) -> EmbeddingTarget:
    """Choose the samples and compute their coordinates."""
    config = state.config
    dataset = state.dataset.subsample(config.embedding_max_samples, state.random.numpy)
    if config.embedding_input == "data":
        source = dataset.mean_imputed()
    else:
        source = pretrained_embedding(
            state.module, dataset, has_decoder=config.pretraining != "neighbors"
        )
    latent_dim = state.module.prior.means.shape[1]
    Z = target_embedding(config.embedding, source, latent_dim, state.random.numpy)
    return EmbeddingTarget(dataset.indices, Z)
