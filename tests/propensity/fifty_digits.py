"""What the oracles say at 50 digits, in a file: they take minutes. `make test-slow` computes all of it anew.

python -m tests.propensity.fifty_digits    # writes fifty_digits.json, from the cases of the tests
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mpmath

from tests.propensity.propensity_oracles import beta_log_prob, normal_log_prob, normal_prob_gradient

FILE = Path(__file__).with_suffix(".json")

NORMALS = {
    "ordinary": ([0.0, 0.5, 1.0], [1.0, 2.0, 0.7]),
    "narrow": ([0.0, 0.3, 0.31], [3.0, 1.0, 1e-3]),
    "rare": ([0.0, 8.0, 20.0], [1.0, 1.0, 0.5]),
    "1e-250": ([0.0, 30.0, 12.0], [0.5, 0.8, 0.9]),
    "ratio 1e8": ([0.0, 1e-8, -0.5], [1.0, 1e-8, 1.0]),
    "ratio 1e8, apart": ([1.0, -3.0, 1.0002], [1e-8, 1.0, 1e-4]),
    "far away": ([1e6, 1e6 + 0.5, 1e6 - 1.0], [1.0, 0.25, 2.0]),
}
ONE_SHARP = ([0.0, 0.4, -1.0], [1.0, 1e-3, 3.0])
BETAS = {
    "singular at both ends": ([0.3, 0.7, 2.2], [1.5, 0.2, 3.3]),
    "tiny": ([0.05, 0.01], [0.02, 0.04]),
    "regular against singular": ([9.5, 0.4], [300.5, 0.6]),
}


def questions() -> Iterator[tuple[Callable[..., mpmath.mpf], tuple[Any, ...]]]:
    """Everything that a test asks for: an oracle and its arguments."""
    for loc, scale in (*NORMALS.values(), ONE_SHARP):
        yield from ((normal_log_prob, (loc, scale, action)) for action in range(3))
    for name in ("narrow", "rare"):
        for parameter in ("loc", "scale"):
            for action in (0, 2):
                for arm in (0, 1):
                    yield normal_prob_gradient, (*NORMALS[name], action, arm, parameter)
    for a, b in BETAS.values():
        yield from ((beta_log_prob, (a, b, action)) for action in range(len(a)))


def name_of(oracle: Callable[..., mpmath.mpf], arguments: tuple[Any, ...]) -> str:
    return f"{oracle.__name__}{arguments}"


@cache
def _answers() -> dict[str, str]:
    return json.loads(FILE.read_text())


def fifty_digits(oracle: Callable[..., mpmath.mpf], *arguments: Any) -> mpmath.mpf:
    """What an oracle has said; a question that the file does not answer belongs in `questions`."""
    return mpmath.mpf(_answers()[name_of(oracle, arguments)])


if __name__ == "__main__":
    found = {name_of(oracle, arguments): mpmath.nstr(oracle(*arguments), 45) for oracle, arguments in questions()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
