"""Confidence sequences: the mixture by numerical integration, and errors counted uniformly over time."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from blob_pyro.ope.confidence_sequences import (
    lower_confidence_sequence,
    lower_mixture_bound,
    lower_plug_in_bound,
)


def log_supermartingale(terms, mean, rate):
    """``lambda S - psi(lambda) V``, written out term by term."""
    total = spread = 0.0
    for t, x in enumerate(terms):
        guess = min(1.0, (0.5 + sum(terms[:t])) / (t + 1))
        total += x - mean
        spread += (x - guess) ** 2
    return rate * total - (-math.log(1 - rate) - rate) * spread


@pytest.mark.parametrize("variance", [5.0, 500.0])
def test_the_mixture_reaches_its_threshold_at_the_bound(variance):
    terms = np.abs(np.random.default_rng(0).normal(size=40)) * np.linspace(0.1, 3, 40)
    alpha = 0.1
    bound = lower_mixture_bound(torch.from_numpy(terms), alpha, variance)
    odds = math.log(1 / alpha)
    rho = variance / (2 * odds + math.log(1 + 2 * odds))

    def density(rate):
        return math.exp((rho - 1) * math.log(1 - rate) - rho * (1 - rate) + rho)

    mixed = quad(lambda rate: math.exp(log_supermartingale(terms, bound, rate)) * density(rate), 0, 1 - 1e-12)[0]
    assert alpha * mixed / quad(density, 0, 1 - 1e-12)[0] == pytest.approx(1, rel=1e-6)


def test_a_sequence_is_the_bound_of_each_prefix():
    terms = torch.from_numpy(np.random.default_rng(1).exponential(size=50))
    times = np.array([1, 2, 17, 50])
    sequence = lower_confidence_sequence(terms, 0.05, times)
    assert np.allclose(sequence, [lower_mixture_bound(terms[:t], 0.05) for t in times], rtol=1e-9)


def one_step_mean(values, probs, rate, guess):
    """Exact expectation of one factor of the supermartingale over a finite distribution."""
    mean = probs @ values
    return probs @ np.exp(rate * (values - mean) - (-math.log(1 - rate) - rate) * (values - guess) ** 2)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("guess", [0.0, 0.3, 1.0])
def test_each_factor_is_a_supermartingale(rate, guess):
    """Also for terms far above one; and not if the prediction exceeds one."""
    distributions = [([0.0, 1.0], [0.9, 0.1]), ([0.0, 50.0], [0.99, 0.01]), ([0.0, 0.2, 5.0], [0.2, 0.7, 0.1])]
    for values, probs in distributions:
        assert one_step_mean(np.array(values), np.array(probs), rate, guess) <= 1 + 1e-12


def draw(rng, rows):
    """Weighted clicks whose logging policy and click rate both change with time; conditional means known."""
    drift = np.arange(rows) / rows
    shown = 0.15 + 0.7 * drift  # logging probability of the arm that the target always plays
    rate = 0.1 + 0.5 * np.sin(3 * drift) ** 2
    played = rng.random(rows) < shown
    return played / shown * (rng.random(rows) < rate), rate


def test_errors_uniformly_over_time():
    """Crossed at any of 400 times by at most alpha of the logs; half as wide a boundary is crossed by more."""
    rng = np.random.default_rng(5)
    times, alpha, num_logs = np.arange(1, 401), 0.25, 400
    wrong = wrong_if_halved = 0
    for _ in range(num_logs):
        terms, means = draw(rng, 400)
        running = means.cumsum() / times
        low = lower_confidence_sequence(torch.from_numpy(terms), alpha, times, variance=50.0)
        wrong += (low > running).any()
        average = terms.cumsum() / times
        wrong_if_halved += ((average + low) / 2 > running).any()
    assert wrong / num_logs <= alpha
    assert wrong_if_halved / num_logs > alpha


def test_plug_in_errors_at_a_fixed_number_of_rows():
    """Heavy terms of one mean; a bound half as far away fails, and the bound tightens like a root of N."""
    rng = np.random.default_rng(6)
    alpha, num_logs, rows = 0.25, 600, 120
    wrong = halved = 0
    for _ in range(num_logs):
        weight = np.where(rng.random(rows) < 0.1, 5.5, 0.5)
        terms = weight * (rng.random(rows) < 0.4)
        low = lower_plug_in_bound(torch.from_numpy(terms), alpha)
        wrong += low > 0.4
        halved += 0.15 * low + 0.85 * terms.mean() > 0.4
    assert wrong / num_logs <= alpha
    assert halved / num_logs > alpha
    far = torch.from_numpy(np.tile([0.0, 1.0], 20_000))
    assert 0.5 - lower_plug_in_bound(far, 0.05) == pytest.approx(0.5 * math.sqrt(2 * math.log(20) / 40_000), rel=0.1)
