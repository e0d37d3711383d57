r"""Averages that are known in advance where propensities are right and every action can be played.

Given what was known before a decision, :math:`E[1 / p_n] = A` and, for each action ``a``,
:math:`E[1\{a_n = a\} / p_n] = 1`: deviations are martingale differences, whatever the contexts, users and changes of
the policy. One row at a tiny propensity inflates the standard error that it is judged by, so each average is tested
with and without its largest row.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["action_frequencies", "each_action", "mean_inverse", "mean_inverse_without_largest"]

_MIN_EFFECTIVE_ROWS = 50


def mean_inverse(facts: LogFacts) -> Finding:
    """Test whether the average of 1/p is the number of actions."""
    return _mean_inverse(facts, "mean of 1/p", facts.uniform_weight)


def mean_inverse_without_largest(facts: LogFacts) -> Finding:
    """Test whether the average of 1/p is the number of actions without the row that has the least propensity."""
    weight = facts.uniform_weight
    return _mean_inverse(facts, "mean of 1/p without its largest row", np.delete(weight, weight.argmax()))


def each_action(facts: LogFacts) -> Finding:
    """Test whether E[1{a}/p] = 1 holds for each action, in each slot, with and without its largest row."""
    name = "each action's weights"
    usable = facts.usable
    cell = facts.slot[usable] * facts.num_actions + facts.action[usable]
    inverse = 1 / facts.propensity[usable]
    cells = (int(facts.slot.max()) + 1) * facts.num_actions
    rows = np.bincount(facts.slot[usable], minlength=cells // facts.num_actions).repeat(facts.num_actions)
    total = np.bincount(cell, inverse, cells)
    squares = np.bincount(cell, inverse**2, cells)
    largest = np.zeros(cells)
    np.maximum.at(largest, cell, inverse)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = total**2 / squares
        # An action's own rows may not yet show the contexts in which it is rare: it is judged by the spread of all
        # actions in its slot, if that is larger.
        z_all = _against_one(total, _at_least_average(squares * rows / total, facts.num_actions), rows)
        rest, rest_squares = total - largest, squares - largest**2
        z_rest = _against_one(rest, _at_least_average(rest_squares * rows / rest, facts.num_actions), rows)
    # Of the two, the one nearer to zero for what exceeds: a single row must not make an alarm by itself.
    enough = effective >= _MIN_EFFECTIVE_ROWS
    if not enough.any():
        return Finding(name, False, f"no action has {_MIN_EFFECTIVE_ROWS} effective rows in a slot: too few to tell")
    z = np.where(np.abs(z_all) < np.abs(z_rest), z_all, z_rest)[enough]
    p_value = min(1.0, 2 * float(stats.norm.sf(np.abs(z).max())) * len(z))
    worst = np.flatnonzero(enough)[np.abs(z).argmax()]
    slot, action = divmod(int(worst), facts.num_actions)
    of_slot = f" in slot {slot}" if cells > facts.num_actions else ""
    says = (
        f"{len(z):,} of {cells:,} have enough rows; the worst is action number {action}{of_slot}, whose mean of "
        f"1{{a}}/p is {total[worst] / max(rows[worst], 1):.3f} where 1 is expected ({np.abs(z).max():.1f} standard "
        "errors)"
    )
    flagged = p_value < facts.significance
    if flagged:
        says += ": it was played more or less often than was logged"
    return Finding(name, flagged, says, float(z[np.abs(z).argmax()]), p_value)


def action_frequencies(facts: LogFacts) -> Finding:
    """Test, where whole distributions are logged, whether each action is played as often, in each slot, as they say."""
    name = "action frequencies"
    if facts.logging_probs is None:
        return Finding(name, False, "not tested: pass logging_probs, the N x A probabilities of all actions")
    slots = int(facts.slot.max()) + 1
    z, cells = [], []
    for slot in range(slots):
        probs = facts.logging_probs[facts.slot == slot].astype(np.float64)
        played = np.bincount(facts.action[facts.slot == slot], minlength=facts.num_actions)
        expected, variance = probs.sum(0), (probs * (1 - probs)).sum(0)
        impossible = (expected == 0) & (played > 0)
        enough = (variance >= 10) | impossible
        with np.errstate(divide="ignore", invalid="ignore"):
            z.append(np.where(impossible, np.inf, (played - expected) / np.sqrt(variance))[enough])
        cells.append(slot * facts.num_actions + np.flatnonzero(enough))
    scores, where = np.concatenate(z), np.concatenate(cells)
    if not len(scores):
        return Finding(name, False, "too few rows to tell")
    worst = int(np.abs(scores).argmax())
    p_value = min(1.0, 2 * float(stats.norm.sf(abs(scores[worst]))) * len(scores))
    slot, action = divmod(int(where[worst]), facts.num_actions)
    of_slot = f" in slot {slot}" if slots > 1 else ""
    says = f"{len(scores):,} actions have enough rows; the worst is number {action}{of_slot}, {scores[worst]:+.1f} "
    says += "standard errors from the sum of its propensities"
    return Finding(name, p_value < facts.significance, says, float(scores[worst]), p_value)


def _against_one(total: np.ndarray, squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Standard errors between the mean of 1{a}/p and 1."""
    result: np.ndarray = (total - rows) / np.sqrt(np.maximum(squares - rows, 0.0))
    return result


def _at_least_average(squares: np.ndarray, num_actions: int) -> np.ndarray:
    """Sums of squares, none below the average over the actions of its slot that were played."""
    by_slot = np.where(np.isfinite(squares), squares, 0.0).reshape(-1, num_actions)
    average = by_slot.sum(-1) / np.maximum((by_slot > 0).sum(-1), 1)
    result: np.ndarray = np.maximum(by_slot, average[:, None]).reshape(-1)
    return result


def _mean_inverse(facts: LogFacts, name: str, weight: np.ndarray) -> Finding:
    if len(weight) < 3 or np.ptp(weight) == 0:
        off = len(weight) > 0 and abs(weight[0] - 1) > 1e-6
        says = f"every row has {facts.num_actions * weight[0]:.6g}; {facts.num_actions} actions" if len(weight) else "-"
        return Finding(name, bool(off), says, float(weight[0]) if len(weight) else float("nan"))
    mean, error = weight.mean(), weight.std(ddof=1) / len(weight) ** 0.5
    z = (mean - 1) / error
    p_value = 2 * float(stats.norm.sf(abs(z)))
    count = facts.num_actions
    says = f"{count * mean:.4g} where {count} actions are expected ({z:+.1f} standard errors of {count * error:.2g})"
    flagged = p_value < facts.significance
    if flagged:
        says += (
            ": rows are played less often than logged" if mean > 1 else ": propensities are too large, or some actions "
            "cannot be played"
        )  # fmt: skip
    return Finding(name, flagged, says, float(z), p_value)
