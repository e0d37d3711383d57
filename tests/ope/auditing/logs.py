"""Logs of known policies, healthy and planted with faults."""

from pathlib import Path

import numpy as np

from blob_pyro.ope.auditing import LogFacts
from blob_pyro.policies import SessionPopularity

ITEMS = 12


WOMEN = Path(__file__).parents[2] / "data" / "open_bandit" / "women_bts.parquet"


def probabilities(log, epsilon=0.3):
    return SessionPopularity(ITEMS, epsilon).action_distribution(log.contexts).probs[log.context]


def heavy(seed, rows=1000, contexts=60, actions=12, concentration=0.2):
    """A healthy log whose weights have no variance; each context is a history of its own."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(actions, concentration), size=contexts)
    context = rng.integers(contexts, size=rows)
    action = (probs[context].cumsum(1) < rng.random((rows, 1))).sum(1).clip(max=actions - 1)
    nothing = np.zeros(rows)
    propensity = probs[context, action]
    return LogFacts(
        actions, np.arange(rows), action, propensity, nothing, np.arange(rows), nothing.astype(int), context, "number",
        None, 5e-4,
    )  # fmt: skip
