"""The three importance-weighted estimators by name."""

GOOD = {"reward": [1, 0, 1], "target_propensity": [0.2, 0.3, 0.4], "logging_propensity": [0.5, 0.6, 0.7]}
