"""The report of a calibration: ranks, how far they are from uniform, and what that means in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from blob_pyro.diagnostics.ecdf_bands import ecdf_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LOGIT", "Calibration"]

LOGIT = "logit"
"""The name of click logits among the sites."""
_POINTS = 20  # at which ranks are compared with their band
_OUTSIDE = 0.1  # of truths outside a central 90 % interval


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
        """The level of a site's band at which 95 % of calibrated reports have no site that fails."""
        return 1 - 0.05 / len(self.ranks)

    def band(self, site: str, level: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Compute the band that these counts stay in with probability ``level``, those of all numbers of the site.

        The default is the property `level`.
        """
        level = self.level if level is None else level
        numbers = self._of(site).shape[1]
        return ecdf_band(self.num_simulations, _POINTS, 1 - (1 - level) / numbers)

    def passes(self, site: str, level: float | None = None) -> bool:
        """Say whether the ranks of all numbers of a site stay in their bands."""
        low, high = self.band(site, level)
        counts = self.counts(site)
        return bool(((counts >= low[:, None]) & (counts <= high[:, None])).all())

    @property
    def failed(self) -> tuple[str, ...]:
        """The sites whose ranks leave their band."""
        return tuple(site for site in self.ranks if not self.passes(site))

    @property
    def table(self) -> pd.DataFrame:
        """One row per site: numbers, share of truths outside the 90 % interval and its error, bias, spread, verdict.

        ``bias`` is the mean score, in posterior standard deviations; ``spread`` the root mean square around it: 2 means
        that the posterior's standard deviations are half of what they should be.
        """
        rows = {}
        for site, ranks in self.ranks.items():
            tail = (self.num_draws + 1) // _POINTS
            outside = ((ranks < tail) | (ranks >= self.num_draws + 1 - tail)).mean(1)
            rows[site] = {
                "numbers": ranks.shape[1],
                "outside_90": outside.mean(),
                "outside_90_error": outside.std(ddof=1) / len(outside) ** 0.5,
                "bias": float(np.mean(self.scores[site])),
                "spread": float(np.sqrt(np.mean((self.scores[site] - self.scores[site].mean(0)) ** 2))),
                "calibrated": self.passes(site),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")

    @property
    def verdicts(self) -> tuple[str, ...]:
        """A sentence for each site that is not calibrated."""
        says = []
        for site, row in self.table.iterrows():
            if row.calibrated:
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
        lines = self.verdicts or ("every site is calibrated, as far as so many simulations can tell",)
        return "\n".join([head, self.table.to_string(float_format=lambda v: f"{v:.2f}"), *lines])

    def plot(self, site: str, level: float | None = None, ax: Axes | None = None) -> Axes:
        """Plot the ranks' distribution minus the uniform one, each number of a site as a line, and the band.

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
        for number, path in enumerate(paths.T):
            ax.plot(at, path, color="C3" if outside[number] else "C0", alpha=0.8 if len(outside) < 30 else 0.3)
        ax.set(xlabel=f"rank of the truth among {self.num_draws} draws, share", ylabel="ECDF minus uniform", title=site)
        ax.plot([], [], color="C0", label=f"{int((~outside).sum())} inside")
        if outside.any():
            ax.plot([], [], color="C3", label=f"{int(outside.sum())} outside")
        ax.legend(frameon=False, fontsize="small")
        return ax

    def _of(self, site: str) -> np.ndarray:
        if site not in self.ranks:
            raise ValueError(f"site: {site!r} was not ranked; there are {', '.join(self.ranks)}")
        return self.ranks[site]
