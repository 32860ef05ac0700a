"""Predictions of a fitted estimator: clusters, coordinates, scores and samples."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from skvade import _inference
from skvade._data.dataset import Dataset
from skvade._data.device import (
    DeviceConfig,
    default_settings,
    make_generator,
    resolve_device,
)
from skvade._data.scaling import (
    DataSummary,
    Scaling,
    WeightStatistics,
    normalize_weights,
    uniform_weights,
)
from skvade._data.table import TableEncoder
from skvade._data_validation import (
    check_magnitude,
    check_sample_weight,
    check_scale,
    check_values,
    feature_names,
    mark_missing,
    supported_dtypes,
    validate_X,
    warn_no_counts,
    warn_support,
)
from skvade._model.arrays import load_state_dict
from skvade._model.custom_networks import float32_by_default
from skvade._model.likelihoods import Likelihood, make_likelihood
from skvade._model.module import VaDE
from skvade._onnx import METHODS, export_onnx

__all__ = ["PredictionMixin"]


class PredictionMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Methods that read the fitted state and leave it as it is.

    A module is built from the state for each call, by ``_make_module``. That costs less
    than a millisecond and leaves nothing behind that could not be pickled. The mixins
    of scikit-learn stand here because ``set_output`` wraps ``transform`` in the class
    that defines it.
    """

    # What scikit-learn would take for metadata is the argument itself.
    __metadata_request__inverse_transform = {"Z": UNUSED}

    _table: TableEncoder | None = None  # of a fit to a table

    # --- Clusters -------------------------------------------------------------------

    @default_settings()
    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Predict the most probable cluster of each sample.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples. In dense X, NaN is a missing value.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers from 0 to n_clusters - 1.
        """
        module, dataset = self._module_and_dataset(X)
        return _inference.predict_labels(module, dataset, self.responsibilities)

    @default_settings()
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the responsibilities q(c|x) of the clusters for each sample.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_clusters)
            Probability of each cluster. Those of a sample sum to one.
        """
        return np.exp(self.predict_log_proba(X))

    @default_settings()
    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute log responsibilities, finite where the responsibilities round to 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_responsibilities : ndarray of shape (n_samples, n_clusters)
            The values of log q(c|x).
        """
        module, dataset = self._module_and_dataset(X)
        return _inference.predict_log_responsibilities(
            module, dataset, self.responsibilities
        )

    # --- Coordinates ----------------------------------------------------------------

    @default_settings()
    def transform(self, X: ArrayLike) -> NDArray:
        """Map each sample to the latent space: the mean of q(z|x).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        Z : ndarray of shape (n_samples, latent_dim)
            Latent coordinates, in the dtype of X where that is float32 or float64; of
            tables in float64.
        """
        module, dataset = self._module_and_dataset(X)
        Z = _inference.embed(module, dataset)
        return Z.astype(dataset.X.dtype, copy=False)

    @default_settings()
    def inverse_transform(self, Z: ArrayLike) -> Any:
        """Compute the expected sample at each point of the latent space.

        Parameters
        ----------
        Z : array-like of shape (n_samples, latent_dim)
            Points of the latent space.

        Returns
        -------
        X : {ndarray, frame} of shape (n_samples, n_features)
            Expected samples E[x|z], in the units of the training data and without the
            noise of the likelihood. With a likelihood of counts they are the expected
            counts of a sample of the average total. Without size factors they are the
            expected counts themselves. Of categories it is the most probable one, and
            a table is a frame if that is what ``fit`` got.

        Raises
        ------
        ValueError
            If Z does not have ``latent_dim`` columns, or lies so far out that the
            decoder gives no finite numbers.
        """
        check_is_fitted(self)
        Z = mark_missing(Z)
        points: NDArray = check_array(Z, dtype=supported_dtypes(Z), input_name="Z")
        n_samples, n_columns = points.shape
        if n_columns != self._module_params["latent_dim"]:
            raise ValueError(
                f"Z has {n_columns} features, but {type(self).__name__} is expecting "
                f"latent_dim={self._module_params['latent_dim']} features as input."
            )
        device_config = self._device_config()
        zeros = np.zeros(n_columns)
        dataset = Dataset.from_array(
            points,
            Scaling(zeros, 1.0, zeros),
            device_config,
            uniform_weights(n_samples),
            has_missing=False,
        )
        module = self._make_module(device_config)
        decoded = _inference.decode(module, dataset, self._likelihood_float64())
        return self._decode_table(_cast_expected(decoded, points, "Z"))

    @default_settings()
    def reconstruct(self, X: ArrayLike) -> Any:
        """Compute the expected sample at the latent coordinates of each sample.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X_reconstructed : {ndarray, frame} of shape (n_samples, n_features)
            The same as ``inverse_transform(transform(X))``, but that expected counts
            have the total of the sample itself. Where counts are missing, the observed
            ones keep their total.
        """
        reconstructed = self._reconstruct(*self._module_and_dataset(X))
        return self._decode_table(reconstructed, X)

    @default_settings()
    def impute(self, X: ArrayLike) -> Any:
        """Replace missing values by the values that the model expects.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples, NaN where a value is missing.

        Returns
        -------
        X_imputed : {ndarray, sparse matrix, frame} of shape (n_samples, n_features)
            A copy of X in which the values of ``reconstruct`` replace NaN. Sparse X has
            no NaN. Imputed counts are expected ones, and so fractional. In a table,
            categories that were not in ``fit`` are missing, too.
        """
        module, dataset = self._module_and_dataset(X)
        samples: Any = dataset.X
        if dataset.has_missing:
            reconstructed = self._reconstruct(module, dataset)
            samples = np.where(np.isnan(samples), reconstructed, samples)
        else:
            samples = samples.copy()
        return self._decode_table(samples, X)

    @property
    def cluster_centers_(self) -> Any:
        """Decoded means of the clusters, in the units of X, as by inverse_transform."""
        check_is_fitted(self)
        try:
            return self.inverse_transform(self.means_)
        except ValueError as error:
            # A property must look absent where it cannot be computed.
            raise AttributeError(str(error)) from error

    @property
    def categories_(self) -> list[NDArray]:
        """Sorted categories of each categorical column, in the order of the columns."""
        check_is_fitted(self)
        if self._table is None:
            raise AttributeError(
                f"This {type(self).__name__} was fitted without categorical columns."
            )
        return [values for _, values in sorted(self._table.categories.items())]

    # --- Scores ---------------------------------------------------------------------

    @default_settings()
    def score_samples(
        self, X: ArrayLike, *, n_draws: int | None = None
    ) -> NDArray[np.float64]:
        """Compute a lower bound on the log-likelihood of each sample.

        By default it is the evidence lower bound (ELBO). With ``n_draws`` it is the
        importance-weighted bound of [1]_, eq. 8, which is tighter and takes more time.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        n_draws : int, default=None
            Draws of z for the importance-weighted bound. It rises to the log-likelihood
            with their number, as does the time. None gives the ELBO.

        Returns
        -------
        bounds : ndarray of shape (n_samples,)
            In nats; higher is better. The draws come from one fixed table, so the
            result is deterministic. Where counts are in proportion to the total of
            their sample, it is the log-probability of the counts given the total.

        Raises
        ------
        TypeError
            If ``n_draws`` is not an int.
        ValueError
            If ``n_draws`` is below 1.

        References
        ----------
        .. [1] Y. Burda, R. Grosse and R. Salakhutdinov (2016). "Importance weighted
           autoencoders." ICLR.
        """
        if n_draws is not None:
            check_scalar(n_draws, "n_draws", Integral, min_val=1)
        module, dataset = self._module_and_dataset(X, warn_outside_support=True)
        if n_draws is not None:
            return _inference.importance_weighted_samples(module, dataset, n_draws)
        return _inference.elbo_samples(module, dataset, self.responsibilities)

    @default_settings()
    def score(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Compute the mean ELBO, for model selection on held-out samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : object, default=None
            Ignored, present for the interface.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the mean; None for equal ones.

        Returns
        -------
        bound : float
            In nats per sample; higher is better.
        """
        module, dataset = self._module_and_dataset(X, warn_outside_support=True)
        if sample_weight is not None:
            weight = check_sample_weight(sample_weight, dataset.X)
            mean = WeightStatistics().update(weight).mean
            weight = normalize_weights(weight, mean)
            dataset = replace(dataset, sample_weight=weight)
        return _inference.mean_elbo(module, dataset, self.responsibilities)

    # --- Generation -----------------------------------------------------------------

    @default_settings()
    def sample(
        self,
        n_samples: int = 1,
        *,
        label: int | None = None,
        random_state: int | RandomState | None = None,
    ) -> tuple[Any, NDArray[np.int64]]:
        """Draw samples from the generative model.

        Draw a cluster by its weight, then a point z from its Gaussian, then a sample
        from p(x|z). For expected samples, without the noise of the likelihood, pass
        points of your own to ``inverse_transform``. Counts are drawn as those of
        samples of the average total.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        label : int, default=None
            The cluster to draw from; None draws from all of them.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None uses the ``random_state`` of the estimator.

        Returns
        -------
        X : {ndarray, frame} of shape (n_samples, n_features)
            The samples, ordered by cluster. A frame if ``fit`` got one as a table.
        c : ndarray of shape (n_samples,)
            The cluster of each.

        Raises
        ------
        TypeError
            If ``n_samples`` or ``label`` is not an int.
        ValueError
            If ``n_samples`` is below 1 or ``label`` is not a cluster.
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        module = self._make_module(DeviceConfig(torch.device("cpu"), torch.float64))
        weights = module.prior.log_weights.exp().numpy(force=True)
        n_clusters = len(weights)
        if label is not None:
            check_scalar(label, "label", Integral, min_val=0, max_val=n_clusters - 1)
            weights = np.eye(n_clusters)[label]
        if random_state is None:
            random_state = self.random_state
        rng = check_random_state(random_state)
        c = np.repeat(np.arange(n_clusters), rng.multinomial(n_samples, weights))
        generator = make_generator(rng.randint(np.iinfo(np.int32).max))
        with torch.inference_mode():
            z = module.prior.sample(torch.from_numpy(c), generator)
            X = module.likelihood.sample(module.decoder(z), generator)
        return self._decode_table(X.numpy()), c

    # --- Export ---------------------------------------------------------------------

    @default_settings()
    def to_torch(self, device: str | torch.device | None = None) -> VaDE:
        """Build a PyTorch module with the fitted weights.

        Parameters
        ----------
        device : str or torch.device, default=None
            Device of the module. None uses the parameter ``device``.

        Returns
        -------
        module : torch.nn.Module
            Called on a tensor of samples, it gives log q(c|x), always as with
            responsibilities="expected". The tensor is of float32, or of float64 if that
            is the ``precision``. Its methods ``encode`` and ``decode`` give q(z|x) and
            E[x|z]. Its submodules are ``encoder``, ``decoder``, ``prior`` and
            ``likelihood``. Changing it does not change the estimator. A module of
            counts takes the counts themselves, which it does not check.

        Raises
        ------
        ValueError
            If the model is of a table.
        """
        self._check_no_table("to_torch")
        if device is None:
            device_config = self._device_config()
        else:
            device_config = resolve_device(str(device), self.precision)
        return self._make_module(device_config)

    @default_settings()
    def to_onnx(self, path: str | PathLike, method: str = "predict_proba") -> None:
        """Write a method as an ONNX file, to predict without PyTorch and skvade.

        It needs the packages of the extra ``onnx``.

        Parameters
        ----------
        path : str or path-like
            The file to write.
        method : {"predict_proba", "transform"}, default="predict_proba"
            What the file computes, and the name of its output. Its input is X, with any
            number of samples. Input and output are of float64 if that is the
            ``precision``, and of float32 otherwise. The file does not check counts.

        Raises
        ------
        ImportError
            If the packages of the extra are not installed.
        ValueError
            If there is no such method, or the model is of a table.
        """
        self._check_no_table("to_onnx")
        if method not in METHODS:
            raise ValueError(
                f"method must be one of {[*METHODS]}. Got {method!r} instead."
            )
        device_config = resolve_device("cpu", self.precision, strict=False)
        module = self._make_module(replace(device_config, bfloat16=False))
        with float32_by_default(module):
            export_onnx(module, self.responsibilities, method, path)

    def _check_no_table(self, method: str) -> None:
        check_is_fitted(self)
        if self._table is not None:
            raise ValueError(
                f"{method} can not export a model of a table with categories or "
                "several likelihoods: a module of tensors can not encode the table. "
                "Predict with the estimator, or pickle it."
            )

    # --- From the fitted state ------------------------------------------------------

    def _device_config(self) -> DeviceConfig:
        return resolve_device(self.device, self.precision, strict=False)

    def _make_module(self, device_config: DeviceConfig) -> VaDE:
        """Build the fitted module."""
        module = VaDE(**self._module_params, bfloat16=device_config.bfloat16)
        module.to(device_config.device, device_config.dtype)
        try:
            load_state_dict(module.encoder, self._network_state["encoder"])
            load_state_dict(module.decoder, self._network_state["decoder"])
        except KeyError as error:
            raise ValueError(
                "encoder and decoder no longer build the networks that were fitted, "
                f"encoder={self._module_params['encoder']!r} and "
                f"decoder={self._module_params['decoder']!r}. Restore what these "
                "build, or fit again."
            ) from error
        module.likelihood.set_scaling(Scaling(**self._scaling))
        module.load_fitted_attributes(vars(self))
        return module

    def _likelihood_float64(self) -> Likelihood:
        """Build the fitted likelihood on the CPU, in float64, without the networks."""
        params = self._module_params
        likelihood = make_likelihood(params["likelihood"], params["n_features"], params)
        likelihood.double().set_scaling(Scaling(**self._scaling))
        likelihood.load_fitted_attributes(vars(self))
        return likelihood

    def _module_and_dataset(
        self, X: ArrayLike, *, warn_outside_support: bool = False
    ) -> tuple[VaDE, Dataset]:
        """Validate X for a prediction, in one pass; give it with the module."""
        check_is_fitted(self)
        samples = validate_X(self, X, reset=False)
        device_config, scaling = self._device_config(), Scaling(**self._scaling)
        names = feature_names(self)
        summary = DataSummary.from_array(samples, names=names)
        likelihood, table = self._module_params["likelihood"], self._table
        empty = check_values(likelihood, samples, table, names)
        check_scale(scaling, device_config.dtype, samples.dtype)
        check_magnitude(summary, scaling)
        warn_no_counts(empty, scaling, samples.shape[0])
        if warn_outside_support:
            warn_support(likelihood, summary, table)
        weights = uniform_weights(samples.shape[0])
        dataset = Dataset.from_array(
            samples, scaling, device_config, weights, summary.has_missing
        )
        return self._make_module(device_config), dataset

    def _decode_table(self, X: Any, given: Any = None) -> Any:
        """Give the table of encoded samples, those of `given`; others as they are."""
        if self._table is None:
            return X
        return self._table.decode(X, getattr(given, "index", None))

    def _reconstruct(self, module: VaDE, dataset: Dataset) -> NDArray:
        expected = _inference.reconstruct(module, dataset, self._likelihood_float64())
        return _cast_expected(expected, dataset.X, "X")


def _cast_expected(expected: NDArray, given: NDArray | csr_array, name: str) -> NDArray:
    """Cast expected samples to the dtype of what they were computed from.

    Raises
    ------
    ValueError
        If they are beyond what the arithmetic or the dtype can express.
    """
    with np.errstate(over="ignore"):
        cast = expected.astype(given.dtype, copy=False)
    if not np.isfinite(cast).all():
        largest = abs(given).max()
        raise ValueError(
            f"{name} has values up to {largest:.3g}, for which the expected samples "
            f"are no finite numbers of {given.dtype}. Look for extreme values in {name}"
            + (", or give it in float64." if given.dtype != np.float64 else ".")
        )
    return cast
