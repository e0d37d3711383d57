"""Randomised points: uniform, independent replicates, and an error that is one."""

import torch

from blob_pyro.propensity.kernels.qmc import mean_and_error, normal_replicates, summing_to_one, uniform_replicates

CPU = torch.device("cpu")


def test_each_cell_holds_one_point():
    points = uniform_replicates(3, 64, 2, seed=0, device=CPU)
    assert points.shape == (3, 64, 2)
    for replicate in points:
        for column in replicate.T:
            assert sorted((column * 64).long().tolist()) == list(range(64))
    assert not torch.equal(points[0], points[1])
    assert torch.equal(points, uniform_replicates(3, 64, 2, seed=0, device=CPU))
    assert not torch.equal(points, uniform_replicates(3, 64, 2, seed=1, device=CPU))


def test_no_dimensions_no_numbers():
    assert uniform_replicates(2, 8, 0, seed=0, device=CPU).shape == (2, 8, 0)


def test_normal_points_are_the_quantiles_of_uniform_ones():
    normal, uniform = (f(2, 128, 3, seed=5, device=CPU) for f in (normal_replicates, uniform_replicates))
    torch.testing.assert_close(torch.special.ndtr(normal), uniform)


def test_errors_are_calibrated():
    """Of an integral whose value is known to be 0."""
    z = []
    for seed in range(200):
        z_1, z_2 = normal_replicates(8, 32, 2, seed, CPU).unbind(-1)
        mean, error = mean_and_error((z_1.sin() * z_2.exp() + z_2.pow(3)).mean(-1))
        z.append(float(mean / error))
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 0.4
    assert 0.8 < float(z.std()) < 1.5  # Student's t with 7 degrees of freedom has 1.18


def test_a_missed_sum_is_made_up_by_those_least_known():
    """Independent errors of deviations 3, 1 and 0: nine tenths of the gap go to the first, none to the last."""
    noise = torch.randn(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    replicates = torch.stack([0.5 + 3 * noise[:, 0], 0.3 + noise[:, 1], torch.full_like(noise[:, 0], 0.2)], dim=-1)
    corrected = summing_to_one(replicates)
    torch.testing.assert_close(corrected.sum(-1), torch.ones(20_000).double())
    torch.testing.assert_close(corrected[:, 2], replicates[:, 2])
    # Var(e_1 - .9 (e_1 + e_2)) = .01 * 9 + .81: both are known as well as the better one of them, and a little better.
    torch.testing.assert_close(corrected.var(0), torch.tensor([0.9, 0.9, 0.0]).double(), rtol=0.05, atol=1e-12)
