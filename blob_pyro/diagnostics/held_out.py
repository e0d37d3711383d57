"""Held-out events tell how well clicks and next views are predicted, with intervals, beside what knows less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories, ViewHistory
from blob_pyro.data.splits import leave_last_out
from blob_pyro.diagnostics.click_calibration import clustered_error
from blob_pyro.ops.arguments import number_between, whole_number
from blob_pyro.ops.ranking_metrics import dcg_at_k, recall_at_k, reciprocal_rank

__all__ = ["ClickEvaluation", "ViewEvaluation", "evaluate_clicks", "evaluate_views"]

_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ClickEvaluation:
    """Figures of click probabilities against what was clicked.

    ====================== =============================================================================================
    log_score              mean log-probability of what happened, nats per impression: higher is better
    brier_score            mean squared distance of the probability from 0 or 1: lower is better
    normalised_entropy     minus the log score over that of the log's own click rate (He et al. 2014): below 1 is better
    auc                    probability that a click was given more than a non-click, half for ties
    calibration            mean probability over the click rate: 1 is right on average; the curve is `diagnose`'s
    ====================== =============================================================================================

    Attributes:
        probability: of a click, ``N``.
        reward: 0 or 1, ``N``.
        user: of each impression, ``N``: intervals are clustered by it.
        level: of the intervals.
    """

    probability: Tensor
    reward: Tensor
    user: Tensor
    level: float = 0.95

    def table(self) -> pd.DataFrame:
        """Return a row for each figure: value, standard error, interval, and the value of one click rate for all."""
        p, r = self.probability.double().numpy(), self.reward.double().numpy()
        rate = r.mean()
        entropy = -_log_score(np.full_like(r, rate), r).mean()
        score, brier = _log_score(p, r), (p - r) ** 2
        constant = _log_score(np.full_like(r, rate), r)
        rows: dict[str, tuple[float, float, float]] = {}
        rows["log_score"] = (score.mean(), self._error(score - score.mean()), constant.mean())
        rows["brier_score"] = (brier.mean(), self._error(brier - brier.mean()), rate * (1 - rate))
        ratio = -score.mean() / entropy
        # the click rate in the denominator is an estimate too: d entropy / d rate = logit
        influence = (-(score - score.mean()) - ratio * (r - rate) * np.log((1 - rate) / rate)) / entropy
        rows["normalised_entropy"] = (ratio, self._error(influence), 1.0)
        auc, influence = _auc(p, r)
        rows["auc"] = (auc, self._error(influence), 0.5)
        ratio = p.mean() / rate
        rows["calibration"] = (ratio, self._error((p - ratio * r) / rate), 1.0)
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "standard_error", "constant_rate"])
        wide = scipy.stats.t.ppf((1 + self.level) / 2, max(len(np.unique(self.user)) - 1, 1)) * table["standard_error"]
        table.insert(2, "lower", table["value"] - wide)
        table.insert(3, "upper", table["value"] + wide)
        return table.rename_axis("figure")

    def __repr__(self) -> str:
        users = len(np.unique(self.user))
        head = f"{len(self.reward):,} impressions of {users:,} users, {int(self.reward.sum()):,} clicked"
        return f"{head}\n{self.table().to_string(float_format=lambda value: f'{value:.5f}')}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda value: f"{value:.5f}")

    def _error(self, influence: np.ndarray) -> float:
        return clustered_error(influence, self.user.numpy())


@dataclass(frozen=True)
class ViewEvaluation:
    """Figures of the rank of the last item that each user viewed, given the views before it.

    Attributes:
        recall: probability that it is among the ``k`` best, one per user with a view.
        ndcg: discounted gain within the ``k`` best.
        reciprocal_rank: one over its rank.
        k: how many items are shown.
        level: of the intervals.
    """

    recall: Tensor
    ndcg: Tensor
    reciprocal_rank: Tensor
    k: int
    level: float = 0.95

    def table(self) -> pd.DataFrame:
        """Return a row for each figure: mean over users, standard error, interval."""
        rows = {}
        named = ((f"recall@{self.k}", self.recall), (f"ndcg@{self.k}", self.ndcg), ("mrr", self.reciprocal_rank))
        for name, values in named:
            found = values.double().numpy()
            error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
            wide = scipy.stats.t.ppf((1 + self.level) / 2, max(len(found) - 1, 1)) * error
            rows[name] = (found.mean(), error, found.mean() - wide, found.mean() + wide)
        columns = ["value", "standard_error", "lower", "upper"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("figure")

    def __repr__(self) -> str:
        table = self.table().to_string(float_format=lambda value: f"{value:.4f}")
        return f"the last views of {len(self.recall):,} users\n{table}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format=lambda value: f"{value:.4f}")


def evaluate_clicks(log: EventLog, probability: Tensor, level: float = 0.95) -> ClickEvaluation:
    """Judge click probabilities by a log's rewards: see `blob_pyro.BLOB.evaluate`.

    Args:
        log: ``N`` impressions.
        probability: of a click at each of them, ``N``, in the log's order.
        level: of the intervals.

    Raises:
        ValueError: for probabilities that are none, or not ``N``; for rewards that are all equal.
    """
    level = number_between(level, "level", 0, 1)
    p = torch.as_tensor(probability).detach().cpu()
    if p.shape != (log.num_impressions,):
        raise ValueError(f"probability: expected {log.num_impressions:,} values, got shape {tuple(p.shape)}")
    bad = ~((p >= 0) & (p <= 1))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(f"probability: entry {row} is {float(p[row])}; a probability lies between 0 and 1")
    if len(log.reward.unique()) < 2:
        raise ValueError("log: all rewards are equal, so that no click can be told from another; take a longer one")
    return ClickEvaluation(p, log.reward, log.user, level)


def evaluate_views(model: Any, log: EventLog, k: int = 10, level: float = 0.95) -> ViewEvaluation:
    """Judge scores of next items by each user's last view: see `blob_pyro.BLO.evaluate`.

    Args:
        model: whose ``scores(histories)`` are judged.
        log: its users with a view; what it remembers of them counts as views before.
        k: how many items are shown.
        level: of the intervals.

    Raises:
        ValueError: for a log without views.
    """
    log.require_views()
    k, level = whole_number(k, "k", at_least=1, at_most=log.num_items), number_between(level, "level", 0, 1)
    sessions = log.sessions
    if log.earlier is not None:
        sessions = ViewHistory(log).histories(log.users.decode(log.session_user), log.items)
    histories, target = leave_last_out(sessions)
    found: list[list[Tensor]] = []
    size = max(1, _AT_ONCE // log.num_items)
    with torch.no_grad():
        for start in range(0, len(target), size):
            part: Histories = histories[start : start + size]
            scores, last = model.scores(part).cpu(), target[start : start + size]
            found.append([recall_at_k(scores, last, k), dcg_at_k(scores, last, k), reciprocal_rank(scores, last)])
    recall, ndcg, reciprocal = (torch.cat(values) for values in zip(*found))
    return ViewEvaluation(recall, ndcg, reciprocal, k, level)


def _log_score(p: np.ndarray, reward: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        score: np.ndarray = np.where(reward > 0, np.log(p), np.log1p(-p))
        return score


def _auc(p: np.ndarray, reward: np.ndarray) -> tuple[float, np.ndarray]:
    """Compute the area under the curve and its influence function, by ranks (DeLong et al. 1988)."""
    ranks = scipy.stats.rankdata(p)
    clicked = reward > 0
    positive, negative = clicked.sum(), (~clicked).sum()
    own = np.empty(len(p))
    own[clicked], own[~clicked] = scipy.stats.rankdata(p[clicked]), scipy.stats.rankdata(p[~clicked])
    below = ranks - own  # how many of the other kind lie below, ties half
    share = np.where(clicked, below / negative, 1 - below / positive)
    auc = float(share[clicked].mean())
    return auc, np.where(clicked, len(p) / positive, len(p) / negative) * (share - auc)
