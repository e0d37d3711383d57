"""Checks of what kind an argument is: each error names the argument, what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

NO_VMAP = (
    "which cannot follow an adaptive quadrature. Every batch shape is taken as it is: pass batch_shape x A at once; "
    "for a Jacobian use torch.autograd.functional.jacobian."
)

NO_FORWARD = (
    "as torch.func.jvp, jacfwd, hessian and dual numbers do, which their quadratures do not know. Take reverse mode: "
    "torch.func.grad, tensor.backward(), or for a Jacobian torch.autograd.functional.jacobian."
)


def kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return f"{type(value).__name__} {value!r}" if value is not None else "None"
    return type(value).__name__


def check_float_tensor(owner: str, name: str, value: Any) -> None:
    """Reject what is not a floating-point tensor, and what `torch.func.vmap` hands out."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"{owner}: {name} must be a floating-point tensor, got {kind(value)}. Convert it with "
            "torch.as_tensor(..., dtype=torch.get_default_dtype())."
        )
    check_not_batched(owner, name, value)


def check_not_batched(owner: str, name: str, value: Tensor) -> None:
    """Reject tensors inside `torch.func.vmap`, under which nothing can depend on a value."""
    # torch has no public test for this.
    if torch._C._functorch.is_batchedtensor(value):
        raise ValueError(f"{owner}: {name} comes from torch.func.vmap, {NO_VMAP}")


def check_no_tangent(owner: str, name: str, value: Tensor) -> None:
    """Reject tensors that carry a tangent, as in forward-mode differentiation."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None:
        raise ValueError(f"{owner}: {name} is differentiated in forward mode, {NO_FORWARD}")


def check_number(owner: str, name: str, value: Any, least: int, reason: str) -> None:
    """Reject what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{owner}: {name} is {value!r}, but must be a whole number, at least {least}. {reason}")


def check_power_of_two(owner: str, name: str, value: Any) -> None:
    """Reject numbers of points that quasi-random sequences are not balanced for."""
    check_number(owner, name, value, 1, "Quasi-random points come in powers of two: 16, 32, 64, ...")
    if value & (value - 1):
        raise ValueError(
            f"{owner}: {name} is {value}, but quasi-random points are balanced in powers of two only. "
            f"Take {2 ** (value.bit_length() - 1)} or {2 ** value.bit_length()}."
        )


def check_flag(owner: str, name: str, value: Any, *, optional: bool = False) -> None:
    """Reject what is neither True nor False."""
    if not isinstance(value, bool) and not (optional and value is None):
        expected = "True, False or None" if optional else "True or False"
        raise ValueError(f"{owner}: {name} is {value!r}, but must be {expected}.")


def check_shape(owner: str, name: str, value: Any) -> torch.Size:
    """Whole numbers, none below 0, as a `torch.Size`."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise ValueError(f"{owner}: {name} must be a tuple of whole numbers, got {kind(value)}. Write (3,) for 3.")
    sizes = tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"{owner}: {name} must be a tuple of whole numbers, at least 0, but holds {kind(size)}.")
    return torch.Size(sizes)


def check_actions(owner: str, name: str, value: Any) -> Tensor:
    """Action numbers as int64; floating-point tensors may hold them too, as in Pyro's enumeration."""
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(
            f"{owner}: {name} must be a tensor of action numbers, got {kind(value)}. Convert it by torch.as_tensor."
        )
    check_not_batched(owner, name, value)
    return value.long()


def checked_mask(owner: str, mask: Any, before: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    """Which actions may be played, booleans of ``shape`` (batch_shape x A), at least one in each context.

    Args:
        owner: the distribution.
        mask: what the caller gave.
        before: what an earlier restriction left, or None.
        shape: of the probabilities.
        device: of the parameters.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(
            f"{owner}: mask must be a tensor of booleans, one for each action, got {kind(mask)}. "
            "From action numbers: torch.zeros(num_actions, dtype=torch.bool).index_fill(0, numbers, True)."
        )
    check_not_batched(owner, "mask", mask)
    sizes = zip(mask.shape[::-1], shape[::-1])
    if not 0 < mask.dim() <= len(shape) or mask.shape[-1] != shape[-1] or any(own not in (1, n) for own, n in sizes):
        raise ValueError(
            f"{owner}: mask has shape {tuple(mask.shape)}, but must broadcast to batch_shape x actions, {tuple(shape)}."
        )
    mask = mask.to(device)
    mask = mask if before is None else mask & before
    empty = ~mask.any(-1)
    if bool(empty.any()):
        where = f" of context {torch.nonzero(empty)[0].tolist()}" if mask.dim() > 1 else ""
        raise ValueError(f"{owner}: mask leaves no action{where} to play. Allow at least one.")
    result: Tensor = mask.expand(shape)
    return result
