"""Covariates of events: what was known of a decision beside the user's views, by name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from blob_pyro.data.columns import Column, as_values
from blob_pyro.data.ids import read_ids

__all__ = ["Covariate", "read_covariate", "read_covariates", "slice_covariates"]

_FILL = "Fill it, or leave the covariate out"


@dataclass(frozen=True)
class Covariate:
    """One number or one category for each event.

    Attributes:
        values: numbers, float64; or positions in ``levels``, int64; ``N``.
        levels: the categories that occur, sorted where they can be; None for numbers.
    """

    values: Tensor
    levels: tuple[Hashable, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor) -> Covariate:
        """The covariate of some events, or in another order."""
        return Covariate(self.values[index], self.levels)

    def categories(self) -> list[Hashable]:
        """Return the categories that events have.

        Raises:
            TypeError: if it is a number.
        """
        if self.levels is None:
            raise TypeError("covariate: holds numbers, not categories")
        return [self.levels[i] for i in self.values.tolist()]


def read_covariate(column: Column) -> Covariate:
    """Read numbers and booleans as they are; text and other ids as categories.

    Raises:
        ValueError: naming column and row, for a value that is missing or not finite, or of two kinds.
    """
    if _holds_numbers(column):
        what = "a covariate is a finite number, or a category"
        values = column.floats(what, _FILL, booleans=True)
        column.fail(np.isnan(values), "a value is missing", _FILL)
        column.fail(~np.isfinite(values), what, _FILL)
        return Covariate(torch.from_numpy(np.array(values)))
    ids = read_ids(column, _FILL)
    levels = ids.objects
    try:
        order = sorted(range(len(levels)), key=levels.__getitem__)  # type: ignore[arg-type]
    except TypeError:  # objects that have no order keep that of their appearance
        order = list(range(len(levels)))
    position = np.empty(len(levels), dtype=np.int64)
    position[order] = np.arange(len(levels))
    return Covariate(torch.from_numpy(position[ids.row]), tuple(levels[i] for i in order))


def read_covariates(covariates: Any, argument: str = "covariates") -> dict[str, Covariate]:
    """Read the covariates of any mapping or frame of columns, by name.

    Raises:
        TypeError: if it is neither.
        ValueError: see `read_covariate`.
    """
    if isinstance(covariates, Mapping):
        columns = dict(covariates)
    elif hasattr(covariates, "columns") and hasattr(covariates, "__getitem__"):  # pandas, polars
        columns = {name: covariates[name] for name in covariates.columns}
    elif isinstance(covariates, pa.Table):
        columns = {name: covariates[name] for name in covariates.column_names}
    else:
        raise TypeError(f"{argument}: expected columns by name or a table, got {type(covariates).__name__}")
    return {
        str(name): value
        if isinstance(value, Covariate)
        else read_covariate(Column(as_values(value, f"{argument}: column {name!r}"), f"{argument}: column {name!r}"))
        for name, value in columns.items()
    }


def _holds_numbers(column: Column) -> bool:
    if column.arrow is None:
        return all(issubclass(kind, (int, float, np.number, np.bool_, type(None))) for kind in column.python_types)
    kind = column.values.type
    if pa.types.is_dictionary(kind):  # categories, whatever they are
        return False
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )  # fmt: skip


def slice_covariates(covariates: Any, num_histories: int) -> Callable[[slice], Any]:
    """Return the covariates of some of the histories: of a matrix, or of columns by name.

    Raises:
        ValueError: if they are not as many as the histories.
    """
    if covariates is None:
        return lambda _: None
    if isinstance(covariates, Tensor):
        if covariates.shape[:1] != (num_histories,):
            raise ValueError(f"covariates: expected {num_histories} rows, one a history, got {tuple(covariates.shape)}")
        return lambda rows: covariates[rows]
    matrices: dict[str, Any] = {}
    if isinstance(covariates, Mapping):  # those of users: under "user", or the name of the term that asks for them
        matrices = {k: v for k, v in covariates.items() if k == "user" or getattr(v, "ndim", 1) == 2}
        covariates = {k: v for k, v in covariates.items() if k not in matrices}
    named = read_covariates(covariates)
    for name, covariate in named.items():
        if len(covariate) != num_histories:
            raise ValueError(f"covariates: {name!r} has {len(covariate)} values for {num_histories} histories")

    def pick(rows: slice) -> dict[str, Any]:
        some = {name: Covariate(covariate.values[rows], covariate.levels) for name, covariate in named.items()}
        return {**some, **{name: matrix[rows] for name, matrix in matrices.items()}}

    return pick
