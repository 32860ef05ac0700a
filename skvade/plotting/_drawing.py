"""What the Displays draw with: panels, marks, image grids and profiles."""

from __future__ import annotations

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
    "draw_curve",
    "draw_images",
    "draw_profile",
    "mark",
    "panels",
    "profile_panels",
    "pyplot",
    "show_integers",
    "single_panel",
]

# Okabe and Ito: told apart by the colour-blind, and in print. Their yellow is left out,
# since it vanishes on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
BLUE, ORANGE = COLORS[:2]
MARKERS = "o^sDvPX*"

# More features than these are shown by their number alone.
_MOST_NAMES = 20


def pyplot(display: str) -> ModuleType:
    """matplotlib's pyplot, imported where it is used.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{display} needs matplotlib. Install it with: "
            "python -m pip install 'skvade[plot]'"
        ) from error
    return plt


def mark(index: int) -> tuple[str, str]:
    """Color and marker of a group: colors first, then other markers with them."""
    marker = MARKERS[index // len(COLORS) % len(MARKERS)]
    return COLORS[index % len(COLORS)], marker


def panels(
    ax: Axes | Sequence[Axes] | None,
    display: str,
    n_panels: int,
    *,
    n_columns: int,
    figsize: tuple[float, float],
    share: bool = False,
) -> NDArray[np.object_]:
    """Axes to draw on: new ones, those given, or the place of one divided.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the wrong number of axes is given, or one that no grid holds.
    """
    plt = pyplot(display)
    given = np.asarray([] if ax is None else ax, dtype=object).ravel()
    if len(given) == n_panels:
        return given
    grid_shape = (-(-n_panels // n_columns), n_columns)
    if ax is None:
        figure = plt.figure(figsize=figsize, layout="compressed")
        grid = figure.add_gridspec(*grid_shape)
    else:
        figure, grid = _divide(given, display, n_panels, grid_shape)
    axes: list[Axes] = []
    for index in range(n_panels):
        first = axes[0] if share and axes else None
        cell = grid[divmod(index, n_columns)]
        axes.append(figure.add_subplot(cell, sharex=first, sharey=first))
    return np.array(axes, dtype=object)


def _divide(
    given: NDArray[np.object_], display: str, n_panels: int, grid_shape: tuple[int, int]
) -> tuple[FigureBase, GridSpecBase]:
    spec = given[0].get_subplotspec() if len(given) == 1 else None
    if spec is None:
        raise ValueError(
            f"{display} draws {n_panels} panels. ax must be that many Axes, one Axes "
            "of plt.subplots(), whose place is divided, or None. Got "
            f"{len(given)} Axes{' of another kind' if len(given) == 1 else ''} instead."
        )
    given[0].set_axis_off()
    return given[0].figure, spec.subgridspec(*grid_shape)


def single_panel(ax: Axes | None, display: str, figsize: tuple[float, float]) -> Axes:
    """The Axes of a Display that draws on one."""
    return panels(ax, display, 1, n_columns=1, figsize=figsize)[0]


def show_integers(ax: Axes) -> None:
    """Put the ticks of the horizontal axis on whole numbers."""
    ax.locator_params(axis="x", integer=True)


def draw_curve(ax: Axes, values: Sequence[float], first: int = 1, **style: Any) -> None:
    """A value per epoch, from the epoch `first` on; short curves show their points."""
    marker = "." if len(values) <= 30 else None
    ax.plot(np.arange(first, first + len(values)), values, marker=marker, **style)
    show_integers(ax)
    ax.set_xlabel("epoch")


def draw_images(
    ax: Axes, images: NDArray, limits: tuple[float, float]
) -> tuple[NDArray, NDArray]:
    """Images of shape (rows, columns, height, width) or (..., 3); NaN stays blank.

    Values are shown between the limits. Returns the centers of the columns and of the
    rows.
    """
    n_rows, n_columns, height, width, *channels = images.shape
    edges = [(0, 0), (0, 0), (1, 1), (1, 1), *[(0, 0) for _ in channels]]
    tiles = np.pad(images, edges, constant_values=np.nan).swapaxes(1, 2)
    height, width = height + 2, width + 2
    canvas = tiles.reshape(n_rows * height, n_columns * width, *channels)
    low, high = limits
    if channels:
        canvas = np.nan_to_num((canvas - low) / ((high - low) or 1), nan=1).clip(0, 1)
    ax.imshow(canvas, cmap="gray_r", vmin=low, vmax=high)
    ax.tick_params(length=0)
    columns, rows = np.arange(n_columns) + 0.5, np.arange(n_rows) + 0.5
    return columns * width - 0.5, rows * height - 0.5


def profile_panels(
    ax: Axes | Sequence[Axes] | None,
    display: str,
    n_panels: int,
    n_features: int,
    names: Sequence[str] | None,
) -> NDArray[np.object_]:
    """A panel for each profile, sharing both axes.

    Numbered features lie on the horizontal axis, named ones, which must be read, on
    the vertical.
    """
    is_named = _is_named(n_features, names)
    n_columns = min(n_panels, 4)
    n_rows = -(-n_panels // n_columns)
    height = 0.18 * n_features + 0.5 if is_named else 1.8
    size = (2.4 * n_columns, height * n_rows + 0.5)
    axes = panels(ax, display, n_panels, n_columns=n_columns, figsize=size, share=True)
    if is_named:
        axes[0].set_yticks(np.arange(n_features), names)
        axes[0].invert_yaxis()
    for index, panel in enumerate(axes):
        is_lowest = index + n_columns >= n_panels
        panel.tick_params(labelbottom=is_lowest, labelleft=index % n_columns == 0)
        if not is_named:
            show_integers(panel)
            panel.set_xlabel("feature" if is_lowest else "")
    return axes


def _is_named(n_features: int, names: Sequence[str] | None) -> bool:
    return names is not None and n_features <= _MOST_NAMES


def draw_profile(
    ax: Axes, row: NDArray, names: Sequence[str] | None, **style: Any
) -> None:
    """A row of a table as a line over the features, or several of them."""
    features = np.arange(row.shape[-1])
    is_named = _is_named(len(features), names)
    ax.plot(*((row.T, features) if is_named else (features, row.T)), **style)
