"""Tables of numbers and categories, as one matrix of numbers for the model.

A column of numbers is a feature. A categorical column is a block of features, one for
each category: one where the column has the category, else zero, and NaN where its entry
is missing. The features of each part of the table, which has a likelihood of its own,
lie side by side.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils._indexing import _get_column_indices
from sklearn.utils._missing import is_pandas_na

from skvade._data.scaling import enumerate_first

__all__ = ["CATEGORICAL", "Part", "TableEncoder", "columns_without_numbers"]

CATEGORICAL = "categorical"  # the likelihood whose columns are blocks

# In a column with more of them, or with more than one for every two entries, an entry
# is a name or a number of the sample.
MAX_CATEGORIES = 1000
FEW_CATEGORIES = 20  # of however few entries

# How the names of dtypes of frames begin.
CATEGORICAL_DTYPES = ("category", "categorical", "enum")
NUMERIC_DTYPES = ("bool", "float", "int", "uint")


class Part(NamedTuple):
    """Columns of a table that have a likelihood of their own.

    Attributes
    ----------
    likelihood : str
        Its name.
    columns : tuple of int
        The columns, in the order of their features.
    n_categories : tuple of int
        The number of categories of each column. Empty if the columns hold numbers.
    """

    likelihood: str
    columns: tuple[int, ...]
    n_categories: tuple[int, ...] = ()

    @property
    def feature_columns(self) -> NDArray[np.intp]:
        """The column that each feature belongs to, (n_features,)."""
        return np.repeat(self.columns, self.n_categories or 1)


@dataclass(frozen=True)
class TableEncoder:
    """The columns of a table, their likelihoods and categories, as seen in `fit`.

    Attributes
    ----------
    parts : tuple of Part
        They hold every column exactly once.
    names : tuple
        The name of each column of a frame, or its position.
    categories : dict of int to ndarray
        The sorted categories of each categorical column.
    frame : {"pandas", "polars", None}
        What the table was; None for an array.
    levels : dict of int to (ndarray or None)
        The categories of the dtype of a column of a frame, in their order, if it has a
        dtype of categories. None if the dtype does not list them.
    ordered : tuple of int
        The columns whose dtype says that its categories are ordered.
    """

    parts: tuple[Part, ...]
    names: tuple[Any, ...]
    categories: dict[int, NDArray]
    frame: str | None = None
    levels: dict[int, NDArray | None] = field(default_factory=dict)
    ordered: tuple[int, ...] = ()

    @classmethod
    def fit(cls, X: Any, pairs: Sequence[tuple[str, Any]]) -> Self:
        """Learn the columns of each likelihood and their categories.

        Parameters
        ----------
        X : {ndarray, frame} of shape (n_samples, n_columns)
            Names of columns need a frame of pandas or polars.
        pairs : sequence of (str, columns)
            A likelihood and its columns, as in
            :class:`~sklearn.compose.ColumnTransformer`.

        Raises
        ------
        ValueError
            If a column is unknown, in several pairs or in none; if a column has no
            value, too many categories, or categories that cannot be sorted.
        """
        names = tuple(getattr(X, "columns", range(X.shape[1])))
        columns = [_resolve_columns(X, *pair) for pair in pairs]
        _check_each_once(columns, names)
        parts, categories = [], {}
        for (likelihood, _), indices in zip(pairs, columns, strict=True):
            n_categories: list[int] = []
            if likelihood == CATEGORICAL:
                for column in indices:
                    values = _entries(X, column)
                    categories[column] = _find_categories(values, names[column])
                    n_categories.append(len(categories[column]))
            if indices:
                parts.append(Part(likelihood, tuple(indices), tuple(n_categories)))
        frame = _kind_of_frame(X)
        dtypes = {} if frame is None else dict(enumerate(X.dtypes))
        has_levels = [
            column
            for column in sorted(categories.keys() & dtypes.keys())
            if str(dtypes[column]).lower().startswith(CATEGORICAL_DTYPES)
        ]
        levels = {column: _levels(dtypes[column]) for column in has_levels}
        ordered = [c for c in has_levels if getattr(dtypes[c], "ordered", False)]
        return cls(tuple(parts), names, categories, frame, levels, tuple(ordered))

    @property
    def feature_columns(self) -> NDArray[np.intp]:
        """The column that each feature belongs to, (n_features,)."""
        return np.concatenate([part.feature_columns for part in self.parts])

    @property
    def slices(self) -> list[slice]:
        """Where the features of each part are."""
        ends = np.cumsum([0, *(len(part.feature_columns) for part in self.parts)])
        return [slice(start, stop) for start, stop in pairwise(ends.tolist())]

    def encode(self, X: Any) -> NDArray[np.float64]:
        """Give the features of a table with the columns of `fit`, NaN where missing.

        A category that `fit` has not seen is missing. A warning names each column that
        holds no other.

        Raises
        ------
        ValueError
            If a column of numbers holds anything else, or an infinite value.
        """
        blocks = []
        for part in self.parts:
            for column in part.columns:
                values, name = _entries(X, column), self.names[column]
                if part.likelihood == CATEGORICAL:
                    blocks.append(_one_hot(values, self.categories[column], name))
                else:
                    blocks.append(_numbers(values, name, part.likelihood)[:, None])
        return np.concatenate(blocks, axis=1)

    def decode(self, features: NDArray, index: Any = None) -> Any:
        """Give the table of some features: the likeliest category of each block.

        Parameters
        ----------
        features : ndarray of shape (n_samples, n_features)
            Numbers, and an indicator or a probability of each category.
        index : Index or None, default=None
            That of a pandas frame.

        Returns
        -------
        X : {ndarray, frame} of shape (n_samples, n_columns)
            A frame if `fit` was given one. An array of objects if there are categories
            that are no numbers, else one of numbers.
        """
        columns: list[NDArray] = [np.empty(0)] * len(self.names)
        position = 0
        for part in self.parts:
            for column in part.columns:
                width = 1
                values = features[:, position]
                if part.likelihood == CATEGORICAL:
                    categories = self.categories[column]
                    width = len(categories)
                    block = features[:, position : position + width]
                    values = categories[block.argmax(1)]
                columns[column] = values
                position += width
        if self.frame is not None:
            return self._make_frame(columns, index)
        is_object = any(values.dtype == object for values in columns)
        return np.column_stack(
            [values.astype(object) for values in columns] if is_object else columns
        )

    def _make_frame(self, columns: list[NDArray], index: Any) -> Any:
        library: Any = sys.modules[self.frame] if self.frame else None
        if self.frame == "polars":
            frame = library.DataFrame(dict(zip(self.names, columns, strict=True)))
            dtypes = {
                self.names[column]: library.Categorical()
                if levels is None
                else library.Enum(levels)
                for column, levels in self.levels.items()
            }
            return frame.cast(dtypes)
        series: list[Any] = [*columns]
        for column, levels in self.levels.items():
            series[column] = library.Categorical(
                columns[column], levels, ordered=column in self.ordered
            )
        # By position: names may not be strings.
        frame = library.DataFrame(dict(enumerate(series)), index=index)
        frame.columns = list(self.names)
        return frame


def _kind_of_frame(X: Any) -> str | None:
    library = type(X).__module__.partition(".")[0]
    return library if library in ("pandas", "polars") else None


def _levels(dtype: Any) -> NDArray | None:
    """Give the categories of a dtype in their order; None if it does not list them."""
    levels: Any = getattr(dtype, "categories", None)
    return levels.to_numpy() if hasattr(levels, "to_numpy") else None


# --- Columns ------------------------------------------------------------------------


def _resolve_columns(X: Any, likelihood: str, columns: Any) -> list[int]:
    """Give the positions of the columns of a likelihood."""
    if isinstance(columns, slice) and columns == slice(None):
        return list(range(X.shape[1]))  # of no type to scikit-learn
    try:
        chosen = columns(X) if callable(columns) else columns
        return [int(column) for column in _get_column_indices(X, chosen)]
    except (ValueError, TypeError, RuntimeError) as error:
        # A RuntimeError is for a step in a slice of names.
        remedy = (
            "Give a list of names or positions, a slice, a mask with an entry for each "
            "column, or a callable that gives one of them. To choose by dtype, give "
            + _selector_example(X)
        )
        if not hasattr(X, "columns") and _needs_names(columns):
            remedy = (
                "X is an array, whose columns have no names. If a scaler made it of a "
                "frame, leave the scaler out: columns of numbers are standardized by "
                "their likelihood. After another transformer, call its method "
                "set_output(transform='pandas'), or give positions"
            )
        raise ValueError(
            f"likelihood has the columns {columns!r} for {likelihood!r}, which are not "
            f"those of X: {str(error).rstrip('.')}. {remedy}."
        ) from error


def _selector_example(X: Any) -> str:
    """Show how columns of a frame are chosen by their dtype."""
    if _kind_of_frame(X) == "polars":
        return "lambda X: X.select(polars.selectors.float()).columns"
    return "make_column_selector(dtype_include=float)"


def _needs_names(columns: Any) -> bool:
    """Tell whether columns are chosen by what a frame has and an array has not."""
    if isinstance(columns, slice):
        columns = [columns.start, columns.stop]
    is_single = isinstance(columns, str) or not hasattr(columns, "__iter__")
    names = [columns] if is_single else columns
    return callable(columns) or any(isinstance(name, str) for name in names)


def _check_each_once(columns: list[list[int]], names: tuple) -> None:
    chosen = np.array([column for part in columns for column in part], int)
    counts = np.bincount(chosen, minlength=len(names))
    for wrong, what, remedy in [
        (counts > 1, "has more than one part for", "Leave them in one"),
        (counts == 0, "has no part for", "Add them to a part, or drop them from X"),
    ]:
        if wrong.any():
            listed = [repr(names[column]) for column in np.flatnonzero(wrong)]
            raise ValueError(
                f"likelihood {what} the columns {enumerate_first(listed)} of X. Every "
                f"column needs one likelihood. {remedy}."
            )


def _entries(X: Any, column: int) -> Any:
    """Give a column, as an array, a series or a list of Python's own objects."""
    return _safe_indexing(X, column, axis=1)


def _to_list(values: Any) -> list:
    return values.to_list() if hasattr(values, "to_list") else values.tolist()


def _is_missing(value: Any) -> bool:
    return value is None or is_pandas_na(value) or value != value


def _find_categories(values: Any, name: Any) -> NDArray:
    """Sort the values of a categorical column, the missing ones left out."""
    remedy = "Encode them as strings or integers"
    try:
        observed = [value for value in _to_list(values) if not _is_missing(value)]
        found = sorted(set(observed))
    except TypeError as error:
        raise ValueError(
            f"The categories in column {name!r} of X can not be sorted: {error}. "
            f"{remedy}."
        ) from error
    if not found:
        raise ValueError(
            f"All entries of X are missing in column {name!r}. A column of which "
            "nothing is known can not be learned. Drop it."
        )
    fractions = [v for v in found if isinstance(v, float) and not v.is_integer()]
    if fractions:
        raise ValueError(
            f"Column {name!r} of X is given as categorical, but holds fractions such "
            f"as {fractions[0]:.6g}. Give it to 'gaussian', or cut it into intervals."
        )
    most = min(MAX_CATEGORIES, max(FEW_CATEGORIES, len(observed) // 2))
    if len(found) > most:
        raise ValueError(
            f"Column {name!r} of X has {len(found):,} categories in {len(observed):,} "
            "entries: it looks like a name or a number of the samples. Leave it out, "
            "join rare categories into one, or turn dates into a number of days."
        )
    categories = np.array(found)
    if categories.dtype.kind in "biuf":
        return categories
    categories = np.empty(len(found), object)
    categories[:] = found
    return categories


def _one_hot(values: Any, categories: NDArray, name: Any) -> NDArray[np.float64]:
    """Give the block of a categorical column, NaN where its entry is no category."""
    position = {value: code for code, value in enumerate(categories.tolist())}
    entries = _to_list(values)
    try:
        codes = np.array([position.get(value, -1) for value in entries], int)
    except TypeError as error:
        raise ValueError(
            f"Column {name!r} of X holds what can not be a category: {error}."
        ) from error
    if (codes < 0).all():
        _warn_unknown_categories(entries, [*position], name)
    block = np.eye(len(categories))[codes]
    block[codes < 0] = np.nan
    return block


def _warn_unknown_categories(entries: list, categories: list, name: Any) -> None:
    """Warn of entries none of which is a category, unless all are missing."""
    observed = [entry for entry in entries if not _is_missing(entry)]
    if not observed:
        return
    entry, category = observed[0], categories[0]
    reason = f"{entry!r} is none of {enumerate_first([repr(c) for c in categories])}"
    if isinstance(entry, str) != isinstance(category, str):
        reason = (
            f"{entry!r} is of type {type(entry).__name__}, and {category!r} of type "
            f"{type(category).__name__}"
        )
    warnings.warn(
        f"Column {name!r} of X holds none of the categories of fit, so all its entries "
        f"count as missing: {reason}. Give the column as it was in fit, or None where "
        "the category is new.",
        stacklevel=2,
    )


def columns_without_numbers(X: Any) -> list[str]:
    """List the columns of a frame that hold anything else; empty for other containers.

    Numbers may be given as strings or objects.
    """
    if _kind_of_frame(X) is None or len(X.shape) != 2:
        return []
    others = []
    for column, name in enumerate(X.columns):
        values = _entries(X, column)
        is_numeric = str(values.dtype).lower().startswith(NUMERIC_DTYPES)
        if not is_numeric and not _holds_numbers(values):
            others.append(str(name))
    return others


def _holds_numbers(values: Any) -> bool:
    try:
        _as_floats(values)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(values: Any, name: Any, likelihood: str) -> NDArray[np.float64]:
    """Give a column of numbers, NaN where its entry is missing."""
    try:
        numbers = _as_floats(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Column {name!r} of X, of likelihood {likelihood!r}, does not hold "
            f"numbers: {error}. Turn it into numbers, for instance by "
            "pandas.to_numeric with errors='coerce', and dates into days. Categories "
            "have the likelihood 'categorical'."
        ) from error
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise ValueError(
            f"X contains infinity in column {name!r}. The first is in row "
            f"{infinite[0]}. Replace it, with NaN where the value is missing."
        )
    return numbers


def _as_floats(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind in "mM":
        raise TypeError("it holds dates or times")
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    entries = (np.nan if _is_missing(value) else value for value in _to_list(values))
    return np.array([float(entry) for entry in entries], np.float64)
