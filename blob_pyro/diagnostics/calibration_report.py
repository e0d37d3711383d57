"""The report of a calibration: ranks, how far they are from uniform, and what that means in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import rel_entr
from scipy.stats import binom, norm

from blob_pyro.diagnostics.ecdf_bands import ecdf_band, probability_inside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LOGIT", "Calibration"]

LOGIT = "logit"
"""The name of click logits among the sites."""
_LINES = 100  # of numbers inside their band, or outside
_POINTS = 20  # at which ranks are compared with their band
_OUTSIDE = 0.1  # of truths outside a central 90 % interval
_OF_BANDS, _OF_SHARES = 0.04, 0.01  # chances that a calibrated report fails by the one test or by the other
_POWER = 0.8  # that a verdict needs
_HALVED = 2.0  # what standard deviations are too small by, in that which has to be seen


@dataclass(frozen=True, repr=False)
class Calibration:
    """Ranks of true numbers among draws of the posteriors fitted to their data; see `calibrate`.

    Attributes:
        ranks: of each site and of ``logit``, ``num_simulations x numbers``, between 0 and ``num_draws``.
        scores: how many posterior standard deviations the truth lies above the posterior's mean, likewise.
        num_draws: of each posterior.
        guide: the name of what was judged.
        converged: share of the fits that say that they have converged.
    """

    ranks: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    num_draws: int
    guide: str
    converged: float

    @property
    def num_simulations(self) -> int:
        """The number of fits."""
        return len(next(iter(self.ranks.values())))

    def counts(self, site: str) -> np.ndarray:
        """Count the ranks below each twentieth of the draws, ``20 x numbers``."""
        ends = (self.num_draws + 1) // _POINTS * np.arange(1, _POINTS + 1)
        counts: np.ndarray = (self._of(site)[:, None, :] < ends[None, :, None]).sum(0)
        return counts

    @property
    def level(self) -> float:
        """The level of a site's band at which 96 % of calibrated reports have no site that leaves its band."""
        return 1 - _OF_BANDS / len(self.ranks)

    def band(self, site: str, level: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Compute the band that these counts stay in with probability ``level``, those of all numbers of the site.

        The default is the property `level`.
        """
        level = self.level if level is None else level
        numbers = self._of(site).shape[1]
        return ecdf_band(self.num_simulations, _POINTS, 1 - (1 - level) / numbers)

    def passes(self, site: str, level: float | None = None) -> bool:
        """Say whether a site shows nothing against it.

        The ranks of all its numbers stay in their bands, and the share of truths outside their 90 % intervals, over all
        numbers together, is no further from 10 % than chance takes it in one of a hundred reports, however a site's
        numbers depend on one another: simulations do not, and a mean of ``n`` shares of expectation ``p`` reaches ``m``
        with probability ``exp(-n KL(m || p))`` at most (Hoeffding 1963, theorem 1).
        """
        low, high = self.band(site, level)
        counts = self.counts(site)
        inside = ((counts >= low[:, None]) & (counts <= high[:, None])).all()
        return bool(inside) and not _is_far(float(self._outside(site).mean()), self.num_simulations, self._rarity)

    def power(self, site: str) -> float:
        """Compute a chance, at the least, that a guide with half the true standard deviations would not have passed.

        The larger one of two: that the ranks of one number leave its band, and that the share outside does if all
        numbers of the site are wrong together.
        """
        low, high = self.band(site)
        at = np.arange(1, _POINTS + 1) / _POINTS
        inside = probability_inside(low, high, norm.cdf(norm.ppf(at) / _HALVED), self.num_simulations)
        possible = np.arange(self.num_simulations + 1)
        found = [_is_far(k / self.num_simulations, self.num_simulations, self._rarity) for k in possible]
        outside = 2 * norm.cdf(norm.ppf(_OUTSIDE / 2) / _HALVED)
        return float(max(1 - inside, binom.pmf(possible[found], self.num_simulations, outside).sum()))

    @property
    def _rarity(self) -> float:
        """The probability of a share outside that is called far from what it should be, in either direction."""
        return _OF_SHARES / len(self.ranks) / 2

    def _outside(self, site: str) -> np.ndarray:
        """The share of truths outside their 90 % intervals, by simulation."""
        ranks, tail = self._of(site), (self.num_draws + 1) // _POINTS
        share: np.ndarray = ((ranks < tail) | (ranks >= self.num_draws + 1 - tail)).mean(1)
        return share

    @property
    def failed(self) -> tuple[str, ...]:
        """The sites whose ranks leave their band."""
        return tuple(site for site in self.ranks if not self.passes(site))

    @property
    def table(self) -> pd.DataFrame:
        """One row per site: numbers, share of truths outside 90 % intervals, its error, bias, spread, power, verdict.

        ``bias`` is the mean score, in posterior standard deviations; ``spread`` the root mean square around it: 2 means
        that the posterior's standard deviations are half of what they should be. ``power`` is the chance that so many
        simulations would have shown that: see `power`. Where it is less than 80 %, a site with nothing against it is
        not called ``calibrated``: None.
        """
        rows = {}
        for site, ranks in self.ranks.items():
            outside, power = self._outside(site), self.power(site)
            rows[site] = {
                "numbers": ranks.shape[1],
                "outside_90": outside.mean(),
                "outside_90_error": outside.std(ddof=1) / len(outside) ** 0.5,
                "bias": float(np.mean(self.scores[site])),
                "spread": float(np.sqrt(np.mean((self.scores[site] - self.scores[site].mean(0)) ** 2))),
                "power": power,
                "calibrated": (None if power < _POWER else True) if self.passes(site) else False,
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")

    @property
    def verdicts(self) -> tuple[str, ...]:
        """A sentence for each site that is not calibrated, or of which so few simulations cannot tell."""
        says = []
        for site, row in self.table.iterrows():
            if row.calibrated:
                continue
            if row.calibrated is None:
                says.append(
                    f"{site}: {self.num_simulations} simulations are too few to tell: half the standard deviation "
                    f"would have been seen with probability {row.power:.2f}, and 0.8 is asked for; simulate more"
                )
                continue
            share = f"{row.outside_90:.0%} of true values lie outside the 90 % interval (10 % should)"
            if row.outside_90 > _OUTSIDE + 2 * row.outside_90_error:
                says.append(f"{site}: too sure; {share}")
            elif row.outside_90 < _OUTSIDE - 2 * row.outside_90_error:
                says.append(f"{site}: too doubtful; {share}")
            else:
                direction = "low" if row.bias > 0 else "high"
                says.append(f"{site}: reads {direction}, by {abs(row.bias):.2f} standard deviations; {share}")
        return tuple(says)

    def __repr__(self) -> str:
        head = (
            f"calibration of guide {self.guide!r}: {self.num_simulations} simulations, {self.converged:.0%} of the "
            "fits converged"
        )
        seen = f"half a standard deviation would have been seen with probability {self.table.power.min():.2f} or more"
        lines = self.verdicts or (f"every site is calibrated, as far as so many simulations can tell: {seen}",)
        return "\n".join([head, self.table.to_string(float_format=lambda v: f"{v:.2f}"), *lines])

    def plot(self, site: str, level: float | None = None, ax: Axes | None = None) -> Axes:
        """Plot the ranks' distribution minus the uniform one, each number of a site as a line, and the band.

        Of more than 100 numbers inside the band, or outside, some are drawn, evenly spaced; the legend says so.

        Args:
            site: its name, or ``"logit"``.
            level: of the band, for all numbers of the site together; default the property `level`.
            ax: where to draw; default a new figure.
        """
        from matplotlib import pyplot

        if ax is None:
            _, ax = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
        level = self.level if level is None else level
        low, high = self.band(site, level)
        at = np.arange(_POINTS + 1) / _POINTS
        size = self.num_simulations
        lowest, highest = (np.concatenate([[0.0], edge / size]) - at for edge in (low, high))
        ax.fill_between(at, lowest, highest, color="0.85", label=f"{100 * level:.3g} % band")
        paths = np.concatenate([np.zeros((1, self._of(site).shape[1])), self.counts(site) / size]) - at[:, None]
        outside = np.atleast_1d(((paths < lowest[:, None] - 1e-9) | (paths > highest[:, None] + 1e-9)).any(axis=0))
        for kind, color, word in ((~outside, "C0", "inside"), (outside, "C3", "outside")):
            (numbers,) = kind.nonzero()
            drawn = numbers[:: max(1, -(-len(numbers) // _LINES))]
            ax.plot(at, paths[:, drawn], color=color, alpha=0.8 if len(outside) < 30 else 0.3)
            if len(numbers) or color == "C0":
                part = f", {len(drawn)} drawn" if len(drawn) < len(numbers) else ""
                ax.plot([], [], color=color, label=f"{len(numbers):,} {word}{part}")
        ax.set(xlabel=f"rank of the truth among {self.num_draws} draws, share", ylabel="ECDF minus uniform", title=site)
        ax.legend(frameon=False, fontsize="small")
        return ax

    def _of(self, site: str) -> np.ndarray:
        if site not in self.ranks:
            raise ValueError(f"site: {site!r} was not ranked; there are {', '.join(self.ranks)}")
        return self.ranks[site]


def _is_far(share: float, number: int, rarity: float) -> bool:
    """Whether a mean of independent shares, each of expectation a tenth, is so far from it only so rarely."""
    away = rel_entr(share, _OUTSIDE) + rel_entr(1 - share, 1 - _OUTSIDE)
    return bool(np.exp(-number * away) <= rarity)
