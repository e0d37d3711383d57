"""Differences of two policies: NumPy by hand, exact expectations, identities, gradients, intervals."""

import numpy as np
import pytest
import torch

from blob_pyro.ope import beta_ips, delta_beta_ips, delta_ips, delta_snips, ips, snips
from tests.ope.conftest import draw_sample

ESTIMATORS = {"delta_ips": delta_ips, "delta_snips": delta_snips, "delta_beta_ips": delta_beta_ips}


def by_hand(name, r, w1, w0):
    n, d = len(r), w1 - w0
    if name == "delta_ips":
        return (d * r).mean(), d * r - (d * r).mean()
    if name == "delta_snips":
        v1, v0 = (w1 * r).sum() / w1.sum(), (w0 * r).sum() / w0.sum()
        return v1 - v0, w1 * (r - v1) / w1.mean() - w0 * (r - v0) / w0.mean()
    b = (d**2 * r).sum() / (d**2).sum()
    return (d * (r - b)).mean(), d * (r - b) - (d * (r - b)).sum() / n


@pytest.mark.parametrize("clip", [None, 1.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_by_hand(name, clip, sample):
    arguments = sample.reward, sample.target, sample.baseline, sample.logging
    w1, w0 = sample.target / sample.logging, sample.baseline / sample.logging
    cut = 0.0 if clip is None else ((w1 > clip) | (w0 > clip)).mean()
    if clip is not None:
        w1, w0 = np.minimum(w1, clip), np.minimum(w0, clip)
    value, psi = by_hand(name, sample.reward, w1, w0)
    n, d = len(psi), w1 - w0
    estimate = ESTIMATORS[name](*arguments, clip=clip)
    assert estimate.value == pytest.approx(value, rel=1e-11)
    factor = 1 if name == "delta_snips" else n / (n - 1)
    assert estimate.standard_error == pytest.approx((factor * (psi**2).sum()) ** 0.5 / n, rel=1e-11)
    assert estimate.effective_sample_size == pytest.approx(abs(d).sum() ** 2 / (d**2).sum(), rel=1e-12)
    assert estimate.max_weight == pytest.approx(abs(d).max(), rel=1e-13)
    assert estimate.clipped_share == cut
    grouped = ESTIMATORS[name](*arguments, clip=clip, groups=sample.user)
    totals = np.array([psi[sample.user == g].sum() for g in np.unique(sample.user)])
    clustered = (len(totals) / (len(totals) - 1) * (totals**2).sum()) ** 0.5 / n
    assert grouped.standard_error == pytest.approx(clustered, rel=1e-11)


@pytest.mark.parametrize("options", [{}, {"cross_fit": 3}], ids=["same rows", "out of fold"])
def test_unbiased(options, finite):
    """delta_ips, and delta_beta_ips out of fold, exactly; on the same rows it is not."""
    truth = finite.value(finite.target) - finite.value(finite.baseline)

    def estimate(x, a, r):
        arguments = r, finite.target[x, a], finite.baseline[x, a], finite.logging[x, a]
        return np.array([delta_ips(*arguments).value, delta_beta_ips(*arguments, **options).value])

    mean, _ = finite.expectation(3, estimate)
    assert mean[0] == pytest.approx(truth, rel=1e-11)
    if options:
        assert mean[1] == pytest.approx(truth, rel=1e-11)
    else:
        assert abs(mean[1] - truth) > 1e-4


def test_cross_fit_by_hand(sample):
    d = (sample.target - sample.baseline) / sample.logging
    r, fold = sample.reward, np.arange(len(d)) % 4
    best = np.array([(d**2 * r)[fold != k].sum() / (d**2)[fold != k].sum() for k in range(4)])[fold]
    estimate = delta_beta_ips(r, sample.target, sample.baseline, sample.logging, cross_fit=4)
    assert estimate.value == pytest.approx((d * (r - best)).mean(), rel=1e-11)


def test_identities(sample):
    r, t, b, lp = sample.reward, sample.target, sample.baseline, sample.logging
    assert delta_ips(r, t, b, lp).value == pytest.approx(ips(r, t, lp).value - ips(r, b, lp).value, rel=1e-11)
    assert delta_snips(r, t, b, lp).value == pytest.approx(snips(r, t, lp).value - snips(r, b, lp).value, rel=1e-11)
    for estimator in ESTIMATORS.values():
        assert estimator(r, b, t, lp).value == pytest.approx(-estimator(r, t, b, lp).value, rel=1e-11)
        same = estimator(r, t, t, lp)
        assert same.value == pytest.approx(0, abs=1e-15)
    assert delta_beta_ips(r + 5, t, b, lp).value == pytest.approx(delta_beta_ips(r, t, b, lp).value, rel=1e-9)
    # Against the logging policy itself, beta-IPS's baseline is not delta's, but both are near the truth.
    assert delta_beta_ips(r, t, lp, lp).value == pytest.approx(beta_ips(r, t, lp).value - r.mean(), abs=0.02)


def test_a_difference_is_known_better_than_its_parts(sample):
    near = 0.9 * sample.target + 0.1 * sample.baseline
    difference = delta_snips(sample.reward, sample.target, near, sample.logging)
    parts = [snips(sample.reward, p, sample.logging).standard_error for p in (sample.target, near)]
    assert difference.standard_error < 0.2 * np.hypot(*parts)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients(name, sample):
    target, baseline = (torch.from_numpy(p[:25]).requires_grad_() for p in (sample.target, sample.baseline))
    reward, logging = torch.from_numpy(sample.reward[:25]), torch.from_numpy(sample.logging[:25])
    estimator = ESTIMATORS[name]
    assert torch.autograd.gradcheck(lambda t, b: estimator(reward, t, b, logging).value, (target, baseline))


@pytest.mark.parametrize("bounded", [False, True], ids=["free weights", "bounded weights"])
@pytest.mark.parametrize("method", ["empirical_bernstein", "anytime"])
def test_finite_sample_intervals_cover(method, bounded):
    inside, level, num_logs = 0, 0.8, 150
    for seed in range(num_logs):
        log = draw_sample(seed=500 + seed, rows=60, num_users=60, sharpness=0.5, logging=0.2)
        truth = ((log.target_probs - log.baseline_probs) * log.click).sum(-1).mean()
        bound = 1 / log.logging_probs.min() if bounded else None
        estimate = delta_ips(log.reward, log.target, log.baseline, log.logging)
        low, high = estimate.interval(level, method=method, weight_bound=bound)
        inside += low <= truth <= high
        assert -2 < low < high < 2 or bounded
    assert inside / num_logs >= level


def test_bad_input(sample):
    with pytest.raises(ValueError, match=r"baseline_propensity, row 1: a propensity lies in \[0, 1\], got 2"):
        delta_ips([1, 0], [0.1, 0.2], [0.1, 2], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"misaligned: .*baseline_propensity has 1"):
        delta_ips([1, 0], [0.1, 0.2], [0.1], [0.5, 0.5])
    with pytest.raises(ValueError, match="baseline_propensity: is 0 for every logged action"):
        delta_snips([1, 0], [0.1, 0.2], [0, 0], [0.5, 0.5])
