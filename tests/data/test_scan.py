"""Logs on disk hold, event by event, what the same log in memory holds; what is wrong is named with its place."""

import os
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro import EventLog
from blob_pyro.data import LogWarning, parquet_table
from blob_pyro.data.columns import Column
from blob_pyro.data.id_set import IdSet
from blob_pyro.data.ids import read_ids


def tables(seed: int = 100, text: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows in no order, with ties in time, users without views and items that are only viewed, or only shown."""
    rng = np.random.default_rng(seed)
    num_views, num_events = 150, 260
    user = (lambda n: [f"user {n}" for n in n]) if text else (lambda n: n * 10**12 - 5)
    views = {"user": user(rng.integers(0, 20, num_views)), "time": rng.integers(0, 30, num_views)}
    events = {"user": user(rng.integers(10, 35, num_events)), "time": rng.integers(0, 30, num_events)}
    views["item"], events["action"] = rng.integers(0, 9, num_views), rng.integers(2, 12, num_events)
    events["reward"], events["propensity"] = rng.integers(0, 2, num_events), rng.uniform(0.1, 1, num_events)
    return pd.DataFrame(views), pd.DataFrame(events)


def write(folder, views, impressions, rows=37):
    for name, table in (("views", views), ("impressions", impressions)):
        table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=rows)
    return folder / "views.parquet", folder / "impressions.parquet"


def require_same(scan, log):
    """Every event has the context, action and reward that it has in memory; in the order of the files."""
    events = scan.events.pick(log.row.numpy())
    for name in ("context", "action", "reward"):
        np.testing.assert_array_equal(events[name], getattr(log, name).numpy(), err_msg=name)
    assert scan.contexts().to_sequences() == log.contexts.to_sequences()
    assert scan.sessions.to_sequences() == log.sessions.to_sequences()
    assert (scan.items, scan.users, scan.clock) == (log.items, log.users, log.clock)
    figures = ("num_users", "num_items", "num_views", "num_impressions")
    assert all(getattr(scan, name) == getattr(log, name) for name in figures)
    assert (scan.num_contexts, scan.num_clicks) == (len(log.contexts), int(log.reward.sum()))


@pytest.mark.parametrize("text", [True, False], ids=["text ids", "integers far apart"])
def test_events_are_those_of_the_log_in_memory(tmp_path, text):
    paths = write(tmp_path, *tables(text=text))
    require_same(EventLog.scan_parquet(*paths), EventLog.read_parquet(*paths))


def test_times_of_any_kind(tmp_path):
    views, events = tables()
    views["time"], events["time"] = (pd.to_datetime(t["time"], unit="h", utc=True) for t in (views, events))
    require_same(EventLog.scan_parquet(*(p := write(tmp_path, views, events))), EventLog.read_parquet(*p))
    views, events = tables()
    events["time"] = events["time"] + 0.5
    require_same(EventLog.scan_parquet(*(p := write(tmp_path, views, events))), EventLog.read_parquet(*p))


def test_given_catalogues_other_names_and_no_views(tmp_path):
    views, events = tables()
    paths = write(tmp_path, views.rename(columns={"item": "sku"}), events)
    given = {"columns": {"item": "sku"}, "num_items": 15}
    require_same(EventLog.scan_parquet(*paths, **given), EventLog.read_parquet(*paths, **given))
    given = {"items": range(14, -1, -1)}
    log = EventLog.read_parquet(impressions=paths[1], **given)
    require_same(EventLog.scan_parquet(impressions=paths[1], **given), log)


def test_partitioned_folders(tmp_path):
    views, events = tables()
    for name, table in (("views", views), ("impressions", events)):
        pq.write_to_dataset(pa.Table.from_pandas(table.assign(day=table.time // 10)), tmp_path / name, ["day"])
    pq.write_to_dataset(pa.Table.from_pandas(events.assign(action=1)), tmp_path / "shown")
    paths = tmp_path / "views", tmp_path / "impressions"
    require_same(EventLog.scan_parquet(*paths), EventLog.read_parquet(*paths))
    by_day = {"columns": {"policy": "day", "item": "day"}, "num_items": 12}
    require_same(EventLog.scan_parquet(*paths, **by_day), EventLog.read_parquet(*paths, **by_day))
    by_day = {"columns": {"item": "day"}, "items": [0, 1, 3]}
    message = r"views/day=2/.*parquet: column 'day' \(item\), row group 0, row 0: not one of the 3 items, got 2"
    with pytest.raises(ValueError, match=message):
        EventLog.scan_parquet(paths[0], tmp_path / "shown", **by_day)


def test_urls(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    views, events = tables()
    memory, paths = fsspec.filesystem("memory"), write(tmp_path, views, events)
    for path in paths:
        memory.pipe(f"/scan/{path.name}", path.read_bytes())
    urls = [f"memory://scan/{path.name}" for path in paths]
    scan = EventLog.scan_parquet(*urls)
    require_same(scan, EventLog.read_parquet(*paths))
    scan.check()
    content = memory.cat("/scan/views.parquet")
    memory.pipe("/scan/views.parquet", content[:-9] + b"?" + content[-8:])  # as long as it was
    with pytest.raises(ValueError, match=r"/scan/views.parquet has changed since .* \(it has been written again\)"):
        scan.check()
    memory.rm("/scan", recursive=True)
    with pytest.raises(ValueError, match=r"/scan/impressions.parquet has vanished since the log was scanned"):
        scan.check()
    with pytest.raises(ValueError, match="views: nowhere://x is no URL that fsspec knows"):
        EventLog.scan_parquet("nowhere://x", paths[1])
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ImportError, match=r"is a URL, which fsspec reads: pip install fsspec"):
        EventLog.scan_parquet(*urls)


def test_what_a_file_system_remembers_is_not_believed(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Remembers(MemoryFileSystem):
        """Answers as it has answered, until it is told to ask again: as those of S3, GCS and HTTP do."""

        protocol, answers = "remembers", {}

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("remembers:/"))

        def info(self, path, **options):
            if path not in self.answers:
                found = super().info(path, **options)
                self.answers[path] = {**found, "mtime": len(self.cat(path)) if found["type"] == "file" else 0}
            return self.answers[path]

        def invalidate_cache(self, path=None):
            for known in list(self.answers):
                if path is None or known.strip("/") == path.strip("/"):
                    del self.answers[known]

    fsspec.register_implementation("remembers", Remembers, clobber=True)
    views, events = tables()
    store = fsspec.filesystem("remembers")
    for path in write(tmp_path, views, events):
        store.pipe(f"/kept/{path.name}", path.read_bytes())
    scan = EventLog.scan_parquet("remembers://kept/views.parquet", "remembers://kept/impressions.parquet")
    table = parquet_table.ParquetTable("remembers://kept/views.parquet", "views", {})
    store.store["/kept/views.parquet"] = store.store["/kept/impressions.parquet"]  # somebody else does
    with pytest.raises(ValueError, match=r"/kept/views.parquet has changed since the log was scanned"):
        scan.check()
    with pytest.raises(ValueError, match=r"/kept/views.parquet has changed since the log was scanned"):
        list(table.chunks(["user"]))


BAD = {
    "no user": ({"user": None}, "a value is missing, got None. Drop the row or give it a user id"),
    "no item": ({"action": None}, "a value is missing, got None. Drop it, or give it an id"),
    "no time": ({"time": None}, "a value is missing, got None. Drop the row or give it a time"),
    "no reward": ({"reward": None}, "a value is missing, got None. An impression without a known outcome"),
    "an amount": ({"reward": 3}, "a reward is 0 or 1, got 3"),
    "a propensity": ({"propensity": 0.0}, r"a propensity is a probability in \(0, 1\], got 0.0"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_by_file_row_group_and_row(tmp_path, change, message):
    views, events = tables()
    table = pa.Table.from_pandas(events)
    ((name, value),) = change.items()
    column = table[name].to_pylist()
    column[37 * 3 + 5] = value
    table = table.set_column(table.schema.get_field_index(name), name, pa.array(column, table[name].type))
    paths = write(tmp_path, views, table)
    with pytest.raises(ValueError, match=f"impressions.parquet: column '{name}', row group 3, row 5: {message}"):
        EventLog.scan_parquet(*paths, num_items=12)


def test_what_is_wrong_with_a_table_is_named_with_its_file(tmp_path):
    views, events = tables()
    views_path, _ = write(tmp_path, views, events)
    with pytest.raises(ValueError, match=r"impressions: .*views.parquet: missing columns 'action', 'reward'"):
        EventLog.scan_parquet(views_path, views_path)
    twice = pa.table([views["user"], views["time"], views["item"], views["item"]], ["user", "time", "item", "item"])
    with pytest.raises(ValueError, match=r"views.parquet: column 'item' occurs 2 times"):
        EventLog.scan_parquet(*write(tmp_path, twice, events))
    dated = views.assign(time=pd.to_datetime(views.time, unit="h"))
    with pytest.raises(
        ValueError, match=r"views.parquet: column 'time' holds timestamps without a zone, and impressions"
    ):
        EventLog.scan_parquet(*write(tmp_path, dated, events))
    numbered = views.assign(user=range(len(views)))
    message = r"ids have different types: text \(large_string\) in impressions: .*integers \(int64\) in views"
    with pytest.raises(ValueError, match=message):
        EventLog.scan_parquet(*write(tmp_path, numbered, events))
    odd = views.assign(item=[np.datetime64("2020-01-01")] * len(views))
    with pytest.raises(ValueError, match=r"column 'item' has ids that are .*; a log that is scanned has ids that are"):
        EventLog.scan_parquet(*write(tmp_path, odd, events))
    with pytest.raises(ValueError, match=r"column 'action', row group \d+, row \d+: not one of the 10 items"):
        EventLog.scan_parquet(*write(tmp_path, views, events), num_items=10)
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.Table.from_pandas(events), folder / "a.parquet")
    pq.write_table(pa.Table.from_pandas(events.drop(columns="propensity")), folder / "b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet lacks column 'propensity', which .*a.parquet has"):
        EventLog.scan_parquet(views_path, folder)


def test_arguments(tmp_path):
    paths = write(tmp_path, *tables())
    with pytest.raises(FileNotFoundError, match=r"views: .*nothing is not there"):
        EventLog.scan_parquet(tmp_path / "nothing", paths[1])
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"views: .*no.parquet cannot be read as Parquet"):
        EventLog.scan_parquet(tmp_path / "no.parquet", paths[1])
    with pytest.raises(TypeError, match=r"views: expected the path or URL .*, got int"):
        EventLog.scan_parquet(3, paths[1])
    with pytest.raises(ValueError, match="impressions: a scanned log is for many of them"):
        EventLog.scan_parquet(paths[0])
    with pytest.raises(ValueError, match="buffer_size: must be at least 1, got 0"):
        EventLog.scan_parquet(*paths, buffer_size=0)
    with pytest.raises(TypeError, match="buffer_size: expected a whole number of impressions, got 'all'"):
        EventLog.scan_parquet(*paths, buffer_size="all")
    with pytest.raises(ValueError, match="storage_options: are for URLs, and views is a path"):
        EventLog.scan_parquet(*paths, storage_options={"key": "?"})
    with pytest.raises(FileNotFoundError, match=r"scratch: .*nowhere is no folder"):
        EventLog.scan_parquet(*paths, scratch=tmp_path / "nowhere")
    empty = write(tmp_path, *(table[:0] for table in tables()))
    with pytest.raises(ValueError, match="log: the tables have no rows"):
        EventLog.scan_parquet(*empty)


def test_files_that_vanish_or_change_between_passes_are_named(tmp_path):
    views, events = write(tmp_path, *tables())
    scan = EventLog.scan_parquet(views, events)
    scan.check()
    stamp = os.stat(views).st_mtime_ns
    os.utime(views, ns=(stamp + 10, stamp + 10))
    with pytest.raises(ValueError, match=r"views: .*views.parquet has changed since the log was scanned"):
        scan.check()
    os.utime(views, ns=(stamp, stamp))
    scan.check()
    events.unlink()
    with pytest.raises(ValueError, match=r"impressions: .*impressions.parquet has vanished since the log was scanned"):
        scan.check()


def test_what_looks_odd_is_warned_of_as_in_memory(tmp_path):
    views, events = tables()
    found = []
    for shift in (1000, -1000):
        paths = write(tmp_path, views, events.assign(time=events.time + shift))
        for read in (EventLog.read_parquet, EventLog.scan_parquet):
            with pytest.warns(LogWarning) as caught:
                read(*paths)
            found.append((str(caught[0].message), caught[0].filename))
    assert found[0] == found[1] != found[2] == found[3]
    assert found[0][1] == __file__
    strangers = events.assign(user=[f"stranger {n}" for n in range(len(events))])
    paths = write(tmp_path, views, strangers)
    messages = []
    for read in (EventLog.read_parquet, EventLog.scan_parquet):
        with pytest.warns(LogWarning, match="none of the 260 impressions belongs") as caught:
            read(*paths)
        messages.append(str(caught[0].message))
    assert messages[0] == messages[1]


BIG, SMALL = np.array([2**63 + 5, 2**64 - 1, 2**63], np.uint64), np.array([7, 2, 9], np.uint64)


@pytest.mark.parametrize(
    ("viewed", "played"),
    [
        (BIG, BIG),
        (SMALL, SMALL),
        (SMALL, BIG),
        (BIG, SMALL),
        (np.stack([SMALL, BIG]), np.stack([BIG, SMALL])),
        (np.array([7, 2, 9]), BIG),
        (np.stack([BIG, SMALL]), np.array([7, 2, 9])),
    ],
    ids=["big", "small", "big later", "small later", "mixed", "signed viewed", "signed played"],
)
@pytest.mark.filterwarnings("ignore::blob_pyro.data.LogWarning")  # some tables have no user in common
def test_unsigned_ids(tmp_path, monkeypatch, viewed, played):
    """Whichever part of them a chunk has, and whatever integers the other table has."""
    monkeypatch.setattr(parquet_table, "CHUNK", 10)
    views, events = tables()
    for table, name, some in ((views, "item", viewed), (events, "action", played)):
        table["user"] = some.ravel().repeat(len(table) // some.size + 1)[: len(table)]
        table[name] = some.ravel().repeat(len(table) // some.size + 1)[: len(table)]
    paths = write(tmp_path, views, events, rows=10)
    require_same(EventLog.scan_parquet(*paths), EventLog.read_parquet(*paths))


def test_integers_that_no_type_holds_are_named_with_both_columns(tmp_path):
    views, events = tables(text=False)
    events["user"] = np.uint64(2**63)
    message = (
        r"ids: integers of 2\*\*63 or more in impressions: .*column 'user' and integers below 0 in views: .*"
        r"column 'user', .*Cast both to text, or read the log with EventLog.read_parquet"
    )
    with pytest.raises(ValueError, match=message):
        EventLog.scan_parquet(*write(tmp_path, views, events))


def test_ids_that_were_not_there_have_no_number():
    ids = {name: read_ids(Column(pa.chunked_array([some]), name), "") for name, some in {
        "signed": pa.array([-1, 2, 7]), "unsigned": pa.array([2, 7, 2**63], pa.uint64()), "small": pa.array([7, 2]),
    }.items()}  # fmt: skip
    small, unsigned = IdSet(), IdSet()
    assert small.numbers_of(ids["signed"]).tolist() == [-1, -1, -1]
    small.add(ids["small"])
    unsigned.add(ids["unsigned"])
    assert small.numbers_of(ids["unsigned"]).tolist() == [0, 1, -1]
    assert unsigned.numbers_of(ids["signed"]).tolist() == [-1, 0, 1]
    assert unsigned.numbers_of(read_ids(Column(["2", "7"], "text"), "")).tolist() == [-1, -1]
