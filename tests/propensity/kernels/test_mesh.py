"""Meshes: their units are integrals, their panels cover the range, and a narrow integrand is found."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from blob_pyro.propensity.kernels.mesh import LIPSCHITZ, Mesh, Panels, gauss_legendre, refine


def mesh():
    points = torch.tensor([[0.0, 1.0, 3.0, 10.0], [-2.0, 0.0, 0.5, 1.0]]).double()
    length = torch.tensor([[0.5, 0.1, 2.0, 2.0], [1.0, 1.0, 1.0 + 1e-9, 0.25]]).double()
    return Mesh.from_points(points, length)


@pytest.mark.parametrize("row", [0, 1])
def test_units_are_the_integral_of_one_over_the_length(row):
    found = mesh()
    points, length = found.points[row].numpy(), found.length[row].numpy()
    for end, units in zip(points[1:], found.units[row, 1:].tolist()):
        expected = integrate.quad(lambda y: 1 / np.interp(y, points, length), points[0], end, points=points[1:-1])[0]
        assert units == pytest.approx(expected, rel=1e-7)


def test_positions_are_where_the_units_have_been_passed():
    found = mesh()
    torch.testing.assert_close(found.locate(found.units), found.points)
    spread = found.spread(7)
    assert spread.shape == (2, 8)
    assert (spread.diff(dim=-1) > 0).all()
    for n in range(2):
        inside = found.locate(found.units[:, -1:] * 3 / 7)[n]
        torch.testing.assert_close(spread[n, 3:4], inside)


def test_lengths_per_interval_become_lipschitz_and_never_longer():
    points = torch.linspace(0, 10, 11, dtype=torch.float64)[None]
    length = torch.tensor([[9.0, 9, 9, 9, 0.1, 9, 9, 9, 9, 9]]).double()
    found = Mesh.from_intervals(points, length)
    assert (found.length.diff(dim=-1).abs() <= LIPSCHITZ * 1.0 + 1e-12).all()
    padded = [torch.nn.functional.pad(length, sides, value=9.0) for sides in ((1, 0), (0, 1))]
    assert (found.length <= torch.minimum(*padded) + 1e-12).all()
    assert float(found.length.min()) == pytest.approx(0.1)


def test_panels_cover_each_row_once():
    found = mesh()
    panels = Panels.from_mesh(found, 2.0)
    for row in range(2):
        mine = panels.row == row
        left, width = panels.left[mine], panels.width[mine]
        assert int(mine.sum()) == max(1, math.ceil(float(found.total[row]) / 2.0))
        assert float(left[0]) == float(found.points[row, 0])
        torch.testing.assert_close(left[:-1] + width[:-1], left[1:])
        torch.testing.assert_close(left[-1] + width[-1], found.points[row, -1])
    weights = torch.zeros(2).double()
    for row, _, weight in panels.blocks(3):
        weights.index_add_(0, row, weight.sum(-1))
    torch.testing.assert_close(weights, found.points[:, -1] - found.points[:, 0])


def test_refining_finds_a_narrow_integrand():
    """A normal density of width 1e-3 somewhere in a range of 100."""
    centre, width = 37.3, 1e-3

    def monitor(points):
        low, high = points[:, :-1], points[:, 1:]
        gap = torch.maximum(low - centre, centre - high).clamp(min=0)
        return torch.full_like(low, width), gap < 8 * width

    first = Mesh.from_points(torch.tensor([[0.0, 100.0]]).double(), torch.tensor([[50.0, 50.0]]).double())
    panels = Panels.from_mesh(refine(first, monitor, (12,) + 7 * (32,)), 5.0)
    total = 0.0
    for _, nodes, weights in panels.blocks(64):
        density = torch.exp(-((nodes - centre) / width).square() / 2) / (width * math.sqrt(2 * math.pi))
        total += float((density * weights).sum())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_gauss_legendre_integrates_polynomials():
    nodes, weights = gauss_legendre(6, torch.device("cpu"))
    for degree in range(12):
        assert float(weights @ nodes**degree) == pytest.approx(1 / (degree + 1), rel=1e-13)
