"""Axes are made where none are given, and text fits over them."""

import sys

import pytest
from matplotlib import pyplot

from blob_pyro.diagnostics.plots.canvas import axes_or_new, evenly_spaced, wrapped


def test_axes_are_new_or_those_given():
    ax = axes_or_new(None, 5, 2)
    assert ax.figure.get_size_inches().tolist() == [5, 2]
    assert axes_or_new(ax, 1, 1) is ax


def test_without_matplotlib_one_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install 'blob-pyro\\[plot\\]'"):
        axes_or_new(None, 5, 2)


def test_text_is_not_wider_than_the_axes():
    figure, ax = pyplot.subplots(figsize=(5, 2))
    ax.set_title(wrapped(ax, "a verdict in so many words " * 8), fontsize=9)
    figure.canvas.draw()
    assert ax.title.get_window_extent().width <= 1.05 * ax.get_window_extent().width
    assert ax.get_title().replace("\n", " ") == ("a verdict in so many words " * 8).strip()


def test_both_ends_are_kept():
    assert evenly_spaced(3, 5).tolist() == [0, 1, 2]
    assert evenly_spaced(10_001, 5).tolist() == [0, 2500, 5000, 7500, 10_000]
