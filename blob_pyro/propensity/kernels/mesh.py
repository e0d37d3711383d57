"""Graded quadrature meshes on which a whole vector of integrands is resolved at once.

Everything here works on `rows`: independent problems (contexts) that are meshed side by side. A mesh is driven
by a *monitor*: the length over which the sharpest integrand that matters there changes. Distances measured in
that local length are called *units*; a Gauss-Legendre panel of 16 nodes covers five of them to rounding error.

The local length is made Lipschitz before it is used. Otherwise a panel that straddles the end of a narrow
integrand spends its width in the wide region beside it, and the narrow one is missed.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NODES_PER_PANEL = 16
LIPSCHITZ = 0.25
# A mesh has been looked at closely enough when an interval that matters holds this many units; far more than that,
# and the first look was too coarse for what it looked at; so it was where the next look does not make it less.
_CLOSE_ENOUGH, _STALLED, _EXPLODED = 3, 10, 1000
# An interval of this many units spans less than one order of magnitude.
_UNITS_SEEN, _CLOSER, _MOST_INTERVALS = 10, 8, 4096
_MOST_UNITS = 2.0**16
# Elements in a temporary: what stays in a core's cache, and what fills a GPU.
CPU_BLOCK = 2**15
CUDA_BLOCK = 2**25


def block_elements(device: torch.device) -> int:
    """Return the number of elements that one temporary should hold on `device`."""
    return CPU_BLOCK if is_cheap_to_read(device) else CUDA_BLOCK


def is_cheap_to_read(device: torch.device) -> bool:
    """Say whether Python can look at a value there without waiting for all that was asked of the device before."""
    return device.type == "cpu"


@functools.cache
def _legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return (nodes + 1) / 2, weights / 2


def gauss_legendre(num_nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1], in float64."""
    nodes, weights = _legendre(num_nodes)
    return torch.tensor(nodes, device=device), torch.tensor(weights, device=device)


def _ratio(numerator: Callable[[Tensor], Tensor], x: Tensor, curvature: float) -> Tensor:
    """`numerator(x) / x` with its limit 1 + curvature x at zero."""
    small = x.abs() < 1e-6
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1 + curvature * x, numerator(safe) / safe)


@dataclass(frozen=True)
class Mesh:
    """A local length, linear between points, and the units it adds up to.

    Attributes:
        points: rows x (K + 1), not decreasing.
        length: rows x (K + 1), the local length at the points.
        units: rows x (K + 1), the integral of dy / length(y) from the first point.
    """

    points: Tensor
    length: Tensor
    units: Tensor

    @classmethod
    def from_points(cls, points: Tensor, length: Tensor) -> "Mesh":
        """Measure a local length that is given at the points."""
        step = points.diff(dim=-1)
        growth = (length[:, 1:] - length[:, :-1]) / length[:, :-1]
        units = step / length[:, :-1] * _ratio(torch.log1p, growth, -0.5)
        return cls(points, length, torch.nn.functional.pad(units.cumsum(-1), (1, 0)))

    @classmethod
    def from_intervals(cls, points: Tensor, length: Tensor) -> "Mesh":
        """Take rows x K lengths, one per interval, and use the largest Lipschitz function below them."""
        at_points = torch.cat([length[:, :1], torch.minimum(length[:, 1:], length[:, :-1]), length[:, -1:]], dim=-1)
        rightward = torch.cummin(at_points - LIPSCHITZ * points, dim=-1).values + LIPSCHITZ * points
        leftward = torch.cummin((at_points + LIPSCHITZ * points).flip(-1), dim=-1).values.flip(-1) - LIPSCHITZ * points
        # Far from the origin the additions above cancel; the length itself is never below its smallest value.
        smooth = torch.minimum(rightward, leftward).clamp_min(length.amin(-1, keepdim=True))
        return cls.from_points(points, torch.minimum(smooth, at_points))

    @property
    def total(self) -> Tensor:
        """The units from end to end, one number a row."""
        return self.units[:, -1]

    def locate(self, units: Tensor) -> Tensor:
        """Find the positions, rows x n, at which `units` (rows x n) have been passed."""
        index = (torch.searchsorted(self.units, units.contiguous(), right=True) - 1).clamp_(
            0, self.points.shape[-1] - 2
        )
        left, right = self.points.gather(-1, index), self.points.gather(-1, index + 1)
        length = self.length.gather(-1, index)
        step = right - left
        slope = (self.length.gather(-1, index + 1) - length) / torch.where(step > 0, step, 1.0)
        ahead = units - self.units.gather(-1, index)
        return torch.minimum(left + length * ahead * _ratio(torch.expm1, slope * ahead, 0.5), right)

    def spread(self, num_intervals: int) -> Tensor:
        """Place points, rows x (num_intervals + 1), at equal distances in units."""
        fraction = torch.linspace(0, 1, num_intervals + 1, dtype=self.points.dtype, device=self.points.device)
        points = self.locate(self.total[:, None] * fraction)
        points[:, -1] = self.points[:, -1]
        return points

    def edges(self, units_per_panel: float) -> tuple[Tensor, Tensor]:
        """Place panel edges, rows x (P + 1), and count the panels of each row; the rest of its panels are empty."""
        edges, count, _ = self._edges(units_per_panel)
        return edges, count

    def _edges(self, units_per_panel: float) -> tuple[Tensor, Tensor, int]:
        """As `edges`, and the number of panels of all rows together; values are read off the device once."""
        count = torch.ceil(self.total / units_per_panel).clamp_min(1)
        most, together = (int(number) for number in torch.stack([count.max(), count.sum()]).tolist())
        step = torch.arange(most + 1, dtype=self.points.dtype, device=self.points.device)
        return self.locate(self.total[:, None] * (step / count[:, None]).clamp_max(1.0)), count.long(), together


def refine(mesh: Mesh, monitor: Callable[[Tensor], tuple[Tensor, Tensor]], intervals: Sequence[int]) -> Mesh:
    """Let `monitor` look at a mesh and redraw it until it has looked closely enough.

    Args:
        mesh: a first guess, which must cover everything that matters.
        monitor: maps points (rows x (K + 1)) to the local length on each interval and whether the interval
            matters (both rows x K). It may only err on the side of short lengths and of intervals that matter.
        intervals: how many intervals to use for each look (more, where lengths differ by many orders of magnitude);
            their number is the largest number of looks.

    Raises:
        ValueError: for scores that no mesh of a sensible size resolves.
    """
    guess, least, total, exploded, before = mesh, 0, 0.0, False, math.inf
    for num_intervals in intervals:
        seen = max(num_intervals, least, _closely(total))
        mesh, kept = _look(mesh, monitor, seen)
        excess, total = torch.stack([(mesh.total / kept).amax(), mesh.total.amax()]).tolist()
        exploded = not excess <= _EXPLODED
        if excess <= _CLOSE_ENOUGH:
            break
        stalled = excess > max(_STALLED, 0.9 * before)
        before = excess
        if (exploded or stalled) and least < _MOST_INTERVALS:
            # An interval across orders of magnitude takes the length of its narrowest point all along: begin again.
            mesh, least, total = guess, min(_MOST_INTERVALS, _CLOSER * seen), guess.total.amax().item()
            before = math.inf
    if exploded or not total <= _MOST_UNITS:
        raise ValueError(
            "the scores of one context differ so much in scale that no quadrature of a sensible size resolves them. "
            "Leave out actions that cannot win, and bring scales (concentrations) closer to each other."
        )
    return mesh


def _closely(total: float) -> int:
    """How many intervals see this many units without spanning orders of magnitude."""
    return math.ceil(min(_MOST_INTERVALS, total / _UNITS_SEEN)) if total < math.inf else _MOST_INTERVALS


def _look(mesh: Mesh, monitor: Callable[[Tensor], tuple[Tensor, Tensor]], num_intervals: int) -> tuple[Mesh, Tensor]:
    """A mesh by what the monitor says of another one, and the number of intervals of each row that matter."""
    points = mesh.spread(num_intervals)
    length, matters = monitor(points)
    interval = torch.arange(num_intervals, device=points.device)
    first = torch.where(matters, interval, num_intervals - 1).amin(-1, keepdim=True)
    last = torch.maximum(torch.where(matters, interval + 1, 0).amax(-1, keepdim=True), first + 1)
    # Cutting off an end makes its intervals empty; an empty or idle interval asks for nothing.
    longest = torch.where(matters, length, 0.0).amax(-1, keepdim=True)
    span = points[:, -1:] - points[:, :1]
    length = torch.where(matters, length, torch.where(longest > 0, longest, span))
    points = torch.minimum(torch.maximum(points, points.gather(-1, first)), points.gather(-1, last))
    return Mesh.from_intervals(points, length), (last - first).squeeze(-1)


@dataclass(frozen=True)
class Panels:
    """Quadrature panels of all rows in one flat list, ordered by row.

    Attributes:
        row: n, the row that each panel belongs to.
        left: n, where it begins.
        width: n.
    """

    row: Tensor
    left: Tensor
    width: Tensor

    @classmethod
    def from_mesh(cls, mesh: Mesh, units_per_panel: float) -> "Panels":
        """Cut every row into as few equal (in units) panels as `units_per_panel` allows."""
        edges, count, together = mesh._edges(units_per_panel)
        row = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=together)
        start = (count.cumsum(0) - count)[row]
        column = torch.arange(len(row), device=count.device) - start
        left = edges[row, column]
        return cls(row, left, edges[row, column + 1] - left)

    def blocks(self, panels_per_block: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield row (n), nodes and weights (n x nodes) for a few panels at a time."""
        nodes, weights = gauss_legendre(NODES_PER_PANEL, self.left.device)
        for start in range(0, len(self.row), panels_per_block):
            part = slice(start, start + panels_per_block)
            width = self.width[part, None]
            yield self.row[part], self.left[part, None] + width * nodes, width * weights
