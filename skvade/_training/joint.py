"""The stages that train the bound: the warm-up, and networks and mixture together."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from warnings import warn

import numpy as np
import torch
from torch import nn

from skvade._data.dataset import Batch
from skvade._data.scaling import TARGET_STD
from skvade._inference import mean_elbo, predict_labels
from skvade._model.arrays import load_optimizer_state, optimizer_state_to_numpy
from skvade._model.module import LossOutput
from skvade._training.optim import Adam
from skvade._training.state import TrainingState
from skvade._training.trainer import (
    MIN_STEPS,
    check_finite_loss,
    iter_epochs,
    log_epoch,
    train_epoch,
)

__all__ = [
    "EarlyStopping",
    "elbo_loss",
    "make_adam",
    "maximize_elbo",
    "partial_fit_epoch",
    "sort_components",
    "warm_up",
]

WARMUP_LR_FACTOR = 5  # learning rate of the warm-up, in learning_rate_init
NOISE_VARIANCE_LR = 1e-2  # a step changes the noise variance by a per cent


class EarlyStopping:
    """Tell when a score has not risen by `tol` for `patience` epochs in a row.

    With `tol=0` it never does: the whole budget is used.
    """

    def __init__(self, tol: float, patience: int) -> None:
        self.tol, self.patience = tol, patience
        self.best, self.n_no_improvement = -math.inf, 0

    def update(self, score: float) -> bool:
        """Take the score of an epoch; tell whether to stop."""
        if score > self.best + self.tol:
            self.n_no_improvement = 0
        else:
            self.n_no_improvement += 1
        self.best = max(self.best, score)
        return self.tol > 0 and self.n_no_improvement >= self.patience


def elbo_loss(state: TrainingState, batch: Batch) -> LossOutput:
    """Compute the loss of the joint training, at fresh draws of z."""
    module, config = state.module, state.config
    batch = module.impute_batch(batch)
    latent_dim = module.prior.means.shape[1]
    noise = state.random.normal((config.n_draws, len(batch.x), latent_dim), batch.x)
    return module.loss(batch, noise, config)


def warm_up(state: TrainingState) -> None:
    """Train decoder and variance head on the bound, while all else is frozen.

    The first gradients of a decoder that does not yet give the likelihood's parameter,
    or of an untrained variance head, would destroy the pretrained embedding.
    """
    module, config = state.module, state.config
    encoder, decoder = module.encoder, module.decoder
    curve = state.history.pretraining["unexplained_variance"]
    unexplained = curve[-1] if curve else 1.0
    module.likelihood.initialize_output(decoder.output, unexplained * TARGET_STD**2)
    lr = WARMUP_LR_FACTOR * config.learning_rate_init
    with _frozen(encoder.backbone, encoder.mean, module.prior):
        optimizer = make_adam(state, {encoder.log_variance: lr, decoder: lr})
        for _ in iter_epochs(state, config.warmup_max_iter):
            means = train_epoch(state, elbo_loss, optimizer, MIN_STEPS)
            check_finite_loss(means, _rate_remedy(state))


def maximize_elbo(state: TrainingState) -> None:
    """Train networks and mixture together until the bound stops rising.

    With validation samples theirs is the bound that counts, and the best module is
    kept, be it the one at the start.
    """
    module, config, history = state.module, state.config, state.history
    optimizer = _make_joint_optimizer(state)
    early_stopping = EarlyStopping(config.tol, config.n_iter_no_change)
    best = None
    if state.validation:
        score = mean_elbo(module, state.validation, config.responsibilities)
        early_stopping.update(score)
        best = deepcopy(module.state_dict())
    try:
        for _ in iter_epochs(state, config.max_iter):
            score = _joint_epoch(state, optimizer)
            if state.validation:
                score = mean_elbo(module, state.validation, config.responsibilities)
                history.validation_scores.append(score)
                if score > early_stopping.best:
                    best = deepcopy(module.state_dict())
                    history.validation_improved = True
            history.converged = early_stopping.update(score)
    except KeyboardInterrupt:
        warn(
            f"Interrupted after {len(history.training['elbo'])} epochs of training; "
            "the model is what was learned so far.",
            stacklevel=2,
        )
    history.stopped = state.task.stopped
    if best is not None:
        module.load_state_dict(best)


def partial_fit_epoch(state: TrainingState) -> None:
    """Make one pass over the next samples of a stream.

    The components keep their numbers and the optimizer goes on from the last call.
    """
    optimizer = _make_joint_optimizer(state)
    load_optimizer_state(state.module, optimizer, state.optimizer_state)
    _joint_epoch(state, optimizer)
    state.optimizer_state = optimizer_state_to_numpy(state.module, optimizer)


def sort_components(state: TrainingState) -> None:
    """Sort the components by the weight of their samples; empty ones come last."""
    module, dataset, history = state.module, state.dataset.full(), state.history
    labels = predict_labels(module, dataset, state.config.responsibilities)
    n_components = len(module.prior.logits)
    weights = np.bincount(labels, dataset.weights, minlength=n_components)
    # A component may hold samples of weight zero only: it comes before empty ones.
    counts = np.bincount(labels, minlength=n_components)
    order = np.lexsort((-counts, -weights))
    device = state.dataset.device_config.device
    module.prior.permute(torch.from_numpy(order).to(device))
    history.init_labels = np.argsort(order)[history.init_labels]


# --- Steps --------------------------------------------------------------------------


def make_adam(state: TrainingState, learning_rates: dict[nn.Module, float]) -> Adam:
    """Make an optimizer of modules, each at its learning rate, and of the likelihood.

    The likelihood has a rate of its own, `NOISE_VARIANCE_LR`.
    """
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for module, lr in learning_rates.items():
        groups[lr] += module.parameters()
    groups[NOISE_VARIANCE_LR] += state.module.likelihood.parameters()
    fused = state.dataset.device_config.has_fused_optimizers
    return Adam([(lr, group) for lr, group in groups.items() if group], fused)


def _make_joint_optimizer(state: TrainingState) -> Adam:
    module, lr = state.module, state.config.learning_rate_init
    mixture_lr = state.config.mixture_learning_rate_init
    if mixture_lr is None:
        mixture_lr = lr
    rates = {module.encoder: lr, module.decoder: lr, module.prior: mixture_lr}
    return make_adam(state, rates)


def _joint_epoch(state: TrainingState, optimizer: Adam) -> float:
    """Train networks and mixture for one epoch; give its ELBO."""
    means = train_epoch(state, elbo_loss, optimizer)
    check_finite_loss(means, _rate_remedy(state))
    curves = state.history.training
    for name, mean in means.items():
        curves[name].append(mean)
    log_epoch(state, "Training", curves["elbo"], "ELBO")
    return means["elbo"]


def _rate_remedy(state: TrainingState) -> str:
    return f"Lower learning_rate_init={state.config.learning_rate_init!r}"


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Train no parameter of the modules; what the user had frozen stays so."""
    parameters = [p for module in modules for p in module.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
