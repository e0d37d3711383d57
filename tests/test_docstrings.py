"""A summary, the first line of a docstring, is understood by a reader who sees that line alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import blob_pyro

ROOT = Path(blob_pyro.__file__).parent

# What functions do here. A verb that is missing is added; a noun is not, so that "Rows of a log." stays a fault.
VERBS = {
    "Add", "Apply", "Ask", "Average", "Become", "Build", "Cast", "Check", "Choose", "Collect", "Compare",
    "Compute", "Copy", "Correct", "Count", "Cut", "Deal", "Declare", "Decode", "Describe", "Detach", "Divide",
    "Draw", "Encode", "Estimate", "Evaluate", "Factor", "Fill", "Find", "Fit", "Fold", "Forget", "Give", "Go",
    "Group", "Guess", "Halve", "Hash", "Have", "Hold", "Import", "Integrate", "Invert", "Iterate", "Join", "Judge",
    "Keep", "Label", "Learn", "Leave", "Let", "List", "Load", "Log", "Look", "Make", "Map", "Mark", "Maximise",
    "Measure", "Minimise", "Move", "Multiply", "Name", "Number", "Open", "Pair", "Pick", "Place", "Play",
    "Plot", "Predict", "Put", "Raise", "Rank", "Recommend", "Read", "Refuse", "Reject", "Remove", "Repeat", "Replace",
    "Reproduce", "Return", "Run", "Sample", "Save", "Say", "Scale", "Score", "Seed", "Set", "Shorten", "Show",
    "Simulate", "Solve", "Sort", "Split", "Start", "Stop", "Store", "Sum", "Summarise", "Take", "Tell", "Test",
    "Time", "Train", "Turn", "Undo", "Update", "Use", "Visit", "Wait", "Warn", "Wrap", "Write", "Yield",
}  # fmt: skip
# A summary that starts so has its subject or its verb somewhere else.
LOOSE_ENDS = {
    "Are", "As", "By", "Could", "Did", "Do", "Does", "For", "From", "How", "In", "Is", "Of", "On", "See",
    "That", "Those", "To", "Were", "What", "Whatever", "When", "Where", "Whether", "Which", "Who", "Whole",
    "Why", "With", "Without",
}  # fmt: skip


class Documented(NamedTuple):
    kind: str  # module, class, function or property
    name: str  # with its file and line
    docstring: str


def decorators(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}


def documented(path: str, source: str) -> Iterator[Documented]:
    """Public modules, classes, functions and properties of a file; overloads and setters have no docstring."""
    tree = ast.parse(source)
    yield Documented("module", path, ast.get_docstring(tree) or "")

    def of(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Documented]:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or child.name.startswith(
                "_"
            ):
                continue
            name = f"{prefix}{child.name}"
            where = f"{path}:{child.lineno} {name}"
            if isinstance(child, ast.ClassDef):
                yield Documented("class", where, ast.get_docstring(child) or "")
                yield from of(child, f"{name}.")
            elif not decorators(child) & {"overload", "setter"}:
                is_property = decorators(child) & {"property", "cached_property", "dependent_property"}
                yield Documented("property" if is_property else "function", where, ast.get_docstring(child) or "")

    yield from of(tree, "")


def fault(kind: str, docstring: str) -> str:
    """What is wrong with a summary; empty if nothing is."""
    summary, _, rest = docstring.partition("\n")
    words = summary.split()
    if not words:
        return "has no docstring"
    if rest and not rest.startswith("\n"):
        return "has a summary of more than one line"
    if not summary.endswith("."):
        return "has a summary that does not end with a period"
    first = words[0].rstrip(",;:")
    if first in LOOSE_ENDS:
        return f"has a summary that starts with {first!r}: begin with what does it, or with what it is"
    if kind == "function" and first not in VERBS:
        return f"has a summary that starts with {first!r}: begin with a verb (VERBS, in this file)"
    if kind == "property" and not summary[0].isupper():
        return "has a summary that is no phrase: say what the property is"
    if len(words) < 3:
        return "has a summary of fewer than three words"
    return ""


def public_files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if not path.name.startswith("_") or path.name == "__init__.py"]


@pytest.mark.parametrize("folder", sorted({path.parent.relative_to(ROOT).as_posix() for path in public_files()}))
def test_summaries_are_understood_alone(folder):
    files = [path for path in public_files() if path.parent == ROOT / folder]
    things = [thing for path in files for thing in documented(str(path.relative_to(ROOT)), path.read_text())]
    faults = [f"{name} {why}" for kind, name, docstring in things if (why := fault(kind, docstring))]
    assert not faults, "\n".join(["", *faults])


@pytest.mark.parametrize(
    ("kind", "docstring", "why"),
    [
        ("module", "How a guide is fitted.", "starts with 'How'"),
        ("class", "What a user holds.", "starts with 'What'"),
        ("class", "Of all that is fixed.", "starts with 'Of'"),
        ("property", "Of each number, ``N``.", "starts with 'Of'"),
        ("property", "``P``.", "no phrase"),
        ("property", "Size.", "fewer than three words"),
        ("function", "Whether it is fitted.", "starts with 'Whether'"),
        ("function", "Rows of a log.", "starts with 'Rows'"),
        ("function", "The rows of a log.", "starts with 'The'"),
        ("function", "See `Policy.scores`.", "starts with 'See'"),
        ("function", "Return the rows", "period"),
        ("function", "Return the rows\nof a log.", "one line"),
        ("function", "", "no docstring"),
    ],
)
def test_a_summary_that_is_no_sentence_is_found(kind, docstring, why):
    assert why in fault(kind, docstring)


def test_what_is_private_or_overloaded_needs_none():
    lines = [
        "@overload",
        "def g(): ...",
        "class C:",
        '    """A class of things."""',
        "    @p.setter",
        "    def p(self): ...",
    ]
    source = "\n".join(['"""Rows of a log."""', "def _f(): ...", *lines])
    assert [thing.kind for thing in documented("f.py", source)] == ["module", "class"]


def test_the_package_is_walked():
    kinds = [thing.kind for path in public_files() for thing in documented(path.name, path.read_text())]
    assert kinds.count("function") > 500
    assert kinds.count("class") > 200
    assert kinds.count("property") > 100


def test_docstrings_have_one_dialect():
    """`name` for what can be looked up, ``code`` for what can be typed, and :math: for formulas; no other roles."""
    files = {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}
    roles = {name: set(re.findall(r"(:[a-z]+:)`", text)) - {":math:"} for name, text in files.items()}
    roles = {name: found for name, found in roles.items() if found}
    assert not roles
