"""What is legal in a log and seldom meant: said with figures, as a `LogWarning`."""

from __future__ import annotations

import warnings

import numpy as np

from blob_pyro.data.clock import NUMBER

__all__ = ["LogWarning", "warn_of_ranges", "warn_of_unseen_views"]

MIN_ROWS = 2
"""Views, and impressions, below which nothing is said of their ranges."""
MIN_IMPRESSIONS = 10
"""Impressions below which nothing is said of empty histories."""
MAX_EMPTY = 0.95
"""Share of empty histories, among impressions of users who have views, above which a log is odd."""


class LogWarning(UserWarning):
    """A log that can be read and is probably not what was meant.

    Silence it, where it is meant, with ``warnings.filterwarnings("ignore", category=LogWarning)``.
    """


def warn_of_ranges(views: np.ndarray, impressions: np.ndarray, clock: str, stacklevel: int) -> None:
    """Warn where all views come before, or after, all impressions: two clocks, two units, or two periods.

    Args:
        views: their times, of at least `MIN_ROWS` rows.
        impressions: likewise.
        clock: of both.
        stacklevel: frames between here and the user.
    """
    if min(len(views), len(impressions)) < MIN_ROWS:
        return
    if views.max() < impressions.min():
        relation = "precedes"
    elif views.min() > impressions.max():
        relation = "follows"
    else:
        return
    hint = "The units may differ (seconds, milliseconds)" if clock == NUMBER else "The zones or periods may differ"
    warnings.warn(
        f"log: every view {relation} every impression: views lie between {_show(views.min(), clock)} and "
        f"{_show(views.max(), clock)}, impressions between {_show(impressions.min(), clock)} and "
        f"{_show(impressions.max(), clock)}. {hint}; if this is meant, ignore the LogWarning",
        LogWarning,
        stacklevel=stacklevel + 1,
    )


def warn_of_unseen_views(
    views_per_user: np.ndarray, user: np.ndarray, views_before: np.ndarray, stacklevel: int
) -> None:
    """Warn where there are views, and (nearly) no impression has one of its user's before it.

    Args:
        views_per_user: views of each user.
        user: of each impression.
        views_before: views in the history of each impression.
        stacklevel: frames between here and the user.
    """
    num_views = int(views_per_user.sum())
    if not num_views or len(user) < MIN_IMPRESSIONS:
        return
    views = views_per_user[user]
    viewers = int(np.count_nonzero(views))
    if not viewers:
        if num_views >= MIN_IMPRESSIONS:
            warnings.warn(
                f"log: none of the {len(user):,} impressions belongs to a user with a view, and there are "
                f"{num_views:,} views of {int(np.count_nonzero(views_per_user)):,} users: every history is empty. "
                "The two tables may not name users alike; if this is meant, ignore the LogWarning",
                LogWarning,
                stacklevel=stacklevel + 1,
            )
        return
    empty = viewers - int(np.count_nonzero(views_before))
    if viewers >= MIN_IMPRESSIONS and empty > MAX_EMPTY * viewers:
        warnings.warn(
            f"log: {empty:,} of {viewers:,} impressions of users with views have an empty history: the views come "
            f"after them. The clocks of the two tables may differ; if this is meant, ignore the LogWarning",
            LogWarning,
            stacklevel=stacklevel + 1,
        )


def _show(time: np.generic, clock: str) -> str:
    if clock == NUMBER:
        return f"{time.item():,}"
    return f"{np.datetime64(int(time), 'ns')}{'Z' if clock.endswith('[UTC]') else ''}"
