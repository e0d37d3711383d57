"""`Answering`: a part of the contexts is answered and written in the same way whoever does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from blob_pyro.data import as_histories
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.distributed.contexts import ContextFiles, Contexts, Part
from blob_pyro.ops.files import staged
from blob_pyro.policies import Policy
from blob_pyro.policies.deciding import BLOCK, decide

__all__ = ["Answering"]

_KEY = b"blob_pyro.part"
_AT_ONCE = 1 << 13  # contexts, whose answers are in memory beside the part's contexts
assert _AT_ONCE % BLOCK == 0


@dataclass(frozen=True)
class Answering:
    """A model's recommendations, or a policy's decisions.

    Attributes:
        by: a model, or a policy.
        number: items for each context.
        candidates: for all contexts, see `Policy.decide`; those of the files come before them.
        seed: of a policy's draws.
        time: of its decisions, where contexts do not say.
    """

    by: Any
    number: int
    candidates: Any
    seed: int | None
    time: Any

    def at(self, begun: pd.Timestamp) -> Answering:
        """Return the same, with the time of decisions set where none was given."""
        return replace(self, time=begun) if self.time is None else self

    @staticmethod
    def path(folder: Path, part: Part) -> Path:
        """Return where a part is written."""
        return folder / f"part-{part.number:08d}.parquet"

    def is_whole(self, folder: Path, part: Part, run: str) -> bool:
        """Say whether a part has been written, by this run.

        Args:
            folder: of the parts.
            part: which.
            run: what tells runs apart.

        Raises:
            ValueError: for a file that another run has written, or that is no Parquet any more.
        """
        path = self.path(folder, part)
        if not path.exists():
            return False
        try:
            found = pyarrow.parquet.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"output: {path} cannot be read as Parquet ({error}); delete it, and call again to have it written"
            ) from None
        if found.get(_KEY) != _mark(part, run):
            raise ValueError(f"output: {path} is of another run than this folder; delete it, and call again")
        return True

    def write(self, files: ContextFiles, part: Part, folder: Path, run: str) -> None:
        """Write the answers to the contexts of a part, in one move.

        Args:
            files: the contexts.
            part: which of them.
            folder: for the file.
            run: what tells runs apart, which the file says.

        Raises:
            ValueError: naming the contexts that cannot be answered, and why.
            OSError: if it cannot be written, naming it; nothing of it is left.
        """
        try:
            contexts = files.read(part, self.by.items)
            tables = self._answers(contexts, part)
            first = next(tables)
            schema = first.schema.with_metadata({_KEY: _mark(part, run)})
        except ValueError as error:
            raise self._of_part(error, files, part) from error
        path = self.path(folder, part)
        try:
            with staged(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
                while first is not None:
                    writer.write_table(first.cast(schema))
                    try:
                        first = next(tables, None)
                    except ValueError as error:
                        raise self._of_part(error, files, part) from error
        except OSError as error:
            said = str(error) if error.filename is not None else error.strerror or str(error)
            raise OSError(
                error.errno, f"{part}: {said}. The parts that are there are whole, and a later call keeps them"
            ) from error

    @staticmethod
    def _of_part(error: ValueError, files: ContextFiles, part: Part) -> ValueError:
        if str(error).startswith("contexts:"):
            return error
        return ValueError(f"contexts: {part} of {files.files.location}: {error}")

    def _answers(self, contexts: Contexts, part: Part) -> Iterator[pa.Table]:
        """The rows of some contexts after those of others."""
        items, size = self.by.items, len(contexts.user)
        histories = as_histories(contexts.histories, items)
        covariates = slice_covariates(contexts.covariates, size)
        for start in range(0, size, _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, size))
            candidates = self.candidates if contexts.candidates is None else contexts.candidates[rows]
            user = contexts.user.slice(rows.start, rows.stop - rows.start)
            more: dict[str, Any] = {} if contexts.covariates is None else {"covariates": covariates(rows)}
            if isinstance(self.by, Policy):
                slates = self.by.slate_distribution(histories[rows], self.number, candidates=candidates, **more)
                time = self.time if contexts.time is None else contexts.time.slice(rows.start, len(user))
                frame = decide(slates, None, time, self.seed or 0, part.first + start)
                number = frame.pop("user")
            else:
                frame = self.by.recommend(histories[rows], self.number, candidates, **more)
                number = frame.pop("history")
            table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
            yield table.add_column(0, "user", user.take(pa.array(number.to_numpy())))


def _mark(part: Part, run: str) -> bytes:
    """What a file says of itself."""
    return json.dumps({"run": run, "part": part.number, "contexts": part.size}).encode()
