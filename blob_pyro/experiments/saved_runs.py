"""An experiment's runs in a folder: settings, seeds, versions and machine beside them, and a kill costs one run.

A folder holds one experiment with one set of settings. ``runs.csv`` has the rows of every run that is done, a run being
what one value of the key columns names, such as a seed; ``settings.json`` has what it takes to run them again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from blob_pyro._version import __version__
from blob_pyro.ops.files import remove_abandoned, staged

__all__ = ["SavedRuns", "claim", "environment"]

_PACKAGES = ("torch", "pyro-ppl", "numpy", "scipy", "pandas")


def environment() -> dict[str, Any]:
    """Describe what computes: versions of this package, of Python and of what both rest on, and the machine."""
    return {
        "blob_pyro": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def claim(experiment: Any, folder: Path, **more: Any) -> None:
    """Write ``settings.json`` of an experiment into a folder, which is made where there is none.

    Args:
        experiment: a dataclass.
        folder: for its results.
        more: what else to note, such as seeds.

    Raises:
        ValueError: for a folder with results of another experiment, or of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "settings.json"
    remove_abandoned(record)
    new = {"experiment": type(experiment).__name__, "settings": json.loads(json.dumps(asdict(experiment)))}
    old: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    if old and "settings" not in old:
        old = {"settings": old}
    for name, value in new.items():
        if old.get(name, value) != value:
            raise ValueError(
                f"output: {record} is of other settings ({name} {_difference(old[name], value)}); name another folder, "
                "or remove this one"
            )
    here, computed_by = environment(), old.get("computed_by", [])
    if here not in computed_by:  # runs may be resumed elsewhere
        computed_by = [*computed_by, here]
    with staged(record) as file:
        file.write((json.dumps({**old, **new, **more, "computed_by": computed_by}, indent=1) + "\n").encode())


class SavedRuns:
    """Runs of one experiment, in memory and in a folder.

    Args:
        experiment: a dataclass of its settings.
        folder: see the module; None keeps all in memory.
        key: columns that tell one run from another.
        digits: significant ones, of numbers in the file.

    Attributes:
        frame: rows of all runs, those that ``folder`` had first.

    Raises:
        ValueError: as `claim`.
    """

    def __init__(self, experiment: Any, folder: Path | None, key: tuple[str, ...] = ("seed",), digits: int = 9) -> None:
        self.experiment, self.folder, self.key, self._format = experiment, folder, key, f"%.{digits}g"
        self.frame = pd.DataFrame(columns=list(key))
        if folder is not None:
            claim(experiment, folder)
            if (folder / "runs.csv").exists():
                self.frame = pd.read_csv(folder / "runs.csv")

    def complete(self, runs: Iterable[tuple[Any, ...]], run: Callable[..., pd.DataFrame]) -> Iterator[tuple[Any, ...]]:
        """Run what is missing, and yield each run's key when it is done and on disk.

        Args:
            runs: keys, one value per column of ``key``.
            run: from these values to the rows of a run; key columns are added.
        """
        done = set(self.frame[list(self.key)].itertuples(index=False, name=None))
        for key in runs:
            if key not in done:
                rows = run(*key).assign(**dict(zip(self.key, key)))
                self.frame = pd.concat([self.frame, rows], ignore_index=True) if len(self.frame) else rows
                done.add(key)
                if self.folder is not None:
                    table = self.frame.to_csv(index=False, float_format=self._format)
                    with staged(self.folder / "runs.csv") as file:
                        file.write(table.encode())
                    seeds = {name: sorted(set(self.frame[name].tolist())) for name in self.key}
                    claim(self.experiment, self.folder, done=seeds)
            yield key


def _difference(old: Any, new: Any) -> str:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"was {old!r}, is {new!r}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
