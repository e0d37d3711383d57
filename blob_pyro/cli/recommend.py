"""``blob-pyro recommend``: a stream of contexts in, a stream of recommendations out, part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from blob_pyro import BLOB
from blob_pyro.cli.session import Command, read_model, write_table
from blob_pyro.data import Histories, ViewHistory
from blob_pyro.ops.files import locked, remove_abandoned, staged
from blob_pyro.ops.seeds import derived_seed
from blob_pyro.policies import POLICIES, Policy

__all__ = ["recommend"]

_SETTINGS, _DONE = "_settings.json", "_SUCCESS"


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--contexts",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Parquet, a file or a folder: user; optionally history and candidates, lists of item ids, and time.",
)
@click.option(
    "--history", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Views, where contexts have none."
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the parts.")
@click.option("-k", "number", type=click.IntRange(min=1), default=10, help="Items for each context.")
@click.option(
    "--policy", help=f"Draw by a policy and log its propensities: {', '.join(POLICIES)}. Default: the best k."
)
@click.option("--time", help="Of the decisions, on the log's clock: a number or a timestamp. Default: now, in UTC.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws.")
@click.option("--rows", type=click.IntRange(min=1), default=1 << 16, help="Contexts in a part.")
def recommend(
    model: Path,
    contexts: Path,
    history: Path | None,
    output: Path,
    number: int,
    policy: str | None,
    time: str | None,
    seed: int,
    rows: int,
) -> None:
    """Recommend items to a stream of contexts, in constant memory, into a folder of Parquet files.

    A part is written in one move. A run that is stopped goes on with the first part that is missing when the same
    command is run again, and no row is lost or doubled; the file _SUCCESS says that all are there. Another run's folder
    is refused.

    \b
    Example:
      blob-pyro recommend model --contexts users.parquet --history history.parquet --output today -k 5
    """
    blob = read_model(model)
    player = _policy(policy, blob)
    stored = None if history is None else ViewHistory.load(history)
    source = _dataset(contexts)
    _require_columns(source.schema, contexts, stored is not None)
    when = _time(time, source.schema)
    files = [f"{Path(name).name}:{Path(name).stat().st_size}" for name in source.files]
    told = {
        "model": blob.fingerprint(),
        "policy": policy if player is None else player.version,
        "contexts": hashlib.sha256("\n".join(files).encode()).hexdigest(),
        "rows_in_contexts": source.count_rows(),
        "history": None if history is None else hashlib.sha256(history.read_bytes()).hexdigest(),
        "k": number,
        "time": time,
        "seed": seed,
        "rows": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        _same_run(output, told)
        done = new = 0
        for part, table in enumerate(_parts(source, rows)):
            path = output / f"part-{part:08d}.parquet"
            if not path.exists():
                remove_abandoned(path)
                write_table(_answer(blob, player, table, stored, number, when, derived_seed(seed, part)), path)
                new += 1
            done += table.num_rows
        (output / _DONE).touch()
    click.echo(f"{output}: {done:,} contexts in {len(list(output.glob('part-*.parquet')))} parts, {new} of them new")


def _policy(name: str | None, blob: BLOB) -> Policy | None:
    if name is None:
        return None
    if name not in POLICIES:
        raise click.BadParameter(f"unknown {name!r}; there are {', '.join(POLICIES)}", param_hint="--policy")
    return POLICIES[name](blob)


def _time(text: str | None, schema: pa.Schema) -> float | pd.Timestamp | None:
    if text is None:
        return None
    if "time" in schema.names:
        raise ValueError("time: the contexts have a column 'time' of their own; leave --time out, or the column")
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return pd.Timestamp(text)


def _dataset(path: Path) -> pyarrow.dataset.Dataset:
    try:
        return pyarrow.dataset.dataset(path, format="parquet")
    except pa.ArrowException as error:
        raise ValueError(f"contexts: {path} cannot be read as Parquet: {error}") from None


def _require_columns(schema: pa.Schema, path: Path, with_history: bool) -> None:
    if "user" not in schema.names:
        raise ValueError(f"contexts: {path} has no column 'user'; it has {', '.join(map(repr, schema.names))}")
    if "history" in schema.names and with_history:
        raise ValueError(f"history: {path} has a column 'history' of its own; leave --history out, or the column")
    if "history" not in schema.names and not with_history:
        raise ValueError(f"contexts: {path} has no column 'history'; pass --history, which says what users have viewed")


def _same_run(output: Path, told: dict[str, Any]) -> None:
    """Start a run, or go on with this one; refuse the folder of another."""
    settings = output / _SETTINGS
    remove_abandoned(settings)
    if settings.exists():
        found = json.loads(settings.read_text())
        differ = [name for name in told if found.get(name) != told[name]]
        if differ:
            raise ValueError(f"output: {output} holds another run: {', '.join(differ)} differ; choose another folder")
        return
    if any(output.glob("part-*")):
        raise ValueError(
            f"output: {output} holds parts, and no {_SETTINGS} that says of which run; choose another folder"
        )
    with staged(settings) as file:
        file.write(json.dumps(told, indent=2).encode())


def _parts(source: pyarrow.dataset.Dataset, rows: int) -> Iterator[pa.Table]:
    """Read a data set in tables of so many rows, in its own order."""
    names = [name for name in ("user", "time", "history", "candidates") if name in source.schema.names]
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in source.to_batches(columns=names, batch_size=rows, use_threads=False):
        waiting.append(batch)
        size += batch.num_rows
        while size >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
            size -= rows
    if size:
        yield pa.Table.from_batches(waiting)


def _answer(
    blob: BLOB, policy: Policy | None, table: pa.Table, stored: ViewHistory | None, number: int, when: Any, seed: int
) -> pa.Table:
    user = table.column("user").to_pylist()
    histories: Histories | pa.ChunkedArray = (
        stored.histories(user, blob.items) if stored is not None else table.column("history")
    )
    candidates = table.column("candidates").to_pylist() if "candidates" in table.column_names else None
    if policy is None:
        frame = blob.recommend(histories, number, candidates)
        frame.insert(0, "user", pd.Series(user).iloc[frame.pop("history")].to_numpy())
        return pa.Table.from_pandas(frame, preserve_index=False)
    time = table.column("time").to_pandas() if "time" in table.column_names else when
    frame = policy.decide(histories, user=user, time=time, candidates=candidates, slots=number, seed=seed)
    return pa.Table.from_pandas(frame, preserve_index=False)
