"""The README's code runs, in order, as a newcomer would run it."""

import os
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch

import blob_pyro.recommenders.blo
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def write_tables(folder):
    """A small log with the README's column names, under ids of another kind."""
    log = RecoGym(num_items=30, seed=1).simulate(SessionPopularity(30), num_users=40, num_organic_users=100)
    sku = np.array([f"sku-{i}" for i in range(30)])
    pd.DataFrame({"user": log.view_user, "time": log.view_time, "item": sku[log.view_item]}).to_parquet(
        folder / "views.parquet"
    )
    pd.DataFrame(
        {
            "user": log.user,
            "time": log.time,
            "action": sku[log.action],
            "reward": log.reward,
            "propensity": log.propensity,
        }
    ).to_parquet(folder / "impressions.parquet")


def smaller(code):
    """The same statements on a smaller problem."""
    sizes = {"num_users=1000": "num_users=30", "num_organic_users=20_000": "num_organic_users=100", "4_000": "30"}
    sizes |= {
        "200, 206": "200, 202",
        "num_rounds=3, users_per_round=1000": "num_rounds=2, num_organic_users=100, users_per_round=30",
    }
    for large, small in sizes.items():
        code = code.replace(large, small)
    return code


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    write_tables(tmp_path)
    fast = blob_pyro.recommenders.blo.Training

    def few_epochs(num_epochs, *others, **more):
        return fast(min(num_epochs, 5), *others, **more)

    monkeypatch.setattr("blob_pyro.recommenders.blo.Training", few_epochs)
    monkeypatch.setattr("blob_pyro.recommenders.blob.Training", few_epochs)
    assert len(BLOCKS) == 12
    names: dict = {"__name__": __name__}  # warnings of the block are ours
    for code in BLOCKS:
        exec(compile(smaller(code), "README.md", "exec"), names)
        if "propensity" in names and "checked" not in names:
            names["checked"] = True
            assert names["logits"].mean.shape == (2, 30)
            picked = names["actions"].probs.gather(-1, names["a"][:, None]).squeeze(-1)
            assert torch.allclose(names["propensity"], picked)
            assert os.path.isfile(tmp_path / "model" / "config.json")
        if "decide(" in code:
            assert names["newer"].propensity.tolist() == names["shown"].propensity.tolist()
            assert set(names["shown"].action) | set(names["top"].item) <= set(names["stock"])
    assert names["slots"].shape == (3, 2)
    assert torch.allclose(names["slots"][:, 0], names["best"], atol=1e-6)
    assert names["played"].agents == ["greedy", "Thompson", "LinTS"]
    assert set(names["result"].policies) == {"random", "BLO", "BLOB", "Thompson", "oracle"}


def test_quickstart_is_twenty_lines():
    statements = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(statements) <= 20
