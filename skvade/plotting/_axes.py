"""Creation of Axes, and plotting functions shared by the Displays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase
    from matplotlib.gridspec import GridSpecBase

__all__ = [
    "BLUE",
    "ORANGE",
    "get_color_and_marker",
    "import_pyplot",
    "make_axes",
    "make_profile_axes",
    "plot_curve",
    "plot_images",
    "plot_profiles",
    "set_integer_ticks",
]

# Okabe and Ito's palette, distinguishable with color vision deficiency and in
# grayscale; without its yellow, which is barely visible on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
BLUE, ORANGE = COLORS[:2]
MARKERS = "o^sDvPX*"

# Curves of more epochs have no markers.
_MAX_MARKED_EPOCHS = 30

# Profiles of more features have numbered ticks instead of feature names.
_MAX_NAMED_FEATURES = 20

_MAX_PROFILE_COLUMNS = 4


def import_pyplot(display_name: str) -> ModuleType:
    """Import and return `matplotlib.pyplot`.

    Parameters
    ----------
    display_name : str
        Name of the Display class, for the error message.

    Returns
    -------
    plt : module
        The module `matplotlib.pyplot`.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{display_name} requires matplotlib. Install it with: "
            "python -m pip install 'skvade[plot]'"
        ) from error
    return plt


def get_color_and_marker(index: int) -> tuple[str, str]:
    """Return the color and the marker of a group.

    Parameters
    ----------
    index : int
        Index of the group. All colors are used before the marker changes.

    Returns
    -------
    color : str
        Color as a hexadecimal code.
    marker : str
        Marker of matplotlib.
    """
    color = COLORS[index % len(COLORS)]
    marker = MARKERS[index // len(COLORS) % len(MARKERS)]
    return color, marker


# --- Axes ---------------------------------------------------------------------------


def make_axes(
    ax: Axes | Sequence[Axes] | None,
    display_name: str,
    n_axes: int,
    *,
    n_columns: int,
    figsize: tuple[float, float],
    share_axes: bool = False,
) -> NDArray[np.object_]:
    """Return the Axes to plot on: given, subdivided or in a new figure.

    Parameters
    ----------
    ax : matplotlib Axes, sequence of them or None
        Axes given by the user: `n_axes` of them, or a single one, which is subdivided
        into a grid. None creates a figure.
    display_name : str
        Name of the Display class, for the error messages.
    n_axes : int
        Number of Axes that the Display plots on.
    n_columns : int
        Number of columns of the grid.
    figsize : tuple of float
        Width and height of a new figure, in inches.
    share_axes : bool, default=False
        Whether created Axes share their x-axis and y-axis.

    Returns
    -------
    axes : ndarray of matplotlib Axes of shape (n_axes,)
        Axes, in row-major order.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the number of Axes is neither `n_axes` nor one, or if a single one is not
        part of a subplot grid and so cannot be subdivided.
    """
    plt = import_pyplot(display_name)
    grid_shape = (math.ceil(n_axes / n_columns), n_columns)
    if ax is None:
        figure = plt.figure(figsize=figsize, layout="compressed")
        grid = figure.add_gridspec(*grid_shape)
    else:
        given_axes = np.asarray(ax, dtype=object).ravel()
        if len(given_axes) == n_axes:
            return given_axes
        figure, grid = _subdivide_axes(given_axes, display_name, n_axes, grid_shape)

    axes: list[Axes] = []
    for index in range(n_axes):
        shared_ax = axes[0] if share_axes and axes else None
        cell = grid[divmod(index, n_columns)]
        axes.append(figure.add_subplot(cell, sharex=shared_ax, sharey=shared_ax))
    return np.array(axes, dtype=object)


def _subdivide_axes(
    given_axes: NDArray[np.object_],
    display_name: str,
    n_axes: int,
    grid_shape: tuple[int, int],
) -> tuple[FigureBase, GridSpecBase]:
    """Hide a single given Axes and return its figure and a grid in its area."""
    requirement = (
        f"{display_name} plots on {n_axes} Axes. ax must be a sequence of {n_axes} "
        "Axes, or a single Axes as created by plt.subplots(), which is subdivided, or "
        "None."
    )
    if len(given_axes) != 1:
        raise ValueError(f"{requirement} Got {len(given_axes)} Axes instead.")
    (ax,) = given_axes
    subplot_spec = ax.get_subplotspec()
    if subplot_spec is None:
        raise ValueError(
            f"{requirement} Got 1 Axes that is not part of a subplot grid instead."
        )
    ax.set_axis_off()
    return ax.figure, subplot_spec.subgridspec(*grid_shape)


def set_integer_ticks(ax: Axes) -> None:
    """Restrict the ticks of the x-axis to integers.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes to modify.
    """
    ax.locator_params(axis="x", integer=True)


# --- Curves and images --------------------------------------------------------------


def plot_curve(
    ax: Axes, values: Sequence[float], first_epoch: int = 1, **line_kwargs: Any
) -> None:
    """Plot one value per epoch, with markers if there are few epochs.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes to plot on.
    values : sequence of float
        Values of consecutive epochs.
    first_epoch : int, default=1
        Number of the first epoch.
    **line_kwargs : dict
        Keyword arguments of `ax.plot`.
    """
    epochs = np.arange(first_epoch, first_epoch + len(values))
    marker = "." if len(values) <= _MAX_MARKED_EPOCHS else None
    ax.plot(epochs, values, marker=marker, **line_kwargs)
    set_integer_ticks(ax)
    ax.set_xlabel("epoch")


def plot_images(
    ax: Axes, images: NDArray, vmin: float, vmax: float
) -> tuple[NDArray, NDArray]:
    """Plot a grid of images on a single Axes.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes to plot on.
    images : ndarray of shape (n_rows, n_columns, height, width) or \
(n_rows, n_columns, height, width, 3)
        Images. Pixels that are NaN are left blank.
    vmin, vmax : float
        Values that are plotted as white and black, or as the minimum and maximum
        intensity of a color channel.

    Returns
    -------
    column_centers : ndarray of shape (n_columns,)
        Positions of the columns on the x-axis.
    row_centers : ndarray of shape (n_rows,)
        Positions of the rows on the y-axis.
    """
    n_rows, n_columns, height, width, *channels = images.shape
    pad_width = [(0, 0), (0, 0), (1, 1), (1, 1), *[(0, 0) for _ in channels]]
    padded = np.pad(images, pad_width, constant_values=np.nan)
    height, width = height + 2, width + 2
    # (n_rows, height, n_columns, width, ...)
    canvas = padded.swapaxes(1, 2)
    canvas = canvas.reshape(n_rows * height, n_columns * width, *channels)
    if channels:
        canvas = _scale_colors(canvas, vmin, vmax)
    ax.imshow(canvas, cmap="gray_r", vmin=vmin, vmax=vmax)
    ax.tick_params(length=0)
    # Pixels are centered at integers, so the first one begins at -0.5.
    column_centers = (np.arange(n_columns) + 0.5) * width - 0.5
    row_centers = (np.arange(n_rows) + 0.5) * height - 0.5
    return column_centers, row_centers


def _scale_colors(image: NDArray, vmin: float, vmax: float) -> NDArray:
    """Scale color channels from [vmin, vmax] to [0, 1], with white for NaN."""
    value_range = vmax - vmin
    if value_range == 0:
        value_range = 1
    return np.nan_to_num((image - vmin) / value_range, nan=1).clip(0, 1)


# --- Profiles: samples as lines over the features -----------------------------------


def make_profile_axes(
    ax: Axes | Sequence[Axes] | None,
    display_name: str,
    n_axes: int,
    n_features: int,
    feature_names: Sequence[str] | None,
) -> NDArray[np.object_]:
    """Return Axes for profiles, with shared x-axis and y-axis.

    Numbered features are on the x-axis, named features on the y-axis, where the names
    can be read.

    Parameters
    ----------
    ax : matplotlib Axes, sequence of them or None
        Axes given by the user, as in :func:`make_axes`.
    display_name : str
        Name of the Display class, for the error messages.
    n_axes : int
        Number of Axes.
    n_features : int
        Number of features.
    feature_names : sequence of str of length n_features or None
        Names of the features. They are ignored if there are too many to be read.

    Returns
    -------
    axes : ndarray of matplotlib Axes of shape (n_axes,)
        Axes, in row-major order.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the number of Axes is not valid.
    """
    show_names = _shows_feature_names(n_features, feature_names)
    n_columns = min(n_axes, _MAX_PROFILE_COLUMNS)
    n_rows = math.ceil(n_axes / n_columns)
    row_height = 0.18 * n_features + 0.5 if show_names else 1.8
    axes = make_axes(
        ax,
        display_name,
        n_axes,
        n_columns=n_columns,
        figsize=(2.4 * n_columns, row_height * n_rows + 0.5),
        share_axes=True,
    )
    if show_names:
        axes[0].set_yticks(np.arange(n_features), feature_names)
        axes[0].invert_yaxis()
    for index, profile_ax in enumerate(axes):
        is_lowest = index + n_columns >= n_axes
        is_leftmost = index % n_columns == 0
        profile_ax.tick_params(labelbottom=is_lowest, labelleft=is_leftmost)
        if not show_names:
            set_integer_ticks(profile_ax)
            profile_ax.set_xlabel("feature" if is_lowest else "")
    return axes


def plot_profiles(
    ax: Axes,
    samples: NDArray,
    feature_names: Sequence[str] | None,
    **line_kwargs: Any,
) -> None:
    """Plot samples as lines over the features.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes from :func:`make_profile_axes`.
    samples : ndarray of shape (n_features,) or (n_samples, n_features)
        One sample or several.
    feature_names : sequence of str of length n_features or None
        Names of the features, as given to :func:`make_profile_axes`.
    **line_kwargs : dict
        Keyword arguments of `ax.plot`.
    """
    n_features = samples.shape[-1]
    features = np.arange(n_features)
    if _shows_feature_names(n_features, feature_names):
        ax.plot(samples.T, features, **line_kwargs)
    else:
        ax.plot(features, samples.T, **line_kwargs)


def _shows_feature_names(n_features: int, feature_names: Sequence[str] | None) -> bool:
    """Return whether profiles show the names of the features."""
    return feature_names is not None and n_features <= _MAX_NAMED_FEATURES
