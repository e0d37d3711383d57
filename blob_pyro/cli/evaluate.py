"""``blob-pyro evaluate`` and ``audit``: what a log says of a policy, and whether it can be believed."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from blob_pyro.cli.session import Command, LogSource, log_options, read_model, write_table
from blob_pyro.ope import audit as audit_log
from blob_pyro.ope import evaluate as evaluate_policy
from blob_pyro.policies import POLICIES

__all__ = ["audit", "evaluate"]

_TABLE = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the table: CSV or Parquet."
)


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@log_options
@click.option("--policy", default="thompson_mixture", type=click.Choice(list(POLICIES)), help="To be valued.")
@click.option("--baseline", type=click.Choice([*POLICIES, "logging"]), default="logging", help="Compared with it.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, help="Of intervals.")
@_TABLE
def evaluate(
    model: Path,
    source: LogSource,
    policy: str,
    baseline: str,
    level: float,
    output: Path | None,
) -> None:
    """Estimate the value of a policy of MODEL from the log of whatever policy logged, by its propensities.

    \b
    Example:
      blob-pyro evaluate model --views views.parquet --impressions shown.parquet --policy greedy
    """
    blob = read_model(model)
    log = source.read(blob.items.ids)
    other = "logging" if baseline == "logging" else POLICIES[baseline](blob)
    found = evaluate_policy(log, POLICIES[policy](blob), baseline=other)
    click.echo(found)
    if output is not None:
        table = found.table(level)
        write_table(pa.Table.from_pandas(table.rename_axis("estimator").reset_index(), preserve_index=False), output)


@click.command(cls=Command)
@log_options
@_TABLE
@click.pass_context
def audit(
    context: click.Context,
    source: LogSource,
    output: Path | None,
) -> None:
    """Test a log's propensities against what must hold of them; exit code 1 if something is flagged.

    \b
    Example:
      blob-pyro audit --impressions shown.parquet
    """
    report = audit_log(source.read())
    click.echo(report)
    if output is not None:
        write_table(pa.Table.from_pandas(report.table.reset_index(), preserve_index=False), output)
    if report.flagged:
        context.exit(1)
