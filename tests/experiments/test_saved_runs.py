"""Runs in a folder: settings and machine beside them, resumption after a kill, refusal of other settings."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from blob_pyro.experiments.saved_runs import SavedRuns, claim


@dataclass(frozen=True)
class Toy:
    size: int = 3
    levels: tuple[int, ...] = (1, 2)

    def run(self, seed, level):
        return pd.DataFrame({"agent": ["a", "b"], "rate": [seed + level / 3, self.size / 7]})


RUNS = [(seed, level) for seed in (5, 6) for level in (1, 2)]


def test_settings_seeds_versions_and_machine_stand_beside_the_results(tmp_path):
    runs = SavedRuns(Toy(), tmp_path / "new", ("seed", "level"))
    assert list(runs.complete(RUNS, Toy().run)) == RUNS
    record = json.loads((tmp_path / "new" / "settings.json").read_text())
    assert record["experiment"] == "Toy"
    assert record["settings"] == {"size": 3, "levels": [1, 2]}
    assert record["done"] == {"seed": [5, 6], "level": [1, 2]}
    (here,) = record["computed_by"]
    assert here["torch"] == torch.__version__.split("+")[0] or here["torch"] == torch.__version__
    assert here["cores"] == os.cpu_count()
    assert here["machine"]
    saved = pd.read_csv(tmp_path / "new" / "runs.csv")
    pd.testing.assert_frame_equal(saved, runs.frame.reset_index(drop=True), rtol=1e-8)


def test_what_is_done_is_not_run_again(tmp_path):
    first = SavedRuns(Toy(), tmp_path, ("seed", "level"))
    steps = first.complete(RUNS, Toy().run)
    next(steps), next(steps)
    ran = []
    again = SavedRuns(Toy(), tmp_path, ("seed", "level"))
    assert list(again.complete(RUNS, lambda *key: ran.append(key) or Toy().run(*key))) == RUNS
    assert ran == RUNS[2:]
    assert len(again.frame) == 8


def test_without_a_folder_runs_are_kept_in_memory():
    runs = SavedRuns(Toy(), None, ("seed", "level"))
    assert len(list(runs.complete(RUNS, Toy().run))) == 4
    assert len(runs.frame) == 8


def test_other_settings_are_refused(tmp_path):
    claim(Toy(), tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(settings size was 3, is 4\); name another folder"):
        claim(Toy(size=4), tmp_path)

    @dataclass
    class Other:
        size: int = 3

    with pytest.raises(ValueError, match=r"experiment was 'Toy', is 'Other'"):
        claim(Other(), tmp_path)


def test_another_machine_is_noted_beside_the_first(tmp_path, monkeypatch):
    claim(Toy(), tmp_path, done={"seed": [1]})
    monkeypatch.setattr("platform.platform", lambda: "elsewhere")
    claim(Toy(), tmp_path)
    record = json.loads((tmp_path / "settings.json").read_text())
    assert [here["machine"] for here in record["computed_by"]][1] == "elsewhere"
    assert record["done"] == {"seed": [1]}


KILLED = """
import sys, time
from pathlib import Path
from tests.experiments.test_saved_runs import RUNS, SavedRuns, Toy

def slow(*key):
    if key == RUNS[2]:
        print("third", flush=True)
        time.sleep(60)
    return Toy().run(*key)

for _ in SavedRuns(Toy(), Path(sys.argv[1]), ("seed", "level")).complete(RUNS, slow):
    pass
"""


def test_a_kill_costs_the_run_that_was_going_on(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "third\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (tmp_path / "runs.csv.part").write_text("seed,level\n9")  # as a kill while writing leaves it
    runs = SavedRuns(Toy(), tmp_path, ("seed", "level"))
    assert len(runs.frame) == 4
    ran = []
    list(runs.complete(RUNS, lambda *key: ran.append(key) or Toy().run(*key)))
    assert ran == RUNS[2:]
