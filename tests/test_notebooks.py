"""Notebooks are kept without their outputs, and run from a clean kernel."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
QUICK = {"07_a_production_log.ipynb"}  # seconds long; the others are run by 'make notebooks' and 'make test-slow'


def test_there_are_some():
    assert {path.name for path in NOTEBOOKS} >= QUICK


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.name in QUICK else pytest.mark.slow) for p in NOTEBOOKS],
)
def test_it_runs_from_a_clean_kernel(path, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = "import sys; from nbclient.cli import main; main()"
    output = tmp_path / "executed"
    arguments = [sys.executable, "-c", code, "--timeout=600", f"--output={output}", str(path)]
    environment = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(output.with_suffix(".ipynb").read_text())["cells"]
    assert any(cell.get("outputs") for cell in cells)


def test_the_readme_lists_them_all():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    listed = re.findall(r"^\| `(\d\d_\w+)` \|", readme, flags=re.MULTILINE)
    assert listed == [path.stem for path in NOTEBOOKS]
    assert [int(name[:2]) for name in listed] == list(range(1, 1 + len(listed)))
