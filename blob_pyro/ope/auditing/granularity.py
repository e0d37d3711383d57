r"""Tests of granularity: whether propensities were counted from a number of draws.

If each is a count over ``M`` draws, all are multiples of ``1 / M``, and about :math:`\varphi(M) / M` of the counts
have no factor in common with ``M``. Ratios of small numbers, such as a share of a short history, are multiples of one
over their common denominator too, but none needs the whole of it: that tells the two apart.
"""

from __future__ import annotations

import numpy as np

from blob_pyro.ope.auditing.facts import LogFacts
from blob_pyro.ope.auditing.report import Finding

__all__ = ["granularity", "number_of_draws"]

_MIN_SHARE = 0.95
_MIN_VALUES = 8
_FEWEST_DRAWS = 50
_LARGEST_SEARCHED = 20_000
_SAMPLE = 400


def granularity(facts: LogFacts) -> Finding:
    """Test whether propensities are counted, and so no better than the root of the number of draws."""
    p = facts.propensity[facts.usable]
    draws = number_of_draws(p, facts.num_actions)
    if draws is None:
        return Finding("granularity", False, "propensities are not counted from a number of draws")
    share = _on_grid(p, draws).mean()
    error = np.sqrt(np.median(p) * (1 - np.median(p)) / draws)
    worst = np.sqrt(p.min() * (1 - p.min()) / draws)
    says = (
        f"{share:.2%} of propensities are multiples of {1 / draws:.6g}: counted from {draws:,} draws, so the median "
        f"one has a standard error of {error:.2g} ({error / np.median(p):.1%}), the least {worst / p.min():.0%}; an "
        "action that no draw chose may be logged at a floor"
    )
    return Finding("granularity", True, says, float(draws))


def number_of_draws(propensity: np.ndarray, num_actions: int) -> int | None:
    """Guess the number of draws that propensities were counted from; None if they were not.

    Searched are all numbers up to 20,000, and beyond them round ones and powers of two up to 10,000,000. The value
    1/A is left out: it is what policies play that know nothing yet.
    """
    values = propensity[np.abs(propensity * num_actions - 1) > 1e-6]
    values = values[(values > 0) & (values < 1)]
    distinct = np.unique(values)
    if len(distinct) < _MIN_VALUES:
        return None
    sample = distinct[np.linspace(0, len(distinct) - 1, min(_SAMPLE, len(distinct))).astype(np.int64)]
    least = np.quantile(values, 1 - _MIN_SHARE, method="higher")  # all but a few are counts of one or more
    for draws in _candidates(1 / least):
        on_grid = _on_grid(sample, draws)
        if on_grid.mean() < _MIN_SHARE:
            continue
        if _on_grid(values, draws).mean() >= _MIN_SHARE and _needs_all_of_it(distinct, draws):
            return draws
    return None


def _candidates(inverse_of_least: float) -> list[int]:
    """Increasing; counts are at least one, so a low propensity bounds the number of draws from below."""
    first = max(_FEWEST_DRAWS, int(np.floor(inverse_of_least * (1 - 1e-6))))
    candidates = list(range(first, _LARGEST_SEARCHED + 1))
    round_ones = {int(m * 10**k) for k in range(4, 8) for m in (1, 1.28, 1.5, 2, 2.5, 3, 4, 5, 6, 6.4, 7.5, 8)}
    powers = {2**k for k in range(14, 24)}
    return candidates + sorted(m for m in round_ones | powers if m > max(_LARGEST_SEARCHED, first) and m <= 10**7)


def _on_grid(values: np.ndarray, draws: int) -> np.ndarray:
    counts = values * draws
    single = np.array_equal(values.astype(np.float32).astype(np.float64), values)
    tolerance = 1e-6 + (1.2e-7 if single else 1e-15) * counts  # the rounding of the numbers as they are stored
    result: np.ndarray = np.abs(counts - np.round(counts)) < np.minimum(tolerance, 0.05)
    return result


def _needs_all_of_it(distinct: np.ndarray, draws: int) -> bool:
    """Whether counts are as often free of factors of the number of draws as any whole numbers are."""
    counts = np.round(distinct[_on_grid(distinct, draws)] * draws).astype(np.int64)
    free = np.gcd(counts, draws) == 1
    expected = _totient(draws) / draws
    return bool(free.sum() >= 3 and free.mean() > 0.4 * expected)


def _totient(number: int) -> int:
    result, rest, factor = number, number, 2
    while factor * factor <= rest:
        if rest % factor == 0:
            while rest % factor == 0:
                rest //= factor
            result -= result // factor
        factor += 1
    return result - result // rest if rest > 1 else result
