"""The whole model as one module, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import nll_loss

from skvade._data.dataset import Batch
from skvade._data.device import make_generator
from skvade._data.table import Part
from skvade._model.custom_networks import (
    ModuleFactory,
    build_custom_decoder,
    build_custom_encoder,
)
from skvade._model.elbo import Posterior, elbo, log_responsibilities, reparameterize
from skvade._model.likelihoods import AffineOutput, Likelihood, make_likelihood
from skvade._model.networks import MLP, Decoder, Encoder, Linear
from skvade._model.prior import PRIORS, MixturePrior

__all__ = ["LOSS_TERMS", "LossOutput", "VaDE"]


class LossOutput(NamedTuple):
    """What a loss gives to the epoch loop.

    Attributes
    ----------
    loss : Tensor of shape ()
        To call `backward` on: the weighted sum over the samples of a batch, divided by
        the number of samples of the step. The gradients of all processes are added.
    terms : dict of str to Tensor of shape ()
        Weighted sums over the samples, detached. The loop averages them over the epoch
        and records each under its name.
    """

    loss: Tensor
    terms: dict[str, Tensor]


# That `VaDE.loss` records itself.
LOSS_NAMES = ("loss", "elbo", "reconstruction", "init_cross_entropy")

# Further terms of the loss, by name: functions of the module, a batch, its posterior
# and the training configuration that give one number per sample, (B,), to be minimized.
# Each is added to the negative ELBO and recorded under its name, none of `LOSS_NAMES`.
LOSS_TERMS: dict[str, Callable[[VaDE, Batch, Posterior, Any], Tensor]] = {}


class VaDE(nn.Module):
    """Encoder, decoder, mixture prior and likelihood: the whole generative model.

    `encoder` and `decoder` work on standardized samples; `encode`, `decode` and
    `forward` take and give samples in the units of the data.

    Parameters
    ----------
    n_features, latent_dim, n_clusters : int
        D, L and K.
    hidden_layer_sizes : sequence of int
        Widths of the encoder, mirrored by the decoder.
    activation : str
        A key of `ACTIVATIONS`.
    likelihood : str or object
        A key of `LIKELIHOODS`; has no effect with a `table`.
    reg_covar : float
        Least variance of a component, see `MixturePrior`.
    noise, size_factor : str or None
        Parameters of the likelihood, for those that have them.
    table : sequence of Part or None, default=None
        The columns of each likelihood, if X is a table.
    encoder, decoder : callable or None, default=None
        Builds a custom network in the place of the default one.
    covariance_type : str, default="diag"
        A key of `PRIORS`.
    bfloat16 : bool, default=False
        Whether the hidden layers run in bfloat16.
    generator : torch.Generator or None, default=None
        Custom networks draw their initial weights from it; None for a fixed one, where
        other weights are loaded.
    """

    def __init__(
        self,
        *,
        n_features: int,
        latent_dim: int,
        n_clusters: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        likelihood: Any,
        reg_covar: float,
        noise: str = "scalar",
        size_factor: str | None = "auto",
        table: Sequence[Part] | None = None,
        encoder: ModuleFactory | None = None,
        decoder: ModuleFactory | None = None,
        covariance_type: str = "diag",
        bfloat16: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        _check_loss_terms()
        generator = generator or make_generator(0)
        sizes = [n_features, *hidden_layer_sizes]
        if encoder is None:
            backbone: nn.Module = MLP(sizes, activation, bfloat16)
            width = sizes[-1]
        else:
            backbone, width = build_custom_encoder(
                encoder, n_features, latent_dim, bfloat16, generator
            )
        self.encoder = Encoder(backbone, width, latent_dim)
        output: nn.Linear | AffineOutput
        if decoder is None:
            sizes = [latent_dim, *reversed(hidden_layer_sizes)]
            backbone = MLP(sizes, activation, bfloat16)
            output = Linear(sizes[-1], n_features)
        else:
            backbone = build_custom_decoder(
                decoder, latent_dim, n_features, bfloat16, generator
            )
            output = AffineOutput(n_features)
        self.decoder = Decoder(backbone, output)
        self.prior = PRIORS[covariance_type](n_clusters, latent_dim, reg_covar)
        self.likelihood = make_likelihood(
            likelihood,
            n_features,
            {"noise": noise, "size_factor": size_factor, "table": table},
        )
        if encoder is not None or decoder is not None:
            self.eval()  # custom networks have modes; only epochs of training train

    # --- Training -------------------------------------------------------------------

    def loss(self, batch: Batch, noise: Tensor, config: Any) -> LossOutput:
        """Compute the negative ELBO of a batch, its latent terms weighted by beta.

        Where the batch has labels, the cross-entropy of q(c|x) with them is added to
        the latent terms.

        Parameters
        ----------
        batch : Batch
            Standardized samples, missing entries imputed.
        noise : Tensor of shape (S, B, L)
            Standard normal noise that the S draws of z per sample are made of.
        config : object
            Has the attributes `beta`, `responsibilities`, `init_weight`, and those that
            the functions in `LOSS_TERMS` read.

        Returns
        -------
        output : LossOutput
            The terms are "loss", "elbo" (without beta), its part "reconstruction",
            "init_cross_entropy" if there are labels, and those in `LOSS_TERMS`.
        """
        posterior = self.encoder(self.likelihood.encoder_input(batch.x))
        draws = reparameterize(posterior, noise)
        # Layers are faster on a matrix, (S B, L), than on (S, B, L).
        outputs = self.decoder(draws.flatten(0, 1)).unflatten(0, noise.shape[:2])
        log_likelihood = self.likelihood.log_prob(batch.target, outputs, batch.mask)
        sampled = draws if config.responsibilities == "sampled" else None
        bound = elbo(log_likelihood, posterior, self.prior, sampled)

        weight = batch.sample_weight
        reconstruction = weight @ bound.reconstruction
        latent = weight @ bound.latent
        total = -(reconstruction + config.beta * latent)
        terms = {
            "elbo": reconstruction.detach() + latent.detach(),
            "reconstruction": reconstruction.detach(),
        }
        if batch.labels is not None:
            log_r = bound.log_responsibilities
            cross_entropy = weight @ nll_loss(log_r, batch.labels, reduction="none")
            total = total + config.beta * config.init_weight * cross_entropy
            terms["init_cross_entropy"] = cross_entropy.detach()
        for name, term in LOSS_TERMS.items():
            value = weight @ term(self, batch, posterior, config)
            total = total + value
            terms[name] = value.detach()
        terms["loss"] = total.detach()
        return LossOutput(total / batch.size, terms)

    def impute_batch(self, batch: Batch, pretraining: bool = False) -> Batch:
        """Replace missing entries by what the model reconstructs of the sample.

        That is a prediction, in training too: custom networks are in evaluation mode,
        and nothing is learned from it.
        """
        if batch.mask is None:
            return batch
        was_training = self.training
        self.eval()
        try:
            x = self.impute(batch.x, batch.mask, pretraining)
        finally:
            self.train(was_training)
        return batch._replace(x=x)

    def impute(self, x: Tensor, mask: Tensor, pretraining: bool = False) -> Tensor:
        """Replace missing entries of standardized samples by expected ones, (B, D).

        The expectation is the reconstruction of `x` as it is, with the mean of the
        feature in these places. While `pretraining` the decoder gives standardized
        samples themselves.
        """
        with torch.no_grad():
            z = self.encoder.encode_mean(self.likelihood.encoder_input(x))
            expected = self.decoder(z)
            if not pretraining:
                expected = self.likelihood.standardized_mean(expected)
        return torch.where(mask.bool(), x, expected)

    # --- In the units of the data ---------------------------------------------------

    def preprocess(self, x: Tensor) -> Tensor:
        """Standardize samples and impute their NaN: (B, D) to (B, D)."""
        return self.impute(self.likelihood.standardize(x), ~x.isnan())

    def encode(self, x: Tensor) -> Posterior:
        """Compute q(z|x), two tensors (B, L)."""
        return self.encoder(self.likelihood.encoder_input(self.preprocess(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Compute E[x|z]: (..., L) to (..., D)."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """Compute log q(c|x): (B, D) to (B, K)."""
        return log_responsibilities(self.prior, self.encode(x))

    # --- Fitted state ---------------------------------------------------------------

    def fitted_attributes(self) -> dict[str, Any]:
        """Give the parameters of prior and likelihood as fitted attributes."""
        prior, likelihood = self.prior_float64(), self.likelihood_float64()
        return {**prior.fitted_attributes(), **likelihood.fitted_attributes()}

    def load_fitted_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set the parameters of prior and likelihood from fitted attributes."""
        self.prior.load_fitted_attributes(attributes)
        self.likelihood.load_fitted_attributes(attributes)

    def set_n_clusters(self, n_clusters: int) -> None:
        """Give the prior another number of components, all at their initial values."""
        prior = self.prior
        n_components, latent_dim = prior.means.shape
        if n_components != n_clusters:
            self.prior = type(prior)(n_clusters, latent_dim, prior.reg_covar)
            self.prior.to(prior.means.device, prior.means.dtype)

    def prior_float64(self) -> MixturePrior:
        """Copy the prior to the CPU, in float64."""
        return deepcopy(self.prior).cpu().double()

    def likelihood_float64(self) -> Likelihood:
        """Copy the likelihood to the CPU, in float64."""
        return deepcopy(self.likelihood).cpu().double()


def _check_loss_terms() -> None:
    """Reject a term of the loss that would be recorded in the place of another.

    Raises
    ------
    ValueError
        If a name in `LOSS_TERMS` is one of `LOSS_NAMES`.
    """
    taken = sorted({*LOSS_TERMS} & {*LOSS_NAMES})
    if taken:
        raise ValueError(
            f"The names {LOSS_NAMES} are those of the terms that every loss has. Got "
            f"{taken[0]!r} in LOSS_TERMS as well. Give that term another name."
        )
