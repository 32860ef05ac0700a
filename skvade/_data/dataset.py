"""Samples of X as batches of standardized tensors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Generator, Tensor

from skvade._data.counts import network_input
from skvade._data.device import DeviceConfig
from skvade._data.scaling import Scaling, dense_samples, fingerprint, take_weights

__all__ = ["Batch", "Dataset"]

TRANSFER_CHUNK_SIZE = 2**20  # values that move to the device at a time


class Batch(NamedTuple):
    """Samples of one step.

    Attributes
    ----------
    x : Tensor of shape (B, D)
        Standardized samples. A missing entry holds the mean of its feature, or what the
        model imputes.
    sample_weight : Tensor of shape (B,)
        Weights of the samples, one on average over the whole of X.
    indices : Tensor of shape (B,)
        Positions of the samples in the dataset.
    mask : Tensor of shape (B, D) or None
        One where an entry is observed, zero where it is missing; None if X has no
        missing entries.
    labels : Tensor of shape (B,) or None
        Clusters of the samples in the initial partition, where they take part in the
        loss.
    counts : Tensor of shape (B, D) or None
        The samples themselves, zero where an entry is missing, where they are counts;
        None otherwise. Features of a table that are no counts are standardized here,
        too.
    total_size : int or None
        Number of samples of the step in all processes; None if that is B.
    """

    x: Tensor
    sample_weight: Tensor
    indices: Tensor
    mask: Tensor | None
    labels: Tensor | None = None
    counts: Tensor | None = None
    total_size: int | None = None

    @property
    def target(self) -> Tensor:
        """What the likelihood gives a density of: counts, or standardized samples."""
        return self.x if self.counts is None else self.counts

    @property
    def size(self) -> int:
        """Number of samples of the step, which its sums are divided by."""
        return len(self.x) if self.total_size is None else self.total_size


def _arange(n: int) -> NDArray[np.integer]:
    """Count from 0 to n - 1, in half the memory where that is enough."""
    return np.arange(n, dtype=np.int32 if n <= 2**31 else np.int64)


@dataclass(frozen=True)
class Dataset:
    """Samples of a matrix, their weights, and how they become tensors.

    Samples are gathered with NumPy, made dense and centered in the dtype of X, before
    they are cast: X may be read-only, memory-mapped, sparse or far from the origin.
    Where the device has room for all of them, it gathers them itself.

    Attributes
    ----------
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        All samples, as the user gave them.
    scaling : Scaling
        Offset and scale that standardize them.
    device_config : DeviceConfig
        Device and dtype of the tensors.
    sample_weight : ndarray of shape (n_samples,)
        Weights of all samples of X, one on average.
    has_missing : bool
        Whether X may hold missing entries.
    indices : ndarray
        The samples of X that belong to the dataset.
    device_cache : Batch or None
        All samples of X, on the device.
    labels : ndarray or None
        Clusters of all samples of X, where they take part in the loss.
    """

    X: NDArray | csr_array
    scaling: Scaling
    device_config: DeviceConfig
    sample_weight: NDArray[np.float64]
    has_missing: bool
    indices: NDArray[np.integer]
    device_cache: Batch | None = None
    labels: NDArray[np.integer] | None = None

    @classmethod
    def from_array(
        cls,
        X: NDArray | csr_array,
        scaling: Scaling,
        device_config: DeviceConfig,
        sample_weight: NDArray[np.float64],
        has_missing: bool,
    ) -> Self:
        """Make a dataset of all samples of X."""
        indices = _arange(X.shape[0])
        return cls(X, scaling, device_config, sample_weight, has_missing, indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights of the samples of the dataset, (len(self),)."""
        return take_weights(self.sample_weight, self.indices)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells X and its weights from others, in one pass over all samples."""
        return fingerprint(self.X, self.sample_weight)

    # --- Subsets --------------------------------------------------------------------

    def full(self) -> "Dataset":
        """Give all samples of X, also those that do not belong to the dataset."""
        return replace(self, indices=_arange(self.X.shape[0]))

    def drop_zero_weight(self) -> "Dataset":
        """Give the samples of positive weight."""
        weights = self.weights
        return self if weights.all() else self.subset(np.flatnonzero(weights))

    def subset(self, positions: NDArray) -> "Dataset":
        """Give the samples at some positions of the dataset."""
        return replace(self, indices=self.indices[positions])

    def subsample(self, max_samples: int, random_state: RandomState) -> "Dataset":
        """Give random samples, in order; all of them if there are no more."""
        positions = random_state.permutation(len(self))[:max_samples]
        return self.subset(np.sort(positions))

    def evenly_spaced(self, max_samples: int) -> "Dataset":
        """Give samples at equal distances, in order; all if there are no more."""
        n_samples = min(len(self), max_samples)
        return self.subset(np.linspace(0, len(self) - 1, n_samples).astype(int))

    def split(
        self, n_validation_samples: int, generator: Generator
    ) -> "tuple[Dataset, Dataset | None]":
        """Split random samples off, for validation; None if there are to be none."""
        if not n_validation_samples:
            return self, None
        order = torch.randperm(len(self), generator=generator).numpy()
        training = self.subset(np.sort(order[n_validation_samples:]))
        return training, self.subset(order[:n_validation_samples])

    def split_off(self, indices: NDArray) -> "tuple[Dataset, Dataset]":
        """Split given samples of X off, for validation."""
        training = np.setdiff1d(self.indices, indices)
        return replace(self, indices=training), replace(self, indices=indices)

    def mean_imputed(self) -> NDArray | csr_array:
        """Give what transformers get: the samples, or log1p of them if they are counts.

        The mean of the feature replaces missing entries. Tables are standardized, since
        their columns have units of their own. The result is not a copy of X if the
        dataset has all samples, no entry is missing and X is neither a table nor of
        counts.
        """
        X: Any = self.X
        if len(self) < X.shape[0]:
            X = X[self.indices]
        X = network_input(X, self.scaling)
        if self.has_missing:
            X = np.where(np.isnan(X), self.scaling.feature_mean.astype(X.dtype), X)
        if self.scaling.edges is not None:
            X = (X - self.scaling.location) / self.scaling.scale
        return X

    # --- Tensors --------------------------------------------------------------------

    def cache_on_device(self) -> Self:
        """Standardize all samples of X once, if the device has room for them.

        A step then gathers tensors. Samples that are visited once need no cache.
        """
        n_samples, n_features = self.X.shape
        of_counts = self.scaling.mean_count is not None
        n_values = n_samples * n_features * (1 + self.has_missing + of_counts)
        if not self.device_config.fits_on_device(n_values):
            return self
        device, dtype = self.device_config.device, self.device_config.dtype
        x = torch.empty(n_samples, n_features, dtype=dtype, device=device)
        sample_weight = torch.empty(n_samples, dtype=dtype, device=device)
        mask = torch.empty_like(x) if self.has_missing else None
        counts = torch.empty_like(x) if of_counts else None
        full = self.full()
        chunk_length = max(1, TRANSFER_CHUNK_SIZE // n_features)
        for start in range(0, n_samples, chunk_length):
            stop = min(start + chunk_length, n_samples)
            batch = full.get_batch(np.arange(start, stop))
            x[start:stop], sample_weight[start:stop] = batch.x, batch.sample_weight
            if mask is not None and batch.mask is not None:
                mask[start:stop] = batch.mask
            if counts is not None:
                counts[start:stop] = batch.target
        indices = torch.arange(n_samples)
        cache = Batch(x, sample_weight, indices, mask, counts=counts)
        return replace(self, device_cache=cache)

    def get_batch(self, positions: NDArray) -> Batch:
        """Give the samples at some positions of the dataset as standardized tensors."""
        indices = self.indices[positions]
        if self.device_cache is not None:
            batch = _gather_on_device(self.device_cache, indices, positions)
        else:
            batch = self._read_batch(indices, positions)
        if self.labels is None:
            return batch
        labels = torch.from_numpy(self.labels[indices])
        return batch._replace(labels=labels.to(batch.x.device, torch.int64))

    def _read_batch(self, indices: NDArray, positions: NDArray) -> Batch:
        """Read some samples of X."""
        scaling, to_tensor = self.scaling, self.device_config.to_tensor
        chunk = self.X[indices]
        samples = dense_samples(chunk, slice(None))
        mask, counts = None, None
        if scaling.mean_count is not None:
            counts = to_tensor(np.nan_to_num(samples) if self.has_missing else samples)
            samples = dense_samples(network_input(chunk, scaling), slice(None))
        if self.has_missing:
            missing = np.isnan(samples)
            np.copyto(samples, scaling.feature_mean, "same_kind", where=missing)
            mask = to_tensor(~missing)
        samples -= scaling.location.astype(samples.dtype)
        samples /= np.asarray(scaling.scale, samples.dtype)
        x = to_tensor(samples)
        if counts is not None and scaling.edges is not None:
            assert scaling.mean_count is not None
            is_count = torch.from_numpy(~np.isnan(scaling.mean_count)).to(x.device)
            counts = torch.where(is_count, counts, x)
        return Batch(
            x,
            to_tensor(self.sample_weight[indices]),
            torch.from_numpy(positions),
            mask,
            counts=counts,
        )

    def iter_batches(
        self,
        batch_size: int,
        generator: Generator,
        min_batches: int = 1,
        shares: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """Iterate over one epoch: every sample, shuffled, in batches of equal size.

        Sizes differ by one sample at most. The samples are visited repeatedly where one
        visit makes fewer than `min_batches`. `shares` are the numbers of samples of all
        processes: each makes the same number of batches of its own samples, and a step
        takes one batch of each.
        """
        if shares is None:
            shares = [len(self)]
        n_batches = math.ceil(sum(shares) / batch_size)
        for _ in range(math.ceil(min_batches / n_batches)):
            order = torch.randperm(len(self), generator=generator).numpy()
            for i, positions in enumerate(np.array_split(order, n_batches)):
                # As `array_split` does: the first batches are larger by one sample.
                size = sum(n // n_batches + (i < n % n_batches) for n in shares)
                yield self.get_batch(positions)._replace(total_size=size)

    def iter_padded_batches(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Iterate over the samples in order, with the number that is not padding.

        Matrix products choose their kernel by shape: one shape of all batches makes the
        result for a sample independent of the other samples, to the last bit.
        """
        for start in range(0, len(self), batch_size):
            positions = np.arange(start, min(start + batch_size, len(self)))
            yield self.get_batch(np.resize(positions, batch_size)), len(positions)


def _gather_on_device(cache: Batch, indices: NDArray, positions: NDArray) -> Batch:
    """Select samples from those that a device holds."""
    on_device = torch.from_numpy(indices).to(cache.x.device)
    mask, counts = cache.mask, cache.counts
    if mask is not None:
        mask = mask.index_select(0, on_device)
    if counts is not None:
        counts = counts.index_select(0, on_device)
    return Batch(
        cache.x.index_select(0, on_device),
        cache.sample_weight.index_select(0, on_device),
        torch.from_numpy(positions),
        mask,
        counts=counts,
    )
