"""What the distances between samples are computed from, for the search of neighbors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from torch import Tensor

from skvade._data.dataset import Batch, Dataset
from skvade._data.imputation import NeighborImputer
from skvade._data.table import CATEGORICAL, Part

__all__ = ["SearchFeatures", "largest_noise_variance", "search_features"]

# More features are projected onto principal components, for the search only.
MAX_SEARCH_FEATURES = 100
N_SEARCH_COMPONENTS = 50
MAX_PCA_SAMPLES = 20_000  # that components are estimated from
N_OVERSAMPLES = 10  # axes beside them, of which the subspace iteration takes hold
N_SUBSPACE_ITER = 5
MAX_READ_VALUES = 2**19  # of X, at a time

# Where some features are discrete, samples are compared by what features share.
WEIGHT_OF_REST = 0.5  # of what a continuous feature does not share with others
MIN_CATEGORY_SAMPLES = 10  # a rarer category is weighted as one of so many samples
MIN_DISCRETE_VARIANCE = 0.05  # of all, in features that are not known to be discrete
MAX_SHARED_FEATURES = 5_000  # the covariance of more would take much memory
MAX_DENSE_EIGENVECTORS = 1_000  # features; of more, ARPACK finds the first ones


class SearchFeatures(NamedTuple):
    """What the distances between samples are computed from, on the device.

    Attributes
    ----------
    x : Tensor of shape (n_samples, n_features or N_SEARCH_COMPONENTS)
        In float32.
    variance : Tensor of shape (n_samples,) or None
        Sum of the variances of what was imputed, None if no entry is missing.
    """

    x: Tensor
    variance: Tensor | None


def search_features(
    dataset: Dataset,
    random_state: RandomState,
    table: Sequence[Part] = (),
    *,
    finds_indicators: bool = False,
) -> SearchFeatures:
    """Give the samples that the distances are computed from.

    Standardized samples, missing entries imputed by a `NeighborImputer`. They are
    mapped by `_shared_axes` if there are discrete features among them. If there are
    more than `MAX_SEARCH_FEATURES` features, they are projected onto their first
    principal components.

    Parameters
    ----------
    dataset : Dataset
        The samples.
    random_state : RandomState
        Source of randomness.
    table : sequence of Part, default=()
        The columns of each likelihood; empty if there is a single one.
    finds_indicators : bool, default=False
        Whether features of two values are taken for indicators of categories, where
        there is a single likelihood.
    """
    device = dataset.device_config.device
    axes, imputer, variance = None, None, None
    kinds = _feature_kinds(dataset, table, finds_indicators)
    if kinds is not None:
        axes = _shared_axes(dataset, kinds, random_state)
    n_columns = dataset.n_features if axes is None else axes.shape[1]
    if n_columns > MAX_SEARCH_FEATURES and len(dataset) > N_SEARCH_COMPONENTS:
        components = _principal_axes(dataset, random_state, axes)
        axes = components if axes is None else axes @ components
        n_columns = axes.shape[1]
    x = torch.empty(len(dataset), n_columns, dtype=torch.float32, device=device)
    if dataset.has_missing:
        imputer = NeighborImputer(dataset, random_state)
        variance = torch.empty(len(dataset), dtype=torch.float32, device=device)
    for rows, batch in _iter_blocks(dataset):
        samples = batch.x.float()
        if imputer is not None and variance is not None:
            samples, variances = imputer.impute(batch)
            if axes is not None:
                variances = variances @ axes.square()
            variance[rows] = variances.sum(1)
        x[rows] = samples if axes is None else samples @ axes
    # In a unit in which squares do not overflow, however far outliers are.
    low, high = x.aminmax()
    largest = max(-float(low), float(high))
    if largest > 0:
        x /= largest
        if variance is not None:
            largest_float = torch.finfo(variance.dtype).max
            variance = variance.clamp_max(largest_float) / largest / largest
    return SearchFeatures(x, variance)


def _iter_blocks(dataset: Dataset) -> Iterator[tuple[slice, Batch]]:
    """Iterate over consecutive samples, in blocks of few values."""
    block_size = max(1, MAX_READ_VALUES // dataset.n_features)
    for start in range(0, len(dataset), block_size):
        stop = min(start + block_size, len(dataset))
        yield slice(start, stop), dataset.get_batch(np.arange(start, stop))


def _principal_axes(
    dataset: Dataset, random_state: RandomState, matrix: Tensor | None = None
) -> Tensor:
    """Estimate the first principal axes, (n_columns, at most N_SEARCH_COMPONENTS).

    By subspace iteration on a subsample (Halko, Martinsson and Tropp, 2011, algorithm
    4.4), block by block: no copy of the samples is made. The samples are multiplied by
    the `matrix` before, (n_features, n_columns), if there is one.
    """
    subset = dataset.subsample(MAX_PCA_SAMPLES, random_state)
    device = subset.device_config.device
    mean = torch.tensor(subset.scaling.standardized_mean, dtype=torch.float32)
    mean = mean.to(device)

    def iter_centered() -> Iterator[Tensor]:
        for _, batch in _iter_blocks(subset):
            x = batch.x.float() - mean
            yield x if matrix is None else x @ matrix

    n_columns = subset.n_features if matrix is None else matrix.shape[1]
    largest = max(float(x.abs().max()) for x in iter_centered())
    n_axes = N_SEARCH_COMPONENTS + N_OVERSAMPLES
    start = random_state.standard_normal((n_columns, n_axes))
    axes = torch.tensor(start, dtype=torch.float32, device=device)
    for _ in range(N_SUBSPACE_ITER if largest > 0 else 0):
        product = torch.zeros_like(axes)
        for x in iter_centered():
            x = x / largest
            product += x.T @ (x @ axes)
        axes = torch.linalg.qr(product).Q
    return axes[:, :N_SEARCH_COMPONENTS]


# --- Discrete features --------------------------------------------------------------


class FeatureKinds(NamedTuple):
    """What the search must know of features, (n_features,) each.

    Attributes
    ----------
    is_continuous : ndarray of bool
        Whether a feature takes real values.
    share : ndarray
        The share of its category where a feature is the indicator of one, else NaN.
    width : ndarray
        The difference of the two values of an indicator, after standardization.
    """

    is_continuous: NDArray[np.bool_]
    share: NDArray[np.float64]
    width: NDArray[np.float64]


def _feature_kinds(
    dataset: Dataset, table: Sequence[Part], finds_indicators: bool
) -> FeatureKinds | None:
    """Give the kinds of the features; None if none is discrete, or there are many."""
    if dataset.n_features > MAX_SHARED_FEATURES:
        return None
    if table:
        return _kinds_of_table(dataset, table)
    return _kinds_of_features(dataset) if finds_indicators else None


def _kinds_of_table(dataset: Dataset, table: Sequence[Part]) -> FeatureKinds | None:
    """Give the kinds of a table's features; None if all are numbers of one kind."""
    names = [part.likelihood for part in table]
    if len({*names}) == 1 and CATEGORICAL not in names:
        return None
    name = np.repeat(names, [len(part.feature_columns) for part in table])
    share = np.where(name == CATEGORICAL, dataset.scaling.feature_mean, np.nan)
    width = 1 / np.broadcast_to(dataset.scaling.scale, share.shape)
    return FeatureKinds(name == "gaussian", share, width)


def _kinds_of_features(dataset: Dataset) -> FeatureKinds | None:
    """Find the features that take two values, as one-hot categories do.

    None if they hold less than `MIN_DISCRETE_VARIANCE`, as some pixels of images do.
    """
    subset = dataset.evenly_spaced(MAX_PCA_SAMPLES)
    mean = subset.scaling.standardized_mean
    variance = np.zeros_like(mean)  # times the number of samples
    low, high = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
    for x in _iter_observed(subset):
        low, high = np.fmin(low, np.fmin.reduce(x)), np.fmax(high, np.fmax.reduce(x))
        variance += np.square(np.nan_to_num(x - mean)).sum(0)
    is_indicator = high > low
    for x in _iter_observed(subset):
        is_indicator &= ((x == low) | (x == high) | np.isnan(x)).all(0)
    if not variance[is_indicator].sum() > MIN_DISCRETE_VARIANCE * variance.sum():
        return None
    width = np.where(is_indicator, high - low, np.nan)
    return FeatureKinds(~is_indicator, (mean - low) / width, width)


def _shared_axes(
    dataset: Dataset, kinds: FeatureKinds, random_state: RandomState
) -> Tensor | None:
    """Choose the axes along which samples with discrete features are compared.

    Two categories are far apart, so the nearest samples would be those that agree in
    all categories, also in a column of mere chance. So would those of the same small
    count. But clusters show in such columns by an association with others only.
    Principal components of mixed data (Pages, "Multiple Factor Analysis by Example
    Using R", 2014, chapter 3) are what columns share: those of a larger variance than
    independent columns have (Marchenko and Pastur, 1967). A sample is compared by its
    part in them. Of continuous features the rest counts too, by `WEIGHT_OF_REST`:
    clusters can show in one of them alone.

    Parameters
    ----------
    dataset : Dataset
        The samples.
    kinds : FeatureKinds
        Which features are discrete.
    random_state : RandomState
        Source of randomness.

    Returns
    -------
    axes : Tensor of shape (n_features, n_columns) or None
        The samples are to be multiplied by it. None if nothing would be left of them.
    """
    covariance, n_samples = _covariance(dataset)
    # Indicators are divided by the root of the category's share, so that independent
    # columns have a variance of one in every direction.
    share = np.maximum(kinds.share, MIN_CATEGORY_SAMPLES / n_samples)
    std = np.sqrt(covariance.diagonal())
    unit = np.where(np.isnan(share), std, kinds.width * np.sqrt(share))
    unit[unit == 0] = 1.0
    correlation = covariance / np.outer(unit, unit)
    variances, components = _leading_eigenvectors(correlation, random_state)
    limit = largest_noise_variance(correlation.trace(), n_samples)
    components = components[:, variances > limit]
    to_scores, from_scores = components / unit[:, None], components * unit[:, None]
    # The discrete features have common coordinates, of the same distances.
    _, of_discrete = np.linalg.qr(from_scores[~kinds.is_continuous])
    of_continuous = (1 - WEIGHT_OF_REST) * to_scores @ from_scores.T
    of_continuous += WEIGHT_OF_REST * np.eye(len(unit))
    parts = to_scores @ of_discrete.T, of_continuous[:, kinds.is_continuous]
    axes = np.hstack(parts)
    if not axes.any():
        return None
    device = dataset.device_config.device
    return torch.tensor(axes, dtype=torch.float32, device=device)


def _iter_observed(dataset: Dataset) -> Iterator[NDArray]:
    """Iterate over standardized samples in blocks, NaN where an entry is missing."""
    for _, batch in _iter_blocks(dataset):
        x = batch.x.numpy(force=True)
        if batch.mask is not None:
            x = np.where(batch.mask.numpy(force=True) > 0, x, np.nan)
        yield x


def _covariance(dataset: Dataset) -> tuple[NDArray[np.float64], int]:
    """Compute the weighted covariance of a subset, and its number of samples."""
    subset = dataset.evenly_spaced(MAX_PCA_SAMPLES)
    mean = subset.scaling.standardized_mean
    covariance = np.zeros((subset.n_features, subset.n_features))
    for rows, batch in _iter_blocks(subset):
        x = batch.x.numpy(force=True).astype(np.float64) - mean
        covariance += x.T @ (subset.weights[rows, None] * x)
    return covariance / subset.weights.sum(), len(subset)


def largest_noise_variance(n_features: float, n_samples: int) -> float:
    """Compute the variance of the first principal component of white noise.

    The edge of the spectrum of random matrices (Marchenko and Pastur, 1967), for
    features of variance one.
    """
    return (1 + math.sqrt(n_features / n_samples)) ** 2


def _leading_eigenvectors(
    matrix: NDArray, random_state: RandomState
) -> tuple[NDArray, NDArray]:
    """Give the largest eigenvalues of a symmetric matrix and their eigenvectors."""
    if len(matrix) <= MAX_DENSE_EIGENVECTORS:
        values, vectors = np.linalg.eigh(matrix)
        return values[-N_SEARCH_COMPONENTS:], vectors[:, -N_SEARCH_COMPONENTS:]
    start = random_state.standard_normal(len(matrix))
    return eigsh(matrix, k=N_SEARCH_COMPONENTS, v0=start)
