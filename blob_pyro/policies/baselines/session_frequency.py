"""Session frequency: a user will view again what they have viewed most."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_histories

__all__ = ["SessionFrequency"]


class SessionFrequency:
    """Scores an item by how often the history holds it. Nothing is learned.

    Args:
        items: the catalogue, or its size.

    Example:
        >>> SessionFrequency(3).scores([[2, 0, 2], []])
        tensor([[1., 0., 2.],
                [0., 0., 0.]])
    """

    def __init__(self, items: Vocabulary | int) -> None:
        self.items = items if isinstance(items, Vocabulary) else Vocabulary.numbered(items)

    def scores(self, histories: Histories | Any) -> Tensor:
        """Return each history's view counts, ``N x P``."""
        return as_histories(histories, self.items).counts()
