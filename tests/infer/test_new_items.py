"""Rows of items that were not in the fit: ridge regression by hand, and the mode of a posterior by SciPy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from blob_pyro.infer.new_items import Prediction, rows_from_design, rows_from_views


def test_without_a_description_it_is_the_mean():
    rows = torch.randn(5, 3).double()
    mean, variance = rows_from_design(rows, rows.new_zeros(5, 0), rows.new_zeros(2, 0))
    assert torch.allclose(mean, rows.mean(0).expand(2, -1))
    left_out = torch.stack([rows[i] - rows[[j for j in range(5) if j != i]].mean(0) for i in range(5)])
    assert torch.allclose(variance, left_out.square().mean(0))


@pytest.mark.parametrize("signal", [2.0, 0.0], ids=["rows depend on it", "rows do not"])
def test_ridge_regression_leaves_one_out_in_turn(signal):
    """Each item left out by hand, on columns that are standardised once."""
    noise = np.random.default_rng(3)
    design = noise.normal(size=(12, 4)) * [1.0, 5.0, 0.2, 1.0]
    rows = signal * design @ noise.normal(size=(4, 2)) + noise.normal(size=(12, 2)) * [1.0, 3.0] + 7
    new = noise.normal(size=(3, 4))
    found = rows_from_design(*map(torch.from_numpy, (rows, design, new)))
    x, spread = (design - design.mean(0)) / design.std(0), rows.std(0)

    def fitted(keep, penalty):
        ones = np.concatenate([np.ones((12, 1)), x], 1)[keep]
        ridge = penalty * np.diag([0, 1, 1, 1, 1])
        return np.linalg.solve(ones.T @ ones + ridge, ones.T @ rows[keep])

    largest, best = np.linalg.svd(x)[1].max() ** 2, None
    for penalty in np.logspace(-6, 6, 25) * largest:
        errors = np.stack([rows[i] - np.r_[1, x[i]] @ fitted(np.arange(12) != i, penalty) for i in range(12)])
        loss = ((errors / spread) ** 2).mean(0).sum()
        if best is None or loss < best[0]:
            best = (loss, penalty, (errors**2).mean(0))
    expected = np.c_[np.ones(3), (new - design.mean(0)) / design.std(0)] @ fitted(np.arange(12) >= 0, best[1])
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6)
    np.testing.assert_allclose(found.variance, best[2], rtol=1e-6)
    if signal == 0:
        assert (found.mean - torch.from_numpy(rows.mean(0))).abs().max() < 1.5


def test_views_give_the_mode_of_the_posterior():
    noise = torch.Generator().manual_seed(1)
    psi, rho = torch.randn(6, 2, generator=noise).double(), torch.randn(6, generator=noise).double()
    interest = torch.randn(40, 2, generator=noise).double()
    log_others = (interest @ psi.mT + rho).logsumexp(-1)
    known = torch.randint(0, 9, (40,), generator=noise)
    times = torch.poisson(torch.full((40, 3), 0.4), generator=noise)
    times[:, 2] *= (interest[:, 0] > 0).float() * 50  # far from the prior
    prior = Prediction(torch.tensor([[0.1, -0.3, -1.0]] * 3).double(), torch.tensor([0.5, 2.0, 1.0]).double())
    found = rows_from_views(prior, interest, log_others, known, times.to_sparse())
    for item in range(3):

        def loss(row, item=item):
            """Of the multinomial over known items and this one, without what does not depend on it."""
            logit = interest.numpy() @ row[:2] + row[2]
            total = np.logaddexp(logit, log_others.numpy())
            yes, no = times[:, item].numpy(), known.numpy()
            likelihood = (yes * logit - (yes + no) * total).sum()
            away = row - prior.mean[item].numpy()
            return -likelihood + 0.5 * (away**2 / prior.variance.numpy()).sum()

        best = minimize(loss, prior.mean[item].numpy(), tol=1e-10)
        np.testing.assert_allclose(found[item], best.x, atol=2e-4)
