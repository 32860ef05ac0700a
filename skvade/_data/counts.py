"""Counts: which values they may have, and what the networks get of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from torch import Tensor

from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.scaling import DataSummary, Scaling, feature_label, iter_chunks

__all__ = [
    "check_counts",
    "count_scaling",
    "log1p_normalized",
    "network_input",
    "size_factors",
]

# Of a feature, in counts per sample: its logarithm must be finite.
MIN_MEAN_COUNT = 1e-6

# Of the totals of the samples: the networks get counts as of a sample of this total.
# With a larger one the counts of many samples would be magnified, and their noise would
# decide about neighbors.
REFERENCE_QUANTILE = 0.1


def check_counts(
    X: NDArray | csr_array,
    likelihood: str,
    features: slice = slice(None),
    names: Sequence[Any] | None = None,
) -> NDArray[np.intp]:
    """Reject values that are no counts; NaN may stand for a missing one.

    Parameters
    ----------
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        Samples.
    likelihood : str
        The likelihood that needs counts.
    features : slice, default=slice(None)
        The features that it needs them of.
    names : sequence of length n_features, default=None
        What an error calls all features of X; None for their positions.

    Returns
    -------
    empty : ndarray of shape (n_empty,)
        The samples in which no count is above zero.

    Raises
    ------
    ValueError
        Names the first negative or fractional value, and its row and column.
    """
    empty = []
    for rows, chunk in iter_chunks(X):
        chunk = chunk[:, features]
        is_count = np.isnan(chunk) | ((chunk >= 0) & (chunk == np.floor(chunk)))
        if not is_count.all():
            row, column = np.argwhere(~is_count)[0]
            value = float(chunk[row, column])
            name = feature_label(names, (features.start or 0) + column)
            kind = "a negative" if value < 0 else "a fractional"
            raise ValueError(
                f"likelihood={likelihood!r} needs counts: integers from 0. Got {kind} "
                f"value, {value:.6g} in row {rows.start + row}, column {name} of X. "
                "Give the counts themselves, neither normalized nor as logarithms, or "
                "use likelihood='gaussian'."
            )
        empty.append(rows.start + np.flatnonzero(~(chunk > 0).any(1)))
    return np.concatenate(empty)


def size_factors(x: Tensor, reference_count: Tensor) -> Tensor:
    """Compute the total of each sample relative to that of a reference, (..., 1).

    Both totals are over the features that are observed. A sample without any count has
    the total of a single one.
    """
    observed = ~x.isnan()
    total = torch.where(observed, x, 0.0).sum(-1, keepdim=True)
    expected = torch.where(observed, reference_count, 0.0).sum(-1, keepdim=True)
    return total.clamp_min(1) / expected


def log1p_normalized(x: Tensor, reference_count: Tensor) -> Tensor:
    """Compute log(1 + x / size factor), (..., D); NaN stays."""
    return torch.log1p(x / size_factors(x, reference_count))


def network_input(X: NDArray | csr_array, scaling: Scaling) -> NDArray | csr_array:
    """Give what is standardized for the networks: X itself, or log1p of counts.

    Sparse counts stay sparse.
    """
    if scaling.mean_count is None:
        return X
    if scaling.edges is not None:
        X = X.copy()
        for features, part in scaling.split():
            X[:, features] = network_input(X[:, features], part)
        return X
    if issparse(X):
        return _sparse_network_input(X, scaling)
    if scaling.reference_count is None:
        return np.log1p(X)
    reference_count = scaling.reference_count.astype(X.dtype)
    return log1p_normalized(torch.tensor(X), torch.tensor(reference_count)).numpy()


def _sparse_network_input(X: Any, scaling: Scaling) -> csr_array:
    samples = csr_array(X, copy=True)
    if scaling.reference_count is not None:
        totals = np.maximum(samples.sum(1), 1)
        factors = (totals / scaling.reference_count.sum()).astype(X.dtype)
        samples.data /= np.repeat(factors, np.diff(samples.indptr))
    np.log1p(samples.data, out=samples.data)
    return samples


def _reference_count(
    X: NDArray | csr_array,
    sample_weight: NDArray,
    mean_count: NDArray[np.float64],
    group: ProcessGroup,
) -> NDArray[np.float64]:
    """Give the mean counts of a sample whose total is a low quantile of the totals."""
    factors = np.empty(X.shape[0])
    mean = torch.tensor(mean_count)
    for rows, chunk in iter_chunks(X):
        factors[rows] = size_factors(torch.tensor(chunk), mean)[:, 0].numpy()
    factors = np.concatenate(group.gather(factors))
    sample_weight = np.concatenate(group.gather(sample_weight))
    order = np.argsort(factors)
    cumulative = np.cumsum(sample_weight[order])
    limit = REFERENCE_QUANTILE * cumulative[-1]
    return factors[order[np.searchsorted(cumulative, limit)]] * mean_count


def count_scaling(
    X: NDArray | csr_array,
    sample_weight: NDArray,
    feature_mean: NDArray[np.float64],
    size_factor: str | None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Scaling:
    """Derive the scaling of counts, in one or two more passes over the samples.

    Parameters
    ----------
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        Counts.
    sample_weight : ndarray of shape (n_samples,)
        Weights of the samples, one on average.
    feature_mean : ndarray of shape (n_features,)
        Mean count of each feature.
    size_factor : {"total", None}
        Whether the networks get the counts divided by the total of the sample.
    group : ProcessGroup, default=SINGLE_PROCESS
        The scaling is that of the samples of all its processes.
    """
    mean_count = np.maximum(feature_mean, MIN_MEAN_COUNT)
    zeros, reference_count = np.zeros_like(mean_count), None
    if size_factor is not None:
        reference_count = _reference_count(X, sample_weight, mean_count, group)
    unscaled = Scaling(zeros, 1.0, zeros, mean_count, reference_count)
    summary = DataSummary.from_array(
        X,
        sample_weight,
        group,
        lambda chunk: network_input(chunk, unscaled),
        allow_empty=True,  # X as a whole was checked when its means were taken
    )
    scaling = summary.scaling(center=True)
    return scaling._replace(mean_count=mean_count, reference_count=reference_count)
