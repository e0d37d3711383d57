"""The one log schema, and the checks of its values that every reader shares.

A log has two kinds of row. A *view* is organic: user, time, item. An *impression* (a bandit event) is user, time,
action, reward and, where the logging policy is known, its propensity, with that number's own standard error; optionally
the position on a page, the score that the item had, and the policy that logged it, with its version. An error names the
table, the column, the first offending row (counted from 0 in the table as given) and the remedy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blob_pyro.data.columns import Column
from blob_pyro.data.frames import read_frame

__all__ = ["column_names", "errors", "integers", "propensities", "read_table", "rewards", "scores"]

VIEW_COLUMNS = ("user", "time", "item")
IMPRESSION_COLUMNS = ("user", "time", "action", "reward")
OPTIONAL_IMPRESSION_COLUMNS = ("propensity", "propensity_error", "position", "score", "policy", "policy_version")
_ROLES = {
    "views": (VIEW_COLUMNS, ()),
    "impressions": (IMPRESSION_COLUMNS, OPTIONAL_IMPRESSION_COLUMNS),
}


def column_names(
    table: str, columns: Mapping[str, Hashable | None]
) -> tuple[dict[str, Hashable], dict[str, Hashable], list[str]]:
    """Return the user's names of a table's required columns, of its optional ones, and of those asked for.

    Args:
        table: ``"views"`` or ``"impressions"``.
        columns: the user's names by the schema's, as `EventLog.from_tables` takes them.

    Raises:
        TypeError: if ``columns`` is no mapping of names to names.
        ValueError: for a key that the schema does not know, or a required column that is left out.
    """
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a mapping such as {{'item': 'sku'}}, got {columns!r}")
    known = {role for required, optional in _ROLES.values() for role in (*required, *optional)}
    known |= {f"{t}.{role}" for t, (required, optional) in _ROLES.items() for role in (*required, *optional)}
    for key, name in columns.items():
        if key not in known:
            raise ValueError(f"columns: unknown key {key!r}; the schema's names are {', '.join(sorted(known))}")
        if name is not None and not isinstance(name, Hashable):
            raise TypeError(f"columns: the name of {key!r} must be a column's name or None, got {name!r}")
    required, optional = _ROLES[table]
    names = {role: columns.get(f"{table}.{role}", columns.get(role, role)) for role in (*required, *optional)}
    for role in required:
        if names[role] is None:
            raise ValueError(f"columns: {role!r} cannot be left out of {table}")
    asked = [role for role in optional if names[role] is not None and (role in columns or f"{table}.{role}" in columns)]
    wanted = {role: name for role, name in names.items() if name is not None}
    return {r: wanted[r] for r in required}, {r: wanted[r] for r in optional if r in wanted}, asked


def read_table(
    frame: Any,
    table: str,
    columns: Mapping[str, Hashable | None],
    label: str | None = None,
    covariates: Iterable[str] = (),
) -> dict[str, Column]:
    """Read the columns of a table by the schema's names; those of an absent table are empty.

    Args:
        frame: the table, or None.
        table: ``"views"`` or ``"impressions"``.
        columns: the user's names by the schema's.
        label: what to call the table in an error message, if not ``table``.
        covariates: columns that are read besides, under ``"covariate NAME"``.
    """
    required, optional, asked = column_names(table, columns)
    if frame is None:
        return {role: Column(pa.chunked_array([], pa.null()), f"{table}: column {role!r}") for role in required}
    required |= {role: optional.pop(role) for role in asked}
    required |= {f"covariate {name}": name for name in covariates}
    return read_frame(frame, label or table, required, optional)


def rewards(column: Column, rows: np.ndarray | None = None) -> np.ndarray:
    """Read rewards as float32 zeros and ones; ``rows`` says which must be, where it is given."""
    remedy = "Binarise it (clicked or not) before building the log"
    values = column.floats("a reward is 0 or 1", remedy, booleans=True)
    where = np.ones(len(column), dtype=bool) if rows is None else rows
    missing = "An impression without a known outcome cannot be learned from: drop it"
    column.fail(np.isnan(values) & where, "a value is missing", missing)
    column.fail((values != 0) & (values != 1) & where, "a reward is 0 or 1", remedy)
    return values.astype(np.float32)


def propensities(column: Column, rows: np.ndarray | None = None, remedy: str = "") -> np.ndarray:
    """Read propensities as float64 in (0, 1]; ``rows`` says which must be, where it is given."""
    what = "a propensity is a probability in (0, 1]"
    values = column.floats(what, "Log the policy's own probability of the action")
    where = np.ones(len(column), dtype=bool) if rows is None else rows
    missing = remedy or "Fill it, or leave the column out with columns={'propensity': None}"
    column.fail(np.isnan(values) & where, "a value is missing", missing)
    played = "The action was played, so its probability was not 0: log the policy's own probability of it"
    column.fail(~((values > 0) & (values <= 1)) & where, what, played)
    return values


def errors(column: Column) -> np.ndarray:
    """Read standard errors of propensities as float64, NaN where one is not known."""
    what, remedy = "a standard error is a number, 0 or more", "Leave it empty where it is not known, 0 says exact"
    values = column.floats(what, remedy)
    column.fail((values < 0) | np.isinf(values), what, remedy)
    return values


def scores(column: Column) -> np.ndarray:
    """Read scores as float64, NaN where the policy has none."""
    what, remedy = "a score is a number", "Leave the column out with columns={'score': None}"
    values = column.floats(what, remedy)
    column.fail(np.isinf(values), "a score is finite", "Leave it empty where the policy has none")
    return values


def integers(column: Column, what: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Read whole numbers as int64; ``rows`` says which must be, where it is given, and the others are -1."""
    remedy = "Cast the column to integers, or leave it out"
    where = np.ones(len(column), dtype=bool) if rows is None else rows
    arrow = column.arrow
    if rows is None and arrow is not None and pa.types.is_integer(arrow.type) and arrow.type != pa.uint64():
        column.require("Fill it, or leave the column out")
        result: np.ndarray = pc.cast(arrow, pa.int64()).to_numpy()
        return result
    values = column.floats(what, remedy)
    column.fail(np.isnan(values) & where, "a value is missing", "Fill it, or drop the row")
    column.fail(~((np.floor(values) == values) & (np.abs(values) < 2**53)) & where, what, remedy)
    return np.where(where, values, -1).astype(np.int64)
