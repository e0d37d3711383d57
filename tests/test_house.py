"""The house keeps its order: a folder imports from those above it in the list alone; nothing lies loose in the root."""

import ast
from pathlib import Path

import pytest

import blob_pyro

ROOT = Path(blob_pyro.__file__).parent
ROOMS = [
    "data", "ops", "distributions", "models", "guides", "infer", "posteriors", "serialization", "propensity",
    "recommenders", "policies", "ope", "simulation", "diagnostics", "experiments", "cli",
]  # fmt: skip
LOOSE = {"__init__.py", "_version.py", "testing.py"}
# Conveniences of the objects that users hold, which import when they are called.
ANYWHERE = {"_version"}


def imports(tree: ast.Module):
    """Folders of this package that a module imports when it is imported itself; not those for type checkers."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "blob_pyro":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])


def test_nothing_lies_loose():
    assert {path.name for path in ROOT.glob("*.py")} == LOOSE
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    above = {*ROOMS[: ROOMS.index(room) + 1], *ANYWHERE}
    if room in ("experiments", "cli"):  # they use the package as its users do
        above |= {"BLO", "BLOB", "EventLog"}
    for path in sorted((ROOT / room).rglob("*.py")):
        wrong = [name for name in imports(ast.parse(path.read_text())) if name not in above]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}, which lie below it"


def modules_of(tree: ast.Module):
    """Modules of this package that a module names anywhere, for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("blob_pyro."):
            yield node.module


def test_models_and_priors_have_no_circle():
    """Not even for a type checker: what a prior may see of a model is a Protocol."""
    needs = {}
    for path in (ROOT / "models").rglob("*.py"):
        if path.name != "__init__.py":
            module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            needs[module] = set(modules_of(ast.parse(path.read_text())))
    while free := [module for module, others in needs.items() if not others & set(needs)]:
        for module in free:
            del needs[module]
    assert not needs


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := p.read_text().count("\n")) > 500}
    assert not long
