"""Ids in every form that a table may have them in, and ids of two types."""

import datetime as dt
import decimal
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from blob_pyro import EventLog

IDS = {
    "integers of every width": ([1, 2], [np.array([1, 2], t) for t in ("i1", "u2", "i4", "u8", ">i8", "f4", "f2")]),
    "integers beyond int64": ([1, 2**63], [[1, 2**63], np.array([1, 2**63], "u8"), pd.Series([1, 2**63])]),
    "integers of any size": ([2**70, 2**71], [[2**70, 2**71], pd.Series([2**70, 2**71], dtype=object)]),
    "text": (["", "é"], [["", "é"], np.array(["", "é"]), pa.array(["", "é"]), pa.array(["", "é"]).dictionary_encode(),
                         pa.array(["", "é"], pa.string_view()), pa.array(["", "é"], pa.large_string()),
                         pd.Categorical(["", "é"]), pd.Categorical(["", "é"], categories=["z", "é", ""]),
                         pl.Series(["", "é"]), pl.Series(["", "é"], dtype=pl.Categorical),
                         pl.Series(["", "é"], dtype=pl.Enum(["é", "", "y"])), [np.str_(""), "é"]]),
    "bytes": ([b"a", b"b"], [
        [b"a", b"b"], np.array([b"a", b"b"]), pa.array([b"a", b"b"]), pa.array([b"a", b"b"], pa.binary(1))]),
    "UUIDs": ([uuid.UUID(int=1), uuid.UUID(int=2)], [
        [uuid.UUID(int=1), uuid.UUID(int=2)], pd.Series([uuid.UUID(int=1), uuid.UUID(int=2)]),
        pa.array([uuid.UUID(int=n).bytes for n in (1, 2)], pa.binary(16)).cast(pa.uuid())]),
    "tuples": ([(1, "a"), (2, "b")], [[(1, "a"), (2, "b")], pd.Series([(1, "a"), (2, "b")])]),
    "dates": ([dt.date(2026, 1, 1), dt.date(2026, 1, 2)], [
        [dt.date(2026, 1, 1), dt.date(2026, 1, 2)], np.array(["2026-01-01", "2026-01-02"], "datetime64[D]")]),
}  # fmt: skip


@pytest.mark.parametrize(("ids", "forms"), IDS.values(), ids=IDS.keys())
def test_one_id_in_every_form(ids, forms):
    for form in forms:
        for other in forms:
            log = EventLog.from_tables(
                {"user": form, "time": [0, 1], "item": other},
                {"user": other, "time": [2, 2], "action": form, "reward": [0, 1]},
            )
            assert log.users.ids == log.items.ids == tuple(ids)
            assert list(map(type, log.items.ids)) == list(map(type, ids))
            assert log.contexts[log.context].to_sequences() == [[0], [1]]
            again = EventLog.from_tables({"user": form, "time": [0, 1], "item": other}, items=form)
            assert again.items == log.items


def test_ids_of_two_types_are_not_one():
    with pytest.raises(
        ValueError, match="ids have different types: text in impressions: column 'user' and integers in"
    ):
        EventLog.from_tables(
            {"user": [1], "time": [1], "item": [1]}, {"user": ["1"], "time": [2], "action": [1], "reward": [1]}
        )
    views = {"user": [1, 1, 1], "time": [1, 2, 3]}
    for mixed in ([1, 1.0, 2], [1, True, 2], [1, "1", 2], [1, decimal.Decimal(1), 2]):
        with pytest.raises(ValueError, match="views: column 'item', row 1: "):
            EventLog.from_tables({**views, "item": mixed})
