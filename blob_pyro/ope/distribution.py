r"""The whole distribution of the target's reward: CDF, quantiles, CVaR, with a band that holds for all of it at once.

Universal off-policy evaluation (Chandak et al. 2021): :math:`\hat F(t) = \frac{1}{N} \sum w 1\{r \le t\}` is unbiased
for each ``t``. At ``K`` points chosen before the data, finite-sample bounds on ``w 1{r <= t}`` from below and, through
``w 1{r > t}``, from above share the error (Bonferroni); because a CDF increases, they bound it everywhere between, and
with it every functional that increases or decreases in it. Neither side needs a bound on the weights.

References:
    Y. Chandak, S. Niekum, B. da Silva, E. Learned-Miller, E. Brunskill, P. Thomas. "Universal off-policy evaluation".
    NeurIPS (2021).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.confidence_sequences import lower_mixture_bound, lower_plug_in_bound
from blob_pyro.ope.intervals import Interval
from blob_pyro.ope.reliability import WeightSummary
from blob_pyro.ope.weights import importance_weights

__all__ = ["Band", "RewardDistribution", "reward_distribution"]

_BOUNDS = {"empirical_bernstein": lower_plug_in_bound, "anytime": lower_mixture_bound}


class Band(NamedTuple):
    """A simultaneous band: between ``low`` and ``high`` at all ``points``, ``K`` each."""

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, repr=False)
class RewardDistribution:
    """The target's distribution of rewards, estimated from another policy's log; see `reward_distribution`.

    Attributes:
        rewards: ``N`` logged rewards, increasing.
        cumulative: ``N``, the estimated CDF at each of them, at most 1.
        points: ``K`` places at which the band is computed.
        reward_range: the least and the largest reward that can occur.
        discrete: rewards occur at the points, and at the upper end of the range, only.
        weights: what matters of the weights.
        grouped: rows are not independent.
    """

    rewards: np.ndarray
    cumulative: np.ndarray
    points: np.ndarray
    reward_range: tuple[float, float]
    discrete: bool
    weights: WeightSummary
    grouped: bool
    _reward: Tensor = field(compare=False)
    _weight: Tensor = field(compare=False)

    def cdf(self, at: Any) -> np.ndarray:
        """Return the probability of a reward of at most ``at``: one number for each, in [0, 1]."""
        at = np.asarray(at, dtype=np.float64)
        place = np.searchsorted(self.rewards, at, side="right")
        estimated = np.concatenate([[0.0], self.cumulative])[place]
        return np.where(at >= self.reward_range[1], 1.0, estimated)

    def quantile(self, probability: float) -> float:
        """Return the least reward with at least so much probability up to it."""
        _check_probability(probability)
        place = int(np.searchsorted(self.cumulative, probability - 1e-12))
        return float(self.rewards[place]) if place < len(self.rewards) else self.reward_range[1]

    def cvar(self, probability: float) -> float:
        """Return the conditional value at risk: the average of the lowest rewards of this total probability."""
        _check_probability(probability)
        low, high = self.reward_range
        knots = np.concatenate([[low], self.rewards, [high]])
        return _tail_average(knots, np.concatenate([[0.0], self.cumulative]), probability, high)

    def band(self, level: float = 0.95, method: str = "empirical_bernstein") -> Band:
        """Return a band around the CDF that holds at all points together, at this number of rows.

        Args:
            level: probability that no part of it is wrong.
            method: ``"empirical_bernstein"``, or ``"anytime"`` for all numbers of rows together, changing policies and
                grouped rows; see `Estimate.interval`.

        Raises:
            ValueError: for an unknown method, a level outside (0, 1), or grouped rows with the first method.
        """
        if method not in _BOUNDS:
            raise ValueError(f"method: expected one of {', '.join(map(repr, _BOUNDS))}, got {method!r}")
        if not 0 < level < 1:
            raise ValueError(f"level: a probability between 0 and 1 is expected, such as 0.95, got {level}")
        if self.grouped and method == "empirical_bernstein":
            raise ValueError(
                "method: 'empirical_bernstein' takes rows for independent; these are grouped: use 'anytime'"
            )
        alpha = (1 - level) / (2 * len(self.points))
        low, high = np.zeros(len(self.points)), np.ones(len(self.points))
        for k, point in enumerate(self.points):
            below = (self._reward <= point).to(torch.float64)
            low[k] = max(0.0, _BOUNDS[method](self._weight * below, alpha))
            high[k] = 1 - max(0.0, _BOUNDS[method](self._weight * (1 - below), alpha))
        low, high = np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]
        if (low > high).any():
            raise ValueError(
                f"the {level:.1%} band is empty at {self.points[(low > high).argmax()]:.6g}, which the log "
                "contradicts: propensities are wrong, or the target plays what the log never shows; see "
                "blob_pyro.ope.audit"
            )
        return Band(self.points, low, high)

    def quantile_interval(
        self, probability: float, level: float = 0.95, method: str = "empirical_bernstein"
    ) -> Interval:
        """Return an interval of the quantile; those of all quantiles and tail averages of one level hold together."""
        _check_probability(probability)
        band = self.band(level, method)
        low, high = self.reward_range
        places = np.concatenate([band.points, [high]])
        reached = np.concatenate([band.high, [1.0]]) >= probability
        # Up to the next point the CDF may already be as high as there, unless nothing lies between points.
        earliest = places if self.discrete else np.concatenate([[low], band.points])
        certain = np.concatenate([band.low, [1.0]]) >= probability
        return Interval(float(earliest[reached.argmax()]), float(places[certain.argmax()]))

    def cvar_interval(self, probability: float, level: float = 0.95, method: str = "empirical_bernstein") -> Interval:
        """Return an interval of the average of the lowest rewards; at probability 1, of the mean."""
        _check_probability(probability)
        band = self.band(level, method)
        low, high = self.reward_range
        knots = np.concatenate([[low], band.points, [high]])
        highest = np.insert(band.high, 0, 0.0) if self.discrete else np.append(band.high, 1.0)
        least = _tail_average(knots, highest, probability, high)
        most = _tail_average(knots, np.concatenate([[0.0], band.low]), probability, high)
        return Interval(least, most)

    def __repr__(self) -> str:
        quartiles = ", ".join(f"{self.quantile(p):.4g}" for p in (0.25, 0.5, 0.75))
        return (
            f"reward distribution: quartiles {quartiles}; {len(self.rewards):,} rows, effective sample size "
            f"{self.weights.effective_sample_size:,.0f}, band at {len(self.points)} points"
        )


@checks.one_row_order
def reward_distribution(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    *,
    points: Any = None,
    discrete: bool = False,
    reward_range: tuple[float, float] = (0.0, 1.0),
    self_normalized: bool = False,
    groups: Any = None,
) -> RewardDistribution:
    """Estimate the whole distribution of the reward that the target would have had, not its mean alone.

    Args:
        reward: ``N`` rewards, within ``reward_range``.
        target_propensity: ``N`` probabilities that the target plays the logged action.
        logging_propensity: ``N`` probabilities with which the logging policy played it, in (0, 1].
        points: where the band is computed, chosen before the data are seen: fewer points, narrower. Default: 20,
            evenly over ``reward_range``, from its lower end.
        discrete: the points, and the upper end of ``reward_range``, are all the rewards that can occur: ``points=[0]``
            for clicks.
        reward_range: the least and the largest reward that can occur.
        self_normalized: divide by the sum of weights instead of by ``N``: the CDF then reaches 1 exactly.
        groups: ``N`` users; the band must then be the ``"anytime"`` one, which does not mind.

    Raises:
        ValueError: naming argument, row and remedy.

    Example:
        >>> found = reward_distribution([0.1, 0.4, 0.9], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        >>> found.cdf(0.4).round(4).tolist(), found.quantile(0.5), round(found.cvar(1.0), 4)
        (0.6667, 0.4, 0.4667)
    """
    device = checks.device_of(reward, target_propensity, logging_propensity)
    gain = checks.rewards("reward", reward, device)
    target = checks.target_propensities("target_propensity", target_propensity, device).detach()
    logging = checks.logging_propensities("logging_propensity", logging_propensity, device)
    checks.same_length(reward=gain, target_propensity=target, logging_propensity=logging, groups=groups)
    low, high = (float(bound) for bound in reward_range)
    if not low < high:
        raise ValueError(f"reward_range: expected two increasing numbers, got {reward_range}")
    outside = (gain < low) | (gain > high)
    remedy = "Pass reward_range=(least, largest) that can occur"
    checks.refuse("reward", outside, gain, f"a reward lies in reward_range [{low:.6g}, {high:.6g}]", remedy)
    places = np.linspace(low, high, 21)[:-1] if points is None else checks.as_vector("points", points).numpy()
    if (np.diff(places) <= 0).any() or not (low <= places[0] and places[-1] < high):
        raise ValueError(f"points: expected increasing numbers within [{low:.6g}, {high:.6g}), got {places}")
    if discrete:
        between = ~torch.isin(gain, torch.as_tensor([*places, high], device=gain.device))
        checks.refuse("reward", between, gain, "a discrete reward is one of the points or the range's end", remedy)
    weight = importance_weights(target, logging, None).values
    if not bool(weight.any()):
        raise ValueError("target_propensity: is 0 for every logged action: the target plays nothing that the log shows")
    order = torch.argsort(gain, stable=True)
    total = weight.sum() if self_normalized else len(gain)
    cumulative = (weight[order].cumsum(0) / total).clamp(max=1.0)
    return RewardDistribution(
        rewards=gain[order].cpu().numpy(),
        cumulative=cumulative.cpu().numpy(),
        points=places,
        reward_range=(low, high),
        discrete=discrete,
        weights=WeightSummary.of(weight, 1.0),
        grouped=groups is not None,
        _reward=gain,
        _weight=weight,
    )


def _check_probability(probability: float) -> None:
    if not 0 < probability <= 1:
        raise ValueError(f"probability: expected more than 0 and at most 1, got {probability}")


def _tail_average(knots: np.ndarray, levels: np.ndarray, probability: float, high: float) -> float:
    """``high - integral of min(F, p) / p`` for a CDF of ``levels[k]`` between ``knots[k]`` and ``knots[k + 1]``."""
    return float(high - (np.minimum(levels, probability) * np.diff(knots)).sum() / probability)
