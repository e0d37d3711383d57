"""Fingerprints: what tensors hold as one short number, what an object is as plain values, and how two such differ."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from blob_pyro.data import Histories
from blob_pyro.ops.item_tables import whole_shape

__all__ = ["content_hash", "describe", "differences"]

_CHUNK = 2**24  # bytes that are brought to the CPU at a time
_HISTORIES = 65_536
_SHORT = 16  # numbers that are shown as they are
_DEEPEST = 8


def content_hash(value: Any) -> str:
    """Hash what tensors hold, with their types and shapes, wherever they live: SHA-256, 64 hexadecimal digits.

    Args:
        value: a tensor, a module (its state), `Histories` (what they say, not how they are stored), a dataclass, a
            mapping or a sequence of such, a number, a string or None; or what has a ``fingerprint`` of its own.

    Raises:
        TypeError: for anything else.

    Example:
        >>> content_hash(torch.tensor([1.0, 2.0]))[:12]
        '1f447ed79b42'
        >>> content_hash(torch.tensor([1.0, 2.0])) == content_hash(torch.tensor([1, 2]))
        False
    """
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(take: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        _feed_tensor(take, value)
    elif isinstance(value, Histories):
        take(f"histories {len(value)} {value.num_items}".encode())
        for start in range(0, len(value), _HISTORIES):
            part = value[start : start + _HISTORIES]
            _feed_tensor(take, part.lengths)
            _feed_tensor(take, part.flatten()[0])
    elif isinstance(value, nn.Module):
        _feed(take, value.state_dict())
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(take, {f.name: getattr(value, f.name) for f in fields(value)})
    elif isinstance(value, Mapping):
        take(f"mapping {len(value)}".encode())
        for key, item in value.items():
            take(f"{key!r}:".encode())
            _feed(take, item)
    elif isinstance(value, (list, tuple)):
        take(f"sequence {len(value)}".encode())
        for item in value:
            _feed(take, item)
    elif isinstance(fingerprint := getattr(value, "fingerprint", None), str):
        take(f"fingerprint {fingerprint}".encode())
    elif value is None or isinstance(value, (bool, int, float, str)):
        take(f"{type(value).__name__} {value!r};".encode())
    else:
        raise TypeError(f"content_hash: expected tensors and plain values, got a {type(value).__name__}")


def _feed_tensor(take: Callable[[Any], None], tensor: Tensor) -> None:
    take(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    flat = tensor.detach().reshape(-1).contiguous()
    rows = max(1, _CHUNK // flat.element_size())
    for part in flat.split(rows) if len(flat) else ():
        take(part.cpu().view(torch.uint8).numpy().data)


def describe(value: Any) -> Any:
    """Describe an object by plain values that two processes agree on: numbers, strings, lists and dicts.

    Tensors of more than 16 numbers become their hash; functions and classes their qualified names; modules their class
    and the names and shapes of their parameters; distributions, dataclasses and other objects their class and what is
    in them.

    Example:
        >>> describe(torch.distributions.Normal(0.0, 2.0))
        {'class': 'torch.distributions.normal.Normal', 'loc': 0.0, 'scale': 2.0}
        >>> describe(len)
        'builtins.len'
    """
    return _describe(value, 0)


def _describe(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        short = value.numel() <= _SHORT
        return value.detach().cpu().tolist() if short else f"{tuple(value.shape)} {content_hash(value)[:16]}"
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if depth == _DEEPEST:
        return _name(value)
    if isinstance(value, Mapping):
        return {str(key): _describe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        listed = [_describe(item, depth + 1) for item in value]
        return listed if len(listed) <= _SHORT else f"{len(listed)} of {content_hash(repr(listed))[:16]}"
    return {"class": _name(value), **{k: _describe(v, depth + 1) for k, v in _contents(value).items()}}


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _contents(value: Any) -> Mapping[str, Any]:
    if isinstance(value, nn.Module):
        return {name: str(tuple(whole_shape(parameter))) for name, parameter in value.named_parameters()}
    if isinstance(value, functools.partial):
        return {"function": value.func, "arguments": value.args, **value.keywords}
    if isinstance(value, torch.distributions.TransformedDistribution):
        return {"base": value.base_dist, "transforms": value.transforms}
    if isinstance(value, torch.distributions.Independent):
        return {"base": value.base_dist, "dims": value.reinterpreted_batch_ndims}
    if isinstance(value, Distribution):
        return {name: getattr(value, name) for name in value.arg_constraints}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}


def differences(
    before: Any, now: Any, name: str = "", places: tuple[str, str] = ("in the checkpoint", "now")
) -> Iterator[str]:
    """Name what two descriptions do not share, field by field.

    Args:
        before: one.
        now: the other.
        name: what they describe; empty for what need not be said.
        places: where each comes from, in words.

    Example:
        >>> list(differences({"seed": 0, "priors": {"w_a": 1.0}}, {"seed": 1, "priors": {"w_a": 1.0}}))
        ['seed: 0 in the checkpoint, 1 now']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("class") == now.get("class"):
        for key in [*before, *(k for k in now if k not in before)]:
            path = f"{name}.{key}" if name else str(key)
            yield from differences(before.get(key, _ABSENT), now.get(key, _ABSENT), path, places)
    elif before is _ABSENT or now is _ABSENT or repr(before) != repr(now):
        yield f"{name}: {_shown(before)} {places[0]}, {_shown(now)} {places[1]}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "class" in value:
        return str(value["class"])
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    is_hash = isinstance(value, str) and len(value) == 64
    return value[:12] if is_hash else repr(value)


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()
