"""The saddle point of tilted orthants: its defining conditions by autograd, and the weights it bounds."""

import math

import pytest
import torch

from blob_pyro.propensity.kernels.tilting import inverse_mills_ratio, minimax_tilt


def problems(dim, spread, seed=0, count=3):
    """Limits and Cholesky factors of covariances whose deviations differ up to ``spread`` times."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, dim, dim + 2, dtype=torch.float64, generator=generator)
    scale = torch.exp((torch.rand(count, dim, dtype=torch.float64, generator=generator) - 0.5) * math.log(spread))
    covariance = scale[..., None] * scale[..., None, :] * (root @ root.mT)
    limit = scale * (torch.randn(count, dim, dtype=torch.float64, generator=generator) - 1)
    return limit, torch.linalg.cholesky(covariance)


def psi(z, tilt, limit, factor):
    """The log weight of points, by its definition: z and tilt ... x (d - 1)."""
    total = (tilt.square() / 2 - tilt * z).sum(-1)
    for k in range(limit.shape[-1]):
        bound = (limit[k] - (factor[k, :k] * z[..., :k]).sum(-1)) / factor[k, k]
        total = total + torch.special.log_ndtr(bound - (tilt[..., k] if k < tilt.shape[-1] else 0.0))
    return total


@pytest.mark.parametrize("spread", [1.0, 1e3])
@pytest.mark.parametrize("dim", [2, 6, 19])
def test_it_is_the_saddle_point(dim, spread):
    for limit, factor in zip(*problems(dim, spread)):
        tilt = minimax_tilt(limit[None], factor[None])[0]
        assert tilt[-1] == 0
        assert tilt[:-1].abs().max() > 0.1
        tilt = tilt[:-1].clone().requires_grad_()
        # dpsi/dtilt = 0 says where z is: the mean of each truncated normal.
        z = torch.zeros(0, dtype=torch.float64)
        for k in range(dim - 1):
            bound = (limit[k] - factor[k, :k] @ z) / factor[k, k]
            z = torch.cat([z, (tilt[k] - inverse_mills_ratio(bound - tilt[k]))[None].detach()])
        z.requires_grad_()
        for slope in torch.autograd.grad(psi(z, tilt, limit, factor), (z, tilt)):
            assert slope.abs().max() < 1e-6 * max(1.0, float((factor / factor.diagonal()[:, None]).abs().max()))


def test_no_point_weighs_more_than_the_saddle_point():
    limit, factor = (part[0] for part in problems(6, 4.0))
    tilt = minimax_tilt(limit[None], factor[None])[0, :-1]
    z = torch.zeros(0, dtype=torch.float64)
    for k in range(5):
        bound = (limit[k] - factor[k, :k] @ z) / factor[k, k]
        z = torch.cat([z, (tilt[k] - inverse_mills_ratio(bound - tilt[k]))[None]])
    others = 3 * torch.randn(10_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    heaviest = psi(others, tilt, limit, factor).max()
    assert psi(z, tilt, limit, factor) - 2 < heaviest < psi(z, tilt, limit, factor)


def test_two_dimensions_by_hand():
    """Independent conditions need no tilt."""
    assert minimax_tilt(torch.tensor([[-2.0, 1.0]]).double(), torch.eye(2).double()[None]).abs().max() == 0


def test_what_is_out_of_reach_is_not_tilted_and_harms_no_other():
    limit, factor = problems(4, 1.0, count=2)
    expected = minimax_tilt(limit, factor)
    limit = torch.cat([limit, torch.tensor([[-1e300, 0.0, 1e300, 1.0]]).double()])
    found = minimax_tilt(limit, torch.cat([factor, factor[:1]]))
    torch.testing.assert_close(found[:2], expected, rtol=0, atol=1e-12)
    assert (found[2] == 0).all()


def test_its_derivative_is_the_implicit_one():
    limit, factor = problems(4, 2.0)
    inputs = limit.requires_grad_(), factor.requires_grad_()
    assert torch.autograd.gradcheck(lambda limit, factor: minimax_tilt(limit, factor.tril()), inputs, atol=1e-6)


@pytest.mark.parametrize("t", [-1e6, -30.0, -1.0, 0.0, 3.0, 40.0])
def test_the_inverse_mills_ratio_in_both_tails(t):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(30):
        # mpmath's own continued fraction is out of reach far out, where the ratio is -t - 1 / t to rounding.
        expected = -t - 1 / t if t < -1e5 else float(mpmath.npdf(t) / mpmath.ncdf(t))
    found = inverse_mills_ratio(torch.tensor(t, dtype=torch.float64)).item()
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-300)
