"""Checks at the boundary: each raises a ValueError that names the argument, the offending index and the remedy."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blob_pyro.propensity._types import check_actions, check_float_tensor, check_number, check_power_of_two

# In logit space a score is as wide as 1 / concentration, or as narrow as its root.
LEAST_CONCENTRATION, LARGEST_CONCENTRATION = 1e-45, 1e12


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
        check_float_tensor(owner, name, value)
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
    check_devices(owner, **arguments)
    dtype = widest_dtype(*arguments.values())
    check_batch_shapes(owner, **{name: value.shape[:-1] for name, value in arguments.items()})
    result: tuple[Tensor, ...] = torch.broadcast_tensors(*(value.to(dtype) for value in arguments.values()))
    return result


def widest_dtype(*values: Tensor) -> torch.dtype:
    """The floating-point dtype that holds them all."""
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def check_devices(owner: str, **arguments: Tensor) -> None:
    """Reject tensors on several devices."""
    devices = {name: str(value.device) for name, value in arguments.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"{owner}: {' and '.join(devices)} are on different devices: {devices}. Move them to one.")


def distinct(value: Tensor) -> Tensor:
    """Without the copies that `expand` shows: a view with size 1 where every index holds the same."""
    for dim, (size, stride) in enumerate(zip(value.shape, value.stride())):
        if size > 1 and stride == 0:
            value = value.narrow(dim, 0, 1)
    return value


def check_finite(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN and infinities."""
    value = distinct(value)
    remedy = "Remove the action, or repair the posterior that it came from."
    _reject(owner, name, value, ~value.isfinite(), "finite", remedy)


def check_scale(owner: str, name: str, value: Tensor, *, zero: bool = True) -> None:
    """Reject NaN, infinite and negative standard deviations; 0, a deterministic score, only where it is allowed."""
    value = distinct(value)
    if not zero:
        remedy = "It is a standard deviation: give a known score a small one."
        _reject(owner, name, value, ~(value.isfinite() & (value > 0)), "finite and greater than 0", remedy)
        return
    remedy = "It is a standard deviation: take the square root of a variance, or use 0 for a known score."
    _reject(owner, name, value, ~(value.isfinite() & (value >= 0)), "finite and at least 0", remedy)


def check_concentration(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, non-positive concentrations, and those beyond what float64 can tell apart."""
    value = distinct(value)
    remedy = "Add the prior's pseudo-counts (for example 1) to the observed counts."
    _reject(owner, name, value, ~(value.isfinite() & (value > 0)), "finite and greater than 0", remedy)
    remedy = "Below it a score is 0 or 1, above it a number: take the nearest concentration that is possible."
    outside = (value < LEAST_CONCENTRATION) | (value > LARGEST_CONCENTRATION)
    _reject(owner, name, value, outside, f"between {LEAST_CONCENTRATION:g} and {LARGEST_CONCENTRATION:g}", remedy)


def check_variance(owner: str, name: str, value: Tensor) -> None:
    """Reject NaN, infinite and negative variances."""
    value = distinct(value)
    remedy = "It is a variance: square a standard deviation, or use 0 for a score without noise of its own."
    _reject(owner, name, value, ~(value.isfinite() & (value >= 0)), "finite and at least 0", remedy)


def check_matrix(owner: str, name: str, value: Tensor, num_actions: int, *, square: bool) -> None:
    """Reject what is no matrix whose rows (and columns, if square) are the actions."""
    check_float_tensor(owner, name, value)
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
        result: torch.Size = torch.broadcast_shapes(*batch_shapes.values())
        return result
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
    # Below the smallest normal number rounding is absolute, not relative.
    grain = torch.finfo(value.dtype).smallest_normal * torch.finfo(value.dtype).eps
    remedy = "Average it with its transpose."
    expected = f"symmetric, so the same as its mirror image {name}[..., j, i]"
    _reject(owner, name, value, (value - value.mT).abs() > tolerance * scale, expected, remedy)
    size = scale.double().clamp_min(torch.finfo(torch.float64).tiny)
    smallest = torch.linalg.eigvalsh(value.detach().double() / size)[..., 0]
    smallest = smallest * size[..., 0, 0]
    bad = smallest < -(tolerance * size[..., 0, 0] + value.shape[-1] * grain)
    if bool(bad.any()):
        index = torch.nonzero(bad)[0]
        low = smallest[tuple(index)].item()
        where = str(index.tolist()) if value.dim() > 2 else ""
        raise ValueError(
            f"{owner}: {name}{where} is not positive semi-definite, its smallest eigenvalue is {low:g}. "
            f"If that is rounding, add {-2 * low:.1g} to the diagonal; otherwise it is not a covariance."
        )


def check_sampling(
    owner: str,
    method: str | None,
    methods: tuple[str, ...],
    num_points: int | None,
    num_replicates: int,
    seed: int,
) -> None:
    """Reject unknown ways of computation, unbalanced points, and replicates too few to estimate an error from."""
    if method is not None and (not isinstance(method, str) or method not in methods):
        raise ValueError(f"{owner}: method is {method!r}, but must be None or one of {', '.join(methods)}.")
    if num_points is not None:
        check_power_of_two(owner, "num_points", num_points)
    check_number(owner, "num_replicates", num_replicates, 2, "An error estimate needs them: take 8 or more.")
    check_number(owner, "seed", seed, 0, "It makes the randomisation repeatable.")


def check_ranks(owner: str, num_ranks: int, num_actions: int) -> None:
    """Reject slates with no slot or with more slots than actions."""
    if isinstance(num_ranks, bool) or not isinstance(num_ranks, int) or not 1 <= num_ranks <= num_actions:
        raise ValueError(
            f"{owner}: num_ranks is {num_ranks!r}, but must be a whole number between 1 and the number of actions, "
            f"{num_actions}."
        )


def check_ordering(owner: str, ordering: Tensor, num_actions: int) -> Tensor:
    """Reject what are no slates of actions; their numbers as int64."""
    index = check_actions(owner, "ordering", ordering)
    if index.dim() == 0 or not 1 <= index.shape[-1] <= num_actions:
        raise ValueError(
            f"{owner}: ordering has shape {tuple(index.shape)}, but its last dimension must hold 1 to {num_actions} "
            "actions, the best first."
        )
    _reject(
        owner, "ordering", index, (index < 0) | (index >= num_actions), f"an action, 0 to {num_actions - 1}",
        "Number the actions from 0.",
    )  # fmt: skip
    return index


def total_tolerance(dtype: torch.dtype) -> float:
    """By how much exact probabilities, rounded to a dtype, may miss a sum of one: 1e-9, or 1e-5 in float32."""
    return max(1e-9, min(0.2, 100 * torch.finfo(dtype).eps))


def check_total(
    owner: str, total: Tensor, tolerance: float | Tensor, describe: Callable[[tuple[int, ...]], str]
) -> None:
    """Reject probabilities that are none.

    Args:
        owner: the distribution.
        total: sums that should be one; the message gives the index of the first that is not.
        tolerance: by how much they may miss it.
        describe: what to say of the parameters at an index.
    """
    bad = ~((total - 1).abs() <= tolerance)
    if bool(bad.any()):
        index = tuple(torch.nonzero(bad)[0].tolist())
        where = f"of context {list(index)} " if index else ""
        raise ValueError(
            f"{owner}: the probabilities {where}sum to {total[index].item():.6g}: its scores are too extreme for the "
            f"quadrature ({describe(index)}). Leave out actions that cannot win, and bring scales (concentrations) "
            "closer to each other."
        )


def check_found(owner: str, log_probs: Tensor) -> None:
    """Reject log-probabilities of single actions that no quadrature found.

    Args:
        owner: the distribution.
        log_probs: some shape x batch_shape.
    """
    bad = log_probs.isnan()
    if bool(bad.any()):
        index = tuple(torch.nonzero(bad)[0].tolist())
        raise ValueError(
            f"{owner}: no probability is found at {list(index)}: the scores are too extreme for the quadrature. Leave "
            "out actions that cannot win, and bring scales closer to each other."
        )


def check_tolerance(owner: str, tolerance: Any) -> None:
    """Reject what is no relative error."""
    if tolerance is None:
        return
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise ValueError(
            f"{owner}: tolerance is {tolerance!r}, but must be a positive number, the relative standard error that is "
            "wanted, such as 0.01, or None."
        )
