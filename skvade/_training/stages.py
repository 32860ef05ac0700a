"""The order of the stages of a fit."""

from typing import Any

from skvade._training.embedding import fit_embedding
from skvade._training.initialization import initialize_mixture
from skvade._training.joint import (
    maximize_elbo,
    partial_fit_epoch,
    sort_components,
    warm_up,
)
from skvade._training.pretraining import max_pretraining_epochs, pretrain
from skvade._training.state import TrainingState
from skvade._training.trainer import stage

__all__ = ["first_partial_fit", "has_pretraining", "n_stages", "resume", "train"]


def train(state: TrainingState) -> None:
    """Take a module with fresh weights through all stages."""
    _prepare(state)
    resume(state)


def resume(state: TrainingState) -> None:
    """Take a module that has a mixture through the last stage."""
    with stage(state, "train", state.config.max_iter):
        maximize_elbo(state)
    sort_components(state)


def first_partial_fit(state: TrainingState) -> None:
    """Take a module with fresh weights through the first samples of a stream."""
    _prepare(state)
    sort_components(state)
    partial_fit_epoch(state)


def _prepare(state: TrainingState) -> None:
    """Run the stages before the last one, in which all parameters are trained."""
    config = state.config
    if has_pretraining(config):
        with stage(state, "pretrain", max_pretraining_epochs(state)):
            pretrain(state)
    if config.embedding is not None:
        with stage(state, "embedding", config.embedding_max_iter):
            fit_embedding(state)
    with stage(state, "init"):
        initialize_mixture(state)
    with stage(state, "warmup", config.warmup_max_iter):
        warm_up(state)


def has_pretraining(config: Any) -> bool:
    """Tell whether the networks are pretrained; not where they learn an embedding."""
    return config.embedding is None or config.embedding_input == "autoencoder"


def n_stages(config: Any, warm_start: bool) -> int:
    """Count the stages of a fit from fresh weights, or of a warm start.

    `config` is a `TrainingConfig` or the estimator itself.
    """
    if warm_start:
        return 1
    return 3 + has_pretraining(config) + (config.embedding is not None)
