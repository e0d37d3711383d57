"""Files that `blob_pyro.experiments.rounds` keeps: one for each round that is over, written in one move.

A file has the round's log as tensors, and its row of results as metadata, so that a kill leaves both or neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from blob_pyro import EventLog
from blob_pyro.ops.files import remove_abandoned, staged

__all__ = ["RoundFiles"]

_COLUMNS = ("view_user", "view_time", "view_item", "user", "time", "action", "reward", "propensity")


@dataclass(frozen=True)
class RoundFiles:
    """The rounds of one agent in one environment.

    Args:
        folder: of these files alone; None keeps nothing.
        agent: what the agent is, in words: files of another one are refused.
    """

    folder: Path | None
    agent: str

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of results of the rounds that are over, from the first on.

        Raises:
            ValueError: if they are of another agent, or cannot be read.
        """
        found: list[dict[str, Any]] = []
        while self.folder is not None and (path := self._path(len(found) + 1)).exists():
            try:
                with safe_open(path, "pt") as file:
                    about = file.metadata()
                    agent, row = about["agent"], json.loads(about["row"])
            except Exception as error:
                raise ValueError(
                    f"output: {path} cannot be read ({error}); remove it to run its round again"
                ) from error
            if agent != self.agent:
                raise ValueError(
                    f"output: {path} is of the agent {agent}, not of {self.agent}; give this agent another name, or "
                    "name another folder"
                )
            found.append(row)
        return found

    def log(self, number: int, num_items: int) -> EventLog:
        """Read the log of a round that is over."""
        with safe_open(self._path(number), "pt") as file:
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return EventLog.from_arrays(num_items, **columns)

    def write(self, row: dict[str, Any], log: EventLog | None) -> None:
        """Keep a round that is over.

        Args:
            row: of results.
            log: of the round; None where it can be had again, as that of the first round.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(row["round"])
        remove_abandoned(path)
        tensors = {} if log is None else _columns(log)
        with staged(path) as file:
            file.write(save(tensors, metadata={"agent": self.agent, "row": json.dumps(row)}))

    def _path(self, number: int) -> Path:
        assert self.folder is not None, "there is a file to ask for"
        return self.folder / f"round-{number:03d}.safetensors"


def _columns(log: EventLog) -> dict[str, torch.Tensor]:
    """Columns with users under their own numbers."""
    ids = torch.as_tensor(list(log.users.ids))
    columns = {name: getattr(log, name) for name in _COLUMNS if getattr(log, name) is not None}
    return {n: (ids[c] if n.endswith("user") else c).contiguous() for n, c in columns.items()}
