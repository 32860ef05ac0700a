"""Counts: which values they may have, and what the networks get of them."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from torch import Tensor

from skvade._data.scaling import DataSummary, Scaling, iter_chunks

__all__ = [
    "check_counts",
    "count_scaling",
    "log1p_normalized",
    "network_input",
]

# Of a feature, in counts per sample: its logarithm must be finite.
MIN_MEAN_COUNT = 1e-6


def check_counts(X: NDArray | csr_array, likelihood: str) -> None:
    """Reject values that are no counts; NaN may stand for a missing one.

    Raises
    ------
    ValueError
        Names the first negative or fractional value, and its row and column.
    """
    for rows, chunk in iter_chunks(X):
        is_count = np.isnan(chunk) | ((chunk >= 0) & (chunk == np.floor(chunk)))
        if not is_count.all():
            row, column = np.argwhere(~is_count)[0]
            value = float(chunk[row, column])
            kind = "a negative" if value < 0 else "a fractional"
            raise ValueError(
                f"likelihood={likelihood!r} needs counts: integers from 0. Got {kind} "
                f"value, {value:.6g} in row {rows.start + row}, column {column} of X. "
                "Give the counts themselves, neither normalized nor as logarithms, or "
                "use likelihood='gaussian'."
            )


def log1p_normalized(x: Tensor, mean_count: Tensor) -> Tensor:
    """Compute log(1 + x / size factor), (..., D); NaN stays.

    The size factor of a sample is its total relative to that of an average sample. Both
    totals are over the features that are observed in it. A sample without any count is
    divided as if it had a single one.
    """
    observed = ~x.isnan()
    total = torch.where(observed, x, 0.0).sum(-1, keepdim=True)
    expected = torch.where(observed, mean_count, 0.0).sum(-1, keepdim=True)
    return torch.log1p(x * (expected / total.clamp_min(1)))


def network_input(X: NDArray | csr_array, scaling: Scaling) -> NDArray | csr_array:
    """Give what is standardized for the networks: X itself, or log1p of counts.

    Sparse counts stay sparse.
    """
    if scaling.mean_count is None:
        return X
    mean_count = scaling.mean_count.astype(X.dtype)
    if issparse(X):
        sparse: csr_array = X
        if scaling.size_factor is not None:
            totals = np.maximum(sparse.sum(1), 1)
            factors = (mean_count.sum() / totals).astype(X.dtype)
            sparse = sparse.multiply(factors[:, None]).tocsr()
        return sparse.log1p()
    if scaling.size_factor is None:
        return np.log1p(X)
    return log1p_normalized(torch.tensor(X), torch.tensor(mean_count)).numpy()


def count_scaling(
    X: NDArray | csr_array,
    sample_weight: NDArray,
    feature_mean: NDArray[np.float64],
    size_factor: str | None,
) -> Scaling:
    """Derive the scaling of counts, in one more pass over the samples.

    Parameters
    ----------
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        Counts.
    sample_weight : ndarray of shape (n_samples,)
        Weights of the samples, one on average.
    feature_mean : ndarray of shape (n_features,)
        Mean count of each feature.
    size_factor : {"total", None}
        What the counts of a sample are divided by.
    """
    mean_count = np.maximum(feature_mean, MIN_MEAN_COUNT)
    zeros = np.zeros_like(mean_count)
    unscaled = Scaling(zeros, 1.0, zeros, mean_count, size_factor)
    summary = DataSummary.from_array(
        X, sample_weight, lambda chunk: network_input(chunk, unscaled)
    )
    scaling = summary.scaling(center=True)
    return scaling._replace(mean_count=mean_count, size_factor=size_factor)
