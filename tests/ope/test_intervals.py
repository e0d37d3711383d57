"""Intervals: formulas, seeds, coverage by simulation, and the warning where they should not be believed."""

import warnings

import numpy as np
import pytest
from scipy import stats

from blob_pyro.ope import UnreliableIntervalWarning, beta_ips, ips, snips
from tests.ope.conftest import draw_sample


def test_normal(large):
    estimate = snips(large.reward, large.target, large.logging)
    low, high = estimate.interval(0.9)
    z = stats.norm.ppf(0.95)
    assert low == pytest.approx(estimate.value - z * estimate.standard_error, rel=1e-12)
    assert high == pytest.approx(estimate.value + z * estimate.standard_error, rel=1e-12)


@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "users"])
@pytest.mark.parametrize("estimator", [ips, snips, beta_ips])
def test_bootstrap_agrees_with_the_delta_method(estimator, grouped, large):
    estimate = estimator(large.reward, large.target, large.logging, groups=large.user if grouped else None)
    low, high = estimate.interval(0.95, method="bootstrap", seed=3, num_resamples=4000)
    # A resampled baseline meets an average weight that differs from 1: a term of order 1/N for beta-IPS.
    tolerance = 0.12 if estimator is beta_ips else 0.05
    assert (high - low) / (2 * 1.96 * estimate.standard_error) == pytest.approx(1, abs=tolerance)
    assert (high + low) / 2 == pytest.approx(estimate.value, abs=0.2 * estimate.standard_error)
    first, again, other = (estimate.interval(method="bootstrap", seed=s, num_resamples=50) for s in (3, 3, 4))
    assert again == first != other


def test_bootstrap_of_more_rows_than_are_resampled_one_by_one():
    many = draw_sample(seed=3, rows=50_000, sharpness=0.5)
    estimate = snips(many.reward, many.target, many.logging)
    low, high = estimate.interval(method="bootstrap", num_resamples=2000)
    assert (high - low) / (2 * 1.96 * estimate.standard_error) == pytest.approx(1, abs=0.06)


def test_clusters_matter(large):
    """The click rates of users differ: intervals by rows are too narrow."""
    rows = snips(large.reward, large.target, large.logging)
    users = snips(large.reward, large.target, large.logging, groups=large.user)
    assert users.standard_error > 1.15 * rows.standard_error


def coverage(method, num_logs, rows, make=ips, level=0.9, **options):
    """Of the value over fresh contexts, actions and rewards; the truth from many contexts of the same distribution."""
    inside = 0
    for seed in range(num_logs):
        log = draw_sample(seed=10_000 + seed, rows=rows, num_users=rows, sharpness=0.6, rate=0.3)
        truth = (log.target_probs * log.click).sum(-1).mean()
        estimate = make(log.reward, log.target, log.logging)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableIntervalWarning)
            low, high = estimate.interval(level, method=method, **options)
        inside += low <= truth <= high
    return inside / num_logs


@pytest.mark.parametrize("method", ["empirical_bernstein", "anytime"])
def test_finite_sample_intervals_cover_where_rows_are_few(method):
    """At 25 rows, at least as often as promised."""
    assert coverage(method, num_logs=300, rows=25, level=0.8) >= 0.8


def test_normal_interval_covers_what_it_promises():
    """For the value on the logged contexts it is conservative, by the contexts' own spread."""
    found = coverage("normal", num_logs=400, rows=1500)
    assert 0.9 - 3 * 0.015 < found < 0.99


def test_widths_are_ordered(large):
    estimate = ips(large.reward, large.target, large.logging)
    bound = (large.target / large.logging).max() * 1.5

    def width(**options):
        low, high = estimate.interval(0.95, **options)
        assert low < estimate.value
        return high - low

    normal = width()
    bernstein = width(method="empirical_bernstein", weight_bound=bound)
    anytime = width(method="anytime", weight_bound=bound)
    assert normal < bernstein < anytime < 4 * normal
    assert 0.5 * normal < width(method="anytime") < 3 * normal


def test_anytime_of_grouped_rows_is_that_of_rows(large):
    rows = ips(large.reward, large.target, large.logging).interval(method="anytime")
    users = ips(large.reward, large.target, large.logging, groups=large.user).interval(method="anytime")
    assert rows == users


def test_reward_range_moves_with_the_rewards(large):
    w = large.target, large.logging
    plain = ips(large.reward, *w).interval(method="anytime", weight_bound=20)
    scaled = ips(4 * large.reward, *w).interval(method="anytime", reward_range=(0, 4), weight_bound=20)
    assert np.allclose(scaled, 4 * np.array(plain), rtol=1e-9)


def test_clipped_weights_still_cover_the_value_at_any_time():
    log = draw_sample(seed=8, rows=4000, sharpness=1.5)
    truth = (log.target_probs * log.click).sum(-1).mean()
    estimate = ips(log.reward, log.target, log.logging, clip=1.5)
    low, high = estimate.interval(method="anytime")
    assert low < truth < high
    assert estimate.value < truth - 4 * estimate.standard_error  # clipping is far from harmless here
    with pytest.raises(ValueError, match=r"weight_bound: the weights were clipped at 1\.5"):
        estimate.interval(method="anytime", weight_bound=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "method: expected one of 'normal', 'bootstrap', 'empirical_bernstein', 'anytime'"),
        ({"level": 95}, "level: a probability between 0 and 1"),
        ({"method": "bootstrap", "num_resamples": 1}, "num_resamples: at least 2"),
        ({"method": "anytime", "reward_range": (0, 0.5)}, r"reward, row \d+: .*reward_range \[0, 0.5\], got 1"),
        ({"method": "anytime", "reward_range": (1, 0)}, "reward_range: expected two increasing numbers"),
        ({"method": "anytime", "weight_bound": 1.01}, r"weight_bound, row \d+: a weight exceeds 1.01"),
        ({"method": "anytime", "weight_bound": -1}, "weight_bound: must be positive"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore::blob_pyro.ope.UnreliableIntervalWarning")
def test_bad_options(options, message, sample):
    with pytest.raises(ValueError, match=message):
        ips(sample.reward, sample.target, sample.logging).interval(**options)


def test_what_has_no_interval(sample):
    with pytest.raises(ValueError, match="reward: an interval needs at least two rows, got 1"):
        ips([1], [0.5], [0.5]).interval()
    with pytest.raises(ValueError, match="groups: an interval needs at least two groups, got 1"):
        ips([1, 0], [0.5, 0.5], [0.5, 0.5], groups=["a", "a"]).interval()
    with pytest.raises(ValueError, match="method: snips has no bound that holds at every number of rows"):
        snips(sample.reward, sample.target, sample.logging).interval(method="anytime")
    with pytest.raises(ValueError, match="these are grouped; use 'anytime'"):
        ips(sample.reward, sample.target, sample.logging, groups=sample.user).interval(method="empirical_bernstein")


def test_an_empty_interval_is_an_error():
    n = 20_000
    reward = (np.arange(n) % 2).astype(float)
    with pytest.raises(ValueError, match=r"ips: the 95\.0% interval is empty .* propensities are wrong"):
        ips(reward, np.full(n, 0.9), np.full(n, 0.3)).interval(method="anytime")
