"""A shop's tables as README and the site read them, and code blocks as a newcomer runs them, on small problems."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import blob_pyro.recommenders.blo
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

ROOT = Path(__file__).parents[1]


def blocks(path, language="python"):
    """The code blocks of a Markdown file."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def write_tables(folder, num_items=30, num_users=40):
    """Write views.parquet and impressions.parquet, under ids of another kind than numbers."""
    environment = RecoGym(num_items=num_items, seed=1)
    log = environment.simulate(SessionPopularity(num_items), num_users=num_users, num_organic_users=100)
    sku = np.array([f"sku-{i}" for i in range(num_items)])
    views = {"user": log.view_user, "time": log.view_time, "item": sku[log.view_item]}
    pd.DataFrame(views).to_parquet(folder / "views.parquet")
    shown = {"user": log.user, "time": log.time, "action": sku[log.action], "reward": log.reward}
    pd.DataFrame({**shown, "propensity": log.propensity}).to_parquet(folder / "impressions.parquet")


def train_briefly(monkeypatch, most=5):
    """Let every fit end after a few epochs, arrived or not."""
    whole, asked = blob_pyro.recommenders.blo.Training, blob_pyro.recommenders.blob_fit.FitRequest

    def few_epochs(num_epochs, *others, **more):
        return whole(min(num_epochs, most), *others, **more)

    def no_more(*parts, **more):
        return replace(asked(*parts, **more), extend=False)

    for name in ("blo", "blob_fit"):
        monkeypatch.setattr(f"blob_pyro.recommenders.{name}.Training", few_epochs)
    monkeypatch.setattr("blob_pyro.recommenders.blob_fit.FitRequest", no_more)


def smaller(code, sizes):
    """The same statements with other sizes, each of which has to be there."""
    for large, small in sizes.items():
        assert large in code, f"{large} is nowhere in the code: bring the test's sizes up to date"
        code = code.replace(large, small)
    return code
