"""The pages of the site that are not written by hand: the reference, the commands, the notebooks, how to cite.

They need nothing of Sphinx to be made, so that ``tests/test_docs.py`` can look at them.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
ROOMS = (
    "data", "models", "guides", "infer", "posteriors", "recommenders", "policies", "propensity", "ope", "simulation",
    "diagnostics", "distributed", "experiments", "distributions", "serialization", "ops", "testing",
)  # fmt: skip
# What lies in a folder of its own, or is for those who add parts, and is not exported by its room.
INSIDE = {
    "models": ["operations", "sites"],
    "infer": ["em", "training.trace"],
    "policies": ["baselines", "slates"],
    "propensity": ["closed_form"],
    "serialization": ["codec"],
    "diagnostics": ["click_calibration", "predictive_checks"],
}
# Members of these are theirs, and documented by their own projects.
_OF_OTHERS = (
    "Module", "PyroModule", "Distribution", "TorchDistribution", "TorchDistributionMixin", "Categorical", "Warning",
    "Exception", "Messenger", "Optimizer", "Protocol", "Generic", "tuple", "str",
)  # fmt: skip


def exported(module: ModuleType) -> list[str]:
    """List the public names of a module; of a folder that exports none, those of its modules, with their path."""
    if hasattr(module, "__all__"):
        found = {name: getattr(module, name) for name in module.__all__ if name != "__version__"}
        return [name for name, value in found.items() if not inspect.ismodule(value)]
    names = []
    for found in pkgutil.iter_modules(module.__path__):
        if not found.name.startswith("_"):
            inner = importlib.import_module(f"{module.__name__}.{found.name}")
            names += [f"{found.name}.{name}" for name in exported(inner)]
    return names


def reference() -> Iterator[tuple[str, ModuleType, list[str]]]:
    """Go through the pages of the reference: title, module, and full names; each object once, by its shortest path."""
    seen: set[int] = set()
    modules = ["blob_pyro"]
    for room in ROOMS:
        modules += [f"blob_pyro.{room}", *(f"blob_pyro.{room}.{inner}" for inner in INSIDE.get(room, []))]
    for name in modules:
        module = importlib.import_module(name)
        new = []
        for public in exported(module):
            found = _get(name, public)
            if id(found) not in seen:
                seen.add(id(found))
                new.append(f"{name}.{public}")
        if new:
            yield name, module, new


def _get(module: str, path: str) -> Any:
    *inner, name = path.split(".")
    return getattr(importlib.import_module(".".join([module, *inner])), name)


def write_all(folder: Path) -> None:
    """Write every generated page into a folder."""
    _write_reference(folder / "reference")
    (folder / "commands.md").write_text(commands())
    (folder / "citing.md").write_text(citing())
    _copy_notebooks(folder / "notebooks")


def _write_reference(folder: Path) -> None:
    folder.mkdir(parents=True)
    titles = []
    for title, module, names in reference():
        titles.append(title)
        about = inspect.getdoc(module) or ""
        page = [title, "=" * len(title), "", f".. py:module:: {title}", "", about, ""]
        short = {name: name.removeprefix(f"{title}.") for name in names}
        listed = [f"   {short[name]}" for name in names if _is_documented(_get(title, short[name]))]
        page += [".. autosummary::", "   :nosignatures:", "", *listed, ""]
        page += [_one(_get(title, short[name]), name) for name in names]
        (folder / f"{title}.rst").write_text("\n".join(page))
    head, named = "Reference", [f"   {title.removeprefix('blob_pyro.')} <{title}>" for title in titles]
    (folder / "index.rst").write_text(
        f"{head}\n{'=' * len(head)}\n\nEvery public name, from its docstring. Data flow down this list.\n\n"
        ".. toctree::\n   :maxdepth: 1\n\n" + "\n".join(named) + "\n"
    )


def _is_documented(found: Any) -> bool:
    return inspect.isclass(found) or inspect.isroutine(found) or hasattr(found, "__wrapped__")


def _one(found: Any, name: str) -> str:
    if inspect.isclass(found):
        lines = [f".. autoclass:: {name}", "   :members:", f"   :inherited-members: {', '.join(_OF_OTHERS)}"]
    elif _is_documented(found):
        lines = [f".. autofunction:: {name}"]
    elif isinstance(found, dict):  # a registry, whose docstring would be dict's
        lines = [f".. py:data:: {name}", "", f"   What is known by name: {', '.join(f'``{key}``' for key in found)}."]
    else:
        lines = [f".. py:data:: {name}", f"   :value: {' '.join(repr(found).split())[:80]}"]
    return "\n".join([*lines, ""])


def commands() -> str:
    """Write what ``--help`` of every command says."""
    import click

    from blob_pyro.cli import main

    parts = ["# Commands", "", "`blob-pyro` comes with `pip install 'blob-pyro[cli]'`.", ""]

    def say(command: click.Command, path: str) -> None:
        context = click.Context(command, info_name=path, terminal_width=100, max_content_width=100)
        context.show_default = True
        parts.extend([f"## {path}", "", "```text", command.get_help(context), "```", ""])
        for name, inner in getattr(command, "commands", {}).items():
            say(inner, f"{path} {name}")

    say(main, "blob-pyro")
    return "\n".join(parts)


def citing() -> str:
    """Write how to cite, with the file that says it to machines."""
    text = (ROOT / "CITATION.cff").read_text()
    return (
        "# How to cite\n\nIf you use this software, cite it and the papers whose methods it has. Reference managers "
        f"and code hosts read this, `CITATION.cff`:\n\n```yaml\n{text}```\n"
    )


def notebooks() -> list[Path]:
    """List the notebooks in reading order: as executed by ``make notebooks``, where that is no older."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = ROOT / "notebooks" / "executed" / path.name
        fresh = executed.exists() and executed.stat().st_mtime >= path.stat().st_mtime
        found.append(executed if fresh else path)
    return found


def _copy_notebooks(folder: Path) -> None:
    folder.mkdir(parents=True)
    if (ROOT / "notebooks" / "figures").is_dir():
        shutil.copytree(ROOT / "notebooks" / "figures", folder / "figures")
    for path in notebooks():
        shutil.copy(path, folder / path.name)


def by_its_end(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Find what docstrings name by the end of its path, ``Policy.decide``, where only one thing is called so.

    What is nobody's is an argument, a column or a file, and shown as code.
    """
    from docutils import nodes

    if node.get("refdomain") != "py":
        return None
    target = re.sub(r"\(\)$", "", node["reftarget"]).lstrip(".~")
    domain = env.get_domain("py")
    ends = [name for name in domain.objects if name == target or name.endswith(f".{target}")]
    if ends:
        shortest = min(ends, key=lambda name: (name.count("."), len(name), name))
        entry = domain.objects[shortest]
        others = [name for name in ends if name.count(".") == shortest.count(".") and name != shortest]
        if not others or "." in target or target[0].isupper():
            uri = app.builder.get_relative_uri(node["refdoc"], entry.docname) + f"#{entry.node_id}"
            return nodes.reference("", "", contnode, internal=True, refuri=uri, reftitle=shortest)
    return contnode


def _inline(self: Any, node: Any) -> None:
    _mathml(self, node, inline=True)


def _block(self: Any, node: Any) -> None:
    _mathml(self, node, inline=False)


def mathml(latex: str, inline: bool) -> str:
    """Write a formula as MathML, which browsers show by themselves; sizes of brackets are for them to choose.

    Raises:
        ValueError: for LaTeX that Docutils does not know.
    """
    from docutils.utils.math import MathError
    from docutils.utils.math.latex2mathml import tex2mathml

    try:
        written: str = tex2mathml(_known(latex), as_block=not inline)
    except MathError as error:
        raise ValueError(f"{latex}: {error}") from None
    return written


def _known(latex: str) -> str:
    """Write LaTeX without what Docutils has no word for."""
    return re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", latex))


def _mathml(self: Any, node: Any, inline: bool) -> None:
    from docutils import nodes
    from sphinx.util import logging

    try:
        self.body.append(mathml(node.astext(), inline))
    except ValueError as error:
        logging.getLogger("pages").warning("no formula: %s", error, location=node)
        self.body.append(f"<code>{self.encode(node.astext())}</code>")
    raise nodes.SkipNode


MATHML = ((_inline, None), (_block, None))
