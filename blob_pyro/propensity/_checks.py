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


def check_scale(owner: str, name: str, value: Tensor, *, zero: bool = True) -> None:
    """Reject NaN, infinite and negative standard deviations; 0, a deterministic score, only where it is allowed."""
    if not zero:
        remedy = "It is a standard deviation: give a known score a small one."
        _reject(owner, name, value, ~(value.isfinite() & (value > 0)), "finite and greater than 0", remedy)
        return
    remedy = "It is a standard deviation: take the square root of a variance, or use 0 for a known score."
    _reject(owner, name, value, ~(value.isfinite() & (value >= 0)), "finite and at least 0", remedy)


def check_positive(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, infinite and non-positive concentrations."""
    remedy = "Add the prior's pseudo-counts (for example 1) to the observed counts."
    _reject(owner, name, value, ~(value.isfinite() & (value > 0)), "finite and greater than 0", remedy)


def check_variance(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, infinite and negative variances."""
    remedy = "It is a variance: square a standard deviation, or use 0 for a score without noise of its own."
    _reject(owner, name, value, ~(value.isfinite() & (value >= 0)), "finite and at least 0", remedy)


def check_matrix_shape(owner: str, name: str, value: Tensor, num_actions: int, *, square: bool) -> None:
    """Reject matrices whose rows (and columns, if square) are not the actions."""
    fits = value.dim() >= 2 and value.shape[-2] == num_actions
    fits = fits and (value.shape[-1] == num_actions if square else value.shape[-1] > 0)
    if not fits:
        expected = f"batch_shape x {num_actions} x {num_actions if square else 'K'}"
        raise ValueError(
            f"{owner}: {name} has shape {tuple(value.shape)}, but with {num_actions} actions in loc it must be "
            f"{expected}. Give it one row per action."
        )


def check_batch_shapes(owner: str, **batch_shapes: torch.Size) -> torch.Size:
    """Broadcast batch shapes, or say which ones disagree."""
    try:
        return torch.broadcast_shapes(*batch_shapes.values())
    except RuntimeError as error:
        found = {name: tuple(shape) for name, shape in batch_shapes.items()}
        raise ValueError(
            f"{owner}: the batch shapes of {' and '.join(found)} do not broadcast: {found}. "
            "Insert dimensions of size 1 where they differ."
        ) from error


def check_covariance(owner: str, name: str, value: Tensor) -> None:
    """Reject matrices that are not finite, not symmetric or not positive semi-definite."""
    check_finite(owner, name, value)
    scale = value.detach().abs().amax((-2, -1), keepdim=True)
    tolerance = 8 * value.shape[-1] * torch.finfo(value.dtype).eps
    remedy = "Average it with its transpose."
    expected = f"symmetric, so the same as its mirror image {name}[..., j, i]"
    _reject(owner, name, value, (value - value.mT).abs() > tolerance * scale, expected, remedy)
    smallest = torch.linalg.eigvalsh(value.detach().double())[..., 0]
    bad = smallest < -tolerance * scale[..., 0, 0]
    if bool(bad.any()):
        index = torch.nonzero(bad)[0]
        low = smallest[tuple(index)].item()
        where = str(index.tolist()) if value.dim() > 2 else ""
        raise ValueError(
            f"{owner}: {name}{where} is not positive semi-definite, its smallest eigenvalue is {low:g}. "
            f"If that is rounding, add {-2 * low:.1g} to the diagonal; otherwise it is not a covariance."
        )


def check_sampling(owner: str, method: str | None, methods: tuple[str, ...], num_replicates: int) -> None:
    """Reject unknown ways of computation, and replicates too few to estimate an error from."""
    if method is not None and method not in methods:
        raise ValueError(f"{owner}: method is {method!r}, but must be None or one of {', '.join(methods)}.")
    if num_replicates < 2:
        raise ValueError(
            f"{owner}: num_replicates is {num_replicates}, but an error estimate needs at least 2. Take 8 or more."
        )


def check_ranks(owner: str, num_ranks: int, num_actions: int) -> None:
    """Reject slates with no slot or with more slots than actions."""
    if not 1 <= num_ranks <= num_actions:
        raise ValueError(
            f"{owner}: num_ranks is {num_ranks}, but must be between 1 and the number of actions, {num_actions}."
        )
