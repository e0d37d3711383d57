"""Sessions into train and test, and a session into what is known and what is to be predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.data.histories import Histories

__all__ = ["leave_last_out", "split_sessions"]


def split_sessions(sessions: Histories, test_fraction: float = 0.2, seed: int = 0) -> tuple[Histories, Histories]:
    """Split whole sessions at random into train and test, as in Sakhi et al. (2020, section 4.1).

    Args:
        sessions: ``N`` sessions, for example ``log.sessions``.
        test_fraction: of sessions that go to the test set, rounded to whole ones; both sets get at least one.
        seed: of the draw.

    Returns:
        Train and test, each in the order of ``sessions``.

    Raises:
        ValueError: for fewer than two sessions, or a fraction outside (0, 1).

    Example:
        >>> sessions = Histories.from_sequences([[0], [1, 1], [2], [0, 2]], num_items=3)
        >>> train, test = split_sessions(sessions, test_fraction=0.25)
        >>> len(train), len(test)
        (3, 1)
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: must lie between 0 and 1, got {test_fraction}")
    size = len(sessions)
    if size < 2:
        raise ValueError(f"sessions: a split needs at least two, got {size}")
    num_test = min(max(round(size * test_fraction), 1), size - 1)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).to(sessions.device)
    return sessions[order[num_test:].sort().values], sessions[order[:num_test].sort().values]


def leave_last_out(sessions: Histories, max_views: int | None = None) -> tuple[Histories, Tensor]:
    """Return the last view of each session, and the views before it.

    Args:
        sessions: ``N`` sessions; those without a view are left out, there is nothing to predict in them.
        max_views: keep so many views before the last, the most recent ones; all by default.

    Returns:
        Histories and the item number that followed, for each of the ``M <= N`` sessions with a view.

    Example:
        >>> histories, target = leave_last_out(Histories.from_sequences([[0, 1, 2], [], [3]], num_items=4))
        >>> histories.to_sequences(), target.tolist()
        ([[0, 1], []], [2, 3])
    """
    if max_views is not None and max_views < 0:
        raise ValueError(f"max_views: must not be negative, got {max_views}")
    some = sessions[sessions.lengths > 0]
    last = some.starts + some.lengths - 1
    lengths = some.lengths - 1
    if max_views is not None:
        lengths = lengths.clamp(max=max_views)
    return Histories(some.views, last - lengths, lengths, some.num_items), some.views[last]
