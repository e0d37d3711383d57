"""Values and audits by command are those of Python."""

import pandas as pd
import pytest

from blob_pyro import BLOB, EventLog
from blob_pyro.ope import evaluate
from blob_pyro.policies import Softmax
from tests.cli.commands import done, run


def test_values(monday, tmp_path):
    tables = {name: monday / f"{name}.parquet" for name in ("views", "impressions")}
    options = [part for name, path in tables.items() for part in (f"--{name}", path)]
    done("evaluate", monday / "model", *options, "--policy", "softmax", "--output", tmp_path / "values.csv")
    found = pd.read_csv(tmp_path / "values.csv", index_col="estimator")
    blob = BLOB.load(monday / "model", device="cpu")
    log = EventLog.read_parquet(**tables, items=blob.items.ids)
    expected = evaluate(log, Softmax(blob), baseline="logging").table()
    assert list(found.index) == list(expected.index)
    assert found["value"].to_numpy() == pytest.approx(expected["value"].to_numpy(), rel=1e-9)


def test_an_audit_that_flags_says_so_to_the_shell(tmp_path):
    counted = pd.DataFrame({"user": range(300), "time": 0, "action": [n % 3 for n in range(300)], "reward": 0})
    counted["propensity"] = [(n % 3 + 1) / 6 for n in range(300)]
    counted.loc[0, "reward"] = 1
    counted.to_csv(tmp_path / "log.csv", index=False)
    told = run("audit", "--impressions", tmp_path / "log.csv")
    assert told.exit_code == 1
    assert "!!" in told.output
    assert "Error" not in told.output
