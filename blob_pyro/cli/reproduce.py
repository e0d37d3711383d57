"""``blob-pyro reproduce``: published tables and figures, run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pandas as pd

from blob_pyro.cli.session import show_progress

__all__ = ["reproduce"]


@click.group()
def reproduce() -> None:
    """Run a published experiment again, and print it beside the published figures."""


@reproduce.command()
@click.option("--seeds", type=click.IntRange(min=2), default=10, help="Environments.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, help="Seed of the first; the next is one more.")
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
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for every run (a later call goes on from them), settings and the tables.",
)
def table2(
    seeds: int,
    first_seed: int,
    environment: str,
    test_sessions: int,
    epochs: int,
    gru_epochs: int,
    items: int,
    output: Path | None,
) -> None:
    """Reproduce next-item prediction on organic sessions (Sakhi et al. 2020, Table 2).

    About one minute an environment and core.
    """
    from blob_pyro.experiments.saved_runs import SavedRuns
    from blob_pyro.experiments.table2 import ENVIRONMENTS, NOTE, Table2, summarize

    experiment = Table2(num_items=items, num_test=test_sessions, num_epochs=epochs, num_gru_epochs=gru_epochs)
    try:
        runs = SavedRuns(experiment, output, ("environment", "seed"))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    names, asked = list(ENVIRONMENTS) if environment == "both" else [environment], range(first_seed, first_seed + seeds)
    for name, seed in runs.complete([(name, seed) for name in names for seed in asked], experiment.run):
        click.echo(f"{name}: environment {seed - first_seed + 1} of {seeds} done", err=True)
    results, lines = runs.frame[runs.frame["seed"].isin(asked)], []
    for name in names:
        lines.append(f"\nTable 2, environment {name!r}: {seeds} environments, {test_sessions} test sessions each\n")
        table = summarize(results[results["environment"] == name])
        lines.append(table.to_string(float_format=lambda value: f"{value:.3f}", na_rep=""))
    lines.append(
        "\nse: standard error over environments. short: histories cut to 5 views. gain: RC@5 on short histories less "
        "session frequency's, with a 95 % interval paired by environment."
    )
    text = "\n".join([*lines, NOTE])
    click.echo(text)
    if output is not None:
        (output / "table2.txt").write_text(text + "\n")


@reproduce.command()
@click.option("--logs", type=click.IntRange(min=2), default=200, help="Fresh logs; about a second each on one core.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, help="Number of the first log.")
@click.option("--contexts", type=click.IntRange(min=2), default=1 << 18, help="Population that logs are drawn from.")
@click.option("--sizes", type=click.IntRange(min=2), default=26, help="Numbers of rows; the published figure has 26.")
@click.option("--most-rows", type=click.FloatRange(min=1000), default=10**5.5, show_default="316,227")
@click.option("--scipy-contexts", type=click.IntRange(min=1), default=50, help="Contexts to time SciPy's route on.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for every log (a later call goes on from them), the tables and the figure.",
)
def figure1(
    logs: int, first_seed: int, contexts: int, sizes: int, most_rows: float, scipy_contexts: int, output: Path | None
) -> None:
    """Reproduce off-policy estimates of Thompson sampling against the size of the log (Jeunen 2025, Figure 1).

    A few minutes on two cores.
    """
    from blob_pyro.experiments.figure1 import Figure1
    from blob_pyro.experiments.figure1_report import Runs, plot, summarize, verdict

    experiment = Figure1(num_contexts=contexts, num_sizes=sizes, most_rows=most_rows)
    try:
        runs = Runs(experiment, output)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    population, speed = experiment.population, experiment.speed(scipy_contexts)
    asked = range(first_seed, first_seed + logs)
    for done, _ in enumerate(runs.complete(asked), 1):
        if done % 10 == 0:
            click.echo(f"log {done} of {logs} done", err=True)
    truth = population.value("exact")
    summary = summarize(runs.frame[runs.frame["log"].isin(asked)], truth)
    lines = [
        f"Figure 1, {logs} logs from number {first_seed} on, {contexts:,} contexts",
        f"true value of the policy: {truth:.6f}, exact for these contexts; as that of all normal contexts it has a "
        f"standard error of {population.value_error():.5f}. Value of the policy whose propensities the published code "
        f"computes: {population.value('published'):.6f}",
        *verdict(summary),
        f"propensities of ten actions: {1 / speed.seconds:,.0f} contexts a second, SciPy's multivariate normal CDF "
        f"{1 / speed.scipy_seconds:,.1f}: {speed.scipy_seconds / speed.seconds:,.0f} times as long; they differ by "
        f"{speed.largest_difference:.1e} at most over {speed.contexts} contexts",
    ]
    columns = ["rows", "mean", "bias_errors", "spread", "standard_error", "coverage", "effective_sample_size", "warned"]
    for (propensities, estimator), table in summary.groupby(["propensities", "estimator"], sort=False):
        lines.append(f"\n{estimator}, {propensities} propensities\n")
        lines.append(table[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    text = "\n".join(lines)
    click.echo(text)
    if output is not None:
        (output / "figure1.txt").write_text(text + "\n")
        summary.to_csv(output / "summary.csv", index=False, float_format="%.6g")
        plot(summary, truth).savefig(output / "figure1.png", dpi=100)


@reproduce.command("open-bandit")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the table and what is printed."
)
def open_bandit(folder: Path, output: Path | None) -> None:
    """Estimate the uniform policy's value from the Thompson log, beside its own log, with what the audit says of both.

    FOLDER is the Open Bandit Dataset's (Saito et al. 2021), the full one or its sample of 10,000 rows: it holds bts and
    random.
    """
    from blob_pyro.experiments.open_bandit import Campaign, OpenBandit, campaigns
    from blob_pyro.experiments.saved_runs import claim

    try:
        found = [Campaign.read(folder, name) for name in campaigns(folder)]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    table = pd.concat([campaign.table() for campaign in found], ignore_index=True)
    percent = table.assign(**{name: 100 * table[name] for name in ("value", "standard_error", "low", "high")})
    shown = percent.drop(columns="warnings").to_string(
        index=False, na_rep="", float_format=lambda value: f"{value:.4g}"
    )
    lines = [
        "click rate of the uniform policy in %; errors: its distance from the uniform log in standard errors",
        shown,
    ]
    for row in table[table["warnings"] != ""].itertuples():
        lines.append(f"{row.campaign}, {row.log}, {row.estimator}: {row.warnings}")
    for campaign in found:
        for policy, report in (("Thompson", campaign.thompson_audit), ("uniform", campaign.uniform_audit)):
            lines.append(f"\n{campaign.name}, {policy} log\n{report}")
    text = "\n".join(lines)
    click.echo(text)
    if output is not None:
        claim(OpenBandit(tuple(campaign.name for campaign in found), len(found[0].thompson.action)), output)
        (output / "open_bandit.txt").write_text(text + "\n")
        table.to_csv(output / "open_bandit.csv", index=False, float_format="%.6g")


def _click_rates(number: int, seeds: int, first_seed: int, test_users: int, output: Path) -> None:
    from dataclasses import replace

    from blob_pyro.experiments.click_rates import PUBLISHED_SEED, TABLE_3, TABLE_4
    from blob_pyro.experiments.click_rates_report import NOTES, plot, summarize
    from blob_pyro.experiments.saved_runs import SavedRuns

    experiment = replace(TABLE_3 if number == 3 else TABLE_4, test_users=test_users)
    asked = list(dict.fromkeys([PUBLISHED_SEED, *range(first_seed, first_seed + seeds)]))
    try:
        runs = SavedRuns(experiment, output, ("seed", "flips"))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for seed, flips in runs.complete([(seed, flips) for seed in asked for flips in experiment.flips], experiment.run):
        click.echo(f"environment {seed}, {flips} flips: done", err=True)
    table = summarize(runs.frame[runs.frame["seed"].isin(asked)], experiment.num_items)
    table.round(4).to_csv(output / "summary.csv")
    plot(table).savefig(output / f"table{number}.png", dpi=110)
    text = f"Table {number}: click rates in %, {seeds} environments from seed {first_seed}, and that of seed 0\n\n"
    text += table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="") + "\n\n" + NOTES
    (output / f"table{number}.txt").write_text(text + "\n")
    click.echo(text)


_SEEDS = click.option("--seeds", type=click.IntRange(min=1), default=10, help="Environments, one log each.")
_FIRST_SEED = click.option("--first-seed", type=click.IntRange(min=0), default=200, help="Of the first environment.")
_TEST_USERS = click.option("--test-users", type=click.IntRange(min=2), default=2000, help="Of an A/B test, per agent.")


def _output(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(f"table{number}"),
        help="Folder for every run (a later call goes on from them), settings and tables.",
    )


@reproduce.command()
@_SEEDS
@_FIRST_SEED
@_TEST_USERS
@_output(3)
def table3(seeds: int, first_seed: int, test_users: int, output: Path) -> None:
    """Reproduce click rates of agents with 100 items, as published and proper (Sakhi et al. 2020, Table 3)."""
    _click_rates(3, seeds, first_seed, test_users, output)


@reproduce.command()
@_SEEDS
@_FIRST_SEED
@_TEST_USERS
@_output(4)
def table4(seeds: int, first_seed: int, test_users: int, output: Path) -> None:
    """Reproduce click rates of agents with 1,000 items, as published and proper (Sakhi et al. 2020, Table 4)."""
    _click_rates(4, seeds, first_seed, test_users, output)


@reproduce.command()
@_SEEDS
@_FIRST_SEED
@_TEST_USERS
@click.option("--variant", "names", multiple=True, help="Of the ablations; several times for several. Default all.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ablations"),
    help="Folder for every run (a later call goes on from them), settings, table and figure.",
)
def ablations(seeds: int, first_seed: int, test_users: int, names: tuple[str, ...], output: Path) -> None:
    """Compare BLOBs of which one choice is changed at a time, with 100 items of which 50 pairs are swapped.

    Guide, scales, training, play, size of the log.
    """
    from blob_pyro.experiments.ablations import DEFAULT, VARIANTS, Ablations, plot, summarize
    from blob_pyro.experiments.saved_runs import SavedRuns

    if unknown := [name for name in names if name not in VARIANTS]:
        raise click.ClickException(f"--variant: {unknown[0]!r} is unknown; known: {', '.join(VARIANTS)}")
    experiment = Ablations(test_users=test_users)
    chosen = [name for name in VARIANTS if not names or name in names or name == DEFAULT]
    try:
        runs = SavedRuns(experiment, output, ("seed", "variant"))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    asked = range(first_seed, first_seed + seeds)
    for seed, variant in runs.complete([(seed, name) for seed in asked for name in chosen], experiment.run):
        click.echo(f"environment {seed}, {variant}: done", err=True)
    rows = runs.frame[runs.frame["seed"].isin(asked) & runs.frame["variant"].isin(chosen)]
    table = summarize(rows).loc[chosen]
    table.round(4).to_csv(output / "summary.csv")
    plot(table).savefig(output / "ablations.png", dpi=110)
    text = (
        f"Ablations, {experiment.num_items} items, {experiment.flips} pairs swapped, environments from {first_seed}\n\n"
    )
    text += table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="")
    (output / "ablations.txt").write_text(text + "\n")
    click.echo(text)


@reproduce.command()
@click.option("--seeds", type=click.IntRange(min=1), default=6, help="Environments.")
@_FIRST_SEED
@click.option("--logs", type=click.IntRange(min=1), default=2, help="Repetitions with other users, per environment.")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=10, help="Of logging and learning.")
@click.option("--users", type=click.IntRange(min=2), default=1000, help="Who see recommendations in a round.")
@click.option("--organic-users", type=click.IntRange(min=0), default=20_000, help="Whose views alone are known.")
@_TEST_USERS
@click.option("--items", type=click.IntRange(min=2), default=100, help="Size of the catalogue.")
@click.option("--flips", type=click.IntRange(min=0), default=50, help="Pairs of products that are swapped.")
@click.option("--interests", type=click.IntRange(min=1), default=10, help="Latent interests of RecoGym's users.")
@click.option("--embedding-dim", type=click.IntRange(min=1), default=20, help="K.")
@click.option("--agent", "agents", multiple=True, help="Name of an agent; again for another. All by default.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("rounds"),
    help="Folder for every round (a later call goes on from them), settings, tables and figures.",
)
def rounds(
    seeds: int,
    first_seed: int,
    logs: int,
    num_rounds: int,
    users: int,
    organic_users: int,
    test_users: int,
    items: int,
    flips: int,
    interests: int,
    embedding_dim: int,
    agents: tuple[str, ...],
    output: Path,
) -> None:
    """Let agents log, learn and log again: regret, and what they have learned, over environments."""
    from blob_pyro.experiments import rounds as play
    from blob_pyro.simulation import RecoGym

    environments = [
        RecoGym(items, flips, seed, embedding_dim=interests) for seed in range(first_seed, first_seed + seeds)
    ]
    try:
        result = play(
            environments,
            list(agents) or None,
            num_rounds,
            users,
            num_logs=logs,
            output=output,
            num_organic_users=organic_users,
            embedding_dim=embedding_dim,
            test_users=test_users,
            progress=show_progress(),
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    table = result.table().to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="")
    text = (
        f"After {result.num_rounds} rounds of {users:,} users: {seeds} environments from seed {first_seed}, {logs} "
        f"logs each; {items} items, {flips} flips\n\n{table}\n\nregret: clicks lost to the oracle. against: "
        f"{result.agents[0]}, paired. share: of the way from random items, 0, to the oracle, 1, by greedy play of what "
        "has been learned. estimate, earned: of the last round's policy, before and after it was played."
    )
    click.echo(text)
    (output / "rounds.txt").write_text(text + "\n")
    for measure in ("regret", "share"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        result.plot(measure, figure.subplots())
        figure.savefig(output / f"{measure}.png", dpi=110)
