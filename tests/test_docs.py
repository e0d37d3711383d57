"""The site without Sphinx: its links lead somewhere, its code runs, its reference has every public name."""

import importlib.util
import re
from functools import reduce
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from tests.shop import ROOT, blocks, smaller, train_briefly, write_tables

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if path.stem != "mutants")  # a report for developers
FILES = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]


@pytest.fixture(scope="module")
def pages():
    """The module that writes what is not written by hand."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(pages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "generated"
    pages.write_all(folder)
    return folder


def prose(path):
    """A page without its code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def links(path):
    """Where a page points to, pictures included."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))


def anchors(path):
    """Names of a page's headings, as code hosts and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path, generated):
    for link in links(path):
        if link.startswith(("https:", "mailto:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = path if not name else path.parent / name
        if name.startswith("generated/"):
            target = generated / name.removeprefix("generated/")
        assert target.exists(), f"{path.name} points to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{path.name} points to {link}: no such heading"


def test_every_page_is_in_the_contents():
    listed = set()
    for block in re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(), flags=re.DOTALL):
        listed |= {line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")}
    assert {path.stem for path in PAGES} - {"index"} <= listed
    assert {name for name in listed if name.startswith("generated/")} == {
        "generated/commands", "generated/citing", "generated/reference/index",
    }  # fmt: skip


def run(path, names, sizes):
    for code in blocks(path):
        for large in [*sizes]:
            if large in code:
                code = smaller(code, {large: sizes[large]})
        exec(compile(code, path.name, "exec"), names)
    return names


def test_the_first_week_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path, num_items=12, num_users=30)
    train_briefly(monkeypatch)
    sizes = {"embedding_dim=20": "embedding_dim=3", "num_draws=200, max_events=500": "num_draws=100, max_events=200"}
    names = run(DOCS / "first-week.md", {"__name__": __name__}, sizes)
    assert (tmp_path / "model" / "config.json").is_file()
    assert names["today"].propensity.tolist() == names["shown"].propensity.tolist()
    assert names["today"].contexts.lengths.sum() > 0, "yesterday's views count today"
    assert [fit["call"] for fit in names["blob"].fits] == ["fit", "update"]


def test_how_tos_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_briefly(monkeypatch)
    from blob_pyro.guides import GUIDES
    from blob_pyro.ope.registry import ESTIMATORS
    from blob_pyro.ops.saved_classes import SAVED_CLASSES

    registries = [(registry, dict(registry)) for registry in (GUIDES, ESTIMATORS, SAVED_CLASSES)]
    try:
        names = run(DOCS / "how-to.md", {"__name__": __name__}, {"num_users=100": "num_users=30"})
    finally:
        for registry, before in registries:
            registry.clear()
            registry.update(before)
    assert names["found"].estimates["capped"].clip == 5
    assert names["policy"].action_distribution([[3, 3, 7], []]).probs[0, [3, 7]].tolist() == [0.5, 0.5]


def test_the_reference_has_every_public_name(pages, generated):
    listed = {name for _, _, names in pages.reference() for name in names}
    objects = {id(pages._get("blob_pyro", name.removeprefix("blob_pyro."))) for name in listed}
    rooms = [path.name for path in (ROOT / "blob_pyro").iterdir() if (path / "__init__.py").exists()]
    assert {*rooms, "testing"} - {"cli"} == set(pages.ROOMS), "commands have a page of their own"
    for name in ["blob_pyro", *(f"blob_pyro.{room}" for room in pages.ROOMS)]:
        module = importlib.import_module(name)
        missing = [public for public in pages.exported(module) if id(pages._get(name, public)) not in objects]
        assert not missing, f"{name}: {missing}"
    text = "\n".join(path.read_text() for path in (generated / "reference").glob("*.rst"))
    documented = re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)$", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(listed)
    assert len(documented) == len(set(documented)) > 250


def test_every_command_has_its_help(generated):
    from blob_pyro.cli import main

    text = (generated / "commands.md").read_text()
    for name in main.commands:
        assert f"## blob-pyro {name}\n" in text
    assert "Usage: blob-pyro reproduce table3 [OPTIONS]" in text


def test_commands_in_pages_are_commands():
    """Names and options of each ``blob-pyro`` line are those of the command."""
    from blob_pyro.cli import main

    lines = [line for path in FILES for block in re.findall(r"```\w*\n(.*?)```", path.read_text(), flags=re.DOTALL)
             for line in block.splitlines() if line.startswith("blob-pyro ")]  # fmt: skip
    assert len(lines) > 10
    for line in lines:
        words = line.split("#")[0].split()
        command = main.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.split("=")[0] for word in words[2:] if word.startswith("-")}
        assert used <= known, f"{line}: {used - known}"


def test_notebooks_and_how_to_cite_are_there(pages, generated):
    copied = {path.name for path in (generated / "notebooks").glob("*.ipynb")}
    assert copied == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert "Counterfactual Inference under Thompson Sampling" in (generated / "citing.md").read_text()


def test_a_notebook_that_was_executed_is_shown_so(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "notebooks" / "executed").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("{}")
    executed = tmp_path / "notebooks" / "executed" / "b.ipynb"
    executed.write_text("{}")
    assert pages.notebooks() == [tmp_path / "notebooks" / "a.ipynb", executed]


def test_the_picture_names_what_there_is():
    import blob_pyro.diagnostics
    import blob_pyro.ope
    import blob_pyro.policies
    import blob_pyro.simulation

    rooms = (blob_pyro, blob_pyro.policies, blob_pyro.ope, blob_pyro.diagnostics, blob_pyro.simulation)
    known = {name: getattr(room, name) for room in rooms for name in room.__all__}
    elements = ElementTree.parse(DOCS / "loop.svg").getroot().iter("{http://www.w3.org/2000/svg}text")
    named = [name for e in elements if e.get("class") == "code" for name in e.text.split(", ")]
    assert len(named) > 8
    for name in named:
        assert callable(reduce(getattr, name.split(".")[1:], known[name.split(".")[0]]))
