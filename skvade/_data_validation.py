"""Checks of X and of sample weights, and warnings about them."""

import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from reprlib import repr as shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, validate_data

from skvade._data.counts import check_counts
from skvade._data.scaling import (
    MAX_STANDARDIZED_VALUE,
    SUPPORTED_DTYPES,
    TARGET_STD,
    DataSummary,
    Scaling,
    WeightStatistics,
    dense_samples,
    drop_negligible_weights,
    enumerate_first,
    feature_label,
    uniform_weights,
)
from skvade._data.table import TableEncoder, columns_without_numbers
from skvade._model.likelihoods import LIKELIHOODS
from skvade._validation import likelihood_pairs

__all__ = [
    "check_data",
    "check_magnitude",
    "check_sample_weight",
    "check_scale",
    "check_values",
    "feature_names",
    "mark_missing",
    "supported_dtypes",
    "validate_X",
    "warn_feature_scales",
    "warn_no_counts",
    "warn_placeholders",
    "warn_sample_numbers",
    "warn_support",
]

Dtype = torch.dtype | np.dtype

# Of X after centering: the square of it, times the noise variance of standardized
# samples, must be a number of float64.
MIN_SCALE, MAX_SCALE = 1e-150, 1e152

# Interquartile range of a feature, in the range of the others: above it, they count for
# nothing. It is 127 in wine and 1,300 in breast cancer as they come, and at most 15 in
# images, counts, tf-idf, standardized features and principal components.
MAX_SCALE_RATIO = 50
N_CHECKED_SAMPLES = 1000  # that quartiles and repeated values are of

# A number of nines stands for a gap if it is farther from all other values of its
# feature than these are from each other, and occurs several times.
PLACEHOLDERS = [10.0**n_digits - 1 for n_digits in range(2, 16)]
MIN_PLACEHOLDERS = 5

# In fewer samples, consecutive values may be no numbers of samples.
MIN_NUMBERED_SAMPLES = 20


def validate_X(estimator: BaseEstimator, X: Any, *, reset: bool) -> NDArray | csr_array:
    """Convert X to a float array or a CSR array, without a pass over its values.

    Infinite values are found by `DataSummary.from_array`, which reads X anyway. A table
    becomes its features, see :class:`~skvade._data.table.TableEncoder`. With `reset` it
    is learned which columns it has.

    Raises
    ------
    ValueError
        If X is not two-dimensional and numeric, has another number of features than in
        `fit`, or is sparse and inconsistent.
    """
    _check_container(X)
    pairs = likelihood_pairs(estimator.likelihood) if reset else None
    if pairs is not None or (estimator._table is not None and not reset):
        return _validate_table(estimator, X, pairs)
    vars(estimator).pop("_table", None)  # of an earlier fit
    X = mark_missing(X)
    _check_columns(X)
    X = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=supported_dtypes(X),
        ensure_all_finite=False,
    )
    if not issparse(X):
        return X
    _check_csr(X)
    if not X.has_canonical_format:
        X = X.copy()  # the user's own stays as it is
        X.sum_duplicates()
    return X


def _check_container(X: Any) -> None:
    """Reject what holds no samples as numbers or columns, whatever the likelihood.

    Raises
    ------
    TypeError
        If X is a path, a list of strings, or a frame whose values are yet to be
        computed.
    ValueError
        If X is a frame without columns.
    """
    if isinstance(X, str | bytes | PathLike):
        raise TypeError(
            f"X must hold samples. Got {shorten(X)} of type {type(X).__name__} "
            "instead. If it names a file, read that first, for instance by "
            "pandas.read_csv."
        )
    is_flat = isinstance(X, list | tuple) or len(getattr(X, "shape", ())) == 1
    first = next(iter(X), None) if is_flat and not issparse(X) else None
    if isinstance(first, str | PathLike):
        raise TypeError(
            "X must have the features of each sample. Got a sequence of strings "
            f"instead, {shorten(str(first))} the first. Turn texts into numbers, for "
            "instance by TfidfVectorizer. Read files first, for instance by "
            "pandas.read_csv."
        )
    if hasattr(X, "columns") and hasattr(X, "collect"):
        raise TypeError(
            f"X is a {type(X).__name__}, whose values are yet to be computed. Give "
            "X.collect(), or another frame of pandas or polars."
        )
    if hasattr(X, "columns") and not len(X.columns):
        raise ValueError(
            f"X is a frame without columns, of shape {X.shape}. Select at least one. "
            "If a selection of numbers has none, the file may have been read as text: "
            "see the options 'sep' and 'decimal' of pandas.read_csv."
        )


def _validate_table(
    estimator: BaseEstimator, X: Any, pairs: list[tuple[str, Any]] | None
) -> NDArray[np.float64]:
    """Convert a table to its features; with `pairs` it is that of a new fit.

    Raises
    ------
    ValueError
        If X is sparse, not two-dimensional, or has other columns than in `fit`, or if
        several processes would have to agree on the categories.
    """
    if issparse(X):
        raise ValueError(
            f"likelihood={estimator.likelihood!r} needs a dense table. Got sparse X. "
            "Use X.toarray()."
        )
    if hasattr(X, "column_names"):
        raise TypeError(
            f"A table must be a frame of pandas or polars, or an array. Got a "
            f"{type(X).__name__} of {type(X).__module__.partition('.')[0]} instead. "
            "Convert it, for instance by X.to_pandas()."
        )
    if estimator.distributed:
        raise ValueError(
            f"distributed=True can not fit likelihood={estimator.likelihood!r}: each "
            "process sees the categories of its own samples alone. Fit in one process."
        )
    if not hasattr(X, "columns"):
        is_array = isinstance(X, np.ndarray | torch.Tensor)
        # Strings beside numbers would otherwise make strings of the numbers.
        X = mark_missing(X if is_array else np.array(X, dtype=object))
    if len(X.shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(X.shape)}D array instead: a table has "
            "samples as rows, and columns."
        )
    if not len(X):
        raise ValueError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is "
            f"required by {type(estimator).__name__}."
        )
    repeated = [name for name, n in Counter(getattr(X, "columns", ())).items() if n > 1]
    if repeated:
        raise ValueError(
            f"X has several columns of the name {enumerate_first(repeated)}. Rename "
            "them: the likelihood of a column is found by its name."
        )
    validate_data(estimator, X, reset=pairs is not None, skip_check_array=True)
    if pairs is not None:
        estimator._table = TableEncoder.fit(X, pairs)
    return estimator._table.encode(X)


def _check_columns(X: Any) -> None:
    """Reject the columns of a frame that hold no numbers.

    Raises
    ------
    ValueError
        Names the columns.
    """
    others = columns_without_numbers(X)
    if others:
        raise ValueError(
            f"X has columns that do not hold numbers: {', '.join(others)}. Give them a "
            "likelihood of their own, [('categorical', [...]), ('gaussian', [...])], "
            "turn dates into numbers, or leave the columns out."
        )


def mark_missing(X: Any) -> Any:
    """Give X with NaN where NumPy's masked arrays or pandas.NA have a missing entry.

    A tensor becomes an array. Whatever else X may be is left to scikit-learn's checks.
    """
    if isinstance(X, torch.Tensor):
        is_bfloat16 = X.dtype == torch.bfloat16  # unknown to NumPy
        return (X.double() if is_bfloat16 else X).numpy(force=True)
    if isinstance(X, list | tuple):
        is_masked = any(isinstance(row, np.ma.MaskedArray) for row in X)
        X = np.ma.array(X) if is_masked else X
    if isinstance(X, np.ma.MaskedArray):
        floats = X.astype(np.result_type(X, np.float16))
        return np.ma.filled(floats, np.nan)
    pandas: Any = sys.modules.get("pandas")  # unless it is imported, there is no NA
    if pandas is None:
        return X
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype == object:
        return np.where(pandas.isna(X), np.nan, X)
    if isinstance(X, pandas.DataFrame) and any(d.kind == "O" for d in X.dtypes):
        return X.mask(X.isna(), np.nan)
    return X


def supported_dtypes(X: Any) -> Sequence[type] | type:
    """Give the dtypes that X may keep; where all its columns are float32, that one.

    scikit-learn knows the dtype of arrays, and of frames whose columns are arrays.
    """
    dtypes: Any = []
    if hasattr(X, "columns"):
        dtypes = [getattr(d, "numpy_dtype", d) for d in getattr(X, "dtypes", [])]
    is_array_like = hasattr(X, "__array__") and hasattr(X, "__getitem__")
    if is_array_like and not len(dtypes) and not hasattr(X, "dtype"):
        dtypes = [np.asarray(X[:1]).dtype]
    is_float32 = {str(dtype).lower() for dtype in dtypes} == {"float32"}
    return np.float32 if is_float32 else SUPPORTED_DTYPES


def _check_csr(X: csr_array) -> None:
    """Reject NaN, and indices that SciPy does not check, where 32 bits overflowed."""
    if np.isnan(X.data).any():
        raise ValueError(
            "Sparse X contains NaN. Missing entries are understood in dense X only: "
            "in sparse X, what is not stored is zero."
        )
    columns, ends = X.indices, X.indptr
    if len(columns) and not (columns.min() >= 0 and columns.max() < X.shape[1]):
        raise ValueError(
            f"Sparse X has column indices from {columns.min()} to {columns.max()}, "
            f"which do not fit its {X.shape[1]} columns. Was an integer type too small?"
        )
    if (np.diff(ends) < 0).any() or ends[0] != 0 or ends[-1] > len(columns):
        raise ValueError(
            "Sparse X has row pointers (indptr) that do not rise from 0 to the number "
            "of its values. Was an integer type too small?"
        )


def check_sample_weight(
    sample_weight: Any, X: NDArray | csr_array
) -> NDArray[np.float64]:
    """Validate the sample weights; equal ones share the memory of a single number.

    Weights that are negligible beside the others become zero.

    Raises
    ------
    ValueError
        If they are not one finite, non-negative number per sample, or all zero.
    """
    if sample_weight is None:
        return uniform_weights(X.shape[0])
    weights = _check_sample_weight(
        mark_missing(sample_weight), X, dtype=np.float64, ensure_non_negative=True
    )
    return drop_negligible_weights(weights, WeightStatistics().update(weights).mean)


def feature_names(estimator: BaseEstimator) -> Sequence[Any] | None:
    """Give what errors call the features: the names of the columns of a frame.

    The indicators of the categories of a column have its name. None where X has no
    names.
    """
    table = estimator._table
    if table is not None:
        return [table.names[column] for column in table.feature_columns]
    return getattr(estimator, "feature_names_in_", None)


def _likelihood_parts(
    likelihood: Any, table: TableEncoder | None
) -> list[tuple[str, slice]]:
    """Give the likelihoods of X, and the features of each; a single one has all."""
    if table is None:
        return [(likelihood, slice(None))]
    names = [part.likelihood for part in table.parts]
    return [*zip(names, table.slices, strict=True)]


def check_values(
    likelihood: Any,
    X: NDArray | csr_array,
    table: TableEncoder | None = None,
    names: Sequence[Any] | None = None,
) -> NDArray[np.intp]:
    """Reject values that a likelihood of counts cannot take, in fits and predictions.

    Returns
    -------
    empty : ndarray of shape (n_empty,)
        The samples in which no count is above zero, if X has counts alone, of a single
        likelihood.

    Raises
    ------
    ValueError
        Names the first value that is no count.
    """
    empty = np.empty(0, np.intp)
    parts = _likelihood_parts(likelihood, table)
    for name, features in parts:
        if LIKELIHOODS[name].of_counts:
            without_counts = check_counts(X, name, features, names)
            if len(parts) == 1:
                empty = without_counts
    return empty


def warn_no_counts(empty: NDArray, scaling: Scaling, n_samples: int) -> None:
    """Warn of the samples that `check_values` gives, where their total is divided by.

    Counts that are not divided tell something by being zero.
    """
    if len(empty) and scaling.reference_count is not None:
        warnings.warn(
            f"X has no count above zero in row {enumerate_first(empty)}: {len(empty)} "
            f"of {n_samples} samples. Clusters differ in the shares of the features in "
            "the total of a sample, and an empty one has no shares, so its label and "
            "its coordinates say nothing. Drop such samples, or label them as noise.",
            stacklevel=2,
        )


def _some_samples(X: NDArray | csr_array) -> NDArray:
    """Take evenly spaced samples, enough for a warning to tell what is common."""
    n_samples = min(X.shape[0], N_CHECKED_SAMPLES)
    return dense_samples(X, np.linspace(0, X.shape[0] - 1, n_samples).astype(int))


def warn_feature_scales(
    likelihood: Any, X: NDArray | csr_array, summary: DataSummary
) -> None:
    """Warn of features beside whose scale at least half of all count for nothing.

    Only real values have one scale for all features. That a feature varies much is seen
    from its interquartile range, which outliers do not change. That one varies little
    is seen from its range, which is wide for a rare word or gene, too.
    """
    if likelihood != "gaussian":
        return
    ranges = summary.feature_max - summary.feature_min
    varying = np.sort(ranges[ranges > 0])
    if len(varying) < 2:
        return
    small = varying[(len(varying) - 1) // 2]
    wide = np.flatnonzero(ranges > MAX_SCALE_RATIO * small)
    if not len(wide):
        return
    assert summary.feature_mean is not None
    samples = _some_samples(X)[:, wide]
    samples = np.where(np.isnan(samples), summary.feature_mean[wide], samples)
    spread = np.subtract(*np.percentile(samples, [75, 25], axis=0))
    order = np.argsort(-spread)
    large = wide[order[spread[order] > MAX_SCALE_RATIO * small]]
    if len(large):
        labels = [feature_label(summary.names, feature) for feature in large]
        warnings.warn(
            "X has features of very unequal scale: the middle half of the values in "
            f"column {enumerate_first(labels)} spans up to {spread.max():.3g}, and "
            f"half of the features have a range of at most {small:.3g}. The latter "
            "hardly change the distances of samples, so they hardly count for the "
            "clusters. If the units differ, scale X, for instance with StandardScaler.",
            stacklevel=2,
        )


def warn_placeholders(X: NDArray | csr_array, summary: DataSummary) -> None:
    """Warn of a number of nines, such as -999, that repeats far from all other values.

    X is read only where it is the least or largest value of a feature.
    """
    for extremes in (summary.feature_min, summary.feature_max):
        candidates = np.flatnonzero(np.isin(np.abs(extremes), PLACEHOLDERS))
        if not len(candidates):
            continue
        value = extremes[candidates]
        samples = _some_samples(X)[:, candidates]
        is_value = samples == value
        others = np.where(is_value, np.nan, samples)
        low, high = np.fmin.reduce(others), np.fmax.reduce(others)
        distance = np.fmin(np.abs(value - low), np.abs(value - high))
        is_far = (distance > high - low) & (high > low)
        found = candidates[is_far & (is_value.sum(0) >= MIN_PLACEHOLDERS)]
        if len(found):
            labels = [feature_label(summary.names, feature) for feature in found]
            warnings.warn(
                f"Column {enumerate_first(labels)} of X holds {extremes[found[0]]:.6g} "
                "several times, far from all its other values. If it stands for a "
                "missing value, replace it by NaN, as na_values of pandas.read_csv "
                "does: it changes the scale of the column, and so the clusters.",
                stacklevel=2,
            )


def warn_sample_numbers(X: NDArray | csr_array, summary: DataSummary) -> None:
    """Warn of columns of a frame that number the samples, as an index does."""
    n_samples = X.shape[0]
    if summary.names is None or issparse(X) or n_samples < MIN_NUMBERED_SAMPLES:
        return
    ranges = summary.feature_max - summary.feature_min
    candidates = np.flatnonzero(ranges == n_samples - 1)
    numbers = [i for i in candidates if (np.diff(X[:, i]) == 1).all()]
    if numbers:
        labels = [feature_label(summary.names, i) for i in numbers]
        warnings.warn(
            f"Column {enumerate_first(labels)} of X numbers the samples: each value is "
            "the one before, plus one. Leave it out, unless samples that are close in "
            "this order belong together.",
            stacklevel=2,
        )


def check_data(
    likelihood: Any,
    summary: DataSummary,
    scaling: Scaling,
    *dtypes: Dtype,
    table: TableEncoder | None = None,
) -> None:
    """Reject data that the likelihood or the arithmetic of the networks cannot take."""
    check_support(likelihood, summary, table)
    check_scale(scaling, *dtypes)
    check_magnitude(summary, scaling)


def _outside_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None
) -> list[tuple[str, DataSummary]]:
    """List the likelihoods with values outside of their support, and what these are."""
    found = []
    for name, features in _likelihood_parts(likelihood, table):
        part = summary._replace(
            feature_min=summary.feature_min[features],
            feature_max=summary.feature_max[features],
            names=None if summary.names is None else summary.names[features],
        )
        low, high = LIKELIHOODS[name].support
        if part.min < low or part.max > high:  # of missing entries alone neither is
            found.append((name, part))
    return found


def check_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None = None
) -> None:
    """Reject values to which the likelihood gives no probability.

    Raises
    ------
    ValueError
        Names the range of the values, and that of the likelihood.
    """
    for name, part in _outside_support(likelihood, summary, table):
        low, high = LIKELIHOODS[name].support
        where = ""
        if part.names is not None:
            outside = (part.feature_min < low) | (part.feature_max > high)
            labels = [feature_label(part.names, i) for i in np.flatnonzero(outside)]
            where = f", those outside in column {enumerate_first(labels)}"
        raise ValueError(
            f"likelihood={name!r} needs X in [{low:g}, {high:g}]. Got values from "
            f"{part.min:.6g} to {part.max:.6g} instead{where}. Scale X, for instance "
            "with MinMaxScaler, or use likelihood='gaussian'."
        )


def warn_support(
    likelihood: Any, summary: DataSummary, table: TableEncoder | None = None
) -> None:
    """Warn of scores that are no probabilities, where X is outside of the support."""
    for name, part in _outside_support(likelihood, summary, table):
        low, high = LIKELIHOODS[name].support
        warnings.warn(
            f"X ranges from {part.min:.6g} to {part.max:.6g}. Outside of "
            f"[{low:g}, {high:g}] the score of likelihood={name!r} is no "
            "probability. Clip X, for instance with MinMaxScaler(clip=True).",
            stacklevel=2,
        )


def check_scale(scaling: Scaling, *dtypes: Dtype) -> None:
    """Reject a scale, or an offset, that a dtype cannot express.

    Parameters
    ----------
    scaling : Scaling
        How X is standardized.
    *dtypes : dtype
        Those of the networks and of X. The squared scale must also lie well within
        float64, in which the noise variance is given.

    Raises
    ------
    ValueError
        Names scale and offset.
    """
    scales, offset = np.asarray(scaling.scale), np.abs(scaling.location).max()
    least, scale = float(scales.min()), float(scales.max())
    for dtype in dtypes:
        limits: Any
        if isinstance(dtype, torch.dtype):
            limits = torch.finfo(dtype)
        else:
            limits = np.finfo(dtype)
        # As floats of Python: others would be compared in their own precision.
        low, high = float(limits.tiny), float(limits.max)
        is_expressible = low <= least and scale <= high and offset <= high
        if not (is_expressible and least >= MIN_SCALE and scale <= MAX_SCALE):
            raise ValueError(
                f"X has averages up to {offset:.3g} and a standard deviation of "
                f"{scale * TARGET_STD:.3g}, which is beyond what the arithmetic in "
                f"{str(dtype).removeprefix('torch.')} can express. Look for extreme "
                "values in X, or rescale it, for instance with MaxAbsScaler."
            )


def check_magnitude(summary: DataSummary, scaling: Scaling) -> None:
    """Reject values so large that results for them would be NaN.

    Raises
    ------
    ValueError
        If a standardized value could exceed `MAX_STANDARDIZED_VALUE`.
    """
    largest = np.fmax(np.abs(summary.feature_min), np.abs(summary.feature_max))
    scales = np.broadcast_to(scaling.scale, largest.shape)
    with np.errstate(over="ignore"):
        standardized = (largest + np.abs(scaling.location)) / scales
    if not np.fmax.reduce(standardized) <= MAX_STANDARDIZED_VALUE:
        worst = np.nanargmax(standardized)
        raise ValueError(
            f"X has values up to {largest[worst]:.3g}, in column "
            f"{feature_label(summary.names, worst)}, but the data that the model is "
            f"fitted to have a standard deviation of {scales[worst] * TARGET_STD:.3g}: "
            "the arithmetic of the networks does not reach that far. Look for extreme "
            "values in X."
        )
