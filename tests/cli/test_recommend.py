"""A stream of contexts in, recommendations out: none lost, none doubled, whatever stops the run."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from blob_pyro import BLOB
from blob_pyro.data import ViewHistory
from blob_pyro.distributed.answering import Answering
from tests.cli.commands import done, run


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
    users = pd.read_parquet(contexts)["user"].to_numpy()
    many, whole, cut = tmp_path / "many.parquet", tmp_path / "whole", tmp_path / "cut"
    pa.parquet.write_table(pa.table({"user": np.resize(users, 700)}), many, row_group_size=90)
    arguments = ["--contexts", many, "--history", monday / "history", "-k", 2, "--policy", "softmax", "--rows", 256]
    done("recommend", monday / "model", *arguments, "--output", whole)
    write, calls = Answering.write, []

    def dies(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Answering, "write", dies)
        told = run("recommend", monday / "model", *arguments, "--output", cut)
    assert told.exit_code == 130
    assert "go on" in told.output
    assert not (cut / "_SUCCESS").exists()
    assert "3 parts, 2 of them new" in done("recommend", monday / "model", *arguments, "--output", cut)
    columns = ["user", "action", "position", "propensity"]
    assert pd.read_parquet(cut)[columns].equals(pd.read_parquet(whole)[columns])
    assert "0 of them new" in done("recommend", monday / "model", *arguments, "--output", cut)


def test_views_sorted_by_user_are_contexts(monday, tmp_path):
    views = pd.read_parquet(monday / "views.parquet")
    views.sort_values(["user", "time"]).to_parquet(tmp_path / "sorted.parquet")
    arguments = ["--output", tmp_path / "out", "-k", 1]
    told = done("recommend", monday / "model", "--contexts", tmp_path / "sorted.parquet", *arguments)
    assert f"{views['user'].nunique()} contexts in 1 parts, 1 of them new" in told
    views.sort_values(["item", "user"]).to_parquet(tmp_path / "by_item.parquet")
    told = run(
        "recommend",
        monday / "model",
        "--contexts",
        tmp_path / "by_item.parquet",
        *arguments[2:],
        "--output",
        tmp_path / "o",
    )
    assert told.exit_code == 1
    assert "sort the rows by user and time" in told.output


def test_another_run_is_refused(monday, contexts, tmp_path):
    arguments = ["--contexts", contexts, "--history", monday / "history", "--output", tmp_path / "out"]
    done("recommend", monday / "model", *arguments, "-k", 2)
    told = run("recommend", monday / "model", *arguments, "-k", 3)
    assert told.exit_code == 1
    assert "holds another run: k differ (k is 2 there, 3 here)" in told.output
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
