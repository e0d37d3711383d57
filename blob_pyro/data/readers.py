"""Readers: each turns a format into checked rows; `EventLog` orders them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from blob_pyro.data import clock, schema
from blob_pyro.data.columns import Column
from blob_pyro.data.covariates import Covariate, read_covariate
from blob_pyro.data.frames import read_frame
from blob_pyro.data.ids import read_ids
from blob_pyro.data.vocabulary import Vocabulary

__all__ = [
    "NO_ITEM",
    "NO_USER",
    "Rows",
    "from_arrays",
    "from_recogym",
    "from_tables",
    "given_catalogue",
    "look_up_items",
    "read_open_bandit",
    "read_parquet",
]

NO_USER = "Drop the row or give it a user id"
NO_ITEM = "Drop the row or give it an item id"


@dataclass(frozen=True)
class Rows:
    """Checked rows of both kinds in the order given, numbered by the two vocabularies.

    ``user``, ``time``, ``is_view`` and ``item`` (viewed or recommended) have one entry per row; the other columns
    one per impression, in the same order. ``clock`` and ``tick`` are those of `clock.Times`; ``two_tables`` says that
    views and impressions came with a clock each. ``earlier`` marks views, one entry per row, that the log
    remembers; ``row`` says where in the table each impression stood.
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
    policy_version: np.ndarray | None = None
    policy_versions: Vocabulary | None = None
    propensity_error: np.ndarray | None = None
    score: np.ndarray | None = None
    covariates: Mapping[str, Covariate] = field(default_factory=dict)
    clock: str = clock.NUMBER
    tick: int = 1
    two_tables: bool = False
    earlier: np.ndarray | None = None
    row: np.ndarray | None = None


def from_tables(
    views: Any,
    impressions: Any,
    columns: Mapping[str, Hashable | None],
    num_items: int | None,
    items: Iterable[Hashable] | None,
    label: str | None = None,
    covariates: Iterable[str] = (),
) -> Rows:
    """Read the rows of two tables, impressions first: see `EventLog.from_tables`; ``label`` names their file."""
    covariates = covariate_names(covariates)
    if covariates and impressions is None:
        raise ValueError("covariates: belong to impressions, and there are none; pass impressions=...")
    if views is None and impressions is None:
        raise ValueError("log: pass views=..., impressions=..., or both")
    given = given_catalogue(num_items, items)
    v = schema.read_table(views, "views", columns)
    b = schema.read_table(impressions, "impressions", columns, label, covariates)
    num_views, num_impressions = len(v["user"]), len(b["user"])
    if num_views + num_impressions == 0:
        raise ValueError("log: the tables have no rows; check the query or filter that made them")
    viewer, player = read_ids(v["user"], NO_USER), read_ids(b["user"], NO_USER)
    users = Vocabulary.of(player, viewer)
    catalogue, viewed, played = _items(given, v["item"], b["action"])
    view_times, play_times = clock.one_clock(v["time"], b["time"])
    both = (view_times, play_times) if num_views and num_impressions else (view_times if num_views else play_times,)
    policies, policy = _names(b.get("policy"), "Name the policy, or leave the column out")
    versions, version = _names(b.get("policy_version"), "Give the policy's version, or leave the column out")
    return Rows(
        items=catalogue,
        users=users,
        user=np.concatenate([users.numbers_of(player), users.numbers_of(viewer)]),
        time=np.concatenate([play_times.values, view_times.values]) if len(both) == 2 else both[0].values,
        is_view=np.arange(num_impressions + num_views) >= num_impressions,
        item=np.concatenate([played, viewed]),
        reward=schema.rewards(b["reward"]),
        propensity=schema.propensities(b["propensity"]) if "propensity" in b else None,
        position=schema.integers(b["position"], "a position is a whole number") if "position" in b else None,
        policy=policy,
        policies=policies,
        policy_version=version,
        policy_versions=versions,
        propensity_error=schema.errors(b["propensity_error"]) if "propensity_error" in b else None,
        score=schema.scores(b["score"]) if "score" in b else None,
        covariates={name: read_covariate(b[f"covariate {name}"]) for name in covariates},
        clock=both[0].clock,
        tick=int(np.gcd.reduce([times.tick for times in both])),
        two_tables=True,
        row=np.arange(num_impressions),
    )


def covariate_names(covariates: Iterable[str]) -> tuple[str, ...]:
    """Check names of columns, and return each once."""
    if isinstance(covariates, (str, bytes)) or not isinstance(covariates, Iterable):
        raise TypeError(f"covariates: expected names of columns, such as ['hour', 'device'], got {covariates!r}")
    names = tuple(covariates)
    odd = next((n for n in names if not isinstance(n, str)), None)
    if odd is not None:
        raise TypeError(f"covariates: a name is text, got {odd!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"covariates: {next(n for n in names if names.count(n) > 1)!r} is named twice")
    return names


def from_arrays(num_items: int, **arrays: Any) -> Rows:
    """Read the rows of integer arrays that need no mapping, impressions first: see `EventLog.from_arrays`."""
    items = Vocabulary.numbered(num_items)
    given = {name: _array(name, v) for name, v in arrays.items() if v is not None or name != "propensity"}
    lengths = {"view_user": ("view_time", "view_item"), "user": ("time", "action", "reward", "propensity")}
    for first, others in lengths.items():
        for name in others:
            if name in given and len(given[name]) != len(given[first]):
                raise ValueError(
                    f"{name}: expected {len(given[first]):,} values, as many as {first}, got {len(given[name]):,}"
                )
    view_user, user = given["view_user"], given["user"]
    if len(view_user) + len(user) == 0:
        raise ValueError("log: there are no events; simulate at least one user")
    for name in ("view_user", "view_item", "user", "action"):
        if given[name].dtype.kind not in "iu" and len(given[name]):
            raise ValueError(f"{name}: expected integers, got {given[name].dtype}; map ids with EventLog.from_tables")
        given[name] = given[name].astype(np.int64, copy=False)
    for name in ("view_item", "action"):
        outside = (given[name] < 0) | (given[name] >= len(items))
        problem, remedy = f"not one of the {len(items)} items", "Pass a larger num_items, or drop the row"
        _named(name, given[name]).fail(outside, problem, remedy)
    times = clock.one_clock(_named("time", given["time"]), _named("view_time", given["view_time"]))
    users, everyone = _number_integers(np.concatenate([given["user"], given["view_user"]]))
    some = [t.values for t in times if len(t.values)]
    return Rows(
        items=items,
        users=users,
        user=everyone,
        time=np.concatenate(some),
        is_view=np.arange(len(everyone)) >= len(user),
        item=np.concatenate([given["action"], given["view_item"]]),
        reward=schema.rewards(_named("reward", given["reward"])),
        propensity=schema.propensities(_named("propensity", given["propensity"])) if "propensity" in given else None,
    )


def read_parquet(
    views: str | Path | None,
    impressions: str | Path | None,
    columns: Mapping[str, Hashable | None],
    covariates: Iterable[str] = (),
) -> tuple[pa.Table | None, pa.Table | None]:
    """Read the columns needed of one or two Parquet files or folders."""

    def read(path: str | Path | None, table: str) -> pa.Table | None:
        if path is None:
            return None
        _require_path(path, table, "a Parquet file or folder")
        required, optional, _ = schema.column_names(table, columns)
        wanted = {*required.values(), *optional.values(), *(covariates if table == "impressions" else ())}
        try:
            present = pa.parquet.ParquetDataset(path).schema.names
            return pa.parquet.read_table(path, columns=[name for name in present if name in wanted])
        except FileNotFoundError as error:
            problem = f"{table}: {path} is not there; give the path of a Parquet file or folder"
            raise FileNotFoundError(problem) from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{table}: {path} cannot be read as Parquet: {error}") from None

    return read(views, "views"), read(impressions, "impressions")


def _require_path(value: Any, argument: str, what: str) -> None:
    """Refuse what is no path; a name that no file can have is found by whoever looks for it."""
    if not isinstance(value, (str, Path)):
        raise TypeError(f"{argument}: expected the path of {what}, got {type(value).__name__}")
    if not str(value):
        raise ValueError(f"{argument}: is empty; give the path of {what}")


def read_open_bandit(folder: str | Path) -> Rows:
    """Read the rows of a campaign's impressions: see `EventLog.read_open_bandit`."""
    _require_path(folder, "folder", "a campaign's folder")
    folder = Path(folder)
    log, catalogue = folder / f"{folder.name}.csv", folder / "item_context.csv"
    for path in (log, catalogue):
        if not path.is_file():
            raise ValueError(f"folder: {folder} has no {path.name}; pass <data set>/<policy>/<campaign>, obd/bts/women")
    raw, context = _read_csv(log), _read_csv(catalogue)
    columns: dict[str, Hashable | None] = {
        "user": "user",
        "time": "timestamp",
        "action": "item_id",
        "position": "position",
        "reward": "click",
        "propensity": "action_prob" if "action_prob" in raw.column_names else "propensity_score",
        "policy": None,
    }
    items = read_frame(context, catalogue.name, {"item_id": "item_id"}, remedy="It is not the data set's file")
    if "user" not in raw.column_names:  # the data set has none: each impression is a user of its own
        raw = raw.append_column("user", pa.array(np.arange(raw.num_rows)))
    return from_tables(None, raw, columns, None, items["item_id"].values, label=log.name)


def _read_csv(path: Path) -> pa.Table:
    try:
        return pyarrow.csv.read_csv(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: cannot be read as CSV: {error}") from None


def from_recogym(frame: Any, num_items: int, drop_final_rows: bool) -> Rows:
    """Read the rows of RecoGym's frame, which interleaves both kinds: see `EventLog.from_recogym`."""
    items = Vocabulary.numbered(num_items)
    remedy = "Pass the frame that RecoGym's generate_logs returns; other tables go to EventLog.from_tables"
    t = read_frame(frame, "frame", {name: name for name in ("t", "u", "z", "v", "a", "c", "ps")}, remedy=remedy)
    if not len(t["t"]):
        raise ValueError("frame: the log has no rows; simulate at least one user")
    is_view = _is_view(t["z"])
    user_ids = read_ids(t["u"], NO_USER)
    users = Vocabulary.of(user_ids)
    user = users.numbers_of(user_ids)
    times = clock.read_times(t["t"])
    item = np.zeros(len(user), dtype=np.int64)
    for column, rows in ((t["v"], is_view), (t["a"], ~is_view)):
        numbers = schema.integers(column, f"an item id must lie in 0..{num_items - 1}", rows)
        largest = int(numbers.max(initial=0))
        outside = rows & ((numbers < 0) | (numbers >= num_items))
        wider = f"Pass num_items={largest + 1} or more, or drop the row"
        column.fail(outside, f"an item id must lie in 0..{num_items - 1}", wider)
        item[rows] = numbers[rows]
    rewards = schema.rewards(t["c"], ~is_view)
    keep = np.ones(len(user), dtype=bool)
    if drop_final_rows:
        order = np.lexsort((times.values, user))
        last = order[np.flatnonzero(np.diff(user[order], append=-1))]
        keep[last[~is_view[last] & (rewards[last] == 0)]] = False
    played = ~is_view & keep
    no_propensity = "Log with an agent that says ps, or pass the columns to EventLog.from_tables without it"
    logged = schema.propensities(t["ps"], ~is_view, no_propensity)
    return Rows(
        items, users, user[keep], times.values[keep], is_view[keep], item[keep], rewards[played], logged[played],
        clock=times.clock, tick=times.tick,
    )  # fmt: skip


def _is_view(column: Column) -> np.ndarray:
    """Which rows are organic, of a column that says "organic" or "bandit"."""
    remedy = "Map other kinds, or drop their rows"
    kinds = read_ids(column, remedy, mixed=True)
    known = {"organic": 1, "bandit": 0}
    code = np.array([known.get(kind, -1) if isinstance(kind, str) else -1 for kind in kinds.objects])[kinds.row]
    column.fail(code < 0, "an event is 'organic' or 'bandit'", remedy)
    result: np.ndarray = code == 1
    return result


def _names(column: Column | None, remedy: str) -> tuple[Vocabulary | None, np.ndarray | None]:
    """The distinct ids of a column of names, and which of them each row has; neither where there are none."""
    if column is None or not len(column):
        return None, None
    named = read_ids(column, remedy)
    known = Vocabulary.of(named)
    return known, known.numbers_of(named)


def given_catalogue(num_items: int | None, items: Iterable[Hashable] | None) -> Vocabulary | None:
    """Make the catalogue that the caller gives, if any.

    Args:
        num_items: ids are ``0 .. num_items - 1``.
        items: ids, in the order of their numbers.

    Raises:
        ValueError: if both are given.
    """
    if num_items is not None and items is not None:
        raise ValueError("pass num_items or items, not both: num_items says that ids are 0..num_items-1")
    if num_items is not None:
        return Vocabulary.numbered(num_items)
    return None if items is None else Vocabulary(items, "items")


def _items(given: Vocabulary | None, viewed: Column, played: Column) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The catalogue, and the numbers of what was viewed and what was played."""
    if given is None:
        ids = (read_ids(viewed, NO_ITEM), read_ids(played, NO_ITEM))
        catalogue = Vocabulary.of(*ids)
        return catalogue, catalogue.numbers_of(ids[0]), catalogue.numbers_of(ids[1])
    return given, look_up_items(given, viewed), look_up_items(given, played)


def look_up_items(given: Vocabulary, column: Column) -> np.ndarray:
    """Number the items of a column by a catalogue.

    Args:
        given: the catalogue.
        column: of item ids.

    Raises:
        ValueError: naming the row of one that is not in it.
    """
    remedy = "Pass a larger num_items, add the id to items=..., or drop the row"
    return given.look_up(column, f"not one of the {len(given)} items", remedy)


def _array(name: str, values: Any) -> np.ndarray:
    """A tensor or array of one dimension as NumPy's, without a copy."""
    if isinstance(values, Tensor):
        if values.requires_grad:
            raise ValueError(f"{name}: requires grad, and a log is data; pass {name}.detach()")
        if values.layout != torch.strided:
            raise ValueError(f"{name}: expected a dense tensor, got layout {values.layout}; pass {name}.to_dense()")
        values = (values.to(torch.float32) if values.dtype == torch.bfloat16 else values).cpu().numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{name}: expected a tensor, got {type(values).__name__}")
    if values.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {values.shape}")
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{name}: expected numbers, got {values.dtype}")
    return values


def _named(name: str, values: np.ndarray) -> Column:
    return Column(pa.chunked_array([pa.array(values)]), name, lambda row: f"{name}[{row}]")


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
