r"""A test of repetition: what was played after a history comes again there as often as its propensity says.

A policy that is a function of the history alone has one propensity for each history, action and slot. So when an action
has been seen after a history, how often it comes again there is known in advance: let :math:`q_n` be the sum of the
propensities of those actions that were seen after row ``n``'s history before; then the chance that :math:`a_n` is one
of them is :math:`q_n`. Its deviations are martingale differences that never exceed 1, however rare actions are: this
tells wrong propensities where averages of 1/p are too heavy-tailed to. Actions are told apart by the size of their
propensity, and by slot, so that what is too large does not make up for what is too small.
"""

from __future__ import annotations

import numpy as np

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.martingales import bernstein
from blob_pyro.ope.auditing.report import Finding

__all__ = ["repetition"]

_EDGES = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.7])
_SAME = 1e-3
_IMPOSSIBLE = 1.1  # estimated propensities may sum to a little more than one


def repetition(facts: LogFacts) -> Finding:
    """Test whether actions come again after a history as often as their propensities say, by size and slot."""
    name = "repetition"
    usable = facts.usable
    rows, p = facts.row[usable], facts.propensity[usable]
    slots = int(facts.slot.max()) + 1
    group = np.unique(facts.history[usable], return_inverse=True)[1] * slots + facts.slot[usable]
    order = np.argsort(group, kind="stable")  # in time within each history and slot
    group, p, rows = group[order], p[order], rows[order]
    cell = group * facts.num_actions + facts.action[usable][order]
    _, first, which = np.unique(cell, return_index=True, return_inverse=True)
    first = first[which]
    new, p_first = first == np.arange(len(p)), p[first]
    if new.all():
        return Finding(name, False, "no history, action and slot occur twice: nothing to compare", 0.0)
    if (np.abs(np.log(p / p_first)) > _SAME).any():
        return Finding(name, False, "not tested: one history, action and slot has several propensities, see drift")
    size = np.digitize(p_first, _EDGES)
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    of_group = np.repeat(np.arange(len(starts)), np.diff(np.concatenate([starts, [len(p)]])))
    slot = group % slots
    off, variance, everything = [], [], np.zeros(len(p))
    for number in range(len(_EDGES) + 1):
        mine = size == number
        known = np.cumsum(np.where(new & mine, p, 0.0))
        known -= np.where(new & mine, p, 0.0)  # before this row
        chance = known - known[starts][of_group]
        everything += chance
        off.append(np.bincount(slot, (~new & mine) - chance, slots))
        variance.append(np.bincount(slot, (chance * (1 - chance)).clip(min=0.0), slots))
    impossible = everything > _IMPOSSIBLE
    if impossible.any():
        worst = int(everything.argmax())
        says = (
            f"the propensities of the actions that were seen after one history sum to {everything[worst]:.4g}, at row "
            f"{rows[worst]}, and so after {int(impossible.sum()):,} rows: they are too large"
        )
        return Finding(name, True, says, float(everything[worst]), 0.0, row=int(rows[worst]))
    deviation, spread = np.stack(off).reshape(-1), np.stack(variance).reshape(-1)
    chances = bernstein(deviation, spread)
    tested = int((spread > 0).sum())
    worst = int((deviation**2 / np.maximum(spread + np.abs(deviation) / 3, 1e-300)).argmax())
    p_value = min(1.0, float(chances[worst]) * max(tested, 1))
    number, where = divmod(worst, slots)
    edges = np.concatenate([[0.0], _EDGES, [1.0]])
    of_slot = f", in slot {where}" if slots > 1 else ""
    again = int((~new & (size == number) & (slot == where)).sum())
    says = (
        f"the least likely are propensities of {edges[number]:g} to {edges[number + 1]:g}{of_slot}: what had been "
        f"played came again {again:,} times where {again - deviation[worst]:,.1f} were expected (a chance of "
        f"{p_value:.2g} at most)"
    )
    return Finding(name, p_value < facts.significance, says, float(deviation[worst]), p_value)
