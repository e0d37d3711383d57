"""The examples run, on smaller problems than they show."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SMALL = {"num_items": 12, "num_users": 60, "epochs": 5}


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"feed", "ad_slot", "email_slates"}


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore:.*never shown")
def test_feed(tmp_path, capsys):
    shown = example("feed").main(tmp_path, **SMALL)
    assert shown.groupby("user")["action"].nunique().eq(3).all()
    assert "audit of" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore:.*never shown")
def test_ad_slot():
    expected = example("ad_slot").main(**SMALL)
    assert expected.sum() == pytest.approx(60)


@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning", "ignore:.*never shown")
def test_email_slates():
    values = example("email_slates").main(slots=3, **SMALL)
    assert 0 < values["snips"].value < 1
