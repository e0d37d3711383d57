"""``blob-pyro fit`` and ``update``: from tables to a model folder, and from new tables to the next one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import click
import pandas as pd

from blob_pyro import BLO, BLOB
from blob_pyro.cli.session import Command, LogSource, log_options, read_model, show_progress, write_settings
from blob_pyro.data import ViewHistory

__all__ = ["fit", "update"]

_OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for the model; an older one is replaced."
)
_SEED = click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the fits.")
_DEVICE = click.option("--device", help="Where to train, cpu or cuda. Default: CUDA where there is one.")
_HISTORY = click.option(
    "--write-history", type=click.Path(path_type=Path), help="File for what users have viewed by now, for the next day."
)


@click.command(cls=Command)
@log_options
@_OUTPUT
@click.option("--embedding-dim", type=click.IntRange(min=1), default=20, help="K.")
@click.option("--guide", default="arrowhead_normal", help="By name: arrowhead_normal, normal, low_rank, laplace, ...")
@click.option("--organic-epochs", type=click.IntRange(min=1), help="Passes over the views. Default: BLO's.")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Passes over the impressions. Default: until it has arrived."
)
@_SEED
@_DEVICE
@_HISTORY
@click.pass_context
def fit(
    context: click.Context,
    source: LogSource,
    output: Path,
    embedding_dim: int,
    guide: str,
    organic_epochs: int | None,
    epochs: int | None,
    seed: int,
    device: str | None,
    write_history: Path | None,
) -> None:
    """Fit BLO and BLOB to a log, and save them to a folder.

    A fit that is stopped goes on where it was when the same command is run again. What it was told is beside the model,
    OUTPUT.toml, for --config.

    \b
    Example:
      blob-pyro fit --views views.parquet --impressions impressions.parquet --output model
    """
    log = source.read()
    click.echo(log)
    log.require_impressions()
    checkpoints = output.with_name(f".{output.name}.checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    blo = BLO(log.num_items, embedding_dim=embedding_dim)
    options: dict[str, Any] = {"seed": seed, "device": device, "progress": show_progress()}
    passes: dict[str, Any] = {} if organic_epochs is None else {"num_epochs": organic_epochs}
    _report("views", blo.fit(log, checkpoint=checkpoints / "blo", **passes, **options))
    blob = BLOB(blo, guide)
    kept = None if guide in ("laplace", "nuts") else checkpoints / "blob"
    _report("impressions", blob.fit(log, num_epochs=epochs, checkpoint=kept, **options))
    _save(context, blob, output, log, write_history)
    shutil.rmtree(checkpoints, ignore_errors=True)


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@log_options
@_OUTPUT
@click.option(
    "--new-items",
    type=click.Choice(["refuse", "prior"]),
    default="refuse",
    help="Items that MODEL does not know: refuse the log, or let each start from its prior.",
)
@click.option("--forgetting", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="1 forgets nothing.")
@_SEED
@_HISTORY
@click.pass_context
def update(
    context: click.Context,
    model: Path,
    source: LogSource,
    output: Path,
    new_items: Literal["refuse", "prior"],
    forgetting: float,
    seed: int,
    write_history: Path | None,
) -> None:
    """Let MODEL learn from new impressions: its posterior becomes the prior. The organic part stays as it is.

    \b
    Example:
      blob-pyro update monday --impressions tuesday.parquet --history history.parquet --output tuesday
    """
    blob = read_model(model)
    log = source.read()  # items are found by id
    click.echo(log)
    known, progress = blob.num_items, show_progress()
    trace = blob.update(log, forgetting=forgetting, new_items=new_items, seed=seed, progress=progress)
    _report("impressions", trace)
    if new_items == "prior":
        click.echo(f"items: {blob.num_items - known} new, {blob.num_items} now")
    _save(context, blob, output, log, write_history)


def _report(what: str, trace: pd.DataFrame) -> None:
    """Say in a line how a fit went."""
    last = trace.iloc[-1]
    number = next(name for name in ("elbo", "log_joint") if name in trace)
    arrived = trace.attrs.get("converged")
    verdict = "" if arrived is None else f", {'converged' if arrived else 'not converged'}"
    click.echo(f"{what}: {len(trace)} epochs, {number.replace('_', ' ')} {float(last[number]):.5f}{verdict}")


def _save(context: click.Context, blob: BLOB, output: Path, log: Any, write_history: Path | None) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    blob.save(output)
    told = dict(context.params)
    told = {**told, "column": told.pop("columns"), "covariate": told.pop("covariates")}
    write_settings(output.with_name(f"{output.name}.toml"), str(context.info_name), told)
    click.echo(f"{output}: version {blob.fingerprint()}")
    if write_history is not None:
        ViewHistory(log).save(write_history)
        click.echo(f"{write_history}: what users have viewed")
