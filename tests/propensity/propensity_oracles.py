"""Slow, exact answers that share no code with the library: mpmath at 50 digits and rational polynomials."""

import itertools
import math
from fractions import Fraction

import mpmath
import torch

mpmath.mp.dps = 50


def _quad(integrand, points):
    points = sorted(set(points))
    # mpmath's stopping rule is absolute: bring small integrals to the order of one first.
    size = abs(mpmath.quad(integrand, points, maxdegree=4)) or mpmath.mpf(1)
    return mpmath.quad(lambda y: integrand(y) / size, points, maxdegree=6) * size


def _normal_breaks(loc, scale):
    multiples = (-40, -25, -15, -9, -6, -4, -2, 0, 2, 4, 6, 9, 15, 25, 40)
    return [mpmath.mpf(m) + k * mpmath.mpf(s) for m, s in zip(loc, scale) for k in multiples]


def normal_log_prob(loc, scale, action):
    """log P(action is the argmax) of independent normals; arguments are lists of floats."""

    def integrand(y):
        value = mpmath.npdf(y, loc[action], scale[action])
        for j in range(len(loc)):
            if j != action:
                value *= mpmath.ncdf(y, loc[j], scale[j])
        return value

    return mpmath.log(_quad(integrand, _normal_breaks(loc, scale)))


def normal_prob_gradient(loc, scale, action, arm, parameter):
    """d P(action is the argmax) / d loc[arm] or d scale[arm], by differentiating under the integral."""

    def factor(y, j):
        z = (y - loc[j]) / mpmath.mpf(scale[j])
        if j == action:
            return mpmath.npdf(z) / scale[j]
        return mpmath.ncdf(z)

    def factor_derivative(y, j):
        z = (y - loc[j]) / mpmath.mpf(scale[j])
        density = mpmath.npdf(z) / scale[j]
        if j == action:
            return density * z / scale[j] if parameter == "loc" else density * (z**2 - 1) / scale[j]
        return -density if parameter == "loc" else -density * z

    def integrand(y):
        value = factor_derivative(y, arm)
        for j in range(len(loc)):
            if j != arm:
                value *= factor(y, j)
        return value

    return _quad(integrand, _normal_breaks(loc, scale))


def beta_log_prob(a, b, action):
    """log P(action is the argmax) of independent Betas with any concentrations, in logit space."""

    def log_density(x, j):
        return (
            a[j] * -mpmath.log1p(mpmath.exp(-x))
            + b[j] * -mpmath.log1p(mpmath.exp(x))
            - mpmath.log(mpmath.beta(a[j], b[j]))
        )

    def cdf(x, j):
        # Of p and 1 - p the one that is small has all its digits.
        if x > 0:
            return 1 - mpmath.betainc(b[j], a[j], 0, 1 / (1 + mpmath.exp(x)), regularized=True)
        return mpmath.betainc(a[j], b[j], 0, 1 / (1 + mpmath.exp(-x)), regularized=True)

    def integrand(x):
        value = mpmath.exp(log_density(x, action))
        for j in range(len(a)):
            if j != action and value != 0:
                value *= cdf(x, j)
        return value

    # The logistic function bends at 0.
    points = [-10, -3, 0, 3, 10]
    for one, zero in zip(a, b):
        mode, spread = mpmath.log(mpmath.mpf(one) / zero), mpmath.sqrt(1 / mpmath.mpf(one) + 1 / mpmath.mpf(zero))
        points += [mode + k * spread for k in (-6, -3, -1, 0, 1, 3, 6)]
        # Tails are exponential with rates a and b.
        points += [mode - k / mpmath.mpf(one) for k in (10, 30, 100)] + [
            mode + k / mpmath.mpf(zero) for k in (10, 30, 100)
        ]
    return mpmath.log(_quad(integrand, points))


def _multiply(p, q):
    result = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        for j, y in enumerate(q):
            result[i + j] += x * y
    return result


def _beta_polynomials(a, b):
    """Density and distribution function of an integer Beta as polynomials with rational coefficients."""
    constant = Fraction(math.factorial(a + b - 1), math.factorial(a - 1) * math.factorial(b - 1))
    density = [Fraction(0)] * (a - 1) + [constant * (-1) ** k * math.comb(b - 1, k) for k in range(b)]
    return density, [Fraction(0)] + [c / (k + 1) for k, c in enumerate(density)]


def exact_beta_rank_probs(a, b):
    """A x A table of P(arm i has rank r) for integer Betas, in exact rationals."""
    polynomials = [_beta_polynomials(*pair) for pair in zip(a, b)]
    arms = range(len(a))
    table = [[Fraction(0)] * len(a) for _ in arms]
    for i in arms:
        others = [j for j in arms if j != i]
        for rank in arms:
            for above in itertools.combinations(others, rank):
                product = polynomials[i][0]
                for j in others:
                    cdf = polynomials[j][1]
                    survival = [(1 if k == 0 else 0) - c for k, c in enumerate(cdf)]
                    product = _multiply(product, survival if j in above else cdf)
                table[i][rank] += sum(c / (k + 1) for k, c in enumerate(product))
    return table


def standard_errors(estimate, reference, num_draws):
    """How many Monte Carlo standard errors a probability is away from a frequency of `num_draws` draws."""
    spread = (estimate * (1 - estimate) / num_draws).sqrt().clamp_min(1 / num_draws)
    return ((estimate - reference) / spread).abs().max().item()


def double(*values):
    return torch.tensor(values, dtype=torch.float64)
