"""``blob-pyro diagnose``: whether a model's posterior is right, as one page with pictures and verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from blob_pyro.cli.session import Command, LogSource, log_options, read_model
from blob_pyro.diagnostics import diagnose as diagnose_model
from blob_pyro.diagnostics import diagnosis_page
from blob_pyro.ops.files import require_writable, staged

__all__ = ["diagnose"]


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@log_options
@click.option(
    "--held-out",
    type=click.Path(exists=True, path_type=Path),
    help="Later impressions, to predict. Default: each event of the log from all the others.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The page: one HTML file.")
@click.option("--draws", type=click.IntRange(min=100), default=1000, help="Of the parameters.")
@click.option("--max-events", type=click.IntRange(min=100), default=20_000, help="Of a log, evenly spaced.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws.")
def diagnose(
    model: Path,
    source: LogSource,
    held_out: Path | None,
    output: Path,
    draws: int,
    max_events: int,
    seed: int,
) -> None:
    """Ask whether MODEL's posterior is right, by the log that it was fitted to; write one self-contained page.

    The page shows whether the guide stands for the model, the fit has converged, the model draws clicks such as those
    observed, click probabilities hold on events left out, and the prior decides what the data should. What is flagged
    is for you to read: the exit code is 0.

    \b
    Example:
      blob-pyro diagnose model --views views.parquet --impressions impressions.parquet --output page.html
    """
    require_writable(output, "--output")
    blob = read_model(model)
    log = source.read(blob.items.ids)
    later = None if held_out is None else replace(source, impressions=held_out).read(blob.items.ids)
    report = diagnose_model(blob, log, held_out=later, num_draws=draws, max_events=max_events, seed=seed)
    click.echo(report)
    facts = {"model": model.name, "version": blob.fingerprint()[:12], "draws": f"{draws:,}", "seed": seed}
    page = diagnosis_page(report, f"Is this posterior right? {model.name}", facts)
    with staged(output) as file:
        file.write(page.encode())
    click.echo(f"{output}: {len(page.encode()) / 1024:,.0f} KiB")
