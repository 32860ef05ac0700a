"""The stages of a fit and their order."""

from collections.abc import Callable
from typing import Any, NamedTuple

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

__all__ = ["STAGES", "first_partial_fit", "has_pretraining", "stage_names", "train"]


class Stage(NamedTuple):
    """A stage of a fit, and how its epochs are counted."""

    run: Callable[[TrainingState], None]
    max_epochs: Callable[[TrainingState], int]


# In their order.
STAGES = {
    "pretrain": Stage(pretrain, max_pretraining_epochs),
    "embedding": Stage(fit_embedding, lambda state: state.config.embedding_max_iter),
    "init": Stage(initialize_mixture, lambda state: 0),
    "warmup": Stage(warm_up, lambda state: state.config.warmup_max_iter),
    "train": Stage(maximize_elbo, lambda state: state.config.max_iter),
}


def train(state: TrainingState, first: str | None = None) -> None:
    """Take a module through all stages, or through those from the one named `first`."""
    for name in stage_names(state.config, first):
        with stage(state, name, STAGES[name].max_epochs(state)):
            STAGES[name].run(state)
    sort_components(state)


def first_partial_fit(state: TrainingState) -> None:
    """Take a module with fresh weights through the first samples of a stream."""
    for name in stage_names(state.config)[:-1]:
        STAGES[name].run(state)
    sort_components(state)
    partial_fit_epoch(state)


def stage_names(config: Any, first: str | None = None) -> list[str]:
    """List the stages of a fit, or those from the one named `first` on.

    `config` is a `TrainingConfig` or the estimator itself.
    """
    names = [*STAGES]
    if not has_pretraining(config):
        names.remove("pretrain")
    if config.embedding is None:
        names.remove("embedding")
    return names if first is None else names[names.index(first) :]


def has_pretraining(config: Any) -> bool:
    """Tell whether the networks are pretrained; not where they learn an embedding."""
    return config.embedding is None or config.embedding_input == "autoencoder"
