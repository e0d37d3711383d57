"""An estimate's rows as non-negative terms, one set for each end of an interval: what finite-sample bounds need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from blob_pyro.ope.checks import refuse

__all__ = ["BoundedTerms", "DifferenceTerms", "RobustTerms", "Side", "WeightedTerms"]


@dataclass(frozen=True)
class Side:
    """Terms ``xi >= 0`` whose mean ``m`` is tied to the value by ``value = slope * m + intercept``.

    A lower bound on ``m`` is a lower bound on the value where ``slope`` is positive, an upper one where it is not.
    """

    terms: Tensor
    slope: float
    intercept: float

    def bound(self, mean: float) -> float:
        """Return the value's bound from the mean's lower bound; no mean is below zero."""
        return float(self.slope * max(mean, 0.0) + self.intercept)


class BoundedTerms(Protocol):
    """The non-negative terms that an estimator's rows become."""

    def sides(self, reward_range: tuple[float, float], weight_bound: float | None) -> tuple[Side, Side]:
        """Return the terms of the lower and of the upper end.

        Args:
            reward_range: the least and the largest reward that *can* occur.
            weight_bound: the largest weight that *can* occur, or None where nothing is known.
        """


@dataclass(frozen=True)
class WeightedTerms:
    """Importance-weighted rewards. The upper end rests on ``w (1 - r)``, unless a bound on the weights is known."""

    reward: Tensor
    weight: Tensor

    def sides(self, reward_range: tuple[float, float], weight_bound: float | None) -> tuple[Side, Side]:
        """Return the terms of the lower and of the upper end; see `BoundedTerms.sides`."""
        low, width = _range(reward_range, self.reward)
        gain = (self.reward - low) / width
        lower = Side(self.weight * gain, width, low)
        if weight_bound is None:
            return lower, Side(self.weight * (1 - gain), -width, low + width)
        _within(self.weight, weight_bound)
        scale = max(weight_bound, 1.0)
        return lower, Side((scale - self.weight * gain) / scale, -width * scale, low + width * scale)


@dataclass(frozen=True)
class DifferenceTerms:
    """Target minus baseline: ``w_1 r + w_0 (1 - r)`` has the mean ``difference + 1`` and is never negative."""

    reward: Tensor
    target: Tensor
    baseline: Tensor

    def sides(self, reward_range: tuple[float, float], weight_bound: float | None) -> tuple[Side, Side]:
        """Return the terms of the lower and of the upper end; see `BoundedTerms.sides`."""
        low, width = _range(reward_range, self.reward)
        gain = (self.reward - low) / width
        if weight_bound is None:
            lower = Side(self.target * gain + self.baseline * (1 - gain), width, -width)
            return lower, Side(self.target * (1 - gain) + self.baseline * gain, -width, width)
        _within(self.target, weight_bound)
        _within(self.baseline, weight_bound)
        scaled = (self.target - self.baseline) * gain / weight_bound
        reach = width * weight_bound
        return Side(1 + scaled, reach, -reach), Side(1 - scaled, -reach, reach)


@dataclass(frozen=True)
class RobustTerms:
    """Predictions corrected by weighted residuals: bounded only where the weights are."""

    terms: Tensor
    weight: Tensor
    reward: Tensor
    lowest_prediction: float
    highest_prediction: float

    def sides(self, reward_range: tuple[float, float], weight_bound: float | None) -> tuple[Side, Side]:
        """Return the terms of the lower and of the upper end; see `BoundedTerms.sides`."""
        if weight_bound is None:
            raise ValueError(
                "weight_bound: doubly robust terms are bounded only if the weights are; pass the largest weight that "
                "can occur (such as 1 / the least logging propensity), or use ips"
            )
        low, width = _range(reward_range, self.reward)
        if self.lowest_prediction < low or self.highest_prediction > low + width:
            raise ValueError(
                f"predicted_reward: lies in [{self.lowest_prediction:.6g}, {self.highest_prediction:.6g}], outside "
                f"reward_range {reward_range}; clip the predictions, or widen the range"
            )
        _within(self.weight, weight_bound)
        scaled = (self.terms - low) / width  # in [-bound, 1 + bound]
        scale = 1 + weight_bound
        lower = Side((scaled + weight_bound) / scale, width * scale, low - width * weight_bound)
        return lower, Side((scale - scaled) / scale, -width * scale, low + width * scale)


def _range(reward_range: tuple[float, float], reward: Tensor) -> tuple[float, float]:
    low, high = (float(bound) for bound in reward_range)
    if not low < high:
        raise ValueError(f"reward_range: expected two increasing numbers, got {reward_range}")
    outside = (reward < low) | (reward > high)
    remedy = "Pass reward_range=(least, largest) that can occur: the bound rests on it"
    refuse("reward", outside, reward, f"a reward lies in reward_range [{low:.6g}, {high:.6g}]", remedy)
    return low, high - low


def _within(weight: Tensor, bound: float) -> None:
    if not bound > 0:
        raise ValueError(f"weight_bound: must be positive, got {bound}")
    # The weight is a quotient of rounded numbers.
    refuse("weight_bound", weight > bound * (1 + 1e-9), weight, f"a weight exceeds {bound:.6g}", "Pass the true bound")
