"""Mutation tests: changes a line of the package at a time, and lists the changes that no test notices.

    python .ci/mutants.py [--sample 12] [--seed 0] [--output mutants] [module or folder ...]

Cosmic Ray makes the mutants, from a copy of the package; a mutant meets the tests of its own module alone (the file of
its name, or the one that `tests/test_house.py` names), so that a module takes minutes. ``--sample`` is per module; 0 is
every mutant. A run that was stopped goes on: each module has its session in the output folder. ``--report`` runs
nothing and prints what is there.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["models", "guides", "infer", "posteriors", "policies"]
TREE = ["blob_pyro", "tests", "benchmarks", "examples", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md"]
# Operators on floats and tensors that fail at once, or change nothing that is ever read.
SENSELESS = [
    r"core/ReplaceBinaryOperator_.*_(BitAnd|BitOr|BitXor|LShift|RShift|Mod|FloorDiv|Pow)",
    r"core/ReplaceBinaryOperator_(BitOr|BitAnd|MatMul)_.*",
    r"core/ReplaceUnaryOperator_USub_(Invert|Not|UAdd)",
    r"core/ReplaceComparisonOperator_.*_(Is|IsNot)",
    r"core/ReplaceComparisonOperator_(Is|IsNot)_.*",
    r"core/RemoveDecorator",
]


def modules(names: list[str]) -> list[str]:
    """Modules as paths in the package, without suffix; those without a statement that computes are left out."""
    paths = [ROOT / "blob_pyro" / f for f in FOLDERS] if not names else [ROOT / name for name in names]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return [str(f.relative_to(ROOT / "blob_pyro").with_suffix("")) for f in files if not f.name.startswith("_")]


def tests_of(module: str) -> list[str]:
    """The tests of a module, and its own doctests."""
    house = ast.parse((ROOT / "tests" / "test_house.py").read_text())
    (told,) = (n.value for n in house.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "TESTED_WITH")
    tested_with: dict[str, str] = ast.literal_eval(told)
    own = f"tests/{Path(module).parent}/test_{Path(module).name}.py"
    found = (
        [own] if (ROOT / own).exists() else [f"tests/{t}.py" for t, of in tested_with.items() if module in of.split()]
    )
    return [*found, f"blob_pyro/{module}.py"]


def session(module: str, tree: Path, output: Path, sample: int, seed: int) -> Path:
    """Make the session of a module: which mutants there are, and what tests them; a session that is there stays."""
    path = output / f"{module.replace('/', '.')}.sqlite"
    if path.exists():
        return path
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests_of(module)]
    began = time.monotonic()
    if subprocess.run(command, cwd=tree, capture_output=True, check=False).returncode:
        raise SystemExit(f"{module}: its tests fail without a mutant: {' '.join(command)}")
    config = output / f"{module.replace('/', '.')}.toml"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "blob_pyro/{module}.py"\ntimeout = {30 + 4 * (time.monotonic() - began):.0f}\n'
        f"excluded-modules = []\ntest-command = {json.dumps(' '.join(command))}\n\n"
        '[cosmic-ray.distributor]\nname = "local"\n\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {json.dumps(SENSELESS)}\n"
    )
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    subprocess.run(["cosmic-ray", "init", config.resolve(), new.resolve()], cwd=tree, check=True)
    subprocess.run(["cr-filter-operators", new.resolve(), config.resolve()], cwd=tree, check=True)
    with closing(sqlite3.connect(new)) as database, database:
        database.execute("DELETE FROM work_items WHERE job_id IN (SELECT job_id FROM work_results)")
        database.execute("DELETE FROM mutation_specs WHERE job_id IN (SELECT job_id FROM work_results)")
        database.execute("DELETE FROM work_results")
        order = "operator_name, occurrence, start_pos_row, start_pos_col"
        jobs = [job for (job,) in database.execute(f"SELECT job_id FROM mutation_specs ORDER BY {order}")]
        drop = random.Random(f"{seed} {module}").sample(jobs, max(0, len(jobs) - sample) if sample else 0)
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(job,) for job in drop])
    new.rename(path)
    return path


def outcomes(path: Path) -> Iterator[tuple[str, int, str, str]]:
    """Of each mutant that has been tested: outcome, line, operator, and the change as two lines of a diff."""
    query = (
        "SELECT test_outcome, start_pos_row, operator_name, diff FROM work_results JOIN mutation_specs USING (job_id) "
        "ORDER BY start_pos_row"
    )
    with closing(sqlite3.connect(path)) as database:
        for outcome, line, operator, diff in database.execute(query):
            changed = [t for t in (diff or "").splitlines() if t[:1] in "+-" and not t.startswith(("+++", "---"))]
            yield str(outcome), line, operator.removeprefix("core/"), "\n".join(changed)


def report(output: Path) -> None:
    """Print how many mutants of each module survived, and which."""
    for path in sorted(output.glob("*.sqlite")):
        found = list(outcomes(path))
        survived = [row for row in found if row[0].lower().endswith("survived")]
        print(f"{path.stem.replace('.', '/')}.py: {len(survived)} of {len(found)} survived")
        for _, line, operator, changed in survived:
            print(f"  line {line}, {operator}\n    " + changed.replace("\n", "\n    "))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="files or folders, as blob_pyro/infer/em.py; default five folders")
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "mutants")
    parser.add_argument("--report", action="store_true")
    settings = parser.parse_args()
    if not settings.report:
        tree = settings.output / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        for name in TREE:
            source, target = ROOT / name, tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        for module in modules(settings.names):
            path = session(module, tree, settings.output, settings.sample, settings.seed)
            subprocess.run(
                ["cosmic-ray", "exec", path.with_suffix(".toml").resolve(), path.resolve()], cwd=tree, check=True
            )
    report(settings.output)


if __name__ == "__main__":
    main()
