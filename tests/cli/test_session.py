"""What every command shares: a configuration file, errors without a traceback, and exit codes."""

import runpy
import sys

import pandas as pd
import pytest
from click.testing import CliRunner

from blob_pyro.__main__ import main as start
from blob_pyro.cli import main
from blob_pyro.cli.session import read_table, write_settings

COMMANDS = ["fit", "update", "recommend", "evaluate", "audit", "diagnose", "simulate", "doctor"]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    told = run(name, "--help")
    assert told.exit_code == 0
    assert f"blob-pyro {name}" in told.output
    assert "--config" in told.output


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["blob-pyro", "--version"])
    monkeypatch.delitem(sys.modules, "blob_pyro.__main__")  # as it is in a process of its own
    with pytest.raises(SystemExit) as end:
        runpy.run_module("blob_pyro", run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out.startswith("blob-pyro, version ")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "click", None)
    for name in [name for name in sys.modules if name.startswith("blob_pyro.cli")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as end:
        start()
    assert end.value.code == (
        "blob-pyro: the command line needs click, which is not installed: pip install 'blob-pyro[cli]'"
    )


def test_a_configuration_says_what_flags_say(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'items = 5\n[simulate]\nflips = 0\nusers = 3\norganic-users = 4\noutput = "{tmp_path / "a"}"\n')
    assert run("simulate", "--config", config).exit_code == 0
    flags = ["--items", 5, "--flips", 0, "--users", 3, "--organic-users", 4, "--output", tmp_path / "b"]
    assert run("simulate", *flags).exit_code == 0
    for name in ("views", "impressions"):
        one, other = (pd.read_parquet(tmp_path / part / f"{name}.parquet") for part in "ab")
        pd.testing.assert_frame_equal(one, other)
    assert run("simulate", "--config", config, "--users", 6, "--output", tmp_path / "c").exit_code == 0
    assert pd.read_parquet(tmp_path / "c" / "impressions.parquet")["user"].nunique() > 3


@pytest.mark.parametrize(
    ("text", "message"), [("itmes = 5", "'itmes' is no option of 'simulate'"), ("items = ", "is no TOML")]
)
def test_a_configuration_that_is_wrong(text, message, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    told = run("simulate", "--config", tmp_path / "run.toml", "--output", tmp_path / "out")
    assert told.exit_code == 2
    assert message in told.output
    assert not (tmp_path / "out").exists()


def test_settings_are_a_configuration(tmp_path):
    output = tmp_path / 'a "quoted" \\ name'
    write_settings(
        tmp_path / "run.toml",
        "simulate",
        {"items": 5, "flips": 0, "users": 3, "organic_users": 2, "output": output, "model": None},
    )
    assert run("simulate", "--config", tmp_path / "run.toml").exit_code == 0
    assert (output / "views.parquet").exists()


def test_what_the_library_refuses_is_a_message(tmp_path):
    (tmp_path / "impressions.csv").write_text("user,time,action,reward\n1,2,3,7\n")
    told = run("audit", "--impressions", tmp_path / "impressions.csv")
    assert told.exit_code == 1
    assert told.output.startswith("Error: ")
    assert "column 'reward'" in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_files_that_are_neither(name, tmp_path):
    (tmp_path / name).write_bytes(b'a,b\n1\n"')
    with pytest.raises(ValueError, match=f"{name}: cannot be read as (CSV|Parquet)"):
        read_table(tmp_path / name)
