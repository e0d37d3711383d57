"""Interpolated propensities against direct ones, and what they refuse."""

import math

import pytest
import torch

from blob_pyro.propensity import ArgmaxNormal, interpolated_argmax_normal_probs


@pytest.mark.parametrize("smallest", [0.4, 0.08], ids=["scales within a factor of 2.5", "several cells"])
def test_agrees_with_the_direct_way(smallest):
    torch.manual_seed(0)
    loc = torch.randn(4000).double() + 1e6
    scale = torch.rand(4000).double() * (1 - smallest) + smallest
    probs = interpolated_argmax_normal_probs(loc, scale)
    assert (probs - ArgmaxNormal(loc, scale).probs).abs().max() < 1e-12
    assert abs(probs.sum().item() - 1) < 1e-10


@pytest.mark.parametrize("scale", [[0.0, 1.0, 2.0], [1e-3, 1.0, 2.0]], ids=["deterministic", "wide ratio"])
def test_hands_difficult_scales_on(scale):
    loc, scale = torch.tensor([0.0, 1.0, -1.0]).double(), torch.tensor(scale).double()
    torch.testing.assert_close(interpolated_argmax_normal_probs(loc, scale), ArgmaxNormal(loc, scale).probs)


def test_identical_arms():
    probs = interpolated_argmax_normal_probs(torch.zeros(1000), torch.ones(1000))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, torch.full((1000,), 1e-3))


@pytest.mark.parametrize(
    ("loc", "scale", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), r"must be one vector"),
        (torch.tensor([0.0, math.nan]), torch.ones(2), r"loc\[1\] is nan"),
        (torch.zeros(2), torch.tensor([1.0, -1.0]), r"scale\[1\] is -1"),
    ],
    ids=["batch", "nan", "negative"],
)
def test_bad_input(loc, scale, message):
    with pytest.raises(ValueError, match=message):
        interpolated_argmax_normal_probs(loc, scale)
