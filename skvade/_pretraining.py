"""The stage before there is a mixture: networks that reconstruct the rows."""

from torch import Tensor

from skvade._batching import Batch
from skvade._matrix import UNIT
from skvade._optimizers import Momentum
from skvade._run import LEAST_STEPS, Run, autoencoder_parameters, epoch, report

__all__ = ["pretrain"]

MOMENTUM = 0.9
MANY_FEATURES = 8  # with fewer, pretraining at the full rate is unstable
GRADIENT_NORM = 1.0  # cap on the norm of a pretraining gradient

_BLAME = "pretrain_learning_rate_init={0.pretrain_learning_rate_init!r}"


def pretrain(run: Run) -> None:
    """Train encoder and decoder to reconstruct, by plain stochastic gradient descent.

    From small weights this learns simple features first and keeps the groups of the
    data apart; adaptive steps reach the same error with a tangled embedding. The curve
    holds the squared error as a fraction of the variance of the data.
    """
    encoder, decoder = run.model.encoder, run.model.decoder
    parameters = autoencoder_parameters(run.model)
    few_features = min(1.0, run.rows.X.shape[1] / MANY_FEATURES)
    learning_rate = few_features * run.plan.pretrain_learning_rate_init
    optimizer = Momentum(
        parameters,
        learning_rate,
        momentum=MOMENTUM,
        most_norm=GRADIENT_NORM,
        fused=run.rows.placement.fuses_optimizers,
    )

    def step(batch: Batch) -> Tensor:
        x, weight = batch.x, batch.weight
        errors = (decoder(encoder.embed(x)) - x).square().mean(1)
        loss = (weight * errors).mean()
        optimizer.descend(loss)
        return loss.detach().expand(1) * len(x)

    curve = run.record.pretrain_loss_curve
    for _ in range(run.plan.pretrain_max_iter):
        (error,) = epoch(run, step, _BLAME, LEAST_STEPS)
        curve.append(error / UNIT**2)
        report(run, "Pretraining", curve, "unexplained variance")
