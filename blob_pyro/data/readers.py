"""Readers: each turns a format into checked rows; `EventLog` orders them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from blob_pyro.data import schema
from blob_pyro.data.vocabulary import Vocabulary

__all__ = ["Rows", "from_arrays", "from_recogym", "from_tables", "read_open_bandit", "read_parquet"]


@dataclass(frozen=True)
class Rows:
    """Checked rows of both kinds in the order given, numbered by the two vocabularies.

    ``user``, ``time``, ``is_view`` and ``item`` (viewed or recommended) have one entry per row; the other columns
    one per impression, in the same order.
    """

    items: Vocabulary
    users: Vocabulary
    user: np.ndarray
    time: np.ndarray
    is_view: np.ndarray
    item: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray | None = None
    position: np.ndarray | None = None
    policy: np.ndarray | None = None
    policies: Vocabulary | None = None


def from_tables(
    views: Any,
    impressions: Any,
    columns: Mapping[str, str | None],
    num_items: int | None,
    items: Iterable[Hashable] | None,
) -> Rows:
    """Rows of two tables, impressions first: see `EventLog.from_tables`."""
    if views is None and impressions is None:
        raise ValueError("log: pass views=..., impressions=..., or both")
    v = _rename(views, "views", columns)
    b = _rename(impressions, "impressions", columns)
    if v.num_rows + b.num_rows == 0:
        raise ValueError("log: the tables have no rows; check the query or filter that made them")
    catalogue = _catalogue(v["item"], b["action"], num_items, items)
    for table, name, column in (("views", "user", v["user"]), ("impressions", "user", b["user"])):
        schema.require(column, table, name, "Drop the row or give it a user id")
    users = Vocabulary.from_arrow(*_common_type(v["user"], b["user"]))
    viewed = _numbers(v["item"], catalogue, "views", "item")
    played = _numbers(b["action"], catalogue, "impressions", "action")
    view_time, play_time = (
        schema.times(v["time"], "views", "time"),
        schema.times(b["time"], "impressions", "time"),
    )
    if v.num_rows and b.num_rows and pa.types.is_temporal(v["time"].type) != pa.types.is_temporal(b["time"].type):
        raise ValueError(
            f"log: column 'time' is {v['time'].type} in views and {b['time'].type} in impressions; use one clock in "
            "both"
        )
    policies, policy = None, None
    if "policy" in b.column_names:
        schema.require(b["policy"], "impressions", "policy", "Name the policy, or leave the column out")
        policies = Vocabulary.from_arrow(b["policy"])
        policy = policies.encode_arrow(b["policy"])
    position = None
    if "position" in b.column_names:
        schema.require(b["position"], "impressions", "position", "Fill it, or leave the column out")
        position = pc.cast(b["position"], pa.int64()).to_numpy()
    return Rows(
        items=catalogue,
        users=users,
        user=np.concatenate([users.encode_arrow(b["user"]), users.encode_arrow(v["user"])]),
        time=np.concatenate([play_time, view_time]),
        is_view=np.arange(b.num_rows + v.num_rows) >= b.num_rows,
        item=np.concatenate([played, viewed]),
        reward=schema.rewards(b["reward"], "impressions", "reward"),
        propensity=(
            schema.propensities(b["propensity"], "impressions", "propensity")
            if "propensity" in b.column_names
            else None
        ),
        position=position,
        policy=policy,
        policies=policies,
    )


def from_arrays(
    num_items: int,
    view_user: np.ndarray,
    view_time: np.ndarray,
    view_item: np.ndarray,
    user: np.ndarray,
    time: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    propensity: np.ndarray | None = None,
) -> Rows:
    """Rows of integer arrays that need no mapping, impressions first: see `EventLog.from_arrays`."""
    if len(view_user) + len(user) == 0:
        raise ValueError("log: there are no events; simulate at least one user")
    for table, name, values in (("views", "item", view_item), ("impressions", "action", action)):
        remedy = "Pass a larger num_items, or drop the row"
        outside = (values < 0) | (values >= num_items)
        schema.fail(table, name, outside, values, f"not one of the {num_items} items", remedy)
    users, everyone = _number_integers(np.concatenate([user, view_user]))
    return Rows(
        items=Vocabulary.numbered(num_items),
        users=users,
        user=everyone,
        time=np.concatenate([time, view_time]),
        is_view=np.arange(len(everyone)) >= len(user),
        item=np.concatenate([action, view_item]),
        reward=schema.check_rewards(reward.astype(np.float32, copy=False), "impressions", "reward"),
        propensity=(
            None
            if propensity is None
            else schema.check_propensities(propensity.astype(np.float64, copy=False), "impressions", "propensity")
        ),
    )


def read_parquet(
    views: str | Path | None, impressions: str | Path | None, columns: Mapping[str, str | None]
) -> tuple[pa.Table | None, pa.Table | None]:
    """The columns needed of one or two Parquet files or folders."""

    def read(path: str | Path | None, table: str) -> pa.Table | None:
        if path is None:
            return None
        required, optional = _source_names(table, columns)
        present = pa.parquet.ParquetDataset(path).schema.names
        return pa.parquet.read_table(path, columns=[n for n in (*required, *optional) if n in present])

    return read(views, "views"), read(impressions, "impressions")


def read_open_bandit(folder: Path) -> tuple[pa.Table, list[int]]:
    """Impressions under the schema's names, and item ids: see `EventLog.read_open_bandit`."""
    log, catalogue = folder / f"{folder.name}.csv", folder / "item_context.csv"
    for path in (log, catalogue):
        if not path.is_file():
            raise ValueError(f"folder: {folder} has no {path.name}; pass <data set>/<policy>/<campaign>, obd/bts/women")
    ours = {"timestamp": "time", "item_id": "action", "position": "position", "click": "reward"}
    raw = pyarrow.csv.read_csv(log)
    ours["action_prob" if "action_prob" in raw.column_names else "propensity_score"] = "propensity"
    table = schema.read_columns(raw, list(ours), log.name).rename_columns(list(ours.values()))
    items = schema.read_columns(pyarrow.csv.read_csv(catalogue), ["item_id"], catalogue.name)["item_id"]
    return table.append_column("user", pa.array(np.arange(table.num_rows))), items.to_pylist()


def from_recogym(frame: Any, num_items: int, drop_final_rows: bool) -> Rows:
    """Rows of RecoGym's frame, which interleaves both kinds: see `EventLog.from_recogym`."""
    name = "frame"
    t = schema.read_columns(frame, ("t", "u", "z", "v", "a", "c", "ps"), name)
    if t.num_rows == 0:
        raise ValueError("frame: the log has no rows; simulate at least one user")
    kinds = pc.cast(t["z"], pa.string())
    is_view = pc.fill_null(pc.equal(kinds, "organic"), False).to_numpy()
    known = is_view | pc.fill_null(pc.equal(kinds, "bandit"), False).to_numpy()
    schema.fail(name, "z", ~known, kinds, "an event is 'organic' or 'bandit'", "Map other kinds, or drop their rows")
    schema.require(t["u"], name, "u", "Drop the row or give it a user id")
    items = Vocabulary.numbered(num_items)
    users = Vocabulary.from_arrow(t["u"])
    user = users.encode_arrow(t["u"])
    time = schema.times(t["t"], name, "t")
    viewed, played = t["v"], t["a"]
    for column, values, rows in (("v", viewed, is_view), ("a", played, ~is_view), ("c", t["c"], ~is_view)):
        missing = schema.is_missing(values) & rows
        schema.fail(name, column, missing, values, "a value is missing", "Drop the row or give it its value")
    item = np.where(is_view, _integers(viewed), _integers(played))
    for column, rows in (("v", is_view), ("a", ~is_view)):
        outside = rows & ((item < 0) | (item >= num_items))
        remedy = f"Pass num_items={int(item[rows].max(initial=0)) + 1} or more, or drop the row"
        schema.fail(name, column, outside, item, f"an item id must lie in 0..{num_items - 1}", remedy)
    keep = np.ones(t.num_rows, dtype=bool)
    if drop_final_rows:
        order = np.lexsort((time, user))
        last = order[np.flatnonzero(np.diff(user[order], append=-1))]
        unclicked = pc.fill_null(pc.equal(t["c"], 0), False).to_numpy()
        keep[last[~is_view[last] & unclicked[last]]] = False
    played_rows = ~is_view & keep
    # The columns hold nothing in the other kind's rows; give those a legal value, check, then select.
    rewards = schema.rewards(_fill(t["c"], is_view, 0), name, "c")[played_rows]
    propensities = schema.propensities(_fill(t["ps"], is_view, 1), name, "ps")[played_rows]
    return Rows(items, users, user[keep], time[keep], is_view[keep], item[keep], rewards, propensities)


def _number_integers(ids: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
    """Integer ids in increasing order, and the number of each entry: by counting where they lie close together."""
    low, high = int(ids.min()), int(ids.max())
    if high - low > 4 * len(ids):
        known, numbers = np.unique(ids, return_inverse=True)
    else:
        present = np.zeros(high - low + 1, dtype=bool)
        present[ids - low] = True
        known = np.flatnonzero(present) + low
        numbers = (np.cumsum(present) - 1)[ids - low]
    contiguous = low == 0 and len(known) == high + 1
    return Vocabulary.numbered(high + 1) if contiguous else Vocabulary(known.tolist()), numbers


def _source_names(table: str, columns: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """The user's names of a table's required and optional columns."""
    required = schema.VIEW_COLUMNS if table == "views" else schema.IMPRESSION_COLUMNS
    optional = () if table == "views" else schema.OPTIONAL_IMPRESSION_COLUMNS
    names = {n: columns.get(f"{table}.{n}", columns.get(n, n)) for n in (*required, *optional)}
    if any(names[n] is None for n in required):
        raise ValueError(f"columns: {next(n for n in required if names[n] is None)!r} cannot be left out of {table}")
    return [str(names[n]) for n in required], [str(names[n]) for n in optional if names[n] is not None]


def _rename(frame: Any, table: str, columns: Mapping[str, str | None]) -> pa.Table:
    """A table with the schema's own column names; an absent table as one without rows."""
    known = {*schema.VIEW_COLUMNS, *schema.IMPRESSION_COLUMNS, *schema.OPTIONAL_IMPRESSION_COLUMNS}
    unknown = [key for key in columns if key.removeprefix("views.").removeprefix("impressions.") not in known]
    if unknown:
        raise ValueError(f"columns: unknown key {unknown[0]!r}; the schema's names are {', '.join(sorted(known))}")
    ours = schema.VIEW_COLUMNS if table == "views" else schema.IMPRESSION_COLUMNS
    if frame is None:
        return pa.table({name: pa.array([], type=pa.int64()) for name in ours})
    required, optional = _source_names(table, columns)
    found = schema.read_columns(frame, required, table, optional)
    back = dict(zip(required, ours))
    for name in schema.OPTIONAL_IMPRESSION_COLUMNS if table == "impressions" else ():
        source = columns.get(f"{table}.{name}", columns.get(name, name))
        if source is not None and source in found.column_names:
            back[source] = name
    return pa.table({back[name]: found[name] for name in found.column_names})


def _catalogue(
    viewed: pa.ChunkedArray, played: pa.ChunkedArray, num_items: int | None, items: Iterable[Hashable] | None
) -> Vocabulary:
    if num_items is not None and items is not None:
        raise ValueError("pass num_items or items, not both: num_items says that ids are 0..num_items-1")
    if num_items is not None:
        return Vocabulary.numbered(num_items)
    if items is not None:
        return Vocabulary(items)
    return Vocabulary.from_arrow(*_common_type(viewed, played))


def _common_type(*columns: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    """Columns of one type: int32 and int64 ids are the same ids; an empty column takes the other's type."""
    types = {column.type for column in columns if len(column)}
    if len(types) <= 1:
        target = next(iter(types), pa.int64())
    elif all(pa.types.is_integer(t) for t in types):
        target = pa.int64()
    elif all(pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t) for t in types):
        target = pa.large_string()
    else:
        raise ValueError(f"ids have different types in views and impressions: {', '.join(sorted(map(str, types)))}")
    return [pc.cast(column, target) if column.type != target else column for column in columns]


def _numbers(column: pa.ChunkedArray, catalogue: Vocabulary, table: str, name: str) -> np.ndarray:
    schema.require(column, table, name, "Drop the row or give it an item id")
    if catalogue.is_numbered and len(column) and not pa.types.is_integer(column.type):
        raise ValueError(
            f"{table}: column {name!r} has type {column.type}; with num_items given, ids are integers 0.."
            f"{len(catalogue) - 1}. Leave num_items out to map any ids"
        )
    numbers = catalogue.encode_arrow(column) if len(column) else np.zeros(0, dtype=np.int64)
    schema.fail(
        table, name, numbers < 0, column, f"not one of the {len(catalogue)} items",
        "Pass a larger num_items, add the id to items=..., or drop the row",
    )  # fmt: skip
    return numbers


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    """Whole numbers of a column that is null where it does not apply: -1 there, and for fractions."""
    values = pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy()
    return np.where(values == np.floor(values), values, -1).astype(np.int64)


def _fill(column: pa.ChunkedArray, where: np.ndarray, value: float) -> pa.ChunkedArray:
    filled = pc.if_else(pa.array(where), pa.scalar(value, pa.float64()), pc.cast(column, pa.float64()))
    return filled if isinstance(filled, pa.ChunkedArray) else pa.chunked_array([filled])
