"""The command line on a small problem: what it prints, and what it writes."""

import errno
import importlib
import re

import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from blob_pyro import BLOB
from blob_pyro.cli import main

SMALL = ["--items", "12", "--flips", "4", "--users", "15", "--organic-users", "60", "--test-users", "20"]


def test_demo(tmp_path):
    output = tmp_path / "made" / "here"
    run = CliRunner().invoke(main, ["demo", *SMALL, "--embedding-dim", "3", "--output", str(output)])
    assert run.exit_code == 0, run.output
    assert "%|" not in run.output + run.stderr  # progress bars are for terminals
    table = pd.read_csv(output / "ab_test.csv", index_col="policy")
    assert set(table.index) == {
        "random", "logging policy", "popularity", "BLO", "BLOB", "BLOB, Thompson", "BLOB, two rounds", "oracle",
    }  # fmt: skip
    assert (table.lower < table.click_rate).all()
    assert table.click_rate.idxmax() == "oracle"
    for name in table.index:
        assert name in run.output
    shares = {row[0]: row[-1] for row in re.findall(r"^(random|oracle) .*\] +(-?\d\.\d\d) ", run.output, re.MULTILINE)}
    assert shares == {"random": "0.00", "oracle": "1.00"}
    assert "75 users" in run.output  # 15 + 60 in the first round
    assert "90 users" in run.output  # and 15 more in the second
    for name in ("ab_test.png", "elbo.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert str(output / name) in run.output
    with xr.open_dataset(output / "posterior.nc", group="posterior") as posterior:
        assert posterior.sizes.get("sample", posterior.sizes.get("draw")) == 1000  # as the installed ArviZ has it
    assert BLOB.load(output / "model", device="cpu").num_items == 12


def test_help_names_every_command():
    run = CliRunner().invoke(main, ["--help"])
    assert run.exit_code == 0
    assert "demo" in run.output
    assert "reproduce" in run.output


def file(path):
    path.write_text("mine")


def folder_for_a_file(path):
    (path / "elbo.png").mkdir(parents=True)


def another_model(path):
    (path / "model").mkdir(parents=True)
    (path / "model" / "notes.txt").write_text("mine")


PLACES = {
    "a file": (file, r"--output: .*ab_test.csv cannot be written \((Not a directory|File exists)\)"),
    "below a file": (lambda path: file(path.parent), "--output: .* cannot be written"),
    "a folder in a file's place": (folder_for_a_file, "--output: .*elbo.png is a folder"),
    "somebody's folder": (another_model, "path: .*model exists and is not a saved model"),
    "nobody may write": (None, r"--output: .* cannot be written \(Permission denied\)"),
}


@pytest.mark.parametrize(("spoil", "message"), PLACES.values(), ids=PLACES)
def test_the_folder_is_looked_at_before_anything_is_computed(spoil, message, tmp_path, monkeypatch):
    output = tmp_path / "there" / "made" if spoil is PLACES["below a file"][0] else tmp_path / "made"
    if spoil is None:
        refusal = PermissionError(errno.EACCES, "Permission denied")
        monkeypatch.setattr("blob_pyro.ops.files._new_file", lambda path: (_ for _ in ()).throw(refusal))
    else:
        spoil(output)
    check_refused(["--output", str(output)], message, monkeypatch)
    assert not list(tmp_path.glob("**/*.tmp"))


ARGUMENTS = {
    "embedding": (["--embedding-dim", "13"], "embedding_dim: must lie between 1 and num_items=12, got 13"),
    "flips": (["--flips", "7"], r"num_flips must be between 0 and num_items // 2 = 6"),
    "users": (["--users", "0"], "'--users': 0 is not in the range x>=1"),
    "tested": (["--test-users", "1"], "'--test-users': 1 is not in the range x>=2"),
    "seed": (["--seed", "-1"], "seed: must be between 0 and"),
    "memory": (["--items", "10000000000000"], r"num_items=10000000000000 x embedding_dim=10: .* bytes"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_are_looked_at_before_anything_is_computed(arguments, message, tmp_path, monkeypatch):
    check_refused([*arguments, "--output", str(tmp_path / "made")], message, monkeypatch)


def check_refused(arguments, message, monkeypatch):
    monkeypatch.setattr(importlib.import_module("blob_pyro.cli.demo"), "RecoGymReference", None)
    run = CliRunner().invoke(main, ["demo", *SMALL, "--embedding-dim", "3", *arguments])
    assert run.exit_code == 2, run.output
    assert re.search(message, run.output, re.DOTALL), run.output
    assert "1. A log" not in run.output
