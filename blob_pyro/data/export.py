"""A log as the two tables that it could have been read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.data.clock import DATE, NUMBER, UTC

if TYPE_CHECKING:
    from blob_pyro.data.event_log import EventLog

__all__ = ["to_frames"]


def to_frames(log: EventLog) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write out a log's views and impressions: see `EventLog.to_frames`."""
    views = {
        "user": log.users.column(log.view_user),
        "time": _times(log.view_time.numpy(), log.clock),
        "item": log.items.column(log.view_item),
    }
    impressions = {
        "user": log.users.column(log.user),
        "time": _times(log.time.numpy(), log.clock),
        "action": log.items.column(log.action),
        "reward": log.reward.numpy().astype(np.int64),
    }
    for name in ("propensity", "propensity_error", "position", "score"):
        values = getattr(log, name)
        if values is not None:
            impressions[name] = values.numpy()
    for name, plural in (("policy", "policies"), ("policy_version", "policy_versions")):
        values, names = getattr(log, name), getattr(log, plural)
        if values is not None and names is not None:
            impressions[name] = names.column(values)
    for name, covariate in log.covariates.items():
        values = covariate.values.numpy()
        impressions[name] = values if covariate.levels is None else np.array(covariate.levels, dtype=object)[values]
    return pd.DataFrame(views), pd.DataFrame(impressions)


def _times(values: np.ndarray, clock: str) -> np.ndarray | pd.Series:
    if clock == NUMBER:
        return values
    stamps = pd.Series(values.astype("datetime64[ns]"))
    if clock == DATE:
        return stamps.dt.date
    return stamps.dt.tz_localize("UTC") if clock == UTC else stamps
