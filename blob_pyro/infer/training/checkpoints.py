"""A training run on disk: everything that the next step depends on, in one file that is never half written.

The file is a line that says what it is, the SHA-256 of the rest, and the rest: the run's tensors in the safetensors
format, whose metadata holds everything else as JSON. No pickle: reading it runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from blob_pyro.guides.registry import guide_name
from blob_pyro.ops.arguments import path_of
from blob_pyro.ops.files import remove_abandoned, require_writable, staged
from blob_pyro.ops.fingerprints import describe, differences

if TYPE_CHECKING:
    from blob_pyro.infer.training.workers import Workers

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "generator_state",
    "load_checkpoint",
    "restore_generators",
    "save_checkpoint",
]

_TITLE = b"blob-pyro checkpoint 2\n"
_DIGEST = 64  # hexadecimal digits, and a newline
_CONSEQUENCES = ("parameters:", "constants:", "start:", "random_state:")  # named only where no cause is
_SHOWN = 8


class CheckpointError(ValueError):
    """A checkpoint cannot be gone on from: the file is damaged, no checkpoint, or another fit's. Nothing is undone."""


@dataclass(frozen=True)
class Checkpoint:
    """A place where a training run is kept, and what its caller knows of it.

    `blob_pyro.infer.train` adds what it knows itself: the data, the settings, the classes of model and guide and the
    names and shapes of their parameters, the bound, the state that it starts from, and the versions. A file that was
    written by a run of which anything differs is refused: it would end as another fit.

    Args:
        path: of the file. Whether it can be written is found out here, before anything is computed or undone.
        about: what else makes the run the one it is, by name: a seed, priors. Anything that
            `blob_pyro.ops.fingerprints.describe` can describe.

    Raises:
        ValueError: if nothing can be written there, saying why.
    """

    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.realpath(self.path)))
        require_writable(self.path, "checkpoint")
        remove_abandoned(self.path)

    @classmethod
    def at(cls, path: str | Path | Checkpoint | None, guide: Any = None, **about: Any) -> Checkpoint | None:
        """Make one where a user may give none.

        Args:
            path: of the file, or None.
            guide: what is to be fitted, which may say ``takes_checkpoint = False``.
            about: see the class.

        Raises:
            ValueError: as the class, and if the guide is not fitted in epochs.
            TypeError: if ``path`` is no path.
        """
        if path is None or isinstance(path, Checkpoint):
            return path
        path = path_of(path, "checkpoint", "a file")
        if not getattr(guide, "takes_checkpoint", True):
            raise ValueError(
                f"checkpoint: guide {guide_name(guide)} is not fitted in epochs, so there is nothing to go on from; "
                "leave checkpoint out"
            )
        return cls(path, about)

    def load(self, run: Mapping[str, Any], workers: Workers | None = None) -> dict[str, Any] | None:
        """Load what was saved, if anything; None where there is no file.

        Args:
            run: what the run says of itself, by name.
            workers: where there are several: the first one's file is everybody's.

        Raises:
            CheckpointError: if the file is not a checkpoint, is damaged or is another run's, naming what differs.
        """
        content = self._read() if workers is None else workers.content(self._read)
        if content is None:
            return None
        state = _parse(content, self.path)
        wanted = {"run", "finished", "rows", "last", "best", "optimizers", "schedules", "generators"}
        if not wanted <= set(state):
            raise CheckpointError(f"checkpoint: {self.path} is not a training checkpoint; choose another file")
        different = list(differences(state["run"], self._identity(run)))
        causes = [d for d in different if not d.startswith(_CONSEQUENCES)] or different
        if causes:
            finished = " and is finished" if state["finished"] else ""
            more = f"; and {len(causes) - _SHOWN} more" if len(causes) > _SHOWN else ""
            raise CheckpointError(
                f"checkpoint: {self.path} is of another fit{finished}: {'; '.join(causes[:_SHOWN])}{more}. Give the "
                "same arguments to go on with it, delete it to start afresh, or choose another path"
            )
        return state

    def _read(self) -> bytes | None:
        return _content(self.path) if self.path.exists() else None

    def save(self, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the file in one move."""
        save_checkpoint(self.path, {"run": self._identity(run), **state})

    def _identity(self, run: Mapping[str, Any]) -> dict[str, Any]:
        return {**describe(self.about), **describe(run)}


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a nest of dicts, lists, tuples, numbers, strings and tensors: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    plain = json.dumps(_plain(state, tensors))
    content = save(tensors, metadata={"state": plain})
    with staged(path) as file:
        file.write(_TITLE + hashlib.sha256(content).hexdigest().encode() + b"\n")
        file.write(content)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: if the file is not a checkpoint, or not as it was written.
    """
    return _parse(_content(path), path)


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint: {path} cannot be read ({error.strerror or error})") from error


def _parse(content: bytes, path: str | Path) -> dict[str, Any]:
    start = len(_TITLE) + _DIGEST + 1
    if not content.startswith(_TITLE[:20]):
        raise CheckpointError(f"checkpoint: {path} is not a checkpoint or is damaged; delete it to start afresh")
    if not content.startswith(_TITLE):
        raise CheckpointError(
            f"checkpoint: {path} was written by another version, or is damaged; delete it to start afresh"
        )
    payload = content[start:]
    if content[len(_TITLE) : start] != hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise CheckpointError(
            f"checkpoint: {path} is not a checkpoint or is damaged (its contents have another SHA-256 than it says); "
            "delete it to start afresh"
        )
    try:
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        state = _nest(json.loads(header["__metadata__"]["state"]), load(payload))
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint: {path} is not a training checkpoint ({error!r}); choose another file"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint: {path} is not a training checkpoint; choose another file")
    return state


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """As JSON: containers are pairs of their kind and their contents, tensors are put aside."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return ["tensor", name]
    if isinstance(value, Mapping):
        return ["dict", [[_plain(k, tensors), _plain(v, tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [_plain(v, tensors) for v in value]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"checkpoint: cannot hold a {type(value).__name__}")


_CONTAINERS: dict[str, Callable[[Iterator[Any]], Any]] = {"dict": dict, "list": list, "tuple": tuple}


def _nest(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_plain`."""
    if not isinstance(value, list):
        return value
    kind, contents = value
    if kind == "tensor":
        return tensors[contents]
    if kind == "dict":
        return {_nest(k, tensors): _nest(v, tensors) for k, v in contents}
    return _CONTAINERS[kind](_nest(v, tensors) for v in contents)


def generator_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's generators: the CPU's, and the device's own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_generators(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back to where `generator_state` saw them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
