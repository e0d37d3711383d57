"""Hyperparameters of a prior: fixed, or chosen by training."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.ops.arguments import positive_number

__all__ = ["Learned", "Scale"]


@dataclass(frozen=True)
class Learned:
    """A positive number that training chooses, by maximising the ELBO over it (empirical Bayes).

    Args:
        start: where it starts.
    """

    start: float

    def __post_init__(self) -> None:
        positive_number(self.start, "Learned: start")


Scale = float | Learned
"""A standard deviation, fixed or learned."""
