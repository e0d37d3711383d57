"""What the user has viewed most, they will view again."""

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
        """``N x P`` view counts."""
        return as_histories(histories, self.items).counts()
