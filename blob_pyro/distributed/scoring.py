"""Recommendations and logged decisions for contexts that no memory holds: Parquet in, Parquet out, part by part.

A part is written in one move. Where a call is stopped, the next one with the same arguments goes on with the parts that
are missing, in this process or by workers of Ray, and what is written is what one call would have written: a decision
depends on the seed and on which context of all it is, not on parts, restarts or workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from blob_pyro._version import __version__
from blob_pyro.data import ViewHistory
from blob_pyro.distributed.answering import Answering
from blob_pyro.distributed.contexts import ContextFiles, Part
from blob_pyro.ops.arguments import path_of, whole_number
from blob_pyro.ops.files import locked, remove_abandoned, require_writable, staged
from blob_pyro.ops.object_fingerprints import fingerprint
from blob_pyro.ops.seeds import check_seed
from blob_pyro.policies import Policy
from blob_pyro.policies.deciding import BLOCK
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob import BLOB

__all__ = ["Scored", "decide", "recommend"]

_SETTINGS, _PARTS, _DONE = "_settings.json", "_parts.json", "_SUCCESS"
_ROWS = 1 << 16


@dataclass(frozen=True)
class Scored:
    """The content of an output folder: parts, and how many are new.

    Attributes:
        output: the folder.
        num_contexts: contexts that have been answered, all of them.
        num_parts: files ``part-*.parquet``.
        num_new: those that this call has written.
    """

    output: Path
    num_contexts: int
    num_parts: int
    num_new: int


def recommend(
    model: BLO | BLOB,
    contexts: str | Path,
    output: str | Path,
    *,
    k: int = 10,
    history: ViewHistory | None = None,
    candidates: Any = None,
    columns: Mapping[str, str] | None = None,
    covariates: Sequence[str] = (),
    rows: int = _ROWS,
    num_workers: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Scored:
    """Write the best items of every context, from Parquet to Parquet, in constant memory.

    Contexts are in one of three forms: ``user`` and ``history``, a list of item ids, in each row; ``user`` alone, with
    ``history=``; or views, ``user``, ``item`` and perhaps ``time``, where each user is a context. Views must be sorted
    by user, and for each user by time, over all files, which are read in the order of their paths: so no user is
    answered twice, or with a part of what they have viewed, whatever row groups and files divide; rows out of order are
    refused before a part is written.

    Args:
        model: a `BLO` or a `BLOB`.
        contexts: a Parquet file or a folder of them: a path, or a URL that fsspec knows.
        output: a folder of this machine; of all machines, with Ray. A folder of another call's parts is refused: of
            another model, input, version of blob-pyro, or argument.
        k: items for each context.
        history: what users have viewed, where contexts have no column of that.
        candidates: ids that may be recommended to everybody; a column ``candidates`` says so for each context.
        columns: your names of ``user``, ``history``, ``candidates``, ``item`` and ``time``.
        covariates: columns that the model asks for.
        rows: contexts of a part, which is what is in memory.
        num_workers: processes of a Ray cluster, by Ray Data, which starts lost ones again; default this process alone.
        storage_options: what fsspec needs for the URL.

    Returns:
        What is in the folder: rows ``user``, ``rank``, ``item``, ``score`` in ``part-*.parquet``, in the order of the
        contexts; ``_SUCCESS``, once all are there.

    Raises:
        ValueError: naming the file and row, or the argument; for the output of another call, saying what differs.
        OSError: if a part cannot be written, naming it; nothing is left of it, and whole parts stay.
        ImportError: with ``num_workers``, if Ray is not installed, naming the extra.
        RuntimeError: if Ray gives up; call again to go on.

    Example:
        >>> import tempfile
        >>> import pyarrow.parquet
        >>> from blob_pyro import EventLog
        >>> views = {"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")}
        >>> blo = BLO(3, embedding_dim=2)
        >>> trace = blo.fit(EventLog.from_tables(views=views), num_epochs=5, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pyarrow.parquet.write_table(pyarrow.table(views), f"{folder}/views.parquet")
        ...     done = recommend(blo, f"{folder}/views.parquet", f"{folder}/today", k=2)
        ...     pd.read_parquet(done.output)[["user", "rank"]].values.tolist()
        [[1, 1], [1, 2], [2, 1], [2, 2]]
    """
    if not isinstance(model, (BLO, BLOB)):
        raise TypeError(f"model: expected a BLO or a BLOB, got {model!r} (a {type(model).__name__})")
    files = _files(contexts, history, columns, covariates, storage_options)
    k, rows = whole_number(k, "k"), whole_number(rows, "rows")
    told = {"call": "recommend", "model": model.fingerprint(), "k": k}
    answering = Answering(model, k, candidates, None, None)
    return _score(answering, files, told, output, rows, num_workers)


def decide(
    policy: Policy,
    contexts: str | Path,
    output: str | Path,
    *,
    seed: int,
    slots: int = 1,
    time: Any = None,
    history: ViewHistory | None = None,
    candidates: Any = None,
    columns: Mapping[str, str] | None = None,
    covariates: Sequence[str] = (),
    rows: int = _ROWS,
    num_workers: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Scored:
    """Write a policy's decision for every context, with propensities, from Parquet to Parquet, in constant memory.

    A decision depends on ``seed`` and on the number of the context among all, in the order of files and rows: not on
    ``rows``, on how rows are divided into files, or on where a call was stopped. See `recommend` for all else.

    Args:
        policy: of `blob_pyro.policies`, or yours.
        contexts: see `recommend`.
        output: see `recommend`; another policy's, seed's or time's is refused, too.
        seed: of the draws: 0 or more.
        slots: items for each context.
        time: of all decisions, on the log's clock, where contexts have no column ``time``; default: when the first call
            was made, in UTC, for all parts, those of later calls too.
        history: see `recommend`.
        candidates: see `recommend`.
        columns: see `recommend`.
        covariates: see `recommend`.
        rows: contexts of a part, a multiple of 256: so many share a seed and are computed together.
        num_workers: see `recommend`.
        storage_options: see `recommend`.

    Returns:
        What is in the folder: rows as `Policy.decide` returns them, which are impressions once there is a reward.

    Raises:
        ValueError: as `recommend` and `Policy.decide`.
        TypeError: for what is no policy, or one that no fingerprint can be made of, naming the attribute.
        FloatingPointError: as `Policy.decide`.
        OSError: as `recommend`.
        ImportError: as `recommend`.
        RuntimeError: as `recommend`.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"policy: expected a Policy of blob_pyro.policies, got {policy!r} (a {type(policy).__name__})")
    files = _files(contexts, history, columns, covariates, storage_options)
    slots, rows = whole_number(slots, "slots"), whole_number(rows, "rows")
    if rows % BLOCK:
        raise ValueError(
            f"rows: decisions are drawn for {BLOCK} contexts at a time, so a part has a multiple of {BLOCK}, got {rows}"
        )
    if files.says_time and time is not None:
        raise ValueError("time: the contexts have a column 'time' of their own; leave time out, or the column")
    told = {
        "call": "decide", "policy": f"{policy.name} {policy.version}", "slots": slots, "seed": check_seed(seed),
        "time": None if time is None else repr(time),
    }  # fmt: skip
    answering = Answering(policy, slots, candidates, seed, time)
    return _score(answering, files, told, output, rows, num_workers)


def _files(contexts: Any, history: Any, columns: Any, covariates: Any, storage_options: Any) -> ContextFiles:
    if history is not None and not isinstance(history, ViewHistory):
        raise TypeError(f"history: expected a ViewHistory, such as of ViewHistory.load, got a {type(history).__name__}")
    if isinstance(covariates, str):
        raise TypeError(f"covariates: expected names of columns, got one text, {covariates!r}; pass [{covariates!r}]")
    return ContextFiles(contexts, history, columns, covariates, storage_options)


def _score(
    answering: Answering, files: ContextFiles, told: dict[str, Any], output: Any, rows: int, num_workers: int | None
) -> Scored:
    if num_workers is not None:
        num_workers = whole_number(num_workers, "num_workers")
    folder = path_of(output, "output", "a folder").absolute()
    contents = files.contents()
    told = {
        "blob_pyro": __version__,
        **told,
        "candidates": _hash(answering.candidates),
        "contexts": contents,
        "rows_in_contexts": files.files.num_rows,
        "history": None if files.history is None else files.history.fingerprint(),
        "columns": files.describe(),
        "rows": rows,
    }
    run = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    if folder.is_file():
        raise ValueError(f"output: {folder} is a file; give a folder")
    require_writable(folder / "part", "output")
    with locked(folder):
        answering = answering.at(_begin(folder, told))
        parts = _parts(folder, files, rows)
        missing = [part for part in parts if not answering.is_whole(folder, part, run)]
        for part in missing:
            remove_abandoned(answering.path(folder, part))
        if num_workers is None:
            for part in missing:
                answering.write(files, part, folder, run)
        elif missing:
            from blob_pyro.distributed.ray_data import write_parts

            write_parts(answering, files, missing, folder, run, contents, num_workers)
        (folder / _DONE).touch()
    return Scored(folder, sum(part.size for part in parts), len(parts), len(missing))


def _begin(folder: Path, told: dict[str, Any]) -> pd.Timestamp:
    """Start a run, or go on with this one; refuse the folder of another. Returns when the run was started."""
    settings = folder / _SETTINGS
    remove_abandoned(settings)
    if not settings.exists():
        if any(folder.glob("part-*")):
            raise ValueError(
                f"output: {folder} holds parts, and no {_SETTINGS} that says of which run; choose another folder"
            )
        now = datetime.now(UTC).isoformat()
        _write(settings, {**told, "begun": now})
        return pd.Timestamp(now)
    found = json.loads(settings.read_text())
    differ = [name for name in told if found.get(name) != told[name]]
    if differ:
        said = "; ".join(f"{name} is {_short(found.get(name))} there, {_short(told[name])} here" for name in differ)
        raise ValueError(
            f"output: {folder} holds another run: {', '.join(differ)} differ ({said}); choose another folder"
        )
    return pd.Timestamp(found["begun"])


def _parts(folder: Path, files: ContextFiles, rows: int) -> list[Part]:
    """The parts of a run, which are counted once."""
    path = folder / _PARTS
    remove_abandoned(path)
    if path.exists():
        return [Part(**part) for part in json.loads(path.read_text())]
    parts = files.parts(rows)
    _write(path, [asdict(part) for part in parts])
    return parts


def _write(path: Path, content: Any) -> None:
    with staged(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def _hash(candidates: Any) -> str | None:
    return None if candidates is None else fingerprint(candidates, "candidates")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:16]}...'"
