"""What a fitted estimator answers: clusters, coordinates, scores and new rows."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from skvade import _inference, _onnx
from skvade._batching import Placement, Rows, load_parameters, make_generator, place
from skvade._likelihoods import LIKELIHOODS, Likelihood
from skvade._matrix import (
    FLOATS,
    Standardization,
    check_finite,
    check_observed,
    check_sparse,
    extent,
)
from skvade._networks import VaDE
from skvade._run import gradients
from skvade._warnings import warn

__all__ = ["FittedVaDE"]


def _is_index(value: Any, size: int) -> bool:
    is_int = isinstance(value, Integral) and not isinstance(value, bool)
    return is_int and 0 <= value < size


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1. Got {value!r} instead.")


class FittedVaDE(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Methods that read the fitted state and leave it as it is.

    The state is `_architecture`, the arguments of the model, and `_parameters`, its
    values as arrays. A model is built from them for each call, which costs less than a
    millisecond and leaves nothing behind that could not be pickled. The mixins stand
    here because `set_output` wraps `transform` in the class that defines it.
    """

    # What scikit-learn would take for metadata is the argument itself.
    __metadata_request__inverse_transform = {"Z": UNUSED}

    # --- Clusters -------------------------------------------------------------------

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Most probable cluster of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Integers from 0 to n_clusters - 1.
        """
        model, rows = self._model_and_rows(X)
        return _inference.labels_per_row(model, rows, self.responsibilities)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the responsibilities q(c|x) of the clusters for each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_clusters)
            Each row sums to one.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give logarithms of responsibilities, finite where these round to zero.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_responsibilities : ndarray of shape (n_samples, n_clusters)
            The values of log q(c|x).
        """
        model, rows = self._model_and_rows(X)
        return _inference.log_responsibilities_per_row(
            model, rows, self.responsibilities
        )

    # --- Coordinates ----------------------------------------------------------------

    def transform(self, X: ArrayLike) -> NDArray:
        """Give the coordinates of each row in the latent space: the mean of q(z|x).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Z : ndarray of shape (n_samples, latent_dim)
            In the dtype of X where that is float32 or float64.
        """
        model, rows = self._model_and_rows(X)
        return _inference.embed(model, rows).astype(rows.X.dtype, copy=False)

    def inverse_transform(self, Z: ArrayLike) -> NDArray:
        """Expected row at each point of the latent space.

        Parameters
        ----------
        Z : array-like of shape (n_samples, latent_dim)
            Points of the latent space.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            E[x|z], in the units of the training rows.

        Raises
        ------
        ValueError
            If Z does not have `latent_dim` columns.
        """
        check_is_fitted(self)
        points: NDArray = check_array(Z, dtype=FLOATS, input_name="Z")
        n_columns = points.shape[1]
        if n_columns != self._architecture["latent_dim"]:
            raise ValueError(
                f"Z has {n_columns} features, but {type(self).__name__} is expecting "
                f"latent_dim={self._architecture['latent_dim']} features as input."
            )
        placement = self._placement()
        origin = np.zeros(n_columns)
        rows = Rows.of(points, Standardization(origin, 1.0, origin), placement)
        decoded = _inference.decode(self._model(placement), rows, self._likelihood())
        return decoded.astype(points.dtype, copy=False)

    def reconstruct(self, X: ArrayLike) -> NDArray:
        """Expected row at the coordinates of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        X_reconstructed : ndarray of shape (n_samples, n_features)
            The same as ``inverse_transform(transform(X))``.
        """
        return self._reconstructed(*self._model_and_rows(X))

    def impute(self, X: ArrayLike) -> NDArray | csr_array:
        """Fill missing entries with what the model expects there.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, NaN where an entry is missing.

        Returns
        -------
        X_imputed : ndarray or sparse matrix of shape (n_samples, n_features)
            A copy of X with the entries of `reconstruct` in the place of NaN. A sparse
            X has none.
        """
        model, rows = self._model_and_rows(X)
        if not rows.incomplete:
            return rows.X.copy()
        return np.where(np.isnan(rows.X), self._reconstructed(model, rows), rows.X)

    # --- Scores ---------------------------------------------------------------------

    def score_samples(
        self, X: ArrayLike, *, n_draws: int | None = None
    ) -> NDArray[np.float64]:
        """Lower bound of the log-likelihood of each row: the evidence lower bound.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        n_draws : int, default=None
            Draws of z for the tighter importance-weighted bound of [1]_, eq. 8, which
            rises to the log-likelihood itself with their number, as does the time; 64
            tell much. None gives the evidence lower bound.

        Returns
        -------
        bounds : ndarray of shape (n_samples,)
            In nats; higher is better. The expectation over q(z|x) is taken at one fixed
            table of draws, so the result is deterministic.

        Raises
        ------
        ValueError
            If `n_draws` is below 1.

        References
        ----------
        .. [1] Y. Burda, R. Grosse and R. Salakhutdinov (2016). "Importance weighted
           autoencoders." ICLR.
        """
        if n_draws is not None:
            _check_count("n_draws", n_draws)
        model, rows = self._model_and_rows(X)
        self._warn_outside_of_support(rows.X)
        if n_draws is not None:
            return _inference.importance_weighted_per_row(model, rows, n_draws)
        return _inference.elbo_per_row(model, rows, self.responsibilities)

    def score(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Mean evidence lower bound, for model selection on held-out rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : object, default=None
            Ignored, present for the interface.
        sample_weight : array-like of shape (n_samples,), default=None
            What each row counts in the mean; None for all alike.

        Returns
        -------
        bound : float
            In nats per row; higher is better.
        """
        model, rows = self._model_and_rows(X)
        self._warn_outside_of_support(rows.X)
        weight = _check_sample_weight(
            sample_weight, rows.X, dtype=np.float64, ensure_non_negative=True
        )
        rows = replace(rows, weight_of_all=weight)
        return _inference.mean_elbo(model, rows, self.responsibilities)

    # --- New rows -------------------------------------------------------------------

    def sample(
        self,
        n_samples: int = 1,
        *,
        label: int | None = None,
        random_state: int | RandomState | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw rows from the generative model.

        A cluster is drawn by its weight, a point z from its Gaussian, a row from
        p(x|z). For expected rows, without the noise of the likelihood, decode points of
        your own with `inverse_transform`.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        label : int, default=None
            The cluster to draw from; None draws from all of them.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws; None uses the estimator's own `random_state`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The rows, ordered by cluster.
        c : ndarray of shape (n_samples,)
            The cluster of each.

        Raises
        ------
        ValueError
            If `n_samples` is below 1 or `label` is not a cluster.
        """
        check_is_fitted(self)
        n_clusters = len(self.weights_)
        _check_count("n_samples", n_samples)
        if label is not None and not _is_index(label, n_clusters):
            raise ValueError(
                f"label must be a cluster, an int from 0 to {n_clusters - 1}, or None. "
                f"Got {label!r} instead."
            )
        seed = self.random_state if random_state is None else random_state
        rng = check_random_state(seed)
        weights = self.weights_ if label is None else np.eye(n_clusters)[label]
        c = np.repeat(np.arange(n_clusters), rng.multinomial(n_samples, weights))
        z = rng.normal(self.means_[c], np.sqrt(self.covariances_[c]))
        model = self._exact_model()
        generator = make_generator(rng.randint(np.iinfo(np.int32).max))
        with torch.inference_mode():
            X = model.likelihood.draw(model.decoder(torch.from_numpy(z)), generator)
        return X.numpy(), c

    def to_torch(self, device: str | torch.device | None = None) -> VaDE:
        """The fitted model as a fresh PyTorch module, to go on with in PyTorch.

        Parameters
        ----------
        device : str or torch.device, default=None
            Where to put it; None follows the parameter `device`.

        Returns
        -------
        model : torch.nn.Module
            Called on a tensor of rows, of float32 unless `precision` is "float64", it
            gives log q(c|x) as responsibilities="expected" does, whatever the
            parameter is. Its methods `encode` and `decode` give q(z|x) and E[x|z], its
            modules are `encoder`, `decoder`, `prior` and `likelihood`. Changing it does
            not change the estimator.
        """
        check_is_fitted(self)
        wanted = self.device if device is None else str(device)
        return self._model(place(wanted, self.precision, strict=device is not None))

    def to_onnx(self, path: str | PathLike, method: str = "predict_proba") -> None:
        """Write a method as an ONNX file, to predict without PyTorch and skvade.

        The packages it needs come with the extra ``onnx``.

        Parameters
        ----------
        path : str or path-like
            The file, with all that the method needs.
        method : {"predict_proba", "transform"}, default="predict_proba"
            What the file computes, and the name of its output. Its input is X, any
            number of rows as the method takes them, of float32 unless `precision` is
            "float64"; the output is of the same type. The arithmetic is that of
            float32 where `precision` is "bfloat16".

        Raises
        ------
        ImportError
            If the packages of the extra are not installed.
        ValueError
            If there is no such method.
        """
        check_is_fitted(self)
        if method not in _onnx.METHODS:
            raise ValueError(
                f"method must be one of {[*_onnx.METHODS]}. Got {method!r} instead."
            )
        placement = place("cpu", self.precision, strict=False)
        with gradients():
            model = self._model(replace(placement, bfloat16=False))
            _onnx.export(model, self.responsibilities, method, path)

    # --- State ----------------------------------------------------------------------

    def _placement(self) -> Placement:
        return place(self.device, self.precision, strict=False)

    def _model(self, placement: Placement) -> VaDE:
        model = VaDE(**self._architecture, bfloat16=placement.bfloat16)
        model.to(placement.device, placement.dtype)
        try:
            load_parameters(model, self._parameters)
        except KeyError as error:
            raise ValueError(
                "encoder and decoder no longer build the networks that were fitted, "
                f"encoder={self._architecture['encoder']!r} and "
                f"decoder={self._architecture['decoder']!r}. Restore what these "
                "build, or fit again."
            ) from error
        return model

    def _exact_model(self) -> VaDE:
        return self._model(Placement(torch.device("cpu"), torch.float64))

    def _likelihood(self) -> Likelihood:
        """The likelihood of the exact model."""
        kind, n_features = map(self._architecture.get, ("likelihood", "n_features"))
        likelihood = LIKELIHOODS[kind](n_features).double()
        head = "likelihood."
        values = {k: v for k, v in self._parameters.items() if k.startswith(head)}
        load_parameters(likelihood, {k[len(head) :]: v for k, v in values.items()})
        return likelihood

    def _rows(
        self, X: NDArray, placement: Placement, weight: NDArray | None = None
    ) -> Rows:
        unit = [self._parameters[f"likelihood.{n}"] for n in Standardization._fields]
        location, scale, average = unit
        standard = Standardization(location, scale.item(), average)
        return Rows.of(X, standard, placement, weight).checked()

    def _validated(self, X: ArrayLike, *, reset: bool = False) -> NDArray | csr_array:
        rows: Any = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=FLOATS,
            ensure_all_finite=False,
        )
        check_finite(rows)
        if not issparse(rows):
            check_observed(rows)
            return rows
        check_sparse(rows)
        if not rows.has_canonical_format:
            rows = rows.copy()  # the user's own stays as it is
            rows.sum_duplicates()
        return rows

    def _model_and_rows(self, X: ArrayLike) -> tuple[VaDE, Rows]:
        check_is_fitted(self)
        rows = self._validated(X)
        placement = self._placement()
        return self._model(placement), self._rows(rows, placement)

    def _reconstructed(self, model: VaDE, rows: Rows) -> NDArray:
        expected = _inference.reconstruct(model, rows, self._likelihood())
        return expected.astype(rows.X.dtype, copy=False)

    def _warn_outside_of_support(self, X: NDArray) -> None:
        bernoulli = self._architecture["likelihood"] == "bernoulli"
        low, high = extent(X)
        if bernoulli and not (low >= 0 and high <= 1):
            warn(
                f"X ranges from {low:.6g} to {high:.6g}. Outside of [0, 1] the "
                "score of likelihood='bernoulli' is no probability. Clip X, for "
                "instance with MinMaxScaler(clip=True)."
            )
