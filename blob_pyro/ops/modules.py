"""Copies of modules that share nothing with what they were copied from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, TypeVar

import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import nn

from blob_pyro.ops.names import unique_name

__all__ = ["own_copies", "own_copy", "require_finite"]

M = TypeVar("M", bound=nn.Module)
_NUMBER = re.compile(r"_\d+$")  # of `unique_name`


def own_copy(module: M, argument: str) -> M:
    """Copy a module: see `own_copies`."""
    copies: list[M] = own_copies(module, argument=argument)
    return copies[0]


def own_copies(*values: Any, argument: str, shared: Iterable[Any] = ()) -> list[Any]:
    """Copy modules together: what they share, their copies share; parameters move in neither by what the other does.

    Pyro modules get names of their own, for two of one name would read one another's parameters in Pyro's global
    store. What an AutoGuide remembers of the model that it was made for is not copied.

    Args:
        *values: modules, or what holds some.
        argument: what the caller calls them.
        shared: what is not copied: the copies have the very same.

    Raises:
        TypeError: if one cannot be copied.
    """
    memo: dict[int, Any] = {id(value): value for value in shared}
    for module in (m for value in values if isinstance(value, nn.Module) for m in value.modules()):
        if isinstance(module, AutoGuide):
            for kept in (*getattr(module, "_model", ()), getattr(module, "prototype_trace", None)):
                memo[id(kept)] = kept
    try:
        copies: list[Any] = [deepcopy(value, memo) for value in values]
    except Exception as error:  # whatever a class of the user's raises
        raise TypeError(
            f"{argument}: an instance is copied, so that nothing else can change it, and copy.deepcopy fails on this "
            f"{type(values[0]).__name__} ({error!r}); pass its class, or give it a __deepcopy__"
        ) from error
    for copied in copies:
        if isinstance(copied, nn.Module):
            _rename(copied)
    return copies


def require_finite(modules: dict[str, nn.Module], call: str) -> None:
    """Check that every parameter and buffer is a number.

    Raises:
        ValueError: naming the first that is not.
    """
    for owner, module in modules.items():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{call}: {owner}.{name} is not finite; train it again from a finite start")


def _rename(module: nn.Module) -> None:
    """Give every Pyro module that is not named after one around it a name that no other has, and its parts with it."""
    names: dict[str, str] = {}
    for part in module.modules():  # the outer ones first
        if not isinstance(part, PyroModule) or not part._pyro_name:
            continue
        old: str = part._pyro_name
        root = next((name for name in names if old == name or old.startswith(f"{name}.")), old)
        if root not in names:
            names[root] = unique_name(_NUMBER.sub("", root))
        part._pyro_name = names[root] + old.removeprefix(root)
