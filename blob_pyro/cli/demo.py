"""``blob-pyro demo``: the whole loop, from a real RecoGym log to an A/B test, and once round again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.cli.session import show_progress
from blob_pyro.diagnostics import plot_training
from blob_pyro.ops.files import require_writable
from blob_pyro.policies import Greedy, Policy, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.policies.baselines import Popularity
from blob_pyro.serialization.folder import require_replaceable
from blob_pyro.simulation import ABTest, Oracle, RecoGym, RecoGymReference, ab_test, session_popularity_agent

__all__ = ["demo"]

_TABLE, _RATES, _TRACES, _POSTERIOR, _MODEL = "ab_test.csv", "ab_test.png", "elbo.png", "posterior.nc", "model"
_FILES = (_TABLE, _RATES, _TRACES, _POSTERIOR)
_ORGANIC_RATE = 0.1  # the default, .03, does not arrive in 60 epochs of this log, and says so
_NOTE = """
Of the way: from random items, 0, to the oracle, which knows every user's interests and every click rate, 1.
Thompson sampling explores: it pays in the round that it logs, and greedy play earns in the next. One test is one
catalogue: which of two policies is the better on others takes several, as benchmarks/quality.py runs them."""


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), help="Folder for what is made.")
@click.option("--items", default=100, type=click.IntRange(2), help="Products in the catalogue.")
@click.option(
    "--flips", default=50, help="Pairs of products whose click behaviour is swapped: 0 makes views a perfect guide."
)
@click.option("--users", default=1000, type=click.IntRange(1), help="Users who see recommendations in the log.")
@click.option(
    "--organic-users", default=20_000, type=click.IntRange(1), help="Users of whom only organic views are logged."
)
@click.option("--test-users", default=4000, type=click.IntRange(2), help="Simulated users of the A/B test, per policy.")
@click.option("--embedding-dim", default=20, type=click.IntRange(1), help="K.")
@click.option("--interests", default=10, help="Latent interests of RecoGym's users: 10 in Sakhi et al. (2020).")
@click.option("--seed", default=0, help="Of the environment, the log and the fits.")
def demo(
    output: Path,
    items: int,
    flips: int,
    users: int,
    organic_users: int,
    test_users: int,
    embedding_dim: int,
    interests: int,
    seed: int,
) -> None:
    """Log with RecoGym, fit BLO and BLOB, let Thompson sampling log a second round, and compare policies."""
    start = time.perf_counter()
    setting: dict[str, Any] = {"num_items": items, "num_flips": flips, "seed": seed, "embedding_dim": interests}
    environment, blo = _checked(setting, embedding_dim, output)

    _title("1. A log, from RecoGym 0.1.3.0 under session popularity with epsilon 0.3")
    reference = RecoGymReference(**setting)
    agent = session_popularity_agent(items, epsilon=0.3, seed=seed)
    frame = reference.simulate(agent, num_users=users, num_organic_users=organic_users, progress=show_progress())
    log = EventLog.from_recogym(frame, num_items=items)
    click.echo(log)

    _title("2. What users are interested in: BLO, from their views")
    organic = blo.fit(log, seed=seed, learning_rate=_ORGANIC_RATE, progress=show_progress())

    _title("3. What they click: BLOB, from the recommendations")
    blob = BLOB(blo)
    bandit = blob.fit(log, seed=seed, progress=show_progress())
    click.echo(f"ELBO per event {bandit.elbo.iloc[-1]:.4f} nats; items' own click logits vary by "
               f"{float(blob.model.kappa_scale.detach()):.2f} (learned)")  # fmt: skip

    _title("4. Thompson sampling, with the propensities one would log")
    click.echo(_propensities(blob, log).to_string(index=False))

    _title(f"5. A second round: Thompson sampling recommends to {users:,} new users, and BLOB learns from both rounds")
    newcomers = environment.simulate(
        ThompsonSampling(blob), users, first_user=organic_users + users, propensities=False, progress=show_progress()
    )
    both = EventLog.concat([replace(log, propensity=None), newcomers])  # learning asks for no propensities
    click.echo(both)
    again = BLOB(blo)
    second = again.fit(both, seed=seed, progress=show_progress())

    _title(f"6. A/B test on {test_users:,} simulated users per policy")
    policies: dict[str, Policy | Oracle] = {
        "random": Uniform(items),
        "logging policy": SessionPopularity(items, epsilon=0.3),
        "popularity": Greedy(Popularity(log)),
        "BLO": Greedy(blo),
        "BLOB": Greedy(blob),
        "BLOB, Thompson": ThompsonSampling(blob),
        "BLOB, two rounds": Greedy(again),
        "oracle": environment.oracle(),
    }
    result = ab_test(environment, policies, num_users=test_users, seed=seed, progress=show_progress())
    click.echo(_rates(result).to_string())
    click.echo(_NOTE)

    written = _write(output, result, {"BLO": organic, "BLOB": bandit, "BLOB, two rounds": second}, again)
    _title("Written")
    for path, what in written.items():
        click.echo(f"{path}  {what}")
    click.echo(f"\n{time.perf_counter() - start:.0f} s")


def _checked(setting: dict[str, Any], embedding_dim: int, output: Path) -> tuple[RecoGym, BLO]:
    """Find out whether it can end before it begins: what is simulated and fitted, and the folder that it is written to.

    Raises:
        UsageError: naming what is wrong.
    """
    try:
        for name in _FILES:
            require_writable(output / name, "--output")
        require_replaceable(output / _MODEL)
        return RecoGym(**setting), BLO(num_items=setting["num_items"], embedding_dim=embedding_dim)
    except (ValueError, MemoryError) as error:
        raise click.UsageError(str(error)) from error


def _title(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _propensities(blob: BLOB, log: EventLog, num_contexts: int = 3, num_actions: int = 3) -> pd.DataFrame:
    """The likeliest actions after a few histories: short, middling and long ones."""
    order = log.contexts.lengths.argsort()
    chosen = log.contexts[order[torch.linspace(0, len(order) - 1, num_contexts).long()]]
    actions = ThompsonSampling(blob, num_points=64, num_replicates=16).action_distribution(chosen)
    rows = []
    for n, views in enumerate(chosen.lengths.tolist()):
        for item in actions.probs[n].topk(num_actions).indices.tolist():
            probability, error = float(actions.probs[n, item]), float(actions.error_estimate[n, item])
            rows.append({"views": views, "item": item, "propensity": f"{probability:.4f}", "+-": f"{error:.4f}"})
    return pd.DataFrame(rows)


def _rates(result: ABTest) -> pd.DataFrame:
    """The table in percent, and how far each policy comes on the way from random items to the oracle."""
    table = result.table()
    low, high = ((100 * table[name]).map("{:.3f}".format) for name in ("lower", "upper"))
    way = table["difference"] / float(table["difference"]["oracle"])
    return pd.DataFrame(
        {
            "click rate %": (100 * table["click_rate"]).map("{:.3f}".format),
            "95% interval": "[" + low + ", " + high + "]",
            "of the way": way.map("{:.2f}".format),
            "top item": (100 * table["top_item_share"]).map("{:.0f} %".format),
        }
    )


def _write(output: Path, result: ABTest, histories: dict[str, pd.DataFrame], blob: BLOB) -> dict[Path, str]:
    """Tables, figures, the posterior and the model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result.table().to_csv(output / _TABLE)
    figure, ax = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    result.plot(ax)
    figure.savefig(output / _RATES, dpi=150)
    figure, axes = pyplot.subplots(1, len(histories), figsize=(11, 3.5), layout="constrained")
    for ax, (name, history) in zip(axes, histories.items()):
        plot_training({name: history}, ax=ax)
    figure.savefig(output / _TRACES, dpi=150)
    pyplot.close("all")
    blob.to_inference_data().to_netcdf(str(output / _POSTERIOR))
    blob.save(output / _MODEL)
    return {
        output / _TABLE: "the table above, and more",
        output / _RATES: "the same, as a figure",
        output / _TRACES: "training traces",
        output / _POSTERIOR: "1,000 draws from posterior and prior: arviz.from_netcdf",
        output / _MODEL: "both models, after the second round: BLOB.load",
    }
