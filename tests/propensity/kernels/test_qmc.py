"""Randomised points: uniform, independent replicates, and an error that is one."""

import torch

from blob_pyro.propensity.kernels.qmc import mean_and_error, normal_replicates, uniform_replicates

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
