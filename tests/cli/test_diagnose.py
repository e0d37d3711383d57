"""The page by command is that of Python, whole or not there."""

import re

import pytest

from blob_pyro import BLOB, EventLog
from blob_pyro.diagnostics import diagnose, diagnosis_page
from tests.cli.commands import done, run

FEW = ["--draws", 100, "--max-events", 200]


@pytest.fixture(scope="module")
def tables(monday):
    return [part for name in ("views", "impressions") for part in (f"--{name}", monday / f"{name}.parquet")]


def test_a_page(monday, tables, tmp_path):
    told = done("diagnose", monday / "model", *tables, "--output", tmp_path / "new" / "page.html", *FEW, "--seed", 5)
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    blob = BLOB.load(monday / "model", device="cpu")
    log = EventLog.read_parquet(
        views=monday / "views.parquet", impressions=monday / "impressions.parquet", items=blob.items.ids
    )
    report = diagnose(blob, log, num_draws=100, max_events=200, seed=5)
    facts = {"model": "model", "version": blob.fingerprint()[:12], "draws": "100", "seed": 5}
    assert page == diagnosis_page(report, "Is this posterior right? model", facts)
    assert f"{report}\n" in told
    assert report["convergence"].flagged is False


def test_events_held_out(monday, tables, tmp_path):
    held_out = ["--held-out", monday / "impressions.parquet"]
    done("diagnose", monday / "model", *tables, *held_out, "--output", tmp_path / "page.html", *FEW)
    assert re.search("200 of [0-9,]+ events held out", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_what_is_wrong_leaves_the_old_page(monday, tables, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    (tmp_path / "bad.csv").write_text("user,time,action,reward\n1,2,3,7\n")
    told = run("diagnose", monday / "model", "--impressions", tmp_path / "bad.csv", "--output", page)
    assert told.exit_code == 1
    assert "column 'reward'" in told.output
    assert page.read_text() == "old"
    told = run("diagnose", monday / "model", *tables, "--output", tmp_path)
    assert told.exit_code == 1
    assert "--output: " in told.output
    assert "is a folder; give the path of a file" in told.output
