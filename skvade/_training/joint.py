"""The stages that train the bound: the warm-up, and networks and mixture together."""

import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn

from skvade._data.dataset import Batch
from skvade._data.scaling import TARGET_STD
from skvade._inference import mean_elbo, predict_labels
from skvade._model.arrays import load_optimizer_state, optimizer_state_to_numpy
from skvade._model.module import LossOutput
from skvade._training.optim import Adam
from skvade._training.state import TrainingState
from skvade._training.trainer import (
    MIN_STEPS,
    iter_epochs,
    log_epoch,
    train_epoch,
)

__all__ = [
    "EarlyStopping",
    "default_beta",
    "elbo_loss",
    "learning_rate_factor",
    "make_adam",
    "maximize_elbo",
    "n_joint_epochs",
    "partial_fit_epoch",
    "sort_components",
    "warm_up",
]

WARMUP_LR_FACTOR = 5  # learning rate of the warm-up, in a constant learning_rate_init
NOISE_VARIANCE_LR = 1e-2  # a step changes the noise variance by a per cent

# An automatic budget, in steps of warm-up and joint training together.
STEPS_PER_SAMPLE = 10  # of small data, up to `FULL_STEPS`
FULL_STEPS, MAX_STEPS = 600, 20_000
SAMPLES_PER_STEP = 10  # of large data, for each further step
WARMUP_FRACTION = 0.05

# The schedule of the learning rate, in fractions of all steps: it rises to its peak,
# stays there, and falls to zero along a cosine.
RISE_END, FALL_START = 0.1, 0.55

# In a stream no schedule has an end, in learning_rate_init.
PARTIAL_FIT_LR_FACTOR = 1 / 3

# Of the matrices of the networks: contrastive pretraining leaves large weights, which
# predict held-out samples badly. The more samples, the less they need to decay.
MAX_WEIGHT_DECAY = 0.3
WEIGHT_DECAY_SAMPLES = 500

FEATURES_PER_BETA = 64  # for each unit of an automatic beta
MAX_BETA = 10.0  # of an automatic one: far above it, the latent space collapses


class EarlyStopping:
    """Tell when a score has not risen by `tol` for `patience` epochs in a row.

    With `tol=0` it never does: the whole budget is used.

    Attributes
    ----------
    best : float
        The highest score.
    n_no_improvement : int
        Number of epochs since the last improvement.
    best_parameters : dict of str to Tensor
        Those of the module at its highest score, where they are kept.
    """

    def __init__(self, tol: float, patience: int) -> None:
        self.tol, self.patience = tol, patience
        self.best, self.n_no_improvement = -math.inf, 0
        self.best_parameters: dict[str, Tensor] = {}

    def update(self, score: float) -> bool:
        """Take the score of an epoch; tell whether to stop."""
        if score > self.best + self.tol:
            self.n_no_improvement = 0
        else:
            self.n_no_improvement += 1
        self.best = max(self.best, score)
        return self.tol > 0 and self.n_no_improvement >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Give what changes from epoch to epoch."""
        names = ("best", "n_no_improvement", "best_parameters")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` has given, tensors as arrays."""
        self.best = state_dict["best"]
        self.n_no_improvement = state_dict["n_no_improvement"]
        arrays = state_dict["best_parameters"]
        self.best_parameters = {k: torch.tensor(v) for k, v in arrays.items()}


def n_joint_epochs(n_samples: int, batch_size: int) -> tuple[int, int]:
    """Choose the number of epochs of the warm-up and of the joint training.

    The steps of both grow with the number of samples.
    """
    n_steps = min(STEPS_PER_SAMPLE * n_samples, FULL_STEPS)
    n_steps = min(n_steps + n_samples // SAMPLES_PER_STEP, MAX_STEPS)
    n_batches = math.ceil(n_samples / batch_size)
    n_warmup = math.ceil(WARMUP_FRACTION * n_steps / n_batches)
    return n_warmup, math.ceil((1 - WARMUP_FRACTION) * n_steps / n_batches)


def default_beta(n_features: int) -> float:
    """Choose the weight of the latent terms by the number of features.

    The reconstruction is a sum over features. The more of them, the more it moves the
    encoder away from the clusters, and the more the latent terms have to count.
    """
    return min(max(1.0, n_features / FEATURES_PER_BETA), MAX_BETA)


def learning_rate_factor(fraction: float) -> float:
    """Compute the learning rate after a fraction of all steps, relative to its peak."""
    if fraction < RISE_END:
        return fraction / RISE_END
    if fraction < FALL_START:
        return 1.0
    fallen = min(1.0, (fraction - FALL_START) / (1 - FALL_START))
    return 0.5 * (1 + math.cos(math.pi * fallen))


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
    if not state.progress.saved_epoch:
        curve = state.history.pretraining["unexplained_variance"]
        unexplained = curve[-1] if curve else 1.0
        module.likelihood.initialize_output(decoder.output, unexplained * TARGET_STD**2)
    lr = config.learning_rate_init
    if config.learning_rate == "constant":
        lr *= WARMUP_LR_FACTOR
    with _frozen(encoder.backbone, encoder.mean, module.prior):
        optimizer = make_adam(state, {encoder.log_variance: lr, decoder: lr})
        for _ in iter_epochs(state, config.warmup_max_iter, optimizer=optimizer):
            train_epoch(state, elbo_loss, optimizer, _rate_remedy(state), MIN_STEPS)


def maximize_elbo(state: TrainingState) -> None:
    """Train networks and mixture together until the bound stops rising.

    With validation samples theirs is the bound that counts, and the best module is
    kept, be it the one at the start.
    """
    module, config, history = state.module, state.config, state.history
    if config.init_weight:
        dataset = replace(state.dataset, labels=history.init_labels)
        state = replace(state, dataset=dataset)
    schedule = None
    if config.learning_rate == "cosine":
        n_batches = math.ceil(state.count_samples() / config.batch_size)
        n_steps = n_batches * config.max_iter

        def schedule(step: int) -> float:
            return learning_rate_factor((step + 0.5) / n_steps)

    optimizer = _make_joint_optimizer(state, schedule)
    early_stopping = EarlyStopping(config.tol, config.n_iter_no_change)
    epochs = iter_epochs(
        state, config.max_iter, optimizer=optimizer, early_stopping=early_stopping
    )
    if state.validation:
        score = _validation_elbo(state)
        early_stopping.update(score)
        early_stopping.best_parameters = deepcopy(module.state_dict())
    try:
        for _ in epochs:
            score = _joint_epoch(state, optimizer)
            if state.validation:
                score = _validation_elbo(state)
                history.validation_scores.append(score)
                if score > early_stopping.best:
                    early_stopping.best_parameters = deepcopy(module.state_dict())
                    history.validation_improved = True
            history.converged = early_stopping.update(score)
    except KeyboardInterrupt:
        if _is_in_search() or state.group.world_size > 1:
            raise
        warn(
            f"Interrupted after {len(history.training['elbo'])} epochs of training; "
            "the model is what was learned so far.",
            stacklevel=2,
        )
    history.stopped = state.task.stopped
    if early_stopping.best_parameters:
        module.load_state_dict(early_stopping.best_parameters)


def _validation_elbo(state: TrainingState) -> float:
    assert state.validation is not None
    return mean_elbo(
        state.module, state.validation, state.config.responsibilities, state.group
    )


def _is_in_search() -> bool:
    """Tell whether a search, a cross-validation or a job of joblib runs this fit.

    It would go on with an interrupted fit as if that were complete.
    """
    modules = (str(f.f_globals.get("__name__")) for f, _ in traceback.walk_stack(None))
    return any(m.startswith(("sklearn.model_selection", "joblib")) for m in modules)


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
    weights = state.group.sum(weights)
    # A component may hold samples of weight zero only: it comes before empty ones.
    counts = state.group.sum(np.bincount(labels, minlength=n_components))
    order = np.lexsort((-counts, -weights))
    device = state.dataset.device_config.device
    module.prior.permute(torch.from_numpy(order).to(device))
    history.init_labels = np.argsort(order)[history.init_labels]


# --- Steps --------------------------------------------------------------------------


def make_adam(
    state: TrainingState,
    learning_rates: dict[nn.Module, float],
    schedule: Callable[[int], float] | None = None,
) -> Adam:
    """Make an optimizer of modules, each at its learning rate, and of the likelihood.

    The likelihood has a rate of its own, `NOISE_VARIANCE_LR`. The matrices of the
    networks decay, but for the layer of the means: it must stay where the mixture is.
    """
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for module, lr in learning_rates.items():
        groups[lr] += module.parameters()
    groups[NOISE_VARIANCE_LR] += state.module.likelihood.parameters()
    encoder, decoder = state.module.encoder, state.module.decoder
    networks = (encoder.backbone, encoder.log_variance, decoder)
    weight_decay = WEIGHT_DECAY_SAMPLES / state.count_samples()
    return Adam(
        [(lr, group) for lr, group in groups.items() if group],
        state.dataset.device_config.has_fused_optimizers,
        schedule,
        weight_decay=min(MAX_WEIGHT_DECAY, weight_decay),
        decayed=[p for part in networks for p in part.parameters() if p.ndim > 1],
    )


def _make_joint_optimizer(
    state: TrainingState, schedule: Callable[[int], float] | None = None
) -> Adam:
    module, lr = state.module, state.config.learning_rate_init
    if schedule is None and state.config.learning_rate == "cosine":
        lr *= PARTIAL_FIT_LR_FACTOR
    mixture_lr = state.config.mixture_learning_rate_init
    if mixture_lr is None:
        mixture_lr = lr
    rates = {module.encoder: lr, module.decoder: lr, module.prior: mixture_lr}
    return make_adam(state, rates, schedule)


def _joint_epoch(state: TrainingState, optimizer: Adam) -> float:
    """Train networks and mixture for one epoch; give its ELBO."""
    means = train_epoch(state, elbo_loss, optimizer, _rate_remedy(state))
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
