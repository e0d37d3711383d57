"""A log's tables give the log again, whatever its clock and its columns."""

import pandas as pd
import pytest

from blob_pyro import EventLog
from tests.data.test_concatenation import same, tables


@pytest.mark.parametrize("clock", ["number", "date", "timestamp", "timestamp[UTC]"])
def test_there_and_back(clock):
    views, impressions = tables(5, 80, seed=0)
    for frame in (views, impressions):
        stamps = pd.to_datetime(frame["time"], unit="D")
        if clock == "date":
            frame["time"] = stamps.dt.date
        elif clock != "number":
            frame["time"] = stamps.dt.tz_localize("Europe/Oslo") if clock.endswith("]") else stamps
    log = EventLog.from_tables(views, impressions, covariates=["hour", "device"])
    assert log.clock == clock
    same(EventLog.from_tables(*log.to_frames(), covariates=["hour", "device"], items=log.items.ids), log)


def test_what_a_log_lacks_is_no_column():
    log = EventLog.from_tables(views={"user": [1], "time": [0], "item": ["a"]})
    views, impressions = log.to_frames()
    assert views.to_dict("list") == {"user": [1], "time": [0], "item": ["a"]}
    assert list(impressions.columns) == ["user", "time", "action", "reward"]
    assert not len(impressions)
