"""The uniform policy's value from the Open Bandit Dataset's Thompson log, against the log of the uniform policy itself.

The data set (Saito et al. 2021) has, for each campaign, one log of Bernoulli Thompson sampling and one of uniform
draws, from the same days. What the first says of the uniform policy can be compared with what the second shows. Rows
are
taken as independent: the data set has no user ids. Where the audit names a row by its weight, the estimates are
repeated without it; leaving a row out because of its weight costs an unknown bias, and shows how much rests on it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.ope import AuditReport, Estimate, audit, beta_ips, ips, snips

__all__ = ["Campaign", "OpenBandit", "campaigns"]

_ESTIMATORS = {"IPS": ips, "SNIPS": snips, "beta-IPS": beta_ips}


def campaigns(folder: Path) -> list[str]:
    """Name the campaigns of which a folder of the data set has both logs, ``bts/<name>`` and ``random/<name>``.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(path.parent.name for path in folder.glob("bts/*/*.csv") if path.stem == path.parent.name)
    both = [name for name in found if (folder / "random" / name / f"{name}.csv").is_file()]
    if not both:
        raise ValueError(
            f"folder: {folder} has no campaign with both logs, such as bts/women/women.csv and random/women/women.csv; "
            "pass the folder that holds bts and random"
        )
    return both


@dataclass(frozen=True)
class OpenBandit:
    """The experiment, by its settings: what stands beside its results.

    Args:
        campaigns: names.
        rows: of the first one's Thompson log; the data set's sample has 10,000.
    """

    campaigns: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Campaign:
    """A campaign's two logs.

    Attributes:
        name: of the campaign.
        thompson: log of Thompson sampling.
        uniform: log of the uniform policy.
        thompson_audit, uniform_audit: what is wrong with their propensities.
    """

    name: str
    thompson: EventLog
    uniform: EventLog
    thompson_audit: AuditReport
    uniform_audit: AuditReport

    @classmethod
    def read(cls, folder: Path, name: str) -> Campaign:
        """Read and audit.

        Args:
            folder: holds ``bts`` and ``random``.
            name: of the campaign.
        """
        thompson, uniform = (EventLog.read_open_bandit(folder / policy / name) for policy in ("bts", "random"))
        return cls(name, thompson, uniform, audit(thompson), audit(uniform))

    @property
    def heavy_row(self) -> int | None:
        """The row that the audit says decides every estimate; None where it names none."""
        finding = self.thompson_audit["largest weight"]
        return finding.row if finding.flagged else None

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """Return estimates of the uniform policy's click rate, a row each.

        Args:
            level: of the intervals.

        Returns:
            Columns ``campaign``, ``log`` (which one, and which rows), ``estimator``, ``value``, ``standard_error``,
            ``low``, ``high``, ``errors`` (how many standard errors of the difference it is from what the uniform log
            shows), ``effective_sample_size``, ``warnings``.
        """
        truth = self._estimate("IPS", self.uniform, slice(None))
        rows = [self._row("uniform log", "mean", truth, truth, level)]
        parts: dict[str, slice | Tensor] = {"Thompson log": slice(None)}
        if self.heavy_row is not None:
            keep = torch.ones(self.thompson.num_impressions, dtype=torch.bool)
            keep[self.heavy_row] = False
            parts[f"Thompson log without row {self.heavy_row}"] = keep
        for log, part in parts.items():
            for estimator in _ESTIMATORS:
                rows.append(self._row(log, estimator, self._estimate(estimator, self.thompson, part), truth, level))
        return pd.DataFrame(rows)

    def _estimate(self, estimator: str, log: EventLog, part: slice | Tensor) -> Estimate:
        assert log.propensity is not None
        logging = log.propensity[part].numpy()
        target = np.full(len(logging), 1 / log.num_items)
        return _ESTIMATORS[estimator](log.reward[part].double().numpy(), target, logging)

    def _row(self, log: str, name: str, estimate: Estimate, truth: Estimate, level: float) -> dict[str, object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table has them in a column
            low, high = estimate.interval(level)
        error = np.hypot(estimate.standard_error, truth.standard_error)
        return {
            "campaign": self.name,
            "log": log,
            "estimator": name,
            "value": estimate.value,
            "standard_error": estimate.standard_error,
            "low": low,
            "high": high,
            "errors": float("nan") if estimate is truth else (estimate.value - truth.value) / error,
            "effective_sample_size": estimate.effective_sample_size,
            "warnings": "; ".join(estimate.warnings),
        }
