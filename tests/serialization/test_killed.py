"""Processes that are killed or interrupted leave something whole, and the same floats: see `killing.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
ROOT = Path(__file__).parents[2]
FITS = ["organic", "normal", "matrix_normal", "low_rank"]
FEW = [
    ["organic", "line", 2, 0], ["low_rank", "line", 2, 0], ["save", "line", 6, 0], ["normal", "interrupt", 2, 0],
    ["save", "interrupt", 3, 0], ["organic", "time", 1, 0], ["race", "", 8, 0],
]  # fmt: skip
MANY = [
    *([scenario, how, number, 1] for scenario in (*FITS, "save") for how, number in (
        ("line", 50), ("time", 25), ("interrupt", 50),
    )),
    ["race", "", 300, 1],
]  # fmt: skip


def results(requests: list) -> list[dict]:
    """What `killing.py` found, in a process of its own: forks of this one would inherit pytest."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.serialization.killing", json.dumps(requests)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "requests", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
)
def test_killed_or_interrupted_nothing_is_half_done(requests):
    found = results(requests)
    wrong = {f"{scenario} {how}": result["wrong"] for (scenario, how, *_), result in zip(requests, found)}
    assert not any(wrong.values()), wrong
    for (scenario, how, trials, _), result in zip(requests, found):
        assert result["stopped"] >= (trials if how == "line" else 1), (scenario, how)
    races = [result for (scenario, *_), result in zip(requests, found) if scenario == "race"]
    assert all(result["old"] and result["new"] for result in races)
