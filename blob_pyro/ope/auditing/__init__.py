"""The propensity audit: what can be told from a log alone about the propensities that it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blob_pyro.data import EventLog
from blob_pyro.ope import checks
from blob_pyro.ope.auditing.concentration import effective_rows, largest_weight
from blob_pyro.ope.auditing.drift import drift, pauses
from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.granularity import granularity
from blob_pyro.ope.auditing.martingales import (
    action_frequencies,
    each_action,
    mean_inverse,
    mean_inverse_without_largest,
)
from blob_pyro.ope.auditing.ranges import alternatives, constants, ranges
from blob_pyro.ope.auditing.repetition import repetition
from blob_pyro.ope.auditing.report import AuditReport, Finding

__all__ = ["TESTS", "AuditReport", "Finding", "LogFacts", "audit"]

TESTS: list[Callable[[LogFacts], Finding]] = [
    ranges,
    alternatives,
    constants,
    granularity,
    mean_inverse,
    mean_inverse_without_largest,
    each_action,
    repetition,
    action_frequencies,
    effective_rows,
    largest_weight,
    drift,
    pauses,
]
"""What an audit runs, in order; append a function of `LogFacts` to add a test."""


def audit(log: EventLog, *, logging_probs: Any = None, false_alarms: float = 0.002) -> AuditReport:
    """Test a log's propensities against what must hold of them, and say what must be known before they are used.

    ==================================== =============================================================================
    range                                propensities in (0, 1], finite rewards
    alternatives                         rows that were played with certainty
    constants                            shares of rows at 1/A and at the least value (reported only)
    granularity                          propensities that were counted from a number of draws
    mean of 1/p                          equals the number of actions in expectation; with and without its largest row
    each action's weights                the mean of 1{a}/p is 1 for each action and slot
    repetition                           what was played after a history comes again as often as its propensity says
    action frequencies                   against summed propensities, where ``logging_probs`` are known
    effective sample size                of the uniform policy, with and without the largest weight
    largest weight                       the share that one row has
    drift                                several propensities for one history, action and slot; in time, or not
    delays                               pauses far longer than usual
    ==================================== =============================================================================

    Tests with a p-value share ``false_alarms`` equally (Bonferroni). Their p-values are bounds that hold for any number
    of rows and any tail of the weights (bets and Bernstein's inequality), but for a lack in an average of 1/p, whose
    tail is taken to end: see `blob_pyro.ope.auditing.martingales`. The others do not fire on exact propensities of a
    policy that explores. Nothing flagged is no proof: wrong propensities with the right averages pass.

    Args:
        log: with ``propensity``.
        logging_probs: ``N x A`` probabilities of all actions in the log's own order of rows, if they were logged.
        false_alarms: probability that tests with a p-value flag a healthy log.

    Returns:
        A report: printed, one line per test; ``.table``, ``.plot()``, ``.flagged``, ``report["granularity"]``.

    Raises:
        ValueError: for a log without impressions or propensities, or ``logging_probs`` that do not belong to it.

    Example:
        >>> from blob_pyro.policies import SessionPopularity
        >>> from blob_pyro.simulation import RecoGym
        >>> log = RecoGym(num_items=10, seed=0).simulate(SessionPopularity(10), num_users=100)
        >>> audit(log).flagged
        ()
    """
    log.require_impressions()
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms: a probability between 0 and 1 is expected, got {false_alarms}")
    probs = None
    if logging_probs is not None:
        probs = checks.probabilities("logging_probs", logging_probs).detach().cpu().numpy()
        if probs.shape != (log.num_impressions, log.num_items):
            raise ValueError(
                f"logging_probs: has shape {probs.shape}, expected {(log.num_impressions, log.num_items)}: one row for "
                "each impression of the log, in its order, and one column per item"
            )
    with_p_value = 5  # mean of 1/p twice, each action, repetition, frequencies
    facts = LogFacts.of(log, probs, false_alarms / with_p_value)
    if not facts.usable.any():
        return AuditReport((ranges(facts),), facts)
    return AuditReport(tuple(test(facts) for test in TESTS), facts)
