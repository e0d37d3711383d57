"""The one error of saved models."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SavedModelError"]


class SavedModelError(ValueError):
    """A saved model cannot be loaded: it is damaged, incomplete, another class's, or another version's.

    Attributes:
        path: the folder, once it is known.
        file: which of its files is at fault; None for the folder as a whole.
        field: where in the file, such as ``priors.terms[0].scale``; None for the file as a whole.
        problem: what is wrong, and what to do.
    """

    def __init__(
        self, problem: str, path: str | Path | None = None, file: str | None = None, field: str | None = None
    ) -> None:
        self.problem, self.path, self.file, self.field = problem, path, file, field
        super().__init__(problem, path, file, field)

    def __str__(self) -> str:
        place = "saved model" if self.path is None else f"path: {self.path}"
        where = ", ".join(part for part in (place, self.file, self.field) if part)
        return f"{where}: {self.problem}"
