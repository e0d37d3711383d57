"""Settings of training: optimisers, schedules, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from blob_pyro.infer.training.rowwise_adam import RowwiseAdam
from blob_pyro.ops.arguments import one_of, positive_number, whole_number

__all__ = ["Training", "clip_gradients", "make_optimizers", "relative_rate"]

_FASTEST = 1e6  # one step of this size leaves float32's range by way of any exponential


@dataclass(frozen=True)
class Training:
    """Settings of how long and how fast to train.

    Attributes:
        num_epochs: passes over the data, at most.
        batch_size: rows per step.
        learning_rate: the peak of the schedule.
        clip_norm: gradients are scaled down to this norm; rows are weighted so that the loss is per row.
        schedule: "one_cycle" (up for 30 % of the steps, then down to nearly nothing), "cosine" (down to nothing) or
            "constant".
        optimizer: "adam" (the default) or "rmsprop" (the paper's). Parameters with sparse gradients are always
            `RowwiseAdam`'s.
        capture: record a step once and replay it without Python's part: see `blob_pyro.infer.training.capture`. True,
            False, or "auto": where it can be done and there are steps enough to pay for it. Leave it False for a guide
            that counts its calls, or does anything else than the same tensor operations at every step.
        patience: stop after so many epochs in a row without a better validation ELBO; None never to. Only of use
            with a validation set, and with a schedule that has not gone to nothing by then.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    clip_norm: float = 10.0
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    optimizer: Literal["adam", "rmsprop"] = "adam"
    patience: int | None = None
    capture: bool | Literal["auto"] = False

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            name: whole_number(getattr(self, name), name)
            for name in ("num_epochs", "batch_size", "patience")
            if getattr(self, name) is not None or name != "patience"
        }
        checked |= {name: positive_number(getattr(self, name), name) for name in ("learning_rate", "clip_norm")}
        if checked["learning_rate"] > _FASTEST:
            raise ValueError(f"learning_rate: must be at most {_FASTEST:g}, got {self.learning_rate:g}; try 0.1")
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # a plain number, whatever came
        one_of(self.schedule, "schedule", ("one_cycle", "cosine", "constant"))
        one_of(self.optimizer, "optimizer", ("adam", "rmsprop"))
        if self.capture not in (True, False, "auto"):
            raise ValueError(f"capture: expected True, False or 'auto', got {self.capture!r}")

    def record(self, call: str, seed: int, num_rows: int, **more: Any) -> dict[str, Any]:
        """Return what a saved model says of a fit: JSON that is enough to fit it again, given the same rows."""
        return {"call": call, "seed": seed, "num_rows": num_rows, **asdict(self), **more}


def make_optimizers(
    training: Training, dense: list[nn.Parameter], sparse: list[nn.Parameter], num_steps: int
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """Make an optimiser and its schedule for each kind of parameter that there is.

    Args:
        training: the settings.
        dense: parameters whose gradients are dense.
        sparse: parameters whose gradients are sparse.
        num_steps: length of the schedule.
    """
    rate = training.learning_rate
    optimizers: list[Optimizer] = []
    if dense:
        adam = training.optimizer == "adam"
        optimizers.append(torch.optim.Adam(dense, lr=rate, fused=True) if adam else torch.optim.RMSprop(dense, lr=rate))
    if sparse:
        optimizers.append(RowwiseAdam(sparse, lr=rate))
    return optimizers, [_schedule(training, o, num_steps) for o in optimizers]


def _schedule(training: Training, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    if training.schedule == "one_cycle":
        return OneCycleLR(optimizer, training.learning_rate, total_steps=num_steps, cycle_momentum=False)
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    return ConstantLR(optimizer, factor=1.0)


def relative_rate(schedule: str, fraction: float) -> float:
    """Give the step size in units of its peak.

    Args:
        schedule: see `Training`.
        fraction: of all steps that have been done, 0 to 1.

    Example:
        >>> [round(relative_rate("one_cycle", at), 3) for at in (0.0, 0.3, 0.65, 1.0)]
        [0.04, 1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * fraction)) / 2
    rise, start = 0.3, 1 / 25  # OneCycleLR's own
    if fraction < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * fraction / rise)) / 2
    return (1 + math.cos(math.pi * (fraction - rise) / (1 - rise))) / 2


def clip_gradients(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    max_norm: float,
    whole: Callable[[Sequence[Tensor], Tensor], Tensor] | None = None,
) -> list[Tensor | None]:
    """Scale gradients down to a common norm where theirs is larger; sparse ones too.

    Args:
        parameters: what they are gradients of.
        gradients: None where there is none.
        max_norm: see `Training`.
        whole: makes norms of what is here of gradients those of all, where some rows are elsewhere.

    Returns:
        The norm of each before (zero where there is none), then the scaled gradients, laid out in memory as the
        parameters are, which fused optimisers rely on; sparse ones coalesced.
    """
    gradients = [g.coalesce() if g is not None and g.is_sparse else g for g in gradients]
    values = [p.new_zeros(()) if g is None else g.values() if g.is_sparse else g for p, g in zip(parameters, gradients)]
    norms = torch.stack([torch.linalg.vector_norm(v) for v in values])
    norms = norms if whole is None else whole(parameters, norms)
    scale = (max_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    scaled: list[Tensor | None] = []
    for parameter, gradient in zip(parameters, gradients):
        if gradient is not None:
            sparse = gradient.is_sparse
            gradient = gradient * scale if sparse else torch.empty_like(parameter).copy_(gradient * scale)
        scaled.append(gradient)
    return [norms, *scaled]
