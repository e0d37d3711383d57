"""The command line on a small problem: what it prints, and what it writes."""

import re

import pandas as pd
import xarray as xr
from click.testing import CliRunner

from blob_pyro import BLOB
from blob_pyro.cli import main

SMALL = ["--items", "12", "--flips", "4", "--users", "15", "--organic-users", "60", "--test-users", "20"]


def test_demo(tmp_path):
    output = tmp_path / "made" / "here"
    run = CliRunner().invoke(main, ["demo", *SMALL, "--embedding-dim", "3", "--output", str(output)])
    assert run.exit_code == 0, run.output
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
        assert posterior.sizes["sample"] == 1000
    assert BLOB.load(output / "model", device="cpu").num_items == 12


def test_help_names_every_command():
    run = CliRunner().invoke(main, ["--help"])
    assert run.exit_code == 0
    assert "demo" in run.output
    assert "reproduce" in run.output
