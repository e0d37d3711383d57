"""A fingerprint of any Python object: what it holds, and the code of functions and classes that are not a library's."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping, Set
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.ops.fingerprints import content_hash

__all__ = ["fingerprint"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis))
_BY_REPR = (date, time, timedelta, Decimal, Fraction, UUID, PurePath, torch.device, torch.dtype, torch.layout, np.dtype)
_LIBRARIES = frozenset({"blob_pyro", *sys.stdlib_module_names} - {"__main__"})
# What torch and Python keep in a class or module beside what its author wrote.
_OF_NO_MATTER = {"__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__"}
_OF_NO_MATTER |= {"__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__static_attributes__"}
_OF_NO_MATTER |= {"__firstlineno__", "__annotate_func__", "__annotate__", "__annotations_cache__"}
_OF_NO_MATTER |= {"__dataclass_params__", "__match_args__", "__protocol_attrs__", "__non_callable_proto_members__"}
_OF_NO_MATTER |= {"_is_protocol", "_is_runtime_protocol"}


def fingerprint(value: Any, name: str = "value", without: Set[str] = frozenset()) -> str:
    """Hash what an object holds, SHA-256 in 64 hexadecimal digits: alike in every process of one version of Python.

    Tensors and arrays count by their numbers, wherever they live; functions by their code, defaults and what they refer
    to; other objects by their class and attributes, private ones too, without what a ``functools.cached_property`` has
    kept. Classes that are not a library's count by the code of their methods. An object with a method ``fingerprint()``
    that returns text speaks for itself.

    Args:
        value: of any kind.
        name: what to call it in an error message.
        without: attributes of ``value`` itself that do not count.

    Raises:
        TypeError: for what holds something without contents, such as a lock or an open file, naming where.

    Example:
        >>> fingerprint({"scale": torch.ones(2)}) == fingerprint({"scale": torch.tensor([1.0, 1.0])})
        True
        >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
        False
    """
    return _Reader(without).read(value, name)


class _Reader:
    """Feeds one digest; what is met again is named by when it was met, so that cycles end."""

    def __init__(self, without: Set[str]) -> None:
        self.digest, self.without = hashlib.sha256(), without
        self.met: dict[int, tuple[int, Any]] = {}  # keeps what it has met alive, so that no number is used twice
        self.hashes: dict[tuple[Any, ...], str] = {}  # of tensors: two models may share the largest

    def read(self, value: Any, path: str) -> str:
        self._feed(value, path)
        return self.digest.hexdigest()

    def _say(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self.digest.update(f"{len(data)}:".encode() + data)

    def _feed(self, value: Any, path: str) -> None:
        if type(value) in _PLAIN:
            self._say(f"{type(value).__name__} {value!r}")
        elif isinstance(value, Enum):
            self._say(f"{_name(type(value))}.{value.name}")
        elif isinstance(value, _BY_REPR):
            self._say(f"{_name(type(value))} {value!r}")
        elif id(value) in self.met:
            self._say(f"met {self.met[id(value)][0]}")
        else:
            self.met[id(value)] = (len(self.met), value)
            self._feed_contents(value, path)

    def _feed_contents(self, value: Any, path: str) -> None:
        if isinstance(value, (Tensor, Histories)):
            self._tensor(value, path)
        elif isinstance(value, np.generic):  # before floats, which np.float64 is one of
            self._say(f"{value.dtype} {value.item()!r}")
        elif isinstance(value, np.ndarray):
            self._array(value, path)
        elif isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
            self._pandas(value, path)
        elif scipy.sparse.issparse(value):
            self._parts(value, {"shape": value.shape, **{n: getattr(value.tocoo(), n) for n in _COO}}, path)
        elif isinstance(value, torch.Generator):
            self._parts(value, {"state": value.get_state()}, path)
        elif not isinstance(value, type) and callable(own := getattr(value, "fingerprint", None)):
            found = own()
            if not isinstance(found, str):
                raise TypeError(f"{path}: fingerprint() must return text, got a {type(found).__name__}")
            self._say(f"{_name(type(value))} {found}")
        elif isinstance(value, type):
            self._class(value, path)
        elif (base := next((kind for kind in _SUBCLASSED if isinstance(value, kind)), None)) is not None:
            self._parts(value, {"value": base(value), "attributes": dict(_attributes(value))}, path)
        elif isinstance(value, functools._lru_cache_wrapper):
            self._parts(value, {"function": value.__wrapped__}, path)
        elif isinstance(value, functools.partial):
            self._parts(value, {"func": value.func, "args": value.args, "keywords": value.keywords}, path)
        elif isinstance(value, types.MethodType):
            self._parts(value, {"function": value.__func__, "self": value.__self__}, path)
        elif isinstance(value, types.FunctionType):
            self._function(value, path)
        elif isinstance(value, types.CodeType):
            self._code(value, path)
        elif isinstance(value, types.ModuleType) or inspect.isroutine(value):
            self._say(f"{_name(value) if inspect.isroutine(value) else value.__name__}")
        elif isinstance(value, (staticmethod, classmethod)):
            self._parts(value, {"function": value.__func__}, path)
        elif isinstance(value, property):
            parts = {n: getattr(value, n) for n in ("fget", "fset", "fdel")}
            self._parts(value, {**parts, "attributes": dict(_attributes(value))}, path)
        elif isinstance(value, functools.cached_property):
            self._parts(value, {"func": value.func}, path)
        elif isinstance(value, Mapping):
            self._mapping(value, path)
        elif isinstance(value, Set):
            self._say(f"set of {len(value)}")
            for one in sorted(_Reader(frozenset()).read(member, path) for member in value):
                self._say(one)
        elif isinstance(value, (list, tuple, deque)):
            self._sequence(value, path)
        else:
            self._object(value, path)

    def _tensor(self, value: Any, path: str) -> None:
        if isinstance(value, Tensor) and value.layout != torch.strided:
            coordinates = value.detach().to_sparse_coo().coalesce()
            self._parts(value, {"i": coordinates.indices(), "v": coordinates.values(), "s": tuple(value.shape)}, path)
        elif isinstance(value, Tensor):
            place = value.data_ptr(), value.stride(), value.shape  # each is kept alive: no other comes to lie there
            where = (value.device, value.dtype, *place, value.is_conj(), value.is_neg())
            if where not in self.hashes:
                self.hashes[where] = content_hash(value)
            self._say(self.hashes[where])
        else:
            self._say(content_hash(value))

    def _array(self, value: np.ndarray, path: str) -> None:
        self._say(f"array {value.dtype.str} {value.shape}")
        if value.dtype.hasobject:
            self._sequence(value.reshape(-1).tolist(), path)
        else:
            self.digest.update(np.ascontiguousarray(value).tobytes())
        if isinstance(value, np.ma.MaskedArray):
            self._array(np.ma.getmaskarray(value), path)

    def _pandas(self, value: Any, path: str) -> None:
        if isinstance(value, pd.Index):
            self._parts(value, {"names": list(value.names), "values": value.to_numpy(dtype=object)}, path)
        elif isinstance(value, pd.Series):
            self._parts(value, {"name": value.name, "index": value.index, "dtype": str(value.dtype)}, path)
            plain = value.to_numpy() if isinstance(value.dtype, np.dtype) else value.to_numpy(dtype=object)
            self._array(plain, path)
        else:
            columns = [value.iloc[:, n] for n in range(value.shape[1])]
            self._parts(value, {"columns": value.columns, "index": value.index, "of": columns}, path)

    def _mapping(self, value: Mapping[Any, Any], path: str) -> None:
        self._say(f"{_name(type(value))} of {len(value)}")
        for key, item in value.items():
            self._feed(key, f"a key of {path}")
            self._feed(item, f"{path}[{key!r}]")

    def _sequence(self, value: Any, path: str) -> None:
        self._say(f"{_name(type(value))} of {len(value)}")
        kinds = set(map(type, value))
        if kinds <= set(_PLAIN):  # at once: a catalogue may have a million ids
            self._say(repr(list(value)))
            return
        for number, item in enumerate(value):
            self._feed(item, f"{path}[{number}]")

    def _parts(self, value: Any, parts: Mapping[str, Any], path: str) -> None:
        self._say(_name(type(value)))
        for key, item in parts.items():
            self._say(key)
            self._feed(item, f"{path}.{key}")

    def _function(self, value: types.FunctionType, path: str) -> None:
        self._say(f"function {_name(value)}")
        library = _is_of_a_library(value)
        if library and "<" not in value.__qualname__:  # a lambda, or made by a function, is more than its name
            return
        self._code(value.__code__, path)
        cells = [_content(cell) for cell in value.__closure__ or ()]
        own = {"keywords": value.__kwdefaults__, "closure": cells, "attributes": dict(vars(value))}
        self._parts(value, {"defaults": value.__defaults__, **own}, path)
        for name in sorted(set(_names(value.__code__)) & set(value.__globals__)) if not library else ():
            self._say(name)
            self._feed(value.__globals__[name], f"{path}: {name}")

    def _code(self, value: types.CodeType, path: str) -> None:
        self.digest.update(value.co_code)
        self._feed(value.co_consts, path)
        self._say(repr((value.co_names, value.co_varnames, value.co_freevars, value.co_argcount)))

    def _class(self, value: type, path: str) -> None:
        self._say(f"class {_name(value)}")
        for cls in value.__mro__:
            if not _is_of_a_library(cls):
                parts = {n: v for n, v in vars(cls).items() if n not in _OF_NO_MATTER and not _is_slot(v)}
                self._parts(cls, parts, f"{path}: {cls.__name__}")

    def _object(self, value: Any, path: str) -> None:
        kept = _reduced(value)
        if kept is None:
            raise TypeError(
                f"{path}: is a {type(value).__name__}, and no fingerprint can be made of one; leave it out of what "
                "decides, give its owner a method fingerprint() that returns text, or set the policy's version yourself"
            )
        left = self.without if len(self.met) == 1 else frozenset()
        self._feed(type(value), path)
        attributes = dict(_attributes(value)) or kept
        self._mapping({name: item for name, item in attributes.items() if name not in left}, path)


_COO = ("row", "col", "data")
_SUBCLASSED = (str, bytes, int, float, complex)


def _reduced(value: Any) -> dict[str, Any] | None:
    """What pickle would keep of an object without attributes, such as one that is written in C; None if it refuses."""
    try:
        kept = value.__reduce_ex__(4)
    except TypeError:
        return None
    if isinstance(kept, str):
        return {"kept": kept}
    return {"kept": list(kept[1:3]), "of": [list(items) for items in kept[3:5] if items is not None]}


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    for name, item in sorted(getattr(value, "__dict__", {}).items()):
        if not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property):
            yield name, item
    for cls in kind.__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _names(code: types.CodeType) -> Iterator[str]:
    """What a function, and those within it, may look up in its module."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_slot(value: Any) -> bool:
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))


def _is_of_a_library(value: Any) -> bool:
    """Whether it comes from Python, from this package, or from one that was installed."""
    module = value.__globals__.get("__name__", "") if isinstance(value, types.FunctionType) else value.__module__
    if module.split(".")[0] in _LIBRARIES:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(PurePath(file).parts))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
