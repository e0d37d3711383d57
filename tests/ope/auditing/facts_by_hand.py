"""Facts of small logs, written out."""

import numpy as np

from blob_pyro.ope.auditing import LogFacts


def facts(propensity, **changes) -> LogFacts:
    n = len(propensity)
    given = {
        "num_actions": 4,
        "row": np.arange(n),
        "action": np.zeros(n, dtype=np.int64),
        "propensity": np.asarray(propensity, dtype=np.float64),
        "reward": np.zeros(n),
        "time": np.arange(n),
        "slot": np.zeros(n, dtype=np.int64),
        "history": np.arange(n),
        "clock": "number",
        "logging_probs": None,
        "significance": 1e-3,
    }
    return LogFacts(**{**given, **changes})
