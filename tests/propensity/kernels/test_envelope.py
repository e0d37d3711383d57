"""Scores without noise of their own: one factor exactly, against a fine grid; several against draws."""

import numpy as np
import pytest
import torch
from scipy import stats

from blob_pyro.propensity.kernels.envelope import argmax_probs_by_envelope
from blob_pyro.propensity.kernels.qmc import mean_and_error


def test_one_factor_is_exact():
    loc = torch.tensor([[0.0, 0.3, -0.5, 0.0]]).double()
    slope = torch.tensor([[1.0, 0.2, -1.5, 0.4]]).double()
    found = argmax_probs_by_envelope(loc, slope[..., None], 2, 1, 0).mean(0)[0].numpy()
    z = (np.arange(2_000_000) + 0.5) / 2_000_000
    z = torch.special.ndtri(torch.tensor(z)).numpy()
    best = (loc.numpy()[0] + z[:, None] * slope.numpy()[0]).argmax(-1)
    np.testing.assert_allclose(found, np.bincount(best, minlength=4) / len(z), atol=2e-6)
    assert found[3] == 0  # never above the first and the second


def test_equal_scores_share():
    loc, slope = torch.zeros(1, 3).double(), torch.tensor([[[1.0], [1.0], [-1.0]]]).double()
    found = argmax_probs_by_envelope(loc, slope, 2, 1, 0).mean(0)[0]
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25, 0.5]).double())


def test_several_factors_against_draws():
    torch.manual_seed(0)
    loc, factor = 0.5 * torch.randn(1, 5).double(), torch.randn(1, 5, 3).double()
    mean, error = mean_and_error(argmax_probs_by_envelope(loc, factor, 16, 256, 0))
    draws = (loc + torch.randn(400_000, 3).double() @ factor[0].mT).argmax(-1)
    frequency = torch.bincount(draws, minlength=5) / 400_000
    spread = (frequency * (1 - frequency) / 400_000).sqrt()
    assert ((mean[0] - frequency).abs() < 4 * (spread + error[0]) + 1e-9).all()


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_what_wins_beyond_nine_deviations_only(side):
    """Differences of CDFs cancel to nothing there, unless they are taken in the smaller tail."""
    loc, slope = torch.tensor([[0.0, 9.0]]).double(), torch.tensor([[[side], [0.0]]]).double()
    found = argmax_probs_by_envelope(loc, slope, 2, 1, 0).mean(0)[0]
    expected = torch.tensor([stats.norm.sf(9.0), 1.0]).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
