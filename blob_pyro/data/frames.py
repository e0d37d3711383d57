"""Frames of any library, read by column: only the columns that are needed are touched."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from blob_pyro.data.columns import Column, as_values

__all__ = ["read_frame"]


def read_frame(
    frame: Any,
    table: str,
    required: Mapping[str, Hashable],
    optional: Mapping[str, Hashable] | None = None,
    remedy: str = "Map other names with columns={...}",
) -> dict[str, Column]:
    """Read the columns that a reader asks for, by what it calls them.

    Args:
        frame: pandas, polars (a LazyFrame is collected, only these columns of it), pyarrow, a mapping of columns, or
            anything that exports an Arrow stream.
        table: what to call the frame in an error message.
        required: the frame's names of the columns, by role: ``{"item": "sku"}``.
        optional: the same, for columns that may be absent.
        remedy: what to do about a column that is missing.

    Raises:
        ValueError: naming columns that are missing, occur twice, serve two roles or differ in length.
        TypeError: if ``frame`` is no table, or a column no column.
    """
    names, pick = _open(frame, table)
    missing = [name for name in required.values() if name not in names]
    if missing:
        raise ValueError(
            f"{table}: missing column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}; "
            f"the table has {', '.join(map(repr, names)) or 'no columns'}. {remedy}"
        )
    wanted = {**required, **{role: name for role, name in (optional or {}).items() if name in names}}
    roles: dict[Hashable, str] = {}
    for role, name in wanted.items():
        if names.count(name) > 1:
            raise ValueError(f"{table}: column {name!r} occurs {names.count(name)} times; drop or rename the others")
        if name in roles:
            raise ValueError(
                f"{table}: column {name!r} cannot be both {roles[name]!r} and {role!r}; give each a column of its own"
            )
        roles[name] = role
    raw = pick(list(wanted.values()))
    columns = {}
    for role, name in wanted.items():
        where = f"{table}: column {name!r}" + ("" if role == name else f" ({role})")
        columns[role] = Column(as_values(raw[name], where), where)
    first = next(iter(columns.values()))
    for column in columns.values():
        if len(column) != len(first):
            raise ValueError(
                f"{column.where} has {len(column):,} rows, but {first.where} has {len(first):,}; "
                "the columns of a table have one length"
            )
    return columns


def _open(frame: Any, table: str) -> tuple[list[Hashable], Callable[[list[Hashable]], Mapping[Hashable, Any]]]:
    """The names of a frame's columns, and a function that takes some of them out."""
    if isinstance(frame, type):  # it has the methods of a frame, and no columns
        raise TypeError(f"{table}: expected a table, got the class {frame.__name__}; pass one of its instances")
    if isinstance(frame, Mapping):
        return list(frame), lambda names: {name: frame[name] for name in names}
    if isinstance(frame, pd.DataFrame):
        return list(frame.columns), lambda names: {name: frame[name] for name in names}
    if hasattr(frame, "collect_schema") and hasattr(frame, "collect"):  # a polars LazyFrame
        return list(frame.collect_schema().names()), lambda names: frame.select(names).collect()
    if not isinstance(frame, (pa.Table, pa.RecordBatch)):
        if hasattr(frame, "get_columns") and hasattr(frame, "columns"):  # polars: its objects have no Arrow type
            return list(frame.columns), lambda names: {name: frame[name] for name in names}
        if not hasattr(frame, "__arrow_c_stream__"):
            raise TypeError(
                f"{table}: expected a pandas, polars or Arrow table, or a dict of arrays, got {type(frame)}"
            )
        frame = pa.table(frame)
    names: list[Hashable] = list(frame.schema.names)

    def pick(wanted: list[Hashable]) -> Mapping[Hashable, Any]:
        return {name: frame.column(names.index(name)) for name in wanted}

    return names, pick
