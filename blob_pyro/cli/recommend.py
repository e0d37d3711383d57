"""``blob-pyro recommend``: a stream of contexts in, a stream of recommendations out, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pandas as pd

from blob_pyro import BLOB, distributed
from blob_pyro.cli.session import Command, read_model
from blob_pyro.data import ViewHistory
from blob_pyro.policies import POLICIES, Policy

__all__ = ["recommend"]


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--contexts",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Parquet, a file or a folder: user, and history or candidates (lists of item ids), time; or views, sorted by "
    "user and time: user, item, time.",
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
@click.option("--covariate", "covariates", multiple=True, help="Column of the contexts. May be repeated.")
@click.option(
    "--rows", type=click.IntRange(min=1), default=1 << 16, help="Contexts in a part; with a policy a multiple of 256."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes of a Ray cluster. Default: this one alone.")
def recommend(
    model: Path,
    contexts: Path,
    history: Path | None,
    output: Path,
    number: int,
    policy: str | None,
    time: str | None,
    seed: int,
    covariates: tuple[str, ...],
    rows: int,
    workers: int | None,
) -> None:
    """Recommend items to a stream of contexts, in constant memory, into a folder of Parquet files.

    A part is written in one move. A run that is stopped goes on with the parts that are missing when the same command
    is run again, and no row is lost or doubled; the file _SUCCESS says that all are there. Another run's folder is
    refused. Views instead of contexts are one context for each user, and must be sorted by user.

    \b
    Example:
      blob-pyro recommend model --contexts users.parquet --history history.parquet --output today -k 5
    """
    blob = read_model(model)
    player = _policy(policy, blob)
    more: dict[str, Any] = {
        "history": None if history is None else ViewHistory.load(history),
        "covariates": covariates,
        "rows": rows,
        "num_workers": workers,
    }
    if player is None:
        done = distributed.recommend(blob, contexts, output, k=number, **more)
    else:
        done = distributed.decide(player, contexts, output, slots=number, seed=seed, time=_time(time), **more)
    click.echo(f"{output}: {done.num_contexts:,} contexts in {done.num_parts} parts, {done.num_new} of them new")


def _policy(name: str | None, blob: BLOB) -> Policy | None:
    if name is None:
        return None
    if name not in POLICIES:
        raise click.BadParameter(f"unknown {name!r}; there are {', '.join(POLICIES)}", param_hint="--policy")
    return POLICIES[name](blob)


def _time(text: str | None) -> float | pd.Timestamp | None:
    if text is None:
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return pd.Timestamp(text)
