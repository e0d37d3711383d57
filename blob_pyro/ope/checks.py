"""Checks of estimators' arguments, which become float64 tensors.

Arguments may be torch tensors, NumPy arrays, Arrow arrays or anything that NumPy reads. An error names the argument,
the first offending row (counted from 0), what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

__all__ = [
    "actions",
    "as_matrix",
    "as_vector",
    "device_of",
    "group_codes",
    "has_torch",
    "logging_propensities",
    "one_row_order",
    "predictions",
    "probabilities",
    "refuse",
    "rewards",
    "row_slices",
    "same_length",
    "target_propensities",
    "whole_numbers",
]

ROUNDING = 1e-6
"""How far a propensity may exceed one, and 1e-5 a row's sum may differ from one: single precision's own error."""
SUM_TOLERANCE = 1e-5

_CHUNK_ELEMENTS = 1 << 22
_NOT_BY_ROW = {"clusters", "embedding_probs", "points", "slot_weight"}

P = ParamSpec("P")
R = TypeVar("R")


def refuse(name: str, bad: Tensor, values: Tensor, problem: str, remedy: str, first_row: int = 0) -> None:
    """Raise a ValueError that names the first row where ``bad`` is true; do nothing where there is none."""
    if not bool(bad.any()):
        return
    index = [int(i) for i in bad.nonzero()[0]]
    where = f"row {index[0] + first_row}" + "".join(f", column {i}" for i in index[1:])
    count = int(bad.sum())
    more = f" ({count:,} such entries)" if count > 1 else ""
    raise ValueError(f"{name}, {where}: {problem}, got {values[tuple(index)].item():.6g}{more}. {remedy}")


def has_torch(*values: Any) -> bool:
    """Say whether any argument is a torch tensor, so that results are tensors too."""
    return any(isinstance(v, Tensor) for v in values)


def device_of(*values: Any) -> torch.device | None:
    """Return the device of the first tensor among the arguments: the others follow it."""
    return next((v.device for v in values if isinstance(v, Tensor)), None)


def row_slices(rows: int, width: int) -> list[slice]:
    """Cut rows into slices whose matrices are small enough to be copied."""
    step = max(1, _CHUNK_ELEMENTS // max(width, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def as_vector(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read one float64 number per row; gradients pass.

    Raises:
        ValueError: for an empty array, nulls, more than one dimension, or what is no number.
    """
    if isinstance(values, Tensor):
        vector = values
    else:
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            if values.null_count:
                missing = torch.from_numpy(values.is_null().to_numpy(zero_copy_only=False) if isinstance(
                    values, pa.Array) else values.is_null().to_numpy())  # fmt: skip
                refuse(name, missing, torch.full((len(missing),), torch.nan), "a value is missing", "Drop the row")
            values = values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name}: expected numbers, got an array of {array.dtype}; convert it first"
                ) from error
        if array.dtype == np.uint64 or array.dtype.byteorder not in "=|" or not array.flags.writeable:
            array = array.astype(np.float64)
        vector = torch.from_numpy(np.ascontiguousarray(array))
    if vector.ndim != 1:
        raise ValueError(f"{name}: expected one number per row (one dimension), got shape {tuple(vector.shape)}")
    if vector.shape[0] == 0:
        raise ValueError(f"{name}: has no rows; check the query or filter that made it")
    return vector.to(device=device, dtype=torch.float64)


def as_matrix(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read rows times actions in the dtype given: not copied, because it may be most of the memory."""
    if isinstance(values, Tensor):
        matrix = values
    else:
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if isinstance(values, (pa.FixedSizeListArray, pa.ListArray, pa.LargeListArray)):
            if values.null_count or values.flatten().null_count:
                raise ValueError(f"{name}: holds nulls; drop those rows, or give them their values")
            sizes = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
            if len(sizes) != 1:
                raise ValueError(
                    f"{name}: rows have {sizes.min()} to {sizes.max()} entries; one per action is expected"
                )
            values = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, int(sizes[0]))
        elif isinstance(values, pa.Table):
            values = np.column_stack([column.to_numpy() for column in values.columns])
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise ValueError(f"{name}: expected a matrix of numbers, got an array of {array.dtype}")
        if not array.flags.writeable or array.dtype.byteorder not in "=|":
            array = array.astype(array.dtype.newbyteorder("="))
        matrix = torch.from_numpy(array)
    if matrix.ndim != 2:
        raise ValueError(f"{name}: expected rows x actions (two dimensions), got shape {tuple(matrix.shape)}")
    if 0 in matrix.shape:
        raise ValueError(f"{name}: has shape {tuple(matrix.shape)}; there is nothing in it")
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.float64)
    return matrix if device is None else matrix.to(device)


def same_length(**named: Any) -> int:
    """Return the common number of rows, or refuse columns of different lengths.

    Raises:
        ValueError: naming the arguments whose lengths differ.
    """
    sizes = {name: len(values) for name, values in named.items() if values is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size:,}" for name, size in sizes.items())
        raise ValueError(f"rows are misaligned: {listed}; each argument needs one row per logged event, in one order")
    return next(iter(sizes.values()))


def one_row_order(estimator: Callable[P, R]) -> Callable[P, R]:
    """Let an estimator refuse pandas arguments whose indices differ: rows are taken by place, and would be mixed up.

    Arguments without an index, as arrays and tensors, are in the order in which they come.
    """
    parameters = signature(estimator)

    @wraps(estimator)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = parameters.bind(*args, **kwargs).arguments
        by_row = {n: v for n, v in given.items() if isinstance(v, (pd.Series, pd.DataFrame)) and n not in _NOT_BY_ROW}
        names = list(by_row)
        for name in names[1:]:
            first, other = by_row[names[0]].index, by_row[name].index
            if len(first) == len(other) and not first.equals(other):
                row = int((first != other).argmax())
                ours, theirs = first.tolist()[row], other.tolist()[row]
                raise ValueError(
                    f"{name}: row {row} has the index {theirs!r} where {names[0]} has {ours!r}, and rows are "
                    f"taken by place; bring both into one order (as by .reindex), or pass .to_numpy() where they are"
                )
        return estimator(*args, **kwargs)

    return checked


def rewards(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read rewards: finite numbers."""
    vector = as_vector(name, values, device)
    remedy = "A row without a known outcome cannot be evaluated: drop it, and say so"
    refuse(name, ~torch.isfinite(vector.detach()), vector, "a reward must be finite", remedy)
    return vector


def logging_propensities(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read the probabilities of what was played: in (0, 1]."""
    vector = as_vector(name, values, device)
    known = vector.detach()
    remedy = "The action was played, so its probability was not 0: pass the logging policy's own probability of it"
    refuse(name, ~((known > 0) & (known <= 1 + ROUNDING)), known, "a logged propensity lies in (0, 1]", remedy)
    return vector


def target_propensities(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read the target's probabilities: in [0, 1]."""
    vector = as_vector(name, values, device)
    known = vector.detach()
    remedy = "Pass the target policy's probability of the logged action, not its logarithm or its score"
    refuse(name, ~((known >= 0) & (known <= 1 + ROUNDING)), known, "a propensity lies in [0, 1]", remedy)
    return vector


def probabilities(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read a distribution over actions in each row, in the dtype given."""
    matrix = as_matrix(name, values, device)
    known = matrix.detach()
    for rows in row_slices(*known.shape):
        part = known[rows].to(torch.float64)
        bad = ~((part >= 0) & (part <= 1 + ROUNDING))
        remedy = "Pass probabilities, not logits or scores"
        refuse(name, bad, part, "a probability lies in [0, 1]", remedy, rows.start)
        total = part.sum(-1)
        bad = (total - 1).abs() > SUM_TOLERANCE
        remedy = "Pass the probability of every action, and 0 for those that cannot be played"
        refuse(name, bad, total, "probabilities of one row must sum to one", remedy, rows.start)
    return matrix


def predictions(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read a finite number for each action in each row, in the dtype given."""
    matrix = as_matrix(name, values, device)
    known = matrix.detach()
    for rows in row_slices(*known.shape):
        part = known[rows]
        problem, remedy = "a predicted reward must be finite", "Mend the reward model, or drop the row"
        refuse(name, ~torch.isfinite(part), part, problem, remedy, rows.start)
    return matrix


def actions(name: str, values: Any, num_actions: int, device: torch.device | None = None) -> Tensor:
    """Read the numbers of the actions played, int64 in ``0 .. num_actions - 1``."""
    vector = as_vector(name, values, device)
    bad = ~((vector >= 0) & (vector < num_actions) & (vector == vector.round()))
    remedy = "Number the actions as the columns of the matrices are numbered"
    refuse(name, bad, vector, f"an action is one of the {num_actions} columns, 0..{num_actions - 1}", remedy)
    return vector.to(torch.int64)


def whole_numbers(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Read int64 numbers that stand for actions."""
    vector = as_vector(name, values, device)
    bad = vector != vector.round()
    refuse(name, bad | ~torch.isfinite(vector), vector, "a whole number is expected", "Number the actions")
    return vector.to(torch.int64)


def group_codes(groups: Any, rows: int, device: torch.device | None = None, name: str = "groups") -> tuple[Tensor, int]:
    """Number the groups from 0 in the order of their first rows; returns how many there are, too.

    Raises:
        ValueError: for a missing group, or a length that differs from ``rows``.
    """
    if isinstance(groups, Tensor):
        groups = groups.detach().cpu().numpy()
    elif isinstance(groups, (pa.Array, pa.ChunkedArray)):
        groups = groups.to_pandas()
    array = np.asarray(groups)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    if len(array) != rows:
        raise ValueError(f"{name}: has {len(array):,} entries where {rows:,} are expected, one for each")
    codes, found = pd.factorize(array)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(f"{name}, row {row}: is missing. Give the row its group (its user), or drop it")
    return torch.from_numpy(codes.astype(np.int64)).to(device), len(found)
