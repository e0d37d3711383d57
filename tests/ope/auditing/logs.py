"""Logs of known policies, healthy and planted with faults."""

from pathlib import Path

from blob_pyro.policies import SessionPopularity

ITEMS = 12


WOMEN = Path(__file__).parents[2] / "data" / "open_bandit" / "women_bts.parquet"


def probabilities(log, epsilon=0.3):
    return SessionPopularity(ITEMS, epsilon).action_distribution(log.contexts).probs[log.context]
