"""``blob-pyro simulate``: a log of RecoGym's users as the tables that the other commands read."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

from blob_pyro.cli.session import Command, read_model, show_progress, write_table
from blob_pyro.policies import POLICIES, SessionPopularity
from blob_pyro.simulation import RecoGym

__all__ = ["simulate"]


@click.command(cls=Command)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the tables."
)
@click.option("--items", type=click.IntRange(min=2), default=100, help="Products in the catalogue.")
@click.option(
    "--flips", type=click.IntRange(min=0), default=50, help="Pairs of products whose click behaviour is swapped."
)
@click.option("--users", type=click.IntRange(min=0), default=1000, help="Users who see recommendations.")
@click.option(
    "--organic-users", type=click.IntRange(min=0), default=20_000, help="Users of whom views alone are logged."
)
@click.option(
    "--first-user", type=click.IntRange(min=0), default=0, help="Number of the first: later logs need others."
)
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A model that recommends.")
@click.option("--policy", type=click.Choice(list(POLICIES)), default="thompson_mixture", help="Of that model.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the environment.")
def simulate(
    output: Path,
    items: int,
    flips: int,
    users: int,
    organic_users: int,
    first_user: int,
    model: Path | None,
    policy: str,
    seed: int,
) -> None:
    """Write views.parquet and impressions.parquet of simulated users.

    Without a model, session popularity recommends, one time in three at random.

    \b
    Example:
      blob-pyro simulate --output monday --items 50 --users 200
    """
    environment = RecoGym(num_items=items, num_flips=flips, seed=seed)
    player = SessionPopularity(items, epsilon=0.3) if model is None else POLICIES[policy](read_model(model))
    log = environment.simulate(
        player, num_users=users, num_organic_users=organic_users, first_user=first_user, progress=show_progress()
    )
    for name, frame in zip(("views", "impressions"), log.to_frames()):
        write_table(pa.Table.from_pandas(frame, preserve_index=False), output / f"{name}.parquet")
    click.echo(log)
    click.echo(f"{output / 'views.parquet'}, {output / 'impressions.parquet'}")
