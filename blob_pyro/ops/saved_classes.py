"""Classes whose objects may be part of a saved model, by name: a registry that anybody may add to.

It knows what an object is made again from, and nothing of files: `blob_pyro.serialization.codec` reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, TypeVar

__all__ = ["SAVED_CLASSES", "SavedClass", "is_same", "register", "saved_name"]

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class SavedClass:
    """A class whose objects can be saved: how they are taken apart and made again.

    Attributes:
        cls: of the objects; no subclass of it.
        fields: attributes that are written, and keyword arguments that are given back.
        make: makes an object from them.
        keys: under which fields are written, where that is not their name, so that a field can be renamed.
        added: fields that models which were saved before lack: their default is what those meant.
    """

    cls: type
    fields: tuple[str, ...]
    make: Callable[..., Any]
    keys: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()


SAVED_CLASSES: dict[str, SavedClass] = {}
"""Registered classes by the name under which they are saved."""


def register(
    cls: T,
    *,
    fields: Sequence[str] | None = None,
    make: Callable[..., Any] | None = None,
    name: str | None = None,
    keys: Mapping[str, str] | None = None,
    added: Sequence[str] = (),
) -> T:
    """Let models with an object of a class be saved and loaded: a term of yours, a distribution, a bound.

    Args:
        cls: instances of this very class are written, and made again from their fields.
        fields: attributes that are keyword arguments of the class, too. Default: a dataclass's own fields (those that
            its constructor takes), a distribution's ``arg_constraints``; none for a class without a constructor of its
            own.
        make: makes an instance from the fields; default the class itself.
        name: under which it is saved; default the class's. It must stay what it is for saved models to load.
        keys: under which fields are written, by field, where that is another name: the one that a field had before it
            was renamed.
        added: fields with defaults that the class has gained: models which were saved before lack them.

    Returns:
        The class, so that this can be a decorator.

    Raises:
        ValueError: if another class has the name, or the fields are not known.

    Example:
        >>> from dataclasses import dataclass
        >>> from blob_pyro.serialization.codec import decode, encode
        >>> @register
        ... @dataclass(frozen=True)
        ... class Weekend:
        ...     scale: float = 1.0
        >>> encode(Weekend(2.0))
        {'class': 'Weekend', 'fields': {'scale': 2.0}}
        >>> decode(encode(Weekend(2.0)))
        Weekend(scale=2.0)
    """
    name = cls.__name__ if name is None else name
    known = SAVED_CLASSES.get(name)
    if known is not None and not is_same(known.cls, cls):
        raise ValueError(f"register: the name {name!r} is that of {known.cls.__module__}.{known.cls.__qualname__}")
    if fields is None:
        fields = _fields(cls)
    SAVED_CLASSES[name] = SavedClass(cls, tuple(fields), cls if make is None else make, dict(keys or {}), tuple(added))
    return cls


def saved_name(cls: type) -> str | None:
    """Return the registered name of a class, looked up by its own name first; None if it has none."""
    direct = SAVED_CLASSES.get(cls.__name__)
    if direct is not None and direct.cls is cls:
        return cls.__name__
    return next((name for name, known in SAVED_CLASSES.items() if known.cls is cls), None)


def is_same(known: Any, new: Any) -> bool:
    """Say whether two classes or functions are one, or one and the same line run again, as a notebook's cell is."""

    def line(value: Any) -> tuple[Any, Any]:
        return getattr(value, "__module__", None), getattr(value, "__qualname__", None)

    return known is new or (None not in line(new) and "<lambda>" not in line(new)[1] and line(known) == line(new))


def _fields(cls: type) -> Sequence[str]:
    if is_dataclass(cls):
        return [own.name for own in dataclass_fields(cls) if own.init]
    if isinstance(getattr(cls, "arg_constraints", None), Mapping):
        return list(cls.arg_constraints)  # type: ignore[attr-defined]
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return []
    raise ValueError(f"register: {cls.__name__} is no dataclass and no distribution; name its fields, fields=[...]")
