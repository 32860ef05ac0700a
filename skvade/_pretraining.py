"""The stage before there is a mixture: networks that reconstruct the rows."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn

from skvade._backward import way_back
from skvade._batching import Batch, Rows
from skvade._inference import completed
from skvade._likelihoods import n_observed
from skvade._matrix import UNIT
from skvade._objective import latent_entropy, reparameterize, squared_error
from skvade._optimizers import Adam, Momentum
from skvade._run import (
    LEAST_STEPS,
    Run,
    autoencoder_parameters,
    epoch,
    epochs,
    report,
)

__all__ = ["PRETRAINING", "max_pretraining_epochs", "pretrain"]

MOMENTUM = 0.9
MANY_FEATURES = 8  # with fewer, pretraining at the full rate is unstable
GRADIENT_NORM = 1.0  # cap on the norm of a pretraining gradient
POOR = 0.9  # unexplained variance that asks for a second look
N_MEASURED = 512  # rows at the second look
BEYOND_NOISE = 2  # times what the leading direction of noise explains
PATIENCE = 3  # epochs, before an automatic learning rate is judged
FEATURES_PER_RATE = 100  # with fewer for each unit of the rate, noise tears the weights
MASKED = 0.2  # of the inputs of a layer that learns to denoise them

_BLAME = "pretrain_learning_rate_init={0.pretrain_learning_rate_init!r}"
_BLAME_AUTO = _BLAME + ", for instance to 0.3"
_BLAME_ADAM = "learning_rate_init={0.learning_rate_init!r}"


def pretrain(run: Run) -> None:
    """Train encoder and decoder to reconstruct.

    The curve holds the squared error as a fraction of the variance of the data. If it
    ends near one, the record tells what leading directions explain that were not found.
    """
    PRETRAINING[run.plan.pretraining](run)
    if run.record.pretrain_loss_curve and not run.task.stopped:
        run.record.missed = _missed(run, run.model.prior.means.shape[1])


def _missed(run: Run, n_directions: int) -> NDArray[np.floating]:
    """What leading directions explain each, if less than a quarter of that is learned.

    Noise has a leading direction, too: those that explain well more than that count.
    """
    unexplained = run.record.pretrain_loss_curve[-1]
    if unexplained <= POOR:
        return np.zeros(0)
    shares = _leading_shares(run.rows, n_directions)
    shares = shares[shares > BEYOND_NOISE * _share_of_noise(run.rows)]
    return shares if 1 - unexplained < shares.sum() / 4 else np.zeros(0)


def _leading_shares(rows: Rows, n_directions: int) -> NDArray[np.floating]:
    """Fractions of the variance that the first principal components explain.

    Of some rows only, evenly spaced, where there are many.
    """
    positions = np.linspace(0, len(rows) - 1, _n_measured(rows)).astype(int)
    batch = rows.take(positions)
    x, weight = batch.x.numpy(force=True), batch.weight.numpy(force=True)
    x -= np.average(x, axis=0, weights=weight)
    x *= np.sqrt(weight)[:, None]
    total = np.square(x).sum()
    if not total:
        return np.zeros(0)
    n_components = min(n_directions, *x.shape)
    _, lengths, _ = randomized_svd(x, n_components, random_state=0)
    return np.square(lengths) / total


def _share_of_noise(rows: Rows) -> float:
    """The same of as many rows of white noise.

    The edge of the spectrum of random matrices (Marchenko and Pastur, 1967).
    """
    n_features = rows.X.shape[1]
    return (1 + math.sqrt(n_features / _n_measured(rows))) ** 2 / n_features


def _n_measured(rows: Rows) -> int:
    return min(len(rows), N_MEASURED)


def max_pretraining_epochs(run: Run) -> int:
    """The epochs of pretraining, those of each pair of layers among them."""
    stacked = run.plan.pretraining == "stacked"
    n_pairs = len(_blocks(run.model.encoder.hidden)) + 1 if stacked else 0
    return (n_pairs + 1) * run.plan.pretrain_max_iter


def _autoencoder(run: Run) -> None:
    """Plain stochastic gradient descent on the squared error.

    From small weights this learns simple features first and keeps the groups of the
    data apart; adaptive steps reach the same error with a tangled embedding.
    """
    optimizer = _descent(run, autoencoder_parameters(run.model))
    back = way_back(run.model)

    def step(batch: Batch) -> Tensor:
        batch = completed(run.model, batch, pretrains=True)
        loss, gradients = back.squared_error(batch, optimizer.parameters)
        optimizer.step(gradients)
        return loss.expand(1) * len(batch.x)

    is_auto = run.plan.pretrain_learning_rate_init == "auto"
    hasten = partial(_hasten, run, optimizer) if is_auto else None
    _reconstruct(run, step, _BLAME_AUTO if is_auto else _BLAME, hasten)


def _stacked(run: Run) -> None:
    """One pair of layers after the other as a denoising autoencoder, then all at once.

    Each pair learns to restore what the layers below give from a copy in which a fifth
    of it is masked (Vincent et al., 2010), for as many epochs as the whole afterwards.
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    down = [*_blocks(encoder.hidden), nn.Sequential(encoder.mean)]
    up = [nn.Sequential(decoder.output), *reversed(_blocks(decoder.hidden))]
    for depth, pair in enumerate(zip(down, up, strict=True)):
        step = _denoising_step(run, nn.Sequential(*down[:depth]), nn.Sequential(*pair))
        for _ in epochs(run, run.plan.pretrain_max_iter):
            epoch(run, step, _BLAME, LEAST_STEPS)
    _autoencoder(run)


def _variational(run: Run) -> None:
    """A plain variational autoencoder, prior N(0, I), by Adam.

    Its noise variance is at the optimum for the batch, which leaves D/2 times the
    logarithm of the squared error (Rybkin et al., 2021).
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    parameters = [*encoder.parameters(), *decoder.parameters()]
    fused = run.rows.placement.fuses_optimizers
    rate, blame = run.plan.pretrain_learning_rate_init, _BLAME
    if isinstance(rate, str):
        rate, blame = run.plan.learning_rate_init, _BLAME_ADAM
    optimizer = Adam([(rate, parameters)], fused)

    def step(batch: Batch) -> Tensor:
        batch = completed(run.model, batch, pretrains=True)
        posterior = encoder(batch.x)
        noise = torch.empty_like(posterior.mean).normal_(generator=run.chance.noise)
        (z,) = reparameterize(posterior, noise[None])
        errors = squared_error(batch.x, decoder(z), batch.observed)
        error = (batch.weight * errors).mean()
        second_moment = posterior.mean.square() + posterior.log_variance.exp()
        # The constants of entropy and prior cancel in the gradient.
        divergence = 0.5 * second_moment.sum(1) - latent_entropy(posterior)
        n_features = n_observed(batch.x, batch.observed)
        noisy = 0.5 * n_features * error.log()
        optimizer.descend((noisy + batch.weight * divergence).mean())
        return error.detach().expand(1) * len(batch.x)

    _reconstruct(run, step, blame)


PRETRAINING: dict[str, Callable[[Run], None]] = {
    "autoencoder": _autoencoder,
    "stacked": _stacked,
    "vae": _variational,
}


# --- What the three are made of -----------------------------------------------------


def _descent(run: Run, parameters: list[nn.Parameter]) -> Momentum:
    few_features = min(1.0, run.rows.X.shape[1] / MANY_FEATURES)
    rate = run.plan.pretrain_learning_rate_init
    return Momentum(
        parameters,
        few_features * (1.0 if rate == "auto" else rate),
        momentum=MOMENTUM,
        most_norm=GRADIENT_NORM,
        fused=run.rows.placement.fuses_optimizers,
    )


def _hasten(run: Run, optimizer: Momentum) -> None:
    """Raise an automatic learning rate where the first epochs learned next to nothing.

    The pull towards a direction is in proportion to what it explains: where variance is
    spread over thousands of features it takes the more steps, or the larger ones.
    """
    if len(run.record.pretrain_loss_curve) != PATIENCE:
        return
    leading = _missed(run, 1)
    if len(leading):
        borne = min(1 / leading.item(), run.rows.X.shape[1] / FEATURES_PER_RATE)
        optimizer.rate = max(optimizer.rate, borne)
        if run.plan.verbose:
            print(f"Pretraining goes on at a learning rate of {optimizer.rate:.3g}")


def _reconstruct(
    run: Run,
    step: Callable[[Batch], Tensor],
    blame: str,
    after_epoch: Callable[[], None] | None = None,
) -> None:
    """The epochs of a step that gives the squared error."""
    curve = run.record.pretrain_loss_curve
    for _ in epochs(run, run.plan.pretrain_max_iter):
        (error,) = epoch(run, step, blame, LEAST_STEPS)
        curve.append(error / UNIT**2)
        report(run, "Pretraining", curve, "unexplained variance")
        if after_epoch:
            after_epoch()


def _blocks(layers: nn.Module) -> list[nn.Sequential]:
    """The linear layers, each with its activation."""
    modules = list(layers.children())
    return [nn.Sequential(*modules[i : i + 2]) for i in range(0, len(modules), 2)]


def _denoising_step(
    run: Run, below: nn.Sequential, pair: nn.Sequential
) -> Callable[[Batch], Tensor]:
    """A step of a pair of layers towards what the layers below it give."""
    optimizer = _descent(run, list(pair.parameters()))

    def step(batch: Batch) -> Tensor:
        with torch.no_grad():
            x = below(batch.x)
        kept = torch.empty_like(x).bernoulli_(1 - MASKED, generator=run.chance.noise)
        # What is missing is missing in the data only, not in what a layer gives.
        observed = None if len(below) else batch.observed
        errors = squared_error(x, pair(kept * x), observed)
        # In the unit of standardized rows, whatever a layer makes of it, if it varies.
        variance = x.var(correction=0)
        varies = variance > torch.finfo(x.dtype).eps * x.square().mean()
        scale = torch.where(varies, UNIT**2 / variance, 1.0)
        loss = scale * (batch.weight * errors).mean()
        optimizer.descend(loss)
        return loss.detach().expand(1) * len(x)

    return step
