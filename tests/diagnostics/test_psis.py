"""k-hat and weights are ArviZ's own; a guide that is too narrow is found out."""

import numpy as np
import pytest
from scipy import stats

from blob_pyro.diagnostics import psis, summary
from blob_pyro.diagnostics.psis import smooth

# What ``arviz.psislw`` of ArviZ 0.23.4 gives for these ratios, by degrees of freedom and size: k-hat, the effective
# sample size, the largest, second and fifth log weight, and the least. Kept here, since ArviZ 1.x has the function
# elsewhere.
ARVIZ = {
    (1, 100): (1.533987885, 95.795054, [-3.5384298, -4.27586034, -4.50173959], -4.74220912),
    (3, 100): (1.333379932, 64.046018, [-2.50258905, -3.66831617, -4.38237378], -4.77254303),
    (30, 100): (2.263574523, 99.887900, [-4.4002286, -4.40318677, -4.58997468], -4.61616155),
    (1, 4000): (0.822793774, 1078.170672, [-4.04568828, -4.40641623, -5.29714944], -8.56319575),
    (3, 4000): (0.619056092, 2745.443094, [-4.85455359, -5.51935353, -6.16991795], -8.41892295),
    (30, 4000): (0.619034790, 3948.574981, [-6.48925511, -7.03201959, -7.48633724], -8.31292820),
}


@pytest.mark.parametrize(("df", "size"), ARVIZ)
def test_weights_are_arvizs(df, size):
    k_hat, effective, largest, least = ARVIZ[df, size]
    x = np.random.default_rng(df).standard_normal(size)
    ratios = stats.t.logpdf(x, df) - stats.norm.logpdf(x)
    found = smooth(ratios)
    weights = np.sort(found.log_weights)
    assert found.k_hat == pytest.approx(k_hat, abs=1e-6)
    assert weights[[-1, -2, -5]] == pytest.approx(largest, abs=1e-6)
    assert weights[0] == pytest.approx(least, abs=1e-6)
    assert (np.argsort(found.log_weights) == np.argsort(ratios)).all()  # smoothing keeps the order
    assert found.effective_sample_size == pytest.approx(effective, rel=1e-6)
    assert found.threshold == min(1 - 1 / np.log10(size), 0.7)


def test_the_tail_has_the_shape_that_it_has():
    """N(0, s^2) for N(0, 1): ratios exp(x^2 (1 - 1/s^2) / 2) have a Pareto tail of shape 1 - 1/s^2."""
    x = np.random.default_rng(0).standard_normal(200_000)
    for width in (1.2, 1.5, 2.5):
        found = smooth(0.5 * x**2 * (1 - width**-2))
        assert found.k_hat == pytest.approx(1 - width**-2, abs=0.12)
    assert smooth(np.zeros(100)).k_hat == -np.inf
    assert smooth(np.zeros(100)).effective_sample_size == pytest.approx(100)


def test_what_cannot_be_smoothed_is_refused():
    with pytest.raises(ValueError, match="expected 25 numbers or more"):
        smooth(np.zeros(24))
    with pytest.raises(ValueError, match="none of them NaN"):
        smooth(np.full(50, np.nan))


def test_a_narrow_guide_is_found_out(blob, log):
    good = psis(blob.to_inference_data(log, num_draws=400, groups=["sample_stats"]))
    narrow = blob.__class__(blob.blo)
    narrow.guide.load_state_dict(blob.guide.state_dict())
    narrow.model.load_state_dict(blob.model.state_dict())
    narrow.fits = blob.fits
    for name in ("w_c", "kappa", "zeta"):
        setattr(narrow.guide, f"{name}_scale", 0.4 * getattr(narrow.guide, f"{name}_scale").detach())
    bad = psis(narrow.to_inference_data(log, num_draws=400, groups=["sample_stats"]))
    assert bad.k_hat > good.k_hat
    assert not bad.reliable
    assert bad.effective_sample_size < good.effective_sample_size


def test_densities_are_needed(blob, log):
    for data in (blob.to_inference_data(num_draws=30), blob.to_inference_data(log, 30, groups=["posterior"])):
        with pytest.raises(ValueError, match="has no log_p and log_q in a group sample_stats; make it with"):
            psis(data)


def test_summaries_have_no_chains_where_there_are_none(blob):
    table = summary(blob.to_inference_data(num_draws=50), ["w_a", "kappa"])
    assert len(table) == 13
    assert not {"r_hat", "ess_bulk", "ess_tail"} & set(table.columns)
    assert "mean" in table.columns
