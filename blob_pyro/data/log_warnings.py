"""Warnings of what is legal in a log and seldom meant, said with figures as a `LogWarning`."""

from __future__ import annotations

import warnings

import numpy as np

from blob_pyro.data.clock import NUMBER, UTC

__all__ = ["LogWarning", "warn_of_empty", "warn_of_ends", "warn_of_ranges", "warn_of_unseen_views"]

MIN_ROWS = 10
"""Views, and impressions, below which an odd log may be a small one: nothing is said of its order."""
MIN_ROWS_FAR_APART = 2
"""The same, for numbers that are far apart, as those of two units are."""
FAR_APART = 10
"""Gap between the two ranges, in lengths of the longer one, that is far; it is also above `FAR_APART_NUMBERS`."""
FAR_APART_NUMBERS = 1000
MAX_EMPTY = 0.95
"""Share of empty histories, among impressions of users who have views, above which a log is odd."""


class LogWarning(UserWarning):
    """A log that can be read and is probably not what was meant.

    Silence it, where it is meant, with ``warnings.filterwarnings("ignore", category=LogWarning)``.
    """


def warn_of_ranges(views: np.ndarray, impressions: np.ndarray, clock: str, stacklevel: int) -> bool:
    """Warn where all views come before, or after, all impressions: two clocks, units or periods; says whether it did.

    Args:
        views: their times.
        impressions: likewise.
        clock: of both.
        stacklevel: frames between here and the user.
    """
    rows = min(len(views), len(impressions))
    if rows < MIN_ROWS_FAR_APART:
        return False
    ends = [t.item() for t in (views.min(), views.max(), impressions.min(), impressions.max())]
    return warn_of_ends(rows, ends, clock, stacklevel + 1)


def warn_of_ends(rows: int, ends: list[float], clock: str, stacklevel: int) -> bool:
    """Warn as `warn_of_ranges`, knowing no more than where the two ranges end.

    Args:
        rows: views, or impressions where these are fewer.
        ends: time of the first and the last view, and of the first and the last impression.
        clock: of both.
        stacklevel: frames between here and the user.
    """
    if rows < MIN_ROWS_FAR_APART:
        return False
    first, last, start, end = ends
    gap = max(start - last, first - end)
    far = clock == NUMBER and gap > max(FAR_APART * max(last - first, end - start), FAR_APART_NUMBERS)
    if gap <= 0 or (rows < MIN_ROWS and not far):
        return False
    relation = "precedes" if last < start else "follows"
    hint = "The units may differ (seconds, milliseconds)" if clock == NUMBER else "The zones or periods may differ"
    warnings.warn(
        f"log: every view {relation} every impression: views lie between {_show(first, clock)} and "
        f"{_show(last, clock)}, impressions between {_show(start, clock)} and {_show(end, clock)}. "
        f"{hint}; if this is meant, ignore the LogWarning",
        LogWarning,
        stacklevel=stacklevel + 1,
    )
    return True


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
    views = views_per_user[user]
    viewers = int(np.count_nonzero(views))
    empty = viewers - int(np.count_nonzero(views_before))
    warn_of_empty(views_per_user, len(user), viewers, empty, stacklevel + 1)


def warn_of_empty(views_per_user: np.ndarray, num_impressions: int, viewers: int, empty: int, stacklevel: int) -> None:
    """Warn as `warn_of_unseen_views`, knowing no more than how many impressions have which history.

    Args:
        views_per_user: views of each user.
        num_impressions: of all users.
        viewers: impressions of users with views.
        empty: those of them before which there is none.
        stacklevel: frames between here and the user.
    """
    num_views = int(views_per_user.sum())
    if not num_views or num_impressions < MIN_ROWS:
        return
    if not viewers:
        if num_views >= MIN_ROWS:
            warnings.warn(
                f"log: none of the {num_impressions:,} impressions belongs to a user with a view, and there are "
                f"{num_views:,} views of {int(np.count_nonzero(views_per_user)):,} users: every history is empty. "
                "The two tables may not name users alike; if this is meant, ignore the LogWarning",
                LogWarning,
                stacklevel=stacklevel + 1,
            )
        return
    if viewers >= MIN_ROWS and empty > MAX_EMPTY * viewers:
        warnings.warn(
            f"log: {empty:,} of {viewers:,} impressions of users with views have an empty history: the views come "
            f"after them. The clocks of the two tables may differ; if this is meant, ignore the LogWarning",
            LogWarning,
            stacklevel=stacklevel + 1,
        )


def _show(time: float, clock: str) -> str:
    if clock == NUMBER:
        return f"{time:,}"
    return f"{np.datetime64(int(time), 'ns')}{'Z' if clock == UTC else ''}"
