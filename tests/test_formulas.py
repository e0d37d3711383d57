"""The table of formulas names files and symbols that exist, and that cite the same place of the same paper."""

import importlib
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs" / "formulas.md").read_text().splitlines()
    if line.startswith("| ") and "`" in line
]
CITED = re.compile(r"(?P<author>.+) (?P<year>\d{4}), (?P<kind>section|eq\.) (?P<number>[\d.]+)")


def is_cited(text: str, source: str) -> bool:
    """Whether a text cites the authors, the year and the section or equation: "eqs. 5 and 7" has equation 7."""
    cited = CITED.fullmatch(source)
    number = re.escape(cited["number"]) + r"(?!\.?\d)"
    place = f"section {number}" if cited["kind"] == "section" else rf"eqs?\. (?:\d+(?:, | and ))*{number}"
    named = cited["author"].removesuffix(" et al.")
    text = " ".join(text.split())
    return bool(named in text and cited["year"] in text and re.search(place, text))


def test_both_papers_are_there():
    assert len(ROWS) >= 20
    assert {row[1].split(" ")[0] for row in ROWS} == {"Sakhi", "Jeunen"}
    assert len({(row[2], row[0]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("formula", "source", "symbol", "file"), ROWS, ids=[row[0] for row in ROWS])
def test_the_symbol_is_in_the_file_and_cites_the_source(formula, source, symbol, file):
    assert (ROOT / file).exists()
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    found = reduce(getattr, symbol.split("."), module)
    assert (getattr(found, "fget", None) or found).__module__ == module.__name__
    text = inspect.getdoc(found)
    assert is_cited(text, source), f"{symbol} does not cite {source}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Jeunen (2025), eqs. 5 and 7.", True),
        ("Jeunen 2025, eq. 7", True),
        ("Jeunen 2025, eq. 17", False),
        ("Jeunen 2025, eq. 5", False),
        ("Sakhi 2025, eq. 7", False),
        ("Jeunen (2025)", False),
    ],
)
def test_a_citation_is_told_from_none(text, expected):
    assert is_cited(text, "Jeunen 2025, eq. 7") is expected
