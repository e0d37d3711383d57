"""Training inside a caller's ``torch.no_grad`` or ``torch.inference_mode``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["ordinary", "ordinary_tensors", "with_gradients"]

T = TypeVar("T")


@contextmanager
def with_gradients() -> Iterator[None]:
    """Compute gradients inside, and ordinary tensors, whatever the caller has switched off."""
    with ordinary_tensors(), torch.enable_grad():
        yield


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Make ordinary tensors inside, also under a caller's ``torch.inference_mode``."""
    if not torch.is_inference_mode_enabled():  # leaving it alone leaves autograd's other settings alone, too
        yield
        return
    with torch.inference_mode(False):
        yield


def ordinary(value: T) -> T:
    """Copy those tensors that were made under ``torch.inference_mode``, which autograd refuses; returns all.

    Args:
        value: a tensor, or a dataclass that holds some, however deep. Anything else is returned as it is.
    """
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    found: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    changed = {name: ordinary(old) for name, old in found.items()}
    return replace(value, **changed) if any(changed[name] is not found[name] for name in found) else value
