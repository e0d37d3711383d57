"""``blob-pyro reproduce``: the paper's tables, run again."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

__all__ = ["reproduce"]


@click.group()
def reproduce() -> None:
    """Run a published experiment again, and print it beside the published figures."""


@reproduce.command()
@click.option("--seeds", type=click.IntRange(min=2), default=10, help="Environments; their seeds are 0, 1, ...")
@click.option(
    "--environment",
    type=click.Choice(["recogym", "no intercepts", "both"]),
    default="both",
    help="RecoGym's defaults, or items of equal base popularity, which fits the paper's baselines.",
)
@click.option("--test-sessions", type=click.IntRange(min=1), default=100, help="The paper has 100.")
@click.option("--epochs", type=click.IntRange(min=1), default=600, help="Steps of a fit of BLO.")
@click.option("--gru-epochs", type=click.IntRange(min=1), default=20, help="Passes of a fit of the GRU.")
@click.option("--items", type=click.IntRange(min=10), default=2000, help="Size of the catalogue.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write every run to this CSV file."
)
def table2(
    seeds: int, environment: str, test_sessions: int, epochs: int, gru_epochs: int, items: int, output: Path | None
) -> None:
    """Next-item prediction on organic sessions (Sakhi et al. 2020, Table 2).

    About one minute an environment and core.
    """
    from blob_pyro.experiments.table2 import ENVIRONMENTS, NOTE, Table2, summarize

    experiment = Table2(num_items=items, num_test=test_sessions, num_epochs=epochs, num_gru_epochs=gru_epochs)
    runs = []
    for name in ENVIRONMENTS if environment == "both" else [environment]:
        for seed in range(seeds):
            runs.append(experiment.run(name, seed))
            click.echo(f"{name}: environment {seed + 1} of {seeds} done", err=True)
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                pd.concat(runs).to_csv(output, index=False)
    results = pd.concat(runs, ignore_index=True)
    for name in results["environment"].unique():
        click.echo(f"\nTable 2, environment {name!r}: {seeds} environments, {test_sessions} test sessions each\n")
        table = summarize(results[results["environment"] == name])
        click.echo(table.to_string(float_format=lambda value: f"{value:.3f}", na_rep=""))
    click.echo(
        "\nse: standard error over environments. short: histories cut to 5 views. gain: RC@5 on short histories less "
        "session frequency's, with a 95 % interval paired by environment."
    )
    click.echo(NOTE)
