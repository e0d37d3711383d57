"""Moments: influences and errors of the delta method against NumPy by hand, and the jackknife."""

import numpy as np
import pytest
import torch

from blob_pyro.ope.moments import Moments


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return torch.tensor(rng.gamma(2.0, 1.0, 300)), torch.tensor(rng.gamma(4.0, 0.3, 300))


def test_the_mean_and_its_error(columns):
    (x, _), y = columns, Moments.mean(columns[0])
    assert float(y.value()) == pytest.approx(float(x.mean()))
    assert y.standard_error() == pytest.approx(float(x.std()) / 300**0.5)
    np.testing.assert_allclose(y.influences().numpy(), (x - x.mean()).numpy(), atol=1e-12)


def test_a_ratio_against_the_jackknife(columns):
    a, b = columns
    ratio = Moments.ratio(a, b)
    assert float(ratio.value()) == pytest.approx(float(a.sum() / b.sum()))
    without = (a.sum() - a) / (b.sum() - b)
    jackknife = float((299 / 300 * (without - without.mean()).square().sum()).sqrt())
    assert ratio.standard_error() == pytest.approx(jackknife, rel=0.02)
    influences = ratio.influences()
    assert float(influences.sum()) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(influences.numpy(), ((a - ratio.value() * b) / b.mean()).numpy(), atol=1e-9)


def test_groups_are_summed_first(columns):
    group = torch.arange(300) % 7
    y = Moments.mean(columns[0])
    totals = np.array([float(y.influences()[group == g].sum()) for g in range(7)])
    assert y.standard_error(group, 7) == pytest.approx((7 / 6 * (totals**2).sum()) ** 0.5 / 300)
    sums, rows = y.unit_sums(group, 7)
    assert rows.tolist() == [43.0] * 6 + [42.0]
    np.testing.assert_allclose(sums[:, 0].numpy(), [float(columns[0][group == g].sum()) for g in range(7)])


def test_nothing_is_known_of_one():
    assert np.isnan(Moments.mean(torch.ones(1).double()).standard_error())
    assert np.isnan(Moments.mean(torch.ones(4).double()).standard_error(torch.zeros(4, dtype=torch.int64), 1))


def test_gradients_pass_and_are_left_behind(columns):
    a = columns[0].clone().requires_grad_()
    moments = Moments.mean(a)
    (gradient,) = torch.autograd.grad(moments.value(), a)
    assert torch.allclose(gradient, torch.full((300,), 1 / 300).double())
    assert not moments.detach().columns[0].requires_grad
