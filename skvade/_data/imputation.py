"""Missing entries as the mean of similar samples, before any network is trained."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from skvade._data.dataset import Batch, Dataset

__all__ = ["Imputed", "NeighborImputer", "mean_squared_differences"]

MAX_DONORS = 5_000  # samples that entries are taken from
MAX_DONOR_VALUES = 2**18
N_NEAREST = 15  # donors that a missing entry is the mean of, at most a third of all
MAX_BLOCK_VALUES = 2**18  # of distances, or of entries of donors, at a time


class Imputed(NamedTuple):
    """Standardized samples without missing entries, in float32.

    Attributes
    ----------
    x : Tensor of shape (B, D)
        The samples.
    variance : Tensor of shape (B, D)
        Variance of an entry about what was imputed, zero where it is observed.
    """

    x: Tensor
    variance: Tensor


def mean_squared_differences(
    x: Tensor, mask: Tensor, y: Tensor, y_mask: Tensor, expected: Tensor
) -> Tensor:
    """Estimate the mean squared difference of the features of two samples, (n, m).

    It is the mean over the features that both samples have, which is in proportion to
    the square of :func:`~sklearn.metrics.pairwise.nan_euclidean_distances`, and over
    one more, of the `expected` difference: few features, or none, prove little.

    Parameters
    ----------
    x, mask : Tensor of shape (n, D)
        Samples, zero where an entry is missing; one where it is observed, else zero.
    y, y_mask : Tensor of shape (m, D)
        The samples that they are compared with.
    expected : Tensor of shape ()
        Mean squared difference of the features of any two samples.
    """
    total = torch.addmm(expected, x, y.T, alpha=-2)
    total.addmm_(x.square(), y_mask.T).addmm_(mask, y.square().T)
    return total.div_(mask @ y_mask.T + 1)


class NeighborImputer:
    """Impute the mean of the nearest donors, which are random samples of a dataset.

    Nearest by `mean_squared_differences`. An entry that all of them miss is imputed by
    the mean of the feature.

    Parameters
    ----------
    dataset : Dataset
        Standardized samples, some with missing entries.
    random_state : RandomState
        Chooses the donors.
    """

    def __init__(self, dataset: Dataset, random_state: RandomState) -> None:
        mean = torch.tensor(dataset.scaling.standardized_mean, dtype=torch.float32)
        self.mean = mean.to(dataset.device_config.device)
        n_donors = max(1, min(MAX_DONORS, MAX_DONOR_VALUES // dataset.n_features))
        donors = dataset.subsample(n_donors, random_state)
        batch = donors.get_batch(np.arange(len(donors)))
        assert batch.mask is not None
        self.mask = batch.mask.float()
        self.x = (batch.x.float() - self.mean) * self.mask
        self.n_nearest = min(N_NEAREST, math.ceil(len(donors) / 3))
        squares, counts = self.x.square().sum(0), self.mask.sum(0)
        self.variance = squares / counts.clamp_min(1)
        self.expected = 2 * squares.sum() / counts.sum()

    def impute(self, batch: Batch) -> Imputed:
        """Impute the missing entries of some samples of the dataset."""
        assert batch.mask is not None
        x = batch.x.to(torch.float32, copy=True)
        variance = torch.zeros_like(x)
        values_per_sample = max(len(self.x), self.n_nearest * x.shape[1])
        block_size = max(1, MAX_BLOCK_VALUES // values_per_sample)
        incomplete = (batch.mask == 0).any(1).nonzero()[:, 0]
        for rows in incomplete.split(block_size):
            mask = batch.mask[rows].float()
            mean, variances = self._nearest_moments((x[rows] - self.mean) * mask, mask)
            x[rows] = torch.where(mask > 0, x[rows], self.mean + mean)
            variance[rows] = variances.masked_fill(mask > 0, 0)
        return Imputed(x, variance)

    def _nearest_moments(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and variance of each feature of the nearest donors, (B, D)."""
        differences = mean_squared_differences(
            x, mask, self.x, self.mask, self.expected
        )
        nearest = differences.topk(self.n_nearest, largest=False).indices
        donors, observed = self.x[nearest], self.mask[nearest]
        counts = observed.sum(1)
        mean = donors.sum(1) / counts.clamp_min(1)
        deviations = (donors - mean[:, None]) * observed
        variance = deviations.square().sum(1) / (counts - 1).clamp_min(1)
        return mean, torch.where(counts > 1, variance, self.variance)
