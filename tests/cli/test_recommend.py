"""A stream of contexts in, recommendations out: none lost, none doubled, whatever stops the run."""

import importlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from blob_pyro import BLOB
from blob_pyro.data import ViewHistory
from tests.cli.commands import done, run

recommend = importlib.import_module("blob_pyro.cli.recommend")  # the package's attribute is the command


def test_recommend_is_what_python_recommends(monday, contexts, tmp_path):
    done("recommend", monday / "model", "--contexts", contexts, "--history", monday / "history", "--output",
         tmp_path / "today", "-k", 3, "--rows", 20)  # fmt: skip
    found = pd.read_parquet(tmp_path / "today")
    blob = BLOB.load(monday / "model", device="cpu")
    users = pd.read_parquet(contexts)["user"].tolist()
    expected = blob.recommend(ViewHistory.load(monday / "history").histories(users, blob.items), 3)
    assert found["user"].tolist() == np.repeat(users, 3).tolist()
    assert found[["rank", "item"]].to_numpy().tolist() == expected[["rank", "item"]].to_numpy().tolist()
    assert found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-5)


def test_a_killed_run_goes_on(monday, contexts, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = ["--contexts", contexts, "--history", monday / "history", "-k", 2, "--policy", "softmax", "--rows", 10]
    done("recommend", monday / "model", *arguments, "--output", whole)
    answer, calls = recommend._answer, []

    def dies(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(*given)

    monkeypatch.setattr(recommend, "_answer", dies)
    told = run("recommend", monday / "model", *arguments, "--output", cut)
    assert told.exit_code == 130
    assert "go on" in told.output
    assert not (cut / "_SUCCESS").exists()
    monkeypatch.setattr(recommend, "_answer", answer)
    assert "6 parts, 4 of them new" in done("recommend", monday / "model", *arguments, "--output", cut)
    columns = ["user", "action", "position", "propensity"]
    assert pd.read_parquet(cut)[columns].equals(pd.read_parquet(whole)[columns])
    assert "0 of them new" in done("recommend", monday / "model", *arguments, "--output", cut)


def test_another_run_is_refused(monday, contexts, tmp_path):
    arguments = ["--contexts", contexts, "--history", monday / "history", "--output", tmp_path / "out"]
    done("recommend", monday / "model", *arguments, "-k", 2)
    told = run("recommend", monday / "model", *arguments, "-k", 3)
    assert told.exit_code == 1
    assert "holds another run: k differ" in told.output
    (tmp_path / "out" / "_settings.json").write_text(json.dumps({}))
    assert "differ" in run("recommend", monday / "model", *arguments, "-k", 2).output


BAD = {
    "no users": ({"history": [["0"]]}, [], "has no column 'user'"),
    "no views": ({"user": [1]}, [], "has no column 'history'; pass --history"),
    "two kinds of views": ({"user": [1], "history": [[0]]}, ["history"], "has a column 'history' of its own"),
    "a strange item": ({"user": [1], "history": [[99]]}, [], "histories"),
}


@pytest.mark.parametrize("name", BAD)
def test_contexts_that_are_wrong(name, monday, tmp_path):
    columns, more, message = BAD[name]
    pa.parquet.write_table(pa.table(columns), tmp_path / "contexts.parquet")
    options = ["--history", monday / "history"] if more else []
    told = run("recommend", monday / "model", "--contexts", tmp_path / "contexts.parquet", *options, "--output",
               tmp_path / "out")  # fmt: skip
    assert told.exit_code == 1
    assert message in told.output
    assert not list((tmp_path / "out").glob("part-*"))


def test_an_unknown_policy(monday, contexts, tmp_path):
    told = run("recommend", monday / "model", "--contexts", contexts, "--output", tmp_path / "out", "--policy", "best")
    assert told.exit_code == 2
    assert "unknown 'best'; there are uniform" in told.output
