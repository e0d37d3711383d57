"""The reward's distribution: by hand, exact expectations, and a band that holds everywhere at once."""

import numpy as np
import pytest

from blob_pyro.ope import ips, reward_distribution


def continuous(seed, rows=400):
    """Three actions with Beta rewards; the log plays them unlike the target."""
    rng = np.random.default_rng(seed)
    logging, target = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    action = rng.choice(3, size=rows, p=logging)
    reward = rng.beta(np.array([1.0, 2.0, 4.0])[action], np.array([4.0, 2.0, 1.5])[action])
    return reward, target[action], logging[action]


def true_cdf(at):
    from scipy import stats

    parts = [stats.beta.cdf(at, a, b) for a, b in ((1.0, 4.0), (2.0, 2.0), (4.0, 1.5))]
    return 0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2]


def test_by_hand():
    r, t, p = continuous(0)
    w = t / p
    found = reward_distribution(r, t, p)
    normalised = reward_distribution(r, t, p, self_normalized=True)
    grid = np.linspace(0, 0.99, 34)
    plain = np.array([(w * (r <= g)).mean() for g in grid])
    assert np.allclose(found.cdf(grid), np.minimum(plain, 1), rtol=1e-12)
    assert np.allclose(normalised.cdf(grid), plain / w.mean(), rtol=1e-12)
    assert found.cdf([-1, 1, 2]).tolist() == [0, 1, 1]
    assert found.weights.effective_sample_size == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert normalised.cvar(1.0) == pytest.approx((w * r).sum() / w.sum(), rel=1e-10)


def test_on_policy_it_is_the_empirical_distribution():
    r = np.random.default_rng(1).random(200)
    found = reward_distribution(r, np.full(200, 0.5), np.full(200, 0.5))
    for probability in (0.05, 0.1, 0.5, 0.925, 1.0):
        assert found.quantile(probability) == np.quantile(r, probability, method="inverted_cdf")
        lowest = np.sort(r)[: round(200 * probability)]
        assert found.cvar(probability) == pytest.approx(lowest.mean(), rel=1e-10)


def test_the_cdf_is_unbiased(finite):
    """Of rewards 0 and 1: the probability of 0 (two rows; no estimate is cut at 1 below three times that)."""
    mean, _ = finite.expectation(2, lambda x, a, r: ips(1 - r, finite.target[x, a], finite.logging[x, a]).value)
    assert mean == pytest.approx(1 - finite.value(finite.target), rel=1e-12)
    x, a, r = np.array([0, 1, 1]), np.array([1, 1, 2]), np.array([0.0, 1.0, 0.0])
    found = reward_distribution(r, finite.target[x, a], finite.logging[x, a], points=[0])
    assert found.cdf(0) == pytest.approx(ips(1 - r, finite.target[x, a], finite.logging[x, a]).value)


@pytest.mark.parametrize("method", ["empirical_bernstein", "anytime"])
def test_the_band_holds_everywhere_at_once(method):
    """Also between its points, and with it every quantile and tail average."""
    level, num_logs, inside = 0.7, 60 if method == "empirical_bernstein" else 20, 0
    fine = np.linspace(0, 0.999, 400)
    truth = true_cdf(fine)
    mean_below = {p: 1 - np.minimum(truth, p).mean() / p for p in (0.2, 1.0)}
    for seed in range(num_logs):
        found = reward_distribution(*continuous(seed, 300))
        band = found.band(level, method)
        between = np.searchsorted(band.points, fine, side="right") - 1
        high = np.concatenate([band.high, [1.0]])[np.where(band.points[between] == fine, between, between + 1)]
        holds = (band.low[between] <= truth + 1e-3).all() and (truth <= high + 1e-3).all()
        for p in (0.1, 0.5, 0.9):
            low, top = found.quantile_interval(p, level, method)
            quantile = fine[(truth >= p).argmax()]
            assert not holds or low - 3e-3 <= quantile <= top + 3e-3
        for p, expected in mean_below.items():
            low, top = found.cvar_interval(p, level, method)
            assert not holds or low - 2e-3 <= expected <= top + 2e-3
        inside += holds
    assert inside / num_logs >= level


def test_the_band_narrows_with_rows_and_with_fewer_points():
    def width(rows, **options):
        band = reward_distribution(*continuous(3, rows), **options).band()
        at = np.abs(band.points - 0.5).argmin()
        return band.high[at] - band.low[at]

    assert width(20_000) < 0.25 * width(400)
    assert width(2000, points=[0.5]) < 0.8 * width(2000)
    assert 0.05 < width(2000) < 0.3


def test_tail_of_clicks():
    rng = np.random.default_rng(4)
    r = (rng.random(5000) < 0.3).astype(float)
    half = np.full(5000, 0.5)
    found = reward_distribution(r, half, half, points=[0.0], discrete=True)
    band = found.band()
    assert band.low[0] < 1 - r.mean() < band.high[0]
    low, high = found.cvar_interval(1.0)
    assert (low, high) == pytest.approx((1 - band.high[0], 1 - band.low[0]))
    assert found.quantile_interval(0.2) == (0, 0)
    assert found.quantile_interval(0.9) == (1, 1)
    assert found.quantile_interval(0.7) == (0, 1)
    unknown = reward_distribution(r, half, half, points=[0.0]).cvar_interval(1.0)
    assert unknown == pytest.approx((0, high))  # a reward that is not 0 may be next to it
    assert "quartiles 0, 0, 1; 5,000 rows" in repr(found)


GOOD = {"reward": [0.1, 0.9], "target_propensity": [0.5, 0.5], "logging_propensity": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [0.1, 1.9]}, r"reward, row 1: a reward lies in reward_range \[0, 1\], got 1\.9"),
        ({"reward_range": (1, 0)}, "reward_range: expected two increasing numbers"),
        ({"points": [0.5, 0.2]}, "points: expected increasing numbers within"),
        ({"points": [0.5, 1.0]}, "points: expected increasing numbers within"),
        ({"points": [0.1, 0.5], "discrete": True}, r"reward, row 1: a discrete reward is one of the points .*got 0\.9"),
        ({"target_propensity": [0, 0]}, "target_propensity: is 0 for every logged action"),
        ({"logging_propensity": [0.5, 0]}, "logging_propensity, row 1"),
    ],
    ids=["range", "bounds", "order", "end", "between", "nothing", "zero"],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        reward_distribution(**{**GOOD, **change})


def test_bad_questions():
    found = reward_distribution(**GOOD, groups=["a", "b"])
    with pytest.raises(ValueError, match="these are grouped: use 'anytime'"):
        found.band()
    assert (found.band(method="anytime").low == 0).all()
    with pytest.raises(ValueError, match="method: expected one of 'empirical_bernstein', 'anytime'"):
        found.band(method="normal")
    with pytest.raises(ValueError, match="probability: expected more than 0"):
        found.quantile(0)
    with pytest.raises(ValueError, match="level: a probability"):
        found.band(level=2, method="anytime")
    reward = np.tile([0.0, 1.0], 5000)
    wrong = reward_distribution(reward, np.full(10_000, 0.9), np.full(10_000, 0.3), points=[0.0])
    with pytest.raises(ValueError, match=r"band is empty at 0, .* propensities are wrong"):
        wrong.band()
