"""The paper's own formulas, kept as oracles: slow, exact where they can be, and no part of any distribution.

O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025). Actions are numbered from 0. The Beta formulas
need integer concentrations and are evaluated in exact rational arithmetic; their cost grows exponentially with the
number of actions, and they say what it would be before they start.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.stats import multivariate_normal

__all__ = [
    "beta_max_by_inclusion_exclusion",
    "beta_max_by_symmetry",
    "beta_minimum",
    "beta_two_arms",
    "normal_argmax_probs",
]


def normal_argmax_probs(loc: Sequence[float], scale: Sequence[float], *, tolerance: float = 1e-8) -> np.ndarray:
    r"""Compute normal propensities as multivariate normal CDFs (Jeunen 2025, eq. 6).

    .. math:: \pi(i) = \Phi_{A-1}\big(\mu_i - \mu_{j \ne i};\; s_i^2 11^T + \mathrm{diag}(s_{j \ne i}^2)\big)

    with variances. The paper's published code fills this matrix with standard deviations; its numbers still sum to one
    and are off by up to 0.23.

    Args:
        loc: A means.
        scale: A standard deviations, positive.
        tolerance: absolute and relative accuracy asked of SciPy, which uses quasi-Monte Carlo from three actions on.

    Returns:
        A probabilities.

    >>> normal_argmax_probs([0.0, 1.0], [1.0, 2.0]).round(4)
    array([0.3274, 0.6726])
    """
    means, deviations = np.asarray(loc, dtype=float), np.asarray(scale, dtype=float)
    probs = np.empty(len(means))
    for i in range(len(means)):
        others = np.arange(len(means)) != i
        covariance = deviations[i] ** 2 + np.diag(deviations[others] ** 2)
        probs[i] = multivariate_normal.cdf(
            means[i] - means[others],
            cov=covariance,
            abseps=tolerance,
            releps=tolerance,
            maxpts=10_000_000,
        )
    return probs


def _beta_function(a: int, b: int) -> Fraction:
    return Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))


def beta_two_arms(a: Sequence[int], b: Sequence[int]) -> Fraction:
    r"""Compute P(Y_1 > Y_0) for two Beta scores with integer concentrations (Miller 2015; Jeunen 2025, eq. 8).

    .. math:: \sum_{k=0}^{a_1 - 1} \frac{B(a_0 + k, b_0 + b_1)}{(b_1 + k)\, B(1 + k, b_1)\, B(a_0, b_0)}

    Args:
        a: concentration1 of both arms.
        b: concentration0 of both arms.

    >>> beta_two_arms([1, 2], [1, 1])
    Fraction(2, 3)
    """
    _check_integers(a, b)
    total = sum(_beta_function(a[0] + k, b[0] + b[1]) / ((b[1] + k) * _beta_function(1 + k, b[1])) for k in range(a[1]))
    return Fraction(total) / _beta_function(a[0], b[0])


def beta_minimum(a: Sequence[int], b: Sequence[int], action: int, *, max_terms: int = 1_000_000) -> Fraction:
    r"""Compute P(Y_i is the smallest) for Beta scores with integer concentrations (Jeunen 2025, eq. 13).

    Every survival function is a finite sum (eq. 10), so the integral of f_i prod (1 - F_j) is one of
    :math:`\prod_{j \ne i} a_j` terms.

    Args:
        a: concentration1 of all arms.
        b: concentration0 of all arms.
        action: i.
        max_terms: refuse to sum more terms than this.

    Raises:
        ValueError: concentrations that are not positive integers, or a sum that is too long.

    >>> beta_minimum([1, 2], [1, 1], action=0)
    Fraction(2, 3)
    """
    _check_integers(a, b)
    others = [j for j in range(len(a)) if j != action]
    _check_cost(math.prod(a[j] for j in others), max_terms)
    coefficients = [[1 / ((b[j] + k) * _beta_function(1 + k, b[j])) for k in range(a[j])] for j in others]
    failures = b[action] + sum(b[j] for j in others)
    total = Fraction(0)
    for powers in itertools.product(*(range(a[j]) for j in others)):
        coefficient = math.prod((row[k] for row, k in zip(coefficients, powers)), start=Fraction(1))
        total += coefficient * _beta_function(a[action] + sum(powers), failures)
    return total / _beta_function(a[action], b[action])


def beta_max_by_symmetry(a: Sequence[int], b: Sequence[int], action: int, *, max_terms: int = 1_000_000) -> Fraction:
    """Compute P(Y_i is the largest): 1 - Y_i is the smallest, concentrations exchanged (Jeunen 2025, eqs. 14 and 15).

    Cost: the product of the other arms' concentration0. See `beta_minimum` for arguments and errors.

    >>> beta_max_by_symmetry([1, 2, 3], [2, 1, 4], action=1)
    Fraction(179, 252)
    """
    _check_integers(a, b)
    return beta_minimum(b, a, action, max_terms=max_terms)


def beta_max_by_inclusion_exclusion(
    a: Sequence[int], b: Sequence[int], action: int, *, max_terms: int = 1_000_000
) -> Fraction:
    r"""Compute P(Y_i is the largest) by inclusion and exclusion over sets of arms that exceed it (Jeunen 2025, eq. 12).

    .. math:: \pi(i) = \sum_{S \subseteq \{j \ne i\}} (-1)^{|S|} P(Y_i < Y_j \text{ for all } j \in S)

    Cost: the product of (1 + concentration1) of the other arms. See `beta_minimum` for arguments and errors.

    >>> beta_max_by_inclusion_exclusion([1, 2, 3], [2, 1, 4], action=1)
    Fraction(179, 252)
    """
    _check_integers(a, b)
    others = [j for j in range(len(a)) if j != action]
    _check_cost(math.prod(1 + a[j] for j in others), max_terms)
    total = Fraction(0)
    for size in range(len(others) + 1):
        for exceeding in itertools.combinations(others, size):
            arms = [action, *exceeding]
            term = beta_minimum([a[j] for j in arms], [b[j] for j in arms], 0, max_terms=max_terms)
            total += (-1) ** size * term
    return total


def _check_integers(a: Sequence[int], b: Sequence[int]) -> None:
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} arms and b has {len(b)}: give both concentrations of every arm.")
    for name, values in (("a", a), ("b", b)):
        for index, value in enumerate(values):
            if not (isinstance(value, int) and value > 0):
                raise ValueError(
                    f"{name}[{index}] is {value!r}, but the closed form needs positive integers. "
                    "ArgmaxBeta takes any positive concentrations."
                )


def _check_cost(terms: int, max_terms: int) -> None:
    if terms > max_terms:
        raise ValueError(
            f"the closed form has {terms:.3g} terms, more than max_terms = {max_terms:.3g}: at a microsecond each it "
            f"would take {terms * 1e-6:.3g} s. ArgmaxBeta gives the same number in milliseconds."
        )
