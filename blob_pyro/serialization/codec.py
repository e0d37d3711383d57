"""Objects as JSON, and back: only objects of classes in a registry, which anybody may add to.

An object of a registered class is ``{"class": name, "fields": {...}}``, a tensor its numbers and their type (or the
name of a tensor in the state file, if there are many), a dict ``{"mapping": {...}}``; lists come back as tuples.
Nothing is imported or run on the word of a file: a class that is not registered is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from blob_pyro.serialization.errors import SavedModelError

__all__ = ["CannotEncode", "decode", "encode", "register"]

T = TypeVar("T", bound=type)
_INLINE = 16  # numbers of a tensor that are written as JSON
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.int64, torch.bool)}


class CannotEncode(ValueError):
    """JSON cannot hold an object, such as a function, or one of a class that is not registered."""


@dataclass(frozen=True)
class _Entry:
    cls: type
    fields: tuple[str, ...]
    make: Callable[..., Any]


_REGISTRY: dict[str, _Entry] = {}


def register(
    cls: T, *, fields: Sequence[str] | None = None, make: Callable[..., Any] | None = None, name: str | None = None
) -> T:
    """Let models with an object of a class be saved and loaded: a term of yours, a distribution, a bound.

    Args:
        cls: instances of this very class are written, and made again from their fields.
        fields: attributes that are keyword arguments of the class, too. Default: a dataclass's own fields (those that
            its constructor takes), a distribution's ``arg_constraints``.
        make: makes an instance from the fields; default the class itself.
        name: under which it is saved; default the class's. It must stay what it is for saved models to load.

    Returns:
        The class, so that this can be a decorator.

    Raises:
        ValueError: if another class has the name, or the fields are not known.

    Example:
        >>> from dataclasses import dataclass
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
    known = _REGISTRY.get(name)
    if known is not None and (known.cls.__module__, known.cls.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"register: the name {name!r} is that of {known.cls.__module__}.{known.cls.__qualname__}")
    if fields is None and is_dataclass(cls):
        fields = [field.name for field in dataclass_fields(cls) if field.init]
    elif fields is None and isinstance(getattr(cls, "arg_constraints", None), Mapping):
        fields = list(cls.arg_constraints)  # type: ignore[attr-defined]
    if fields is None:
        raise ValueError(f"register: {cls.__name__} is no dataclass and no distribution; name its fields, fields=[...]")
    _REGISTRY[name] = _Entry(cls, tuple(fields), cls if make is None else make)
    return cls


def encode(value: Any, tensors: dict[str, Tensor] | None = None, where: str = "value") -> Any:
    """An object as JSON's own types.

    Args:
        value: numbers, strings, tensors, sequences, mappings with strings for keys, registered objects, None.
        tensors: where tensors of more than 16 numbers, or with one that JSON does not know, are put, to be saved beside
            the JSON; without it they are written out.
        where: what the value is, for error messages and the names of tensors.

    Raises:
        CannotEncode: for anything else, naming it.
    """
    if isinstance(value, Tensor):
        return _encode_tensor(value, tensors, where)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CannotEncode(f"{where}: {value} is not finite")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise CannotEncode(f"{where}: a mapping's keys must be strings to be saved")
        return {"mapping": {key: encode(item, tensors, f"{where}.{key}") for key, item in value.items()}}
    entry = _entry_of(type(value))
    if entry is not None:
        name, known = entry
        held = {f: encode(getattr(value, f), tensors, f"{where}.{f}") for f in known.fields}
        return {"class": name, "fields": held}
    if hasattr(value, "tolist"):  # arrays, Series, and their numbers
        return encode(value.tolist(), tensors, where)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [encode(item, tensors, f"{where}[{number}]") for number, item in enumerate(value)]
    raise CannotEncode(
        f"{where}: {shorten(value)} cannot be saved; register its class with blob_pyro.serialization.codec.register"
    )


def decode(value: Any, tensors: Mapping[str, Tensor] | None = None, where: str = "value") -> Any:
    """The inverse of `encode`.

    Raises:
        SavedModelError: naming the field, for what `encode` does not write, and whatever a class refuses.
    """
    if isinstance(value, list):
        return tuple(decode(item, tensors, f"{where}[{number}]") for number, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if set(value) == {"mapping"} and isinstance(value["mapping"], dict):
        return {key: decode(item, tensors, f"{where}.{key}") for key, item in value["mapping"].items()}
    if "tensor" in value:
        return _decode_tensor(value, tensors or {}, where)
    if set(value) == {"class", "fields"} and isinstance(value["fields"], dict):
        return _decode_object(value["class"], value["fields"], tensors, where)
    raise SavedModelError(f"expected an object with a class, a mapping or a tensor, got {shorten(value)}", field=where)


def shorten(value: Any, most: int = 60) -> str:
    """A value for an error message, however long it is."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _entry_of(cls: type) -> tuple[str, _Entry] | None:
    """The registered name of a class, looked up by name first."""
    direct = _REGISTRY.get(cls.__name__)
    if direct is not None and direct.cls is cls:
        return cls.__name__, direct
    return next(((name, entry) for name, entry in _REGISTRY.items() if entry.cls is cls), None)


def _encode_tensor(value: Tensor, tensors: dict[str, Tensor] | None, where: str) -> dict[str, Any]:
    value = value.detach().cpu()
    dtype = str(value.dtype).removeprefix("torch.")
    if tensors is None or (value.numel() <= _INLINE and dtype in _DTYPES and bool(torch.isfinite(value).all())):
        return {"tensor": value.tolist(), "dtype": dtype}
    tensors[where] = value.contiguous()
    return {"tensor": where}


def _decode_tensor(value: dict[str, Any], tensors: Mapping[str, Tensor], where: str) -> Tensor:
    if set(value) == {"tensor"} and isinstance(value["tensor"], str):
        if value["tensor"] not in tensors:
            raise SavedModelError(f"the state has no tensor {shorten(value['tensor'])}", field=where)
        return tensors[value["tensor"]]
    if set(value) != {"tensor", "dtype"} or not isinstance(value["dtype"], str) or value["dtype"] not in _DTYPES:
        raise SavedModelError(f"expected a tensor with a dtype of {', '.join(_DTYPES)}", field=where)
    try:
        return torch.tensor(value["tensor"], dtype=_DTYPES[value["dtype"]])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SavedModelError(f"expected the numbers of a tensor ({error})", field=where) from error


def _decode_object(name: Any, held: dict[str, Any], tensors: Mapping[str, Tensor] | None, where: str) -> Any:
    entry = _REGISTRY.get(name) if isinstance(name, str) else None
    if entry is None:
        raise SavedModelError(
            f"its class {shorten(name)} is not known here; if it is one of yours, import the module that registers it "
            "(blob_pyro.serialization.codec.register) before you load",
            field=where,
        )
    if set(held) != set(entry.fields):
        odd = ", ".join(sorted(set(held) ^ set(entry.fields)))
        raise SavedModelError(f"a {name} has the fields {list(entry.fields)}; missing or unknown: {odd}", field=where)
    values = {key: decode(item, tensors, f"{where}.{key}") for key, item in held.items()}
    try:
        return entry.make(**values)
    except SavedModelError:
        raise
    except Exception as error:  # whatever a constructor, a user's own too, says of values that it does not take
        raise SavedModelError(f"makes no {name}: {error}", field=where) from error
