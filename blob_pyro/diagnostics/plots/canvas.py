"""A place to draw: the axes that were given, or new ones; and text that fits over them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axes_or_new", "evenly_spaced", "wrapped"]


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the axes given, or those of a new figure.

    Args:
        ax: axes, or None.
        width: of a new figure, inches.
        height: of a new figure, inches.

    Raises:
        ImportError: without matplotlib, which ``pip install 'blob-pyro[plot]'`` brings.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'blob-pyro[plot]'") from error
    _, new = pyplot.subplots(figsize=(width, height), layout="constrained")
    return new


def wrapped(ax: Axes, text: str, fontsize: float = 9.0) -> str:
    """Divide a text into lines that are not wider than the axes.

    Args:
        ax: what the text stands over.
        text: one paragraph.
        fontsize: of the text, points.
    """
    figure = ax.get_figure()
    inches = 6.0 if figure is None else figure.bbox.width / figure.dpi * ax.get_position().width
    return textwrap.fill(text, max(24, int(inches * 72 / (0.6 * fontsize))))


def evenly_spaced(size: int, most: int) -> np.ndarray:
    """Pick at most so many of ``size`` numbers from 0, with both ends."""
    if size <= most:
        return np.arange(size)
    return np.unique(np.linspace(0, size - 1, most).round().astype(np.int64))
