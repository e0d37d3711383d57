"""Arms on the scale of their integration: what is theirs in one unit is theirs in any."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from blob_pyro.propensity.kernels.normal_arms import (
    EXACT,
    MANY_ARMS,
    NormalArms,
    arm_slices,
    log_product,
    normal_terms,
)


def test_terms_are_scipy_s():
    y, offset = torch.linspace(-6, 6, 9).double()[None], torch.tensor([[0.0, 1.5]]).double()
    scale = torch.tensor([[1.0, 3.0]]).double()
    z, cdf, hazard = normal_terms(y, offset, scale.reciprocal())
    expected = (y.numpy()[0][:, None] - offset.numpy()[0]) / scale.numpy()[0]
    np.testing.assert_allclose(z[0].numpy(), expected)
    np.testing.assert_allclose(cdf[0].numpy(), stats.norm.cdf(expected), rtol=1e-12)
    np.testing.assert_allclose(hazard[0].numpy(), stats.norm.pdf(expected) / stats.norm.cdf(expected), rtol=1e-12)


@pytest.mark.parametrize("num_arms", [5, MANY_ARMS + 1])
def test_the_product_of_distribution_functions(num_arms):
    z = torch.linspace(-1, 9, num_arms).double()[None]
    found = log_product(z, torch.special.ndtr(z), num_arms)
    np.testing.assert_allclose(found.numpy(), stats.norm.logcdf(z.numpy()).sum(-1), rtol=1e-10)


def test_origin_and_unit():
    loc, scale = torch.tensor([[0.0, 1.0, -300.0, 0.5]]).double(), torch.tensor([[1.0, 3.0, 1.0, 0.0]]).double()
    arms = NormalArms.place(loc, scale, EXACT)
    assert arms.random.tolist() == [[True, True, False, False]]  # one is out of reach, one has no noise
    assert arms.fixed.tolist() == [[False, False, False, True]]
    assert arms.truncated.tolist() == [True]
    difference = (arms.offset[0, 1] - arms.offset[0, 0]) * arms.unit[0]
    torch.testing.assert_close(difference, torch.tensor(1.0).double())
    torch.testing.assert_close(arms.scale[0, :2] * arms.unit[0], scale[0, :2])
    assert math.log2(float(arms.unit[0])).is_integer()


def test_another_unit_changes_nothing_but_the_unit():
    loc, scale = torch.tensor([[0.0, 1.0, 0.2]]).double(), torch.tensor([[0.7, 3.0, 1.1]]).double()
    one, other = NormalArms.place(loc, scale, EXACT), NormalArms.place(loc * 2.0**40, scale * 2.0**40, EXACT)
    torch.testing.assert_close(one.offset, other.offset)
    torch.testing.assert_close(other.unit, one.unit * 2.0**40)


def test_scales_that_cannot_be_told_together_are_not_possible():
    loc, scale = torch.zeros(2, 2).double(), torch.tensor([[1e-200, 1.0], [1.0, 2.0]], dtype=torch.float64)
    assert NormalArms.place(loc, scale, EXACT).possible.tolist() == [False, True]


def test_slices_cover_all_arms():
    assert [(s.start, s.stop) for s in arm_slices(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert arm_slices(2, 0) == [slice(0, 1), slice(1, 2)]
