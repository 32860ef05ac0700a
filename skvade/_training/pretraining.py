"""Pretraining of the networks, on neighbors or by reconstruction of the samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn

from skvade._data.dataset import Batch, Dataset
from skvade._data.scaling import TARGET_STD
from skvade._data.search_features import largest_noise_variance
from skvade._model.elbo import posterior_entropy, reparameterize, squared_error
from skvade._model.likelihoods import n_observed
from skvade._model.module import LossOutput, VaDE
from skvade._training.neighbor_embedding import max_neighbor_epochs, pretrain_neighbors
from skvade._training.optim import SGD, Adam, Optimizer, Parameters
from skvade._training.state import TrainingState
from skvade._training.trainer import (
    MIN_STEPS,
    LossFunction,
    iter_epochs,
    log_epoch,
    train_epoch,
)

__all__ = [
    "PRETRAINING",
    "autoencoder_parameters",
    "max_pretraining_epochs",
    "pretrain",
    "reconstruction_loss",
    "variational_loss",
]

MOMENTUM = 0.9
MAX_GRADIENT_NORM = 1.0
FULL_RATE_FEATURES = 8  # with fewer features the full learning rate is unstable
MAX_UNEXPLAINED = 0.9  # fraction of the variance above which the result is examined
MAX_SVD_SAMPLES = 512
SIGNAL_NOISE_RATIO = 2  # times what the first component of white noise explains
RATE_CHECK_EPOCH = 3  # after which an automatic learning rate is judged
FEATURES_PER_RATE = 100  # with fewer for each unit of the rate, weights diverge
CONSTANT_LR_FACTOR = 1 / 3  # of a rate that is meant for the peak of a schedule
CORRUPTION_RATE = 0.2  # of the inputs of a layer that learns to denoise them

_VARIANCE = TARGET_STD**2  # of the average feature of standardized samples


def pretrain(state: TrainingState) -> None:
    """Train encoder and decoder by the method `pretraining`.

    The curve of a reconstruction holds the squared error as a fraction of the variance
    of the data. If it ends near one, the history gets the principal components that
    were not learned.
    """
    PRETRAINING[state.config.pretraining](state)
    curve = state.history.pretraining["unexplained_variance"]
    if curve and not state.task.stopped:
        latent_dim = state.module.prior.means.shape[1]
        state.history.unlearned_components = unlearned_components(state, latent_dim)


def max_pretraining_epochs(state: TrainingState) -> int:
    """Count the epochs of pretraining, those of each pair of layers among them."""
    if state.config.pretraining == "neighbors":
        return max_neighbor_epochs(state)
    n_pairs = 0
    if state.config.pretraining == "stacked":
        n_pairs = len(_layer_blocks(state.module.encoder.backbone)) + 1
    return (n_pairs + 1) * state.config.pretrain_max_iter


# --- Losses -------------------------------------------------------------------------


def reconstruction_loss(state: TrainingState, batch: Batch) -> LossOutput:
    """Compute the squared error of the autoencoder, per feature."""
    module = state.module
    batch = module.impute_batch(batch, pretraining=True)
    z = module.encoder.encode_mean(module.likelihood.encoder_input(batch.x))
    errors = _squared_error(state, batch, module.decoder(z))
    return _weighted_mean(errors, batch)


def variational_loss(state: TrainingState, batch: Batch) -> LossOutput:
    """Compute the negative ELBO of a variational autoencoder, prior N(0, I).

    Its noise variance is at the optimum for the batch, which leaves D/2 times the
    logarithm of the squared error (Rybkin et al., 2021).
    """
    module = state.module
    batch = module.impute_batch(batch, pretraining=True)
    posterior = module.encoder(module.likelihood.encoder_input(batch.x))
    noise = state.random.normal((1, *posterior.mean.shape), batch.x)
    (z,) = reparameterize(posterior, noise)
    errors = _squared_error(state, batch, module.decoder(z))
    error = batch.sample_weight @ errors
    second_moment = posterior.mean.square() + posterior.log_variance.exp()
    # The constants of entropy and prior cancel in the gradient.
    divergence = 0.5 * second_moment.sum(1) - posterior_entropy(posterior)
    divergence = batch.sample_weight @ divergence
    observed = errors.new_ones(len(errors)) * n_observed(batch.x, batch.mask)
    # Their means over the step, which the logarithm needs.
    totals = torch.stack([error, observed.sum()]) / batch.size
    mean_error, mean_observed = state.group.sum_with_own_gradient(totals)
    log_likelihood = -0.5 * mean_observed * mean_error.log()
    loss = divergence / batch.size - log_likelihood
    return LossOutput(loss, {"loss": error.detach()})


class DenoisingPair(NamedTuple):
    """Two layers that learn to restore what the layers below them give."""

    below: nn.Sequential
    pair: nn.Sequential

    def loss(self, state: TrainingState, batch: Batch) -> LossOutput:
        """Compute the squared error of restoring masked values (Vincent et al., 2010).

        It is in the unit of standardized samples, whatever the layers below make of it.
        """
        with torch.no_grad():
            x = self.below(state.module.likelihood.encoder_input(batch.x))
        kept = torch.empty_like(x).bernoulli_(
            1 - CORRUPTION_RATE, generator=state.random.noise
        )
        if len(self.below):
            # Else the decoder gives samples, of which entries may be missing.
            batch = batch._replace(x=x, mask=None)
        target, errors = batch.x, _squared_error(state, batch, self.pair(kept * x))
        n_values = batch.size * target.shape[1]
        mean, square = state.group.sum_with_own_gradient(
            torch.stack([target.sum(), target.square().sum()]) / n_values
        )
        deviation = (target - mean).square().sum() / n_values
        variance = state.group.sum_with_own_gradient(deviation)
        varies = variance > torch.finfo(x.dtype).eps * square
        scale = torch.where(varies, _VARIANCE / variance, 1.0)
        return _weighted_mean(scale * errors, batch)


def _squared_error(state: TrainingState, batch: Batch, output: Tensor) -> Tensor:
    """Compute the squared error of each sample per feature, (B,)."""
    mean_observed = None
    if batch.mask is not None:
        total = state.group.sum_with_own_gradient(batch.mask.sum())
        mean_observed = total / batch.size
    return squared_error(batch.x, output, batch.mask, mean_observed)


def _weighted_mean(errors: Tensor, batch: Batch) -> LossOutput:
    total = batch.sample_weight @ errors
    return LossOutput(total / batch.size, {"loss": total.detach()})


# --- Methods ------------------------------------------------------------------------


def _pretrain_autoencoder(state: TrainingState) -> None:
    """Train all layers at once by stochastic gradient descent on the squared error.

    From small weights this learns simple features first and keeps the groups of the
    data apart; adaptive steps reach the same error with a tangled embedding.
    """
    optimizer = _make_sgd(state, autoencoder_parameters(state.module))
    is_auto = state.config.pretrain_learning_rate_init == "auto"
    remedy = _rate_remedy(state) + (", for instance to 0.3" if is_auto else "")
    max_epochs = state.config.pretrain_max_iter
    for epoch in iter_epochs(state, max_epochs, optimizer=optimizer):
        _reconstruction_epoch(state, reconstruction_loss, optimizer, remedy)
        if is_auto and epoch + 1 == RATE_CHECK_EPOCH:
            _increase_learning_rate(state, optimizer)


def _pretrain_stacked(state: TrainingState) -> None:
    """Train pairs of layers as denoising autoencoders, then all layers at once.

    Each pair learns for as many epochs as the whole afterwards.
    """
    encoder, decoder = state.module.encoder, state.module.decoder
    max_epochs = state.config.pretrain_max_iter
    down = [*_layer_blocks(encoder.backbone), nn.Sequential(encoder.mean)]
    up = [nn.Sequential(decoder.output), *reversed(_layer_blocks(decoder.backbone))]
    for depth, layers in enumerate(zip(down, up, strict=True)):
        pair = DenoisingPair(nn.Sequential(*down[:depth]), nn.Sequential(*layers))
        optimizer = _make_sgd(state, [*pair.pair.parameters()])
        for _ in iter_epochs(state, max_epochs, optimizer=optimizer):
            train_epoch(state, pair.loss, optimizer, _rate_remedy(state), MIN_STEPS)
    _pretrain_autoencoder(state)


def _pretrain_variational(state: TrainingState) -> None:
    """Train a plain variational autoencoder by Adam."""
    encoder, decoder = state.module.encoder, state.module.decoder
    parameters = [*encoder.parameters(), *decoder.parameters()]
    lr, remedy = state.config.pretrain_learning_rate_init, _rate_remedy(state)
    if lr == "auto":
        lr = state.config.learning_rate_init
        if state.config.learning_rate == "cosine":
            lr *= CONSTANT_LR_FACTOR
        remedy = f"Lower learning_rate_init={lr!r}"
    fused = state.dataset.device_config.has_fused_optimizers
    optimizer = Adam([(lr, parameters)], fused)
    max_epochs = state.config.pretrain_max_iter
    for _ in iter_epochs(state, max_epochs, optimizer=optimizer):
        _reconstruction_epoch(state, variational_loss, optimizer, remedy)


PRETRAINING: dict[str, Callable[[TrainingState], None]] = {
    "neighbors": pretrain_neighbors,
    "autoencoder": _pretrain_autoencoder,
    "stacked": _pretrain_stacked,
    "vae": _pretrain_variational,
}


def autoencoder_parameters(module: VaDE) -> list[nn.Parameter]:
    """List what an autoencoder trains: neither posterior variances nor the mixture."""
    return [
        *module.encoder.backbone.parameters(),
        *module.encoder.mean.parameters(),
        *module.decoder.parameters(),
    ]


def _layer_blocks(layers: nn.Module) -> list[nn.Sequential]:
    """List the linear layers, each with its activation."""
    modules = list(layers.children())
    return [nn.Sequential(*modules[i : i + 2]) for i in range(0, len(modules), 2)]


def _make_sgd(state: TrainingState, parameters: Parameters) -> SGD:
    rate = state.config.pretrain_learning_rate_init
    rate = 1.0 if rate == "auto" else rate
    return SGD(
        [(rate * min(1.0, state.dataset.n_features / FULL_RATE_FEATURES), parameters)],
        state.dataset.device_config.has_fused_optimizers,
        momentum=MOMENTUM,
        max_norm=MAX_GRADIENT_NORM,
    )


def _rate_remedy(state: TrainingState) -> str:
    rate = state.config.pretrain_learning_rate_init
    return f"Lower pretrain_learning_rate_init={rate!r}"


def _reconstruction_epoch(
    state: TrainingState, loss: LossFunction, optimizer: Optimizer, remedy: str
) -> None:
    """Train one epoch of a loss whose term is the squared error."""
    means = train_epoch(state, loss, optimizer, remedy, MIN_STEPS)
    curve = state.history.pretraining["unexplained_variance"]
    curve.append(means["loss"] / _VARIANCE)
    log_epoch(state, "Pretraining", curve, "unexplained variance")


def _increase_learning_rate(state: TrainingState, optimizer: Optimizer) -> None:
    """Raise an automatic learning rate where the first epochs learned next to nothing.

    The gradient along a direction is in proportion to the variance that it explains:
    where variance is spread over thousands of features, steps must be larger.
    """
    first_component = unlearned_components(state, 1)
    if not len(first_component):
        return
    limit = state.dataset.n_features / FEATURES_PER_RATE
    (group,) = optimizer.param_groups
    group["lr"] = max(group["lr"], min(1 / first_component.item(), limit))
    if state.config.verbose and state.group.rank == 0:
        print(f"Pretraining goes on at a learning rate of {group['lr']:.3g}")


# --- Was anything learned? ----------------------------------------------------------


def unlearned_components(
    state: TrainingState, n_components: int
) -> NDArray[np.floating]:
    """Give the variance ratios of principal components that pretraining has missed.

    Those that stand out from noise count. The result is empty if the networks explain
    at least a quarter of what these components do. Of several processes, the samples of
    the first decide.
    """
    unexplained = state.history.pretraining["unexplained_variance"][-1]
    if unexplained <= MAX_UNEXPLAINED:
        return np.zeros(0)

    def find() -> NDArray[np.floating]:
        dataset = state.dataset
        ratios = explained_variance_ratio(dataset, n_components)
        return ratios[ratios > SIGNAL_NOISE_RATIO * marchenko_pastur_ratio(dataset)]

    ratios = state.group.on_first(find)
    return ratios if 1 - unexplained < ratios.sum() / 4 else np.zeros(0)


def explained_variance_ratio(
    dataset: Dataset, n_components: int
) -> NDArray[np.floating]:
    """Compute what fraction of the variance each principal component explains.

    From evenly spaced samples where there are many.
    """
    subset = dataset.evenly_spaced(MAX_SVD_SAMPLES)
    batch = subset.get_batch(np.arange(len(subset)))
    x, weight = batch.x.numpy(force=True), batch.sample_weight.numpy(force=True)
    x -= np.average(x, axis=0, weights=weight)
    x *= np.sqrt(weight)[:, None]
    total = np.square(x).sum()
    if not total:
        return np.zeros(0)
    n_components = min(n_components, *x.shape)
    _, singular_values, _ = randomized_svd(x, n_components, random_state=0)
    return np.square(singular_values) / total


def marchenko_pastur_ratio(dataset: Dataset) -> float:
    """Compute what the first principal component of white noise explains."""
    n_features, n_samples = dataset.n_features, min(len(dataset), MAX_SVD_SAMPLES)
    return largest_noise_variance(n_features, n_samples) / n_features
