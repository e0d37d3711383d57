r"""Averages that are known in advance where propensities are right and every action can be played, tested by betting.

Given what was known before a decision, :math:`E[1 / p_n] = A` and, for each action ``a``,
:math:`E[1\{a_n = a\} / p_n] = 1`: deviations are martingale differences, whatever the contexts, users and changes of
the policy. Their tails may be so heavy that no number of rows makes an average normal: Thompson sampling plays some
action once in a million decisions, such a row weighs as much as a million others, and until it comes all averages are
too small, and so are their standard errors. So none is used. A gambler who bets a share :math:`\lambda` of what he has
that the next :math:`v_n`, whose mean is 1, is larger ends with :math:`W = \prod_n (1 + \lambda (v_n - 1))`, which is 1
on average: :math:`P(W \ge 1 / \alpha) \le \alpha`, exactly, whatever the tail (Markov; Waudby-Smith and Ramdas 2024,
"Estimating means of bounded random variables by betting"). The average of :math:`W` over some :math:`\lambda` has the
same property, and its inverse is the p-value of an excess.

A lack can be told from a tail that has not shown yet only where the tail has an end: :math:`\prod_n (1 - \lambda (v_n -
1))` needs :math:`\lambda < 1 / (\max v - 1)`. The end is taken to be five times the largest value in the log: an alarm
then says that what is missing is worth more than some fifty rows like the heaviest one. Where weights are heavy that is
next to never so, and the test is silent, not wrong: `blob_pyro.ope.auditing.repetition` then has more to say.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["action_frequencies", "bernstein", "each_action", "mean_inverse", "mean_inverse_without_largest"]

_MIN_EFFECTIVE_ROWS = 50
_MIN_VARIANCE = 10
_SHARES = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4])
_BELOW = np.array([0.95, 0.5, 0.2, 0.05, 0.01])
_LARGEST = 5.0  # times the largest value that was seen, none is expected


def mean_inverse(facts: LogFacts) -> Finding:
    """Test whether the average of 1/p is the number of actions."""
    weight = facts.uniform_weight
    evidence = {"more": _excess(weight), "less": _lack(weight, _LARGEST * weight.max())}
    return _mean_inverse(facts, "mean of 1/p", weight, evidence)


def mean_inverse_without_largest(facts: LogFacts) -> Finding:
    """Test whether it exceeds the number of actions even without the row that has the least propensity.

    Without its largest row an average is too small where nothing is wrong: a lack says nothing here.
    """
    weight = facts.uniform_weight
    rest = np.delete(weight, weight.argmax())
    return _mean_inverse(facts, "mean of 1/p without its largest row", rest, {"more": _excess(rest)})


def each_action(facts: LogFacts) -> Finding:
    """Test whether each action's E[1{a}/p] = 1 holds, in each slot."""
    name = "each action's weights"
    usable, count = facts.usable, facts.num_actions
    cell = facts.slot[usable] * count + facts.action[usable]
    inverse = 1 / facts.propensity[usable]
    cells = (int(facts.slot.max()) + 1) * count
    rows = np.bincount(facts.slot[usable], minlength=cells // count).repeat(count)
    played = np.bincount(cell, minlength=cells)
    total, squares = np.bincount(cell, inverse, cells), np.bincount(cell, inverse**2, cells)
    effective = np.divide(total**2, squares, out=np.zeros(cells), where=squares > 0)
    enough = effective >= _MIN_EFFECTIVE_ROWS
    if not enough.any():
        return Finding(name, False, f"no action has {_MIN_EFFECTIVE_ROWS} effective rows in a slot: too few to tell")
    # An action's own rows may not yet show the contexts in which it is rare: its slot's largest value ends the tail.
    largest = np.zeros(cells // count)
    np.maximum.at(largest, facts.slot[usable], inverse)
    end = _LARGEST * largest.repeat(count)

    def wealth(shares: np.ndarray) -> np.ndarray:
        own = np.bincount(cell, np.log1p(shares[cell] * (inverse - 1)), cells)
        result: np.ndarray = own + (rows - played) * np.log1p(-shares)
        return result

    more = _average([wealth(np.full(cells, share)) for share in _SHARES])
    less = _average([wealth(-np.minimum(0.5, share / np.maximum(end - 1, 1e-300))) for share in _BELOW])
    found = np.where(enough, np.maximum(more, less), -np.inf)
    worst, tested = int(found.argmax()), int(enough.sum())
    p_value = _p_value(float(found[worst]), 2 * tested)
    slot, action = divmod(worst, count)
    of_slot = f" in slot {slot}" if cells > count else ""
    mean = total[worst] / max(rows[worst], 1)
    says = (
        f"{tested:,} of {cells:,} have enough rows; the least likely is action number {action}{of_slot}, whose mean of "
        f"1{{a}}/p is {mean:.3f} where 1 is expected (a chance of {p_value:.2g} at most)"
    )
    flagged = p_value < facts.significance
    if flagged:
        says += f": it was played {'more' if more[worst] > less[worst] else 'less'} often than was logged"
    return Finding(name, flagged, says, float(mean), p_value)


def action_frequencies(facts: LogFacts) -> Finding:
    """Test, where whole distributions are logged, whether each action is played as often, in each slot, as they say."""
    name = "action frequencies"
    if facts.logging_probs is None:
        return Finding(name, False, "not tested: pass logging_probs, the N x A probabilities of all actions")
    slots = int(facts.slot.max()) + 1
    z, p_values, cells = [], [], []
    for slot in range(slots):
        probs = facts.logging_probs[facts.slot == slot].astype(np.float64)
        played = np.bincount(facts.action[facts.slot == slot], minlength=facts.num_actions)
        expected, variance = probs.sum(0), (probs * (1 - probs)).sum(0)
        impossible = (expected == 0) & (played > 0)
        enough = (variance >= _MIN_VARIANCE) | impossible
        with np.errstate(divide="ignore", invalid="ignore"):
            z.append(np.where(impossible, np.inf, (played - expected) / np.sqrt(variance))[enough])
        p_values.append(np.where(impossible, 0.0, bernstein(played - expected, variance))[enough])
        cells.append(slot * facts.num_actions + np.flatnonzero(enough))
    scores, chances, where = np.concatenate(z), np.concatenate(p_values), np.concatenate(cells)
    if not len(scores):
        return Finding(name, False, "too few rows to tell")
    worst = int(np.abs(scores).argmax())
    p_value = min(1.0, float(chances.min()) * len(scores))
    slot, action = divmod(int(where[worst]), facts.num_actions)
    of_slot = f" in slot {slot}" if slots > 1 else ""
    says = f"{len(scores):,} actions have enough rows; the worst is number {action}{of_slot}, "
    says += (
        f"{scores[worst]:+.1f} standard errors from the sum of its propensities"
        if np.isfinite(scores[worst])
        else "which was played although its propensity was 0 throughout"
    )
    return Finding(name, p_value < facts.significance, says, float(scores[worst]), p_value)


def bernstein(deviation: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return a bound on the chance that a sum of centred terms, none beyond 1, lies so far from 0 (Freedman 1975)."""
    size = np.abs(deviation)
    spread = np.maximum(variance + size / 3, 1e-300)
    result: np.ndarray = np.minimum(1.0, 2 * np.exp(-(size**2) / (2 * spread)))
    return result


def _excess(values: np.ndarray) -> float:
    """Logarithm of what bets on values above their mean of 1 have won."""
    return float(_average([np.log1p(share * (values - 1)).sum() for share in _SHARES]))


def _lack(values: np.ndarray, largest: float) -> float:
    """The same of bets on values below it, if none exceeds ``largest``."""
    shares = np.minimum(0.5, _BELOW / max(largest - 1, 1e-300))
    return float(_average([np.log1p(-share * (values - 1)).sum() for share in shares]))


def _average(logs: list[np.ndarray]) -> np.ndarray:
    result: np.ndarray = logsumexp(np.stack(logs), axis=0) - np.log(len(logs))
    return result


def _p_value(log_wealth: float, tests: int) -> float:
    return float(min(1.0, tests * np.exp(-max(log_wealth, 0.0))))


def _mean_inverse(facts: LogFacts, name: str, weight: np.ndarray, evidence: dict[str, float]) -> Finding:
    if len(weight) < 3 or np.ptp(weight) == 0:
        off = len(weight) > 0 and abs(weight[0] - 1) > 1e-6
        says = f"every row has {facts.num_actions * weight[0]:.6g}; {facts.num_actions} actions" if len(weight) else "-"
        return Finding(name, bool(off), says, float(weight[0]) if len(weight) else float("nan"))
    side = max(evidence, key=lambda side: evidence[side])
    p_value = _p_value(evidence[side], len(evidence))
    count, mean = facts.num_actions, float(weight.mean())
    says = f"{count * mean:.4g} where {count} actions are expected (a chance of {p_value:.2g} at most)"
    flagged = p_value < facts.significance
    if flagged:
        says += (
            ": rows are played more often than logged"
            if side == "more"
            else ": propensities are too large, or some actions cannot be played"
        )
    return Finding(name, flagged, says, count * mean, p_value)
