"""A model from tables by command, and the next from new tables; run again, a command gives the same model."""

import numpy as np
import pandas as pd

from blob_pyro import BLOB, EventLog
from blob_pyro.data import ViewHistory
from tests.cli.commands import done, run


def test_fit(monday):
    blob = BLOB.load(monday / "model", device="cpu")
    assert blob.fitted
    assert (blob.guide_name, blob.blo.embedding_dim) == ("laplace", 3)
    assert not list(monday.glob(".*"))  # no checkpoints are left
    assert ViewHistory.load(monday / "history").num_views == len(pd.read_parquet(monday / "views.parquet"))
    told = (monday / "model.toml").read_text()
    assert 'guide = "laplace"' in told
    again = done("fit", "--config", monday / "model.toml", "--output", monday / "again")
    assert BLOB.load(monday / "again", device="cpu").fingerprint() == blob.fingerprint()
    assert blob.fingerprint() in again


def test_decisions_are_the_next_log(monday, contexts, tmp_path):
    done("recommend", monday / "model", "--contexts", contexts, "--history", monday / "history", "--output",
         tmp_path / "today", "-k", 2, "--policy", "thompson_mixture",
             "--seed", 5, "--rows", 256, "--time", 10**6)  # fmt: skip
    shown = pd.read_parquet(tmp_path / "today")
    assert len(shown) == 2 * 51
    assert shown["propensity"].between(0, 1, inclusive="right").all()
    shown["reward"] = np.arange(len(shown)) % 5 == 0
    shown["reward"] = shown["reward"].astype(int)
    shown.to_parquet(tmp_path / "shown.parquet")
    told = done("audit", "--impressions", tmp_path / "shown.parquet", "--history", monday / "history",
                "--output", tmp_path / "audit.csv")  # fmt: skip
    assert "granularity" in told
    assert len(pd.read_csv(tmp_path / "audit.csv"))
    told = done(
        "evaluate", monday / "model", "--impressions", tmp_path / "shown.parquet", "--history", monday / "history",
        "--policy", "softmax", "--output", tmp_path / "values.csv",
    )  # fmt: skip
    assert "snips" in told
    assert {"ips", "delta_ips"} <= set(pd.read_csv(tmp_path / "values.csv")["estimator"])
    told = done(
        "update", monday / "model", "--impressions", tmp_path / "shown.parquet", "--history", monday / "history",
        "--output", tmp_path / "tuesday",
    )  # fmt: skip
    tuesday = BLOB.load(tmp_path / "tuesday", device="cpu")
    log = EventLog.read_parquet(
        impressions=tmp_path / "shown.parquet", items=tuesday.items.ids, history=ViewHistory.load(monday / "history")
    )
    blob = BLOB.load(monday / "model", device="cpu")
    blob.update(log, progress=False)
    assert tuesday.fingerprint() == blob.fingerprint()


def test_update_with_new_items(monday, tmp_path):
    impressions = pd.read_parquet(monday / "impressions.parquet")
    impressions["action"] = impressions["action"].where(impressions.index % 5 > 0, 77)
    impressions.to_parquet(tmp_path / "tuesday.parquet")
    told = ("update", monday / "model", "--impressions", tmp_path / "tuesday.parquet", "--output", tmp_path / "tuesday")
    refused = run(*told)
    assert refused.exit_code == 1
    assert "77 for one" in refused.output
    assert 'new_items="prior"' in refused.output
    said = done(*told, "--new-items", "prior")
    assert "items: 1 new, 9 now" in said
    assert BLOB.load(tmp_path / "tuesday", device="cpu").items.ids[-1] == 77
