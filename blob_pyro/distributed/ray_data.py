"""Bulk scoring through Ray Data: workers of a cluster that write parts, each in one move; none is written twice."""

from __future__ import annotations

import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blob_pyro._version import __version__
from blob_pyro.distributed.answering import Answering
from blob_pyro.distributed.contexts import ContextFiles, Part
from blob_pyro.distributed.ray_train import require_ray

__all__ = ["Worker", "write_parts"]

_REFUSALS = {kind.__name__: kind for kind in (ValueError, TypeError, FloatingPointError, MemoryError, OSError)}


def write_parts(
    answering: Answering,
    files: ContextFiles,
    parts: list[Part],
    folder: Path,
    run: str,
    contents: str,
    num_workers: int,
) -> None:
    """Let workers write parts; returns when all are there.

    Args:
        answering: how contexts are answered.
        files: the contexts, which all workers see, too.
        parts: what is to be written.
        folder: for the parts, which all machines see.
        run: what tells runs apart.
        contents: a hash of what the files are.
        num_workers: how many take part.

    Raises:
        ImportError: if Ray is not installed, naming the extra.
        ValueError: as `Answering.write`, naming the worker; and for one with another version or other files.
        OSError: as `Answering.write`, naming the worker.
        RuntimeError: if Ray gives up; whole parts stay.
    """
    ray = require_ray()
    from ray import data

    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    request = {
        "answering": answering, "location": files.files.location, "history": files.history, "files": files.request,
        "folder": str(folder), "run": run, "contents": contents, "version": __version__,
    }  # fmt: skip
    context = data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        rows = data.from_items([asdict(part) for part in parts], override_num_blocks=len(parts))
        done = rows.map(
            Worker, fn_constructor_args=(ray.put(request),), num_cpus=1,
            compute=data.ActorPoolStrategy(size=min(num_workers, len(parts))),
        )  # fmt: skip
        for told in done.iter_rows():
            if told["kind"]:
                raise _REFUSALS[told["kind"]](told["said"])
    except tuple(_REFUSALS.values()):
        raise
    except Exception as error:  # Ray has several kinds, which change from version to version
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(
            f"Ray gave up: {said[-1]}; the parts in {folder} are whole: call again to go on from there"
        ) from error
    finally:
        context.enable_progress_bars = bars


class Worker:
    """A process that Ray runs: it opens the contexts once, and writes what parts it is given.

    Args:
        request: a reference to what `write_parts` asks for.
    """

    def __init__(self, request: Any) -> None:
        import ray

        asked = ray.get(request)
        self.asked, self.name = asked, f"worker {ray.get_runtime_context().get_actor_id()} on {socket.gethostname()}"
        self.files: ContextFiles | None = None

    def __call__(self, row: dict[str, int]) -> dict[str, str]:
        """Write a part; returns what was refused, which another try would not mend, or empty texts.

        Args:
            row: a `Part`, by its attributes.
        """
        try:
            self._write(Part(**{name: int(value) for name, value in row.items()}))
        except tuple(_REFUSALS.values()) as error:
            kind = next(name for name, kind in _REFUSALS.items() if isinstance(error, kind))
            return {"kind": kind, "said": f"{self.name}: {error}"}
        return {"kind": "", "said": ""}

    def _write(self, part: Part) -> None:
        asked = self.asked
        if asked["version"] != __version__:
            raise ValueError(
                f"has blob-pyro {__version__}, and the caller {asked['version']}; install the same on all machines"
            )
        if self.files is None:
            files = ContextFiles(asked["location"], asked["history"], **asked["files"])
            if files.contents() != asked["contents"]:
                raise ValueError(
                    f"contexts: {asked['location']} holds other files than the caller sees; put the same where all "
                    "machines see them"
                )
            self.files = files
        asked["answering"].write(self.files, part, Path(asked["folder"]), asked["run"])
