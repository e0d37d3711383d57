"""The one log schema, and the checks that every reader shares.

A log has two kinds of row. A *view* is organic: user, time, item. An *impression* (a bandit event) is user, time,
action, reward and, where the logging policy is known, its propensity; optionally the position on a page and the
policy that logged it. An error names the column, the first offending row (counted from 0 in the table as given)
and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["IMPRESSION_COLUMNS", "OPTIONAL_IMPRESSION_COLUMNS", "VIEW_COLUMNS"]

VIEW_COLUMNS = ("user", "time", "item")
IMPRESSION_COLUMNS = ("user", "time", "action", "reward")
OPTIONAL_IMPRESSION_COLUMNS = ("propensity", "position", "policy")


def read_columns(frame: Any, names: Sequence[str], table: str, optional: Sequence[str] = ()) -> pa.Table:
    """The named columns of any Arrow-speaking frame (pandas, polars, pyarrow, a dict of arrays) as an Arrow table.

    Raises:
        ValueError: naming the columns that are missing.
        TypeError: if ``frame`` does not speak Arrow.
    """
    if isinstance(frame, Mapping):
        present = list(frame)
    elif hasattr(frame, "column_names"):
        present = list(frame.column_names)
    elif hasattr(frame, "columns"):
        present = list(frame.columns)
    else:
        raise TypeError(f"{table}: expected a pandas, polars or Arrow table, or a dict of arrays, got {type(frame)}")
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(
            f"{table}: missing column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}; "
            f"the table has {', '.join(map(repr, present))}. Map other names with columns={{...}}"
        )
    wanted = [*names, *(name for name in optional if name in present)]
    if isinstance(frame, Mapping):
        return pa.table({name: frame[name] for name in wanted})
    if isinstance(frame, pa.Table):
        return frame.select(wanted)
    if hasattr(frame, "select") and hasattr(frame, "to_arrow"):  # polars, whose strings come as views
        return frame.select(wanted).to_arrow()
    return pa.table({name: pa.chunked_array([pa.array(frame[name], from_pandas=True)]) for name in wanted})


def fail(table: str, column: str, bad: np.ndarray, values: Any, problem: str, remedy: str) -> None:
    """Raise for the first true entry of ``bad``, if there is one."""
    if bad.any():
        row = int(bad.argmax())
        value = values[row].as_py() if isinstance(values, (pa.ChunkedArray, pa.Array)) else values[row].item()
        count = int(bad.sum())
        more = f" ({count} such rows)" if count > 1 else ""
        raise ValueError(f"{table}: column {column!r}, row {row}: {problem}, got {value!r}{more}. {remedy}")


def is_missing(column: pa.ChunkedArray) -> np.ndarray:
    """Nulls and NaNs."""
    return pc.is_null(column, nan_is_null=True).to_numpy()


def require(column: pa.ChunkedArray, table: str, name: str, remedy: str) -> None:
    """Refuse nulls and NaNs."""
    if column.null_count or pa.types.is_floating(column.type):
        fail(table, name, is_missing(column), column, "a value is missing", remedy)


def times(column: pa.ChunkedArray, table: str, name: str) -> np.ndarray:
    """Times as int64 or float64; timestamps as ticks of their own unit."""
    require(
        column,
        table,
        name,
        "Drop the row or give it a time: the order of events decides what a policy had seen",
    )
    if pa.types.is_temporal(column.type):
        width = column.type.bit_width
        column = pc.cast(column, pa.int64()) if width == 64 else pc.cast(pc.cast(column, pa.int32()), pa.int64())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(
            f"{table}: column {name!r} has type {column.type}; times are numbers or timestamps. Parse it first"
        )
    values = column.to_numpy()
    if values.dtype.kind == "f":
        fail(
            table,
            name,
            ~np.isfinite(values),
            values,
            "a time must be finite",
            "Drop the row or mend its time",
        )
    return values


def rewards(column: pa.ChunkedArray, table: str, name: str) -> np.ndarray:
    """Rewards as float32 zeros and ones."""
    require(column, table, name, "An impression without a known outcome cannot be learned from: drop it")
    return check_rewards(pc.cast(column, pa.float32()).to_numpy(), table, name)


def check_rewards(values: np.ndarray, table: str, name: str) -> np.ndarray:
    """Refuse what is neither 0 nor 1."""
    bad = (values != 0) & (values != 1)
    fail(table, name, bad, values, "a reward is 0 or 1", "Binarise it (clicked or not) before building the log")
    return values


def propensities(column: pa.ChunkedArray, table: str, name: str) -> np.ndarray:
    """Propensities as float64 in (0, 1]."""
    require(column, table, name, "Fill it, or leave the column out with columns={'propensity': None}")
    return check_propensities(pc.cast(column, pa.float64()).to_numpy(), table, name)


def check_propensities(values: np.ndarray, table: str, name: str) -> np.ndarray:
    """Refuse what is not a probability in (0, 1]."""
    bad = ~((values > 0) & (values <= 1))
    fail(
        table, name, bad, values, "a propensity is a probability in (0, 1]",
        "The action was played, so its probability was not 0: log the policy's own probability of it",
    )  # fmt: skip
    return values
