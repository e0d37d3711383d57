"""Checks at the boundary: each raises a ValueError that names the argument, the offending index and the remedy."""

import torch
from torch import Tensor


def _first(bad: Tensor) -> str:
    """The first index at which `bad` holds, as it would be typed: [3, 7]."""
    return str(torch.nonzero(bad)[0].tolist())


def _reject(owner: str, name: str, value: Tensor, bad: Tensor, expected: str, remedy: str) -> None:
    if bool(bad.any()):
        index = torch.nonzero(bad)[0]
        raise ValueError(
            f"{owner}: {name}{_first(bad)} is {value[tuple(index)].item():g}, but {name} must be {expected}. {remedy}"
        )


def check_vectors(owner: str, **arguments: Tensor) -> tuple[Tensor, ...]:
    """Broadcast tensors of shape batch_shape x A against each other.

    Raises:
        ValueError: an argument is not a floating-point tensor with at least one action, or the shapes disagree.
    """
    for name, value in arguments.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{owner}: {name} must be a floating-point tensor, got {kind}. Convert it with torch.as_tensor(...)."
            )
        if value.dim() == 0 or value.shape[-1] == 0:
            raise ValueError(
                f"{owner}: {name} has shape {tuple(value.shape)}, so there is no action to choose from. "
                "Give it a last dimension with at least one action."
            )
    shapes = {name: tuple(value.shape) for name, value in arguments.items()}
    if len({shape[-1] for shape in shapes.values()}) > 1:
        raise ValueError(
            f"{owner}: {' and '.join(shapes)} have different numbers of actions in their last dimension: {shapes}. "
            "Expand the shorter one over the actions."
        )
    dtypes = {value.dtype for value in arguments.values()}
    dtype = max(dtypes, key=lambda d: torch.finfo(d).bits)
    try:
        return torch.broadcast_tensors(*(value.to(dtype) for value in arguments.values()))
    except RuntimeError as error:
        raise ValueError(
            f"{owner}: the batch shapes of {' and '.join(shapes)} do not broadcast: {shapes}. "
            "Insert dimensions of size 1 where they differ."
        ) from error


def check_finite(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN and infinities."""
    remedy = "Remove the action, or repair the posterior that it came from."
    _reject(owner, name, value, ~value.isfinite(), "finite", remedy)


def check_scale(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, infinite and negative standard deviations; 0 stands for a deterministic score."""
    remedy = "It is a standard deviation: take the square root of a variance, or use 0 for a known score."
    _reject(owner, name, value, ~(value.isfinite() & (value >= 0)), "finite and at least 0", remedy)


def check_positive(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, infinite and non-positive concentrations."""
    remedy = "Add the prior's pseudo-counts (for example 1) to the observed counts."
    _reject(owner, name, value, ~(value.isfinite() & (value > 0)), "finite and greater than 0", remedy)
