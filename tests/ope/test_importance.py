"""IPS, SNIPS and beta-IPS: NumPy by hand, exact expectations over every log, gradients, inputs of all kinds."""

import numpy as np
import pytest
import torch

from blob_pyro.ope import beta_ips, ips, snips
from tests.ope.estimators import GOOD

ESTIMATORS = {"ips": ips, "snips": snips, "beta_ips": beta_ips}


def by_hand(name, r, w):
    """Value and standard error, written out."""
    n = len(r)
    if name == "ips":
        return (w * r).mean(), (w * r).std(ddof=1) / n**0.5
    if name == "snips":
        v = (w * r).sum() / w.sum()
        return v, (w**2 * (r - v) ** 2).sum() ** 0.5 / w.sum()
    b = ((w**2 - w) * r).sum() / (w**2 - w).sum()
    return b + (w * (r - b)).mean(), (w * (r - b)).std(ddof=1) / n**0.5


def clustered(name, r, w, group):
    """The standard error, group by group."""
    n = len(r)
    value, _ = by_hand(name, r, w)
    if name == "ips":
        psi = (w * r - value) / n
    elif name == "snips":
        psi = w * (r - value) / w.sum()
    else:
        b = ((w**2 - w) * r).sum() / (w**2 - w).sum()
        psi = (w * (r - b) - (w * (r - b)).mean()) / n
    totals = np.array([psi[group == g].sum() for g in np.unique(group)])
    return (len(totals) / (len(totals) - 1) * (totals**2).sum()) ** 0.5


@pytest.mark.parametrize("clip", [None, 1.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_by_hand(name, clip, sample):
    estimate = ESTIMATORS[name](sample.reward, sample.target, sample.logging, clip=clip)
    w = sample.target / sample.logging
    share = 0.0 if clip is None else (w > clip).mean()
    w = w if clip is None else np.minimum(w, clip)
    value, error = by_hand(name, sample.reward, w)
    assert estimate.value == pytest.approx(value, rel=1e-13)
    assert estimate.standard_error == pytest.approx(error, rel=1e-12)
    assert estimate.effective_sample_size == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-12)
    assert estimate.max_weight == w.max()
    assert estimate.clip == clip
    assert estimate.clipped_share == share
    assert ("clipped at 1.5: " in repr(estimate)) == (clip is not None)
    grouped = ESTIMATORS[name](sample.reward, sample.target, sample.logging, clip=clip, groups=sample.user)
    assert grouped.value == estimate.value
    assert grouped.standard_error == pytest.approx(clustered(name, sample.reward, w, sample.user), rel=1e-12)
    assert f"clustered by {len(np.unique(sample.user))} groups" in repr(grouped)


def test_beta_ips_out_of_fold_by_hand(sample):
    """Folds are dealt to users in the order of their first rows."""
    estimate = beta_ips(sample.reward, sample.target, sample.logging, groups=sample.user, cross_fit=3)
    r, w = sample.reward, sample.target / sample.logging
    order = {user: k % 3 for k, user in enumerate(dict.fromkeys(sample.user.tolist()))}
    fold = np.array([order[user] for user in sample.user])
    terms = np.empty(len(r))
    for k in range(3):
        out = fold != k
        b = ((w**2 - w) * r)[out].sum() / (w**2 - w)[out].sum()
        terms[~out] = b + w[~out] * (r[~out] - b)
    assert estimate.value == pytest.approx(terms.mean(), rel=1e-12)
    rows = beta_ips(sample.reward, sample.target, sample.logging, cross_fit=2)
    assert rows.value != estimate.value


def test_ips_is_unbiased_and_so_is_its_variance(finite):
    def estimate(x, a, r):
        e = ips(r, finite.target[x, a], finite.logging[x, a])
        return e.value, e.standard_error**2

    values, variance = finite.expectation(3, lambda x, a, r: np.array(estimate(x, a, r)))
    assert values[0] == pytest.approx(finite.value(finite.target), rel=1e-12)
    assert values[1] == pytest.approx(variance[0], rel=1e-12)


def test_the_variance_clustered_by_user_is_unbiased_for_users_of_one_size(finite):
    """Each user's two rows are one and the same click: the row-wise variance is too small, the clustered one right."""
    groups = np.array([0, 0, 1, 1, 2, 2])

    def estimate(x, a, r):
        x, a, r = (np.repeat(column, 2) for column in (x, a, r))
        e = ips(r, finite.target[x, a], finite.logging[x, a], groups=groups)
        rowwise = ips(r, finite.target[x, a], finite.logging[x, a])
        return np.array([e.value, e.standard_error**2, rowwise.standard_error**2])

    mean, variance = finite.expectation(3, estimate)
    assert mean[1] == pytest.approx(variance[0], rel=1e-12)
    assert mean[2] < 0.6 * variance[0]


def test_beta_ips_is_unbiased_out_of_fold_only(finite):
    def value(cross_fit):
        def estimate(x, a, r):
            return beta_ips(r, finite.target[x, a], finite.logging[x, a], cross_fit=cross_fit).value

        return finite.expectation(3, estimate)[0]

    assert value(3) == pytest.approx(finite.value(finite.target), rel=1e-11)
    assert abs(value(None) - finite.value(finite.target)) > 1e-3


def test_the_baseline_is_the_one_of_least_variance(sample):
    r, w = sample.reward, sample.target / sample.logging
    best = beta_ips(r, sample.target, sample.logging).standard_error
    grid = [(w * (r - b)).std(ddof=1) / len(r) ** 0.5 for b in np.linspace(-1, 2, 301)]
    assert best <= min(grid) * 1.001  # b* takes the mean of w for 1, which it is in expectation
    assert best < ips(r, sample.target, sample.logging).standard_error


def test_identities(sample):
    r, t, lp = sample.reward, sample.target, sample.logging
    assert snips(r, t * 0.5, lp).value == pytest.approx(snips(r, t, lp).value, rel=1e-13)
    assert snips(r, t, lp).value == pytest.approx(ips(r, t, lp).value / ips(np.ones_like(r), t, lp).value, rel=1e-13)
    for shifted in (snips, beta_ips):
        assert shifted(r + 3, t, lp).value == pytest.approx(shifted(r, t, lp).value + 3, rel=1e-12)
        assert shifted(r + 3, t, lp).standard_error == pytest.approx(shifted(r, t, lp).standard_error, rel=1e-9)
    for same_policy in ESTIMATORS.values():
        estimate = same_policy(r, lp, lp)
        assert estimate.value == pytest.approx(r.mean(), rel=1e-13)
        assert estimate.effective_sample_size == pytest.approx(len(r), rel=1e-13)


@pytest.mark.parametrize(
    ("estimator", "options"),
    [(ips, {}), (ips, {"clip": 1.2}), (snips, {}), (beta_ips, {}), (beta_ips, {"cross_fit": 4})],
    ids=["ips", "clipped", "snips", "beta_ips", "out of fold"],
)
def test_gradients_in_the_target(estimator, options, sample):
    reward, logging = torch.from_numpy(sample.reward[:30]), torch.from_numpy(sample.logging[:30])
    target = torch.from_numpy(sample.target[:30]).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: estimator(reward, t, logging, **options).value, target)


@pytest.mark.parametrize("folds", [1, 4])
def test_bad_folds(folds):
    with pytest.raises(ValueError, match=f"cross_fit: expected 2 to 3 folds.*got {folds}"):
        beta_ips(**GOOD, cross_fit=folds)
