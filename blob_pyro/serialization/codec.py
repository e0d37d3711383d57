"""Objects as JSON, and back: only objects of classes in a registry, which anybody may add to.

An object of a registered class is ``{"class": name, "fields": {...}}``, a tensor its numbers and their type (or the
name of a tensor in the state file, if there are many), a dict ``{"mapping": {...}}``; lists come back as tuples.
Nothing is imported or run on the word of a file: a class that is not registered is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blob_pyro.ops.saved_classes import SAVED_CLASSES, register, saved_name
from blob_pyro.serialization.errors import SavedModelError

__all__ = ["CannotEncode", "decode", "encode", "register"]

_INLINE = 16  # numbers of a tensor that are written as JSON
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.int64, torch.bool)}


class CannotEncode(ValueError):
    """JSON cannot hold an object, such as a function, or one of a class that is not registered."""


def encode(value: Any, tensors: dict[str, Tensor] | None = None, where: str = "value") -> Any:
    """Write an object as JSON's own types.

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
    name = saved_name(type(value))
    if name is not None:
        keys = {SAVED_CLASSES[name].keys.get(field, field): field for field in SAVED_CLASSES[name].fields}
        fields = {key: encode(getattr(value, field), tensors, f"{where}.{key}") for key, field in keys.items()}
        return {"class": name, "fields": fields}
    if hasattr(value, "tolist"):  # arrays, Series, and their numbers
        return encode(value.tolist(), tensors, where)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [encode(item, tensors, f"{where}[{number}]") for number, item in enumerate(value)]
    raise CannotEncode(
        f"{where}: {shorten(value)} cannot be saved; register its class with blob_pyro.serialization.codec.register"
    )


def decode(value: Any, tensors: Mapping[str, Tensor] | None = None, where: str = "value") -> Any:
    """Make the object that `encode` wrote.

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
    """Shorten a value for an error message, however long it is."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _encode_tensor(value: Tensor, tensors: dict[str, Tensor] | None, where: str) -> dict[str, Any]:
    value = value.detach().cpu()
    dtype = str(value.dtype).removeprefix("torch.")
    small = 0 < value.numel() <= _INLINE  # a list of no numbers would not say how many columns there are none of
    if tensors is None or (small and dtype in _DTYPES and bool(torch.isfinite(value).all())):
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


def _decode_object(name: Any, written: dict[str, Any], tensors: Mapping[str, Tensor] | None, where: str) -> Any:
    entry = SAVED_CLASSES.get(name) if isinstance(name, str) else None
    if entry is None:
        raise SavedModelError(
            f"its class {shorten(name)} is not known here; if it is one of yours, import the module that registers it "
            "(blob_pyro.register_term, blob_pyro.serialization.codec.register) before you load",
            field=where,
        )
    fields = {entry.keys.get(field, field): field for field in entry.fields}
    if not set(fields) - set(entry.added) <= set(written) <= set(fields):
        odd = ", ".join(sorted(set(written) ^ set(fields)))
        raise SavedModelError(f"a {name} has the fields {list(fields)}; missing or unknown: {odd}", field=where)
    values = {fields[key]: decode(item, tensors, f"{where}.{key}") for key, item in written.items()}
    try:
        return entry.make(**values)
    except SavedModelError:
        raise
    except Exception as error:  # whatever a constructor, a user's own too, says of values that it does not take
        raise SavedModelError(f"makes no {name}: {error}", field=where) from error
