"""Typed access to the fields of a saved configuration: what is missing, unknown or of another type is named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from blob_pyro.serialization.codec import decode, shorten
from blob_pyro.serialization.errors import SavedModelError
from blob_pyro.serialization.manifest import CONFIG

__all__ = ["Fields"]

T = TypeVar("T")
_RECORD = (str, int, float, bool, type(None))


class Fields:
    """A JSON object whose fields are read once each, with their types.

    Args:
        value: the object.
        names: the fields that it must have, and no others.
        path: of the folder, for error messages.
        where: of the object in the file.

    Raises:
        SavedModelError: in this and in all methods, naming the field.
    """

    def __init__(self, value: Any, names: Iterable[str], path: Any, where: str = "") -> None:
        self._value, self._path, self._where = value, path, where
        if not isinstance(value, dict):
            raise SavedModelError(f"expected an object, got {shorten(value)}", path=path, file=CONFIG, field=where)
        wrong = sorted(set(value) ^ set(names))
        if wrong:
            problem = "is missing" if wrong[0] in set(names) else "is not known to this version"
            raise SavedModelError(problem, path=path, file=CONFIG, field=self._name(wrong[0]))

    def integer(self, name: str, least: int = 1, optional: bool = False) -> Any:
        """Read an integer of at least ``least``; None if ``optional``."""
        value = self._value[name]
        if not (optional and value is None) and (type(value) is not int or value < least):
            self._refuse(name, f"an integer of at least {least}")
        return value

    def finite(self, name: str) -> float:
        """Read a finite number that is not negative."""
        value: float = self._value[name]
        if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
            self._refuse(name, "a number that is not negative")
        return value

    def boolean(self, name: str) -> bool:
        """Read True or False."""
        value: bool = self._value[name]
        if type(value) is not bool:
            self._refuse(name, "true or false")
        return value

    def choice(self, name: str, known: Iterable[str], optional: bool = False) -> Any:
        """Read one of some names; None if ``optional``."""
        value, known = self._value[name], sorted(known)
        if not (optional and value is None) and (not isinstance(value, str) or value not in known):
            self._refuse(name, f"one of {', '.join(known)}")
        return value

    def part(self, name: str, cls: type[T], tensors: Mapping[str, Tensor], optional: bool = False) -> T | None:
        """Read an object of a registered class; None if ``optional``."""
        value = self._value[name]
        if optional and value is None:
            return None
        try:
            made: T = decode(value, tensors, self._name(name))
        except SavedModelError as error:
            raise SavedModelError(error.problem, path=self._path, file=CONFIG, field=error.field) from error
        if not isinstance(made, cls):
            self._refuse(name, f"a {cls.__name__}")
        return made

    def records(self, name: str) -> list[dict[str, Any]]:
        """Read a list of flat objects."""
        value: list[dict[str, Any]] = self._value[name]
        if not isinstance(value, list) or not all(
            isinstance(row, dict) and all(isinstance(item, _RECORD) for item in row.values()) for row in value
        ):
            self._refuse(name, "a list of flat objects")
        return value

    def raw(self, name: str) -> Any:
        """Return a field as it is."""
        return self._value[name]

    def object(self, name: str, names: Iterable[str]) -> Fields:
        """Read an object inside."""
        return Fields(self._value[name], names, self._path, self._name(name))

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Refuse a field's value unless something holds of it."""
        if not holds:
            self._refuse(name, expected)

    def _name(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def _refuse(self, name: str, expected: str) -> None:
        raise SavedModelError(
            f"expected {expected}, got {shorten(self._value[name])}",
            path=self._path,
            file=CONFIG,
            field=self._name(name),
        )
