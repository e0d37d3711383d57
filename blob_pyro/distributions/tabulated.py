"""The density of one number, tabulated: known by its logarithm at a few values of it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy.interpolate import CubicSpline
from torch import Size, Tensor

__all__ = ["TabulatedDensity"]

_PIECES = 16  # between two nodes
_LEGENDRE, _LAGUERRE = 3, 6  # points of quadrature in a piece, and in a tail
_LEAST_SLOPE = 0.5  # of a tail, in units of the nodes' range


class _Table(NamedTuple):
    """What a density is made of, float64: its logarithm on a grid, masses of tails and pieces, slopes of the tails."""

    grid: Tensor
    log: Tensor
    mass: Tensor
    slopes: Tensor


class _Averaging(NamedTuple):
    """Points and weights of quadrature, and the table that they are of."""

    table: _Table
    points: Tensor
    weights: Tensor


class TabulatedDensity(TorchDistribution):
    """A density on the real line, given by its logarithm at nodes: skewed, flat on one side, whatever they say.

    Between nodes the logarithm is a cubic spline, taken at sixteen points of each gap and straight between these;
    beyond the nodes it goes on straight, with the slope that the spline ends with, or half a nat over the nodes' range
    if that is more. So the density is made of exponentials: normalised, drawn from and scored without error.

    Args:
        nodes: increasing, ``K``, four or more.
        log_density: there, up to a constant, ``K``.

    Raises:
        ValueError: for fewer than four nodes, nodes that do not increase, or another number of values.

    Example:
        >>> nodes = torch.linspace(-4.0, 4.0, 9)
        >>> d = TabulatedDensity(nodes, -0.5 * nodes**2)
        >>> round(float(d.mean), 4), round(float(d.variance), 2)
        (0.0, 1.0)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "nodes": constraints.real_vector,
        "log_density": constraints.real_vector,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, nodes: Tensor, log_density: Tensor, validate_args: bool | None = None) -> None:
        if nodes.dim() != 1 or len(nodes) < 4 or log_density.shape != nodes.shape:
            raise ValueError(
                f"TabulatedDensity: expected four nodes or more and a log density at each, got nodes of shape "
                f"{tuple(nodes.shape)} and values of shape {tuple(log_density.shape)}"
            )
        if not bool((nodes.diff() > 0).all()):
            raise ValueError(f"TabulatedDensity: nodes must increase, got {nodes.tolist()}")
        self.nodes, self.log_density = nodes, log_density - log_density.max()
        self._known: _Table | None = None
        self._averaging: _Averaging | None = None
        super().__init__(Size(), Size(), validate_args=validate_args)

    @property
    def _table(self) -> _Table:
        known = self._known
        if known is None or known.grid.device != self.nodes.device:
            known = self._known = self._tabulate()
        return known

    def _tabulate(self) -> _Table:
        nodes, values = (t.detach().double().cpu().numpy() for t in (self.nodes, self.log_density))
        spline = CubicSpline(nodes, values - values.max())
        fine = np.linspace(nodes[:-1], nodes[1:], _PIECES, endpoint=False, axis=1).ravel()
        grid = np.append(fine, nodes[-1])
        least = _LEAST_SLOPE / (nodes[-1] - nodes[0])
        slopes = [max(float(spline(nodes[0], 1)), least), max(-float(spline(nodes[-1], 1)), least)]
        log = torch.from_numpy(spline(grid))
        rise, width = log.diff(), torch.from_numpy(np.diff(grid))
        steep = rise.abs().clamp(min=1e-12)
        masses = width * torch.maximum(log[1:], log[:-1]).exp() * -torch.expm1(-steep) / steep
        tails = [float(log[0].exp()) / slopes[0], float(log[-1].exp()) / slopes[1]]
        mass = torch.cat([masses.new_tensor(tails[:1]), masses, masses.new_tensor(tails[1:])])
        parts = (torch.from_numpy(grid), log - mass.sum().log(), mass / mass.sum(), masses.new_tensor(slopes))
        return _Table(*(part.to(self.nodes.device) for part in parts))

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> TabulatedDensity:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        new = type(self)(self.nodes, self.log_density, validate_args=False)
        new._batch_shape = Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in its shape."""
        (grid, log, _, slopes), x = self._table, value.double()
        inside = x.clamp(grid[0], grid[-1])
        piece = (torch.searchsorted(grid, inside.detach().contiguous(), right=True) - 1).clamp(0, len(grid) - 2)
        share = (inside - grid[piece]) / (grid[piece + 1] - grid[piece])
        found = log[piece] + share * (log[piece + 1] - log[piece])
        beyond = slopes[0] * (x - grid[0]).clamp(max=0) - slopes[1] * (x - grid[-1]).clamp(min=0)
        return (found + beyond).to(value.dtype)

    def icdf(self, probability: Tensor) -> Tensor:
        """Return quantiles, in the shape of ``probability``."""
        (grid, log, mass, slopes), p = self._table, probability.double()
        ends = mass.cumsum(0)
        piece = torch.searchsorted(ends, p.detach().contiguous()).clamp(0, len(ends) - 1)
        within = ((p - (ends - mass)[piece]) / mass[piece]).clamp(1e-300, 1)
        inner = (piece - 1).clamp(0, len(grid) - 2)
        rise, width = log[inner + 1] - log[inner], grid[inner + 1] - grid[inner]
        flat = rise.abs() < 1e-9
        safe = torch.where(flat, torch.ones_like(rise), rise)
        share = torch.where(flat, within, torch.log1p(within * torch.expm1(safe)) / safe)
        left = grid[0] + within.log() / slopes[0]
        right = grid[-1] - (1 - within).clamp(min=1e-300).log() / slopes[1]
        x = torch.where(piece == 0, left, grid[inner] + share * width)
        return torch.where(piece == len(ends) - 1, right, x).to(self.nodes.dtype)

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw values, ``sample_shape x batch_shape``, by `icdf`."""
        shape = self._extended_shape(Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=torch.float64, device=self.nodes.device))

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Return points and weights that average any smooth function over the density, float64."""
        table, known = self._table, self._averaging
        if known is None or known.table is not table:
            known = self._averaging = self._averages(table)
        return known.points, known.weights

    def _averages(self, table: _Table) -> _Averaging:
        grid, _, mass, slopes = table
        legendre, laguerre = np.polynomial.legendre.leggauss(_LEGENDRE), np.polynomial.laguerre.laggauss(_LAGUERRE)
        (x, w), (t, v) = ((grid.new_tensor(a) for a in pair) for pair in (legendre, laguerre))
        width = grid.diff().unsqueeze(-1)
        points = grid[:-1].unsqueeze(-1) + width * (x + 1) / 2
        weights = width / 2 * w * self.log_prob(points).exp()
        weights = torch.cat([mass[0] * v, weights.flatten(), mass[-1] * v])
        tails = [grid[0] - t / slopes[0], grid[-1] + t / slopes[1]]
        return _Averaging(table, torch.cat([tails[0], points.flatten(), tails[1]]), weights / weights.sum())

    @property
    def node_weights(self) -> Tensor:
        """The probability of each node if the number is rounded to nodes, ``K``, float64: by the trapezoidal rule."""
        gaps = self.nodes.double().diff()
        width = torch.cat([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]])
        return (self.log_density.double() + width.log()).softmax(0)

    @property
    def mode(self) -> Tensor:
        """The point of the grid where the density is largest, ``batch_shape``."""
        table = self._table
        return table.grid[table.log.argmax()].to(self.nodes.dtype).expand(self.batch_shape)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, ``batch_shape``."""
        points, weights = self.quadrature()
        return -(weights @ self.log_prob(points)).to(self.nodes.dtype).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """The mean, ``batch_shape``."""
        points, weights = self.quadrature()
        return (weights @ points).to(self.nodes.dtype).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """The variance, ``batch_shape``."""
        points, weights = self.quadrature()
        return (weights @ (points - weights @ points).square()).to(self.nodes.dtype).expand(self.batch_shape)
