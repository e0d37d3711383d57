r"""Propensities of a million normal scores in about a second, by interpolation in (loc, log scale).

Both sums of the quadrature run over smooth functions of an arm's parameters: :math:`S(y) = \sum_j \log F(y; \mu_j,
\log s_j)` needs only the arms' Chebyshev moments, and :math:`\log \pi` is evaluated on a Chebyshev grid of parameters
and interpolated to the arms. The cost is a few dozen multiplications per arm, and A no longer multiplies the nodes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.propensity._checks import check_finite, check_scale, check_total, check_vectors, total_tolerance
from blob_pyro.propensity.argmax_normal import ArgmaxNormal
from blob_pyro.propensity.kernels.mesh import gauss_legendre

__all__ = ["interpolated_argmax_normal_probs"]

_LOC_DEGREES, _SCALE_DEGREES = 40, 24
# A cell of parameters: at most this wide in location (in its smallest scales) and in log scale.
_CELL_WIDTH, _CELL_LOG_RATIO = 16.0, 1.0
_LARGEST_RATIO = 30.0
_LOG_FLOOR = -60.0
_UPPER_TAIL = 9.0
_PANEL_WIDTH = 0.75
_CHUNK = 2**14
_SQRT_HALF = math.sqrt(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _chebyshev(x: Tensor, degrees: int) -> Tensor:
    """Chebyshev polynomials T_0..T_(degrees - 1) at x in [-1, 1]: ... x degrees."""
    values = x.new_empty(*x.shape, degrees)
    values[..., 0], values[..., 1] = 1.0, x
    for k in range(2, degrees):
        torch.addcmul(-values[..., k - 2], values[..., k - 1], x, value=2, out=values[..., k])
    return values


def _to_coefficients(degrees: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Chebyshev points of the first kind, and the matrix from values there to coefficients."""
    angle = (torch.arange(degrees, dtype=torch.float64, device=device) + 0.5) * math.pi / degrees
    matrix = torch.cos(torch.arange(degrees, dtype=torch.float64, device=device)[:, None] * angle) * 2 / degrees
    matrix[0] /= 2
    return angle.cos(), matrix


def _log_cdf(z: Tensor) -> Tensor:
    tail = torch.erfc(z.abs() * _SQRT_HALF).mul_(0.5)
    return torch.where(z > 0, torch.log1p(-tail), tail.log())


@dataclass
class _Cell:
    """Arms with similar parameters, and the grid of parameters that stands for them."""

    index: Tensor
    loc_middle: Tensor
    loc_half: Tensor
    log_middle: Tensor
    log_half: Tensor
    grid_loc: Tensor
    grid_scale: Tensor
    moments: Tensor

    @classmethod
    def gather(cls, index: Tensor, loc: Tensor, log_scale: Tensor) -> "_Cell":
        def span(values: Tensor) -> tuple[Tensor, Tensor]:
            low, high = values.amin(), values.amax()
            return (low + high) / 2, ((high - low) / 2).clamp_min(1e-12)

        (loc_middle, loc_half), (log_middle, log_half) = span(loc[index]), span(log_scale[index])
        loc_points, _ = _to_coefficients(_LOC_DEGREES, loc.device)
        log_points, _ = _to_coefficients(_SCALE_DEGREES, loc.device)
        cell = cls(
            index, loc_middle, loc_half, log_middle, log_half,
            loc_middle + loc_half * loc_points, (log_middle + log_half * log_points).exp(), loc.new_empty(0),
        )  # fmt: skip
        cell.moments = loc.new_zeros(_LOC_DEGREES, _SCALE_DEGREES)
        for start in range(0, len(index), _CHUNK):
            by_loc, by_scale = cell.polynomials(index[start : start + _CHUNK], loc, log_scale)
            cell.moments += by_loc.T @ by_scale
        return cell

    def polynomials(self, index: Tensor, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Chebyshev polynomials in both parameters of some arms."""
        x = ((loc[index] - self.loc_middle) / self.loc_half).clamp(-1, 1)
        y = ((log_scale[index] - self.log_middle) / self.log_half).clamp(-1, 1)
        return _chebyshev(x, _LOC_DEGREES), _chebyshev(y, _SCALE_DEGREES)

    def standardised(self, y: Tensor) -> Tensor:
        """Thresholds y (n) seen from the grid: n x loc points x scale points."""
        return (y[:, None, None] - self.grid_loc[:, None]) / self.grid_scale

    def sum_of_log_cdf(self, y: Tensor) -> Tensor:
        """The sum over the cell's arms of log F(y), for y (n)."""
        _, by_loc = _to_coefficients(_LOC_DEGREES, y.device)
        _, by_scale = _to_coefficients(_SCALE_DEGREES, y.device)
        weights = by_loc.T @ self.moments @ by_scale
        return torch.cat([(_log_cdf(self.standardised(part)) * weights).sum((-2, -1)) for part in y.split(64)])

    def log_probs_on_grid(self, y: Tensor, log_mass: Tensor) -> Tensor:
        """Log-propensities that arms with the grid's parameters would have."""
        parts = []
        for part, mass in zip(y.split(64), log_mass.split(64)):
            z = self.standardised(part)
            log_hazard = -0.5 * z.square() - _log_cdf(z) - _LOG_SQRT_2PI - self.grid_scale.log()
            parts.append(torch.logsumexp(log_hazard + mass[:, None, None], dim=0))
        return torch.logsumexp(torch.stack(parts), dim=0)

    def interpolate(self, values: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Values on the grid, carried over to the cell's arms."""
        _, by_loc = _to_coefficients(_LOC_DEGREES, loc.device)
        _, by_scale = _to_coefficients(_SCALE_DEGREES, loc.device)
        coefficients = by_loc @ values @ by_scale.T
        results = []
        for part in self.index.split(_CHUNK):
            in_loc, in_scale = self.polynomials(part, loc, log_scale)
            results.append(((in_loc @ coefficients) * in_scale).sum(-1))
        return torch.cat(results)


def _cells(loc: Tensor, log_scale: Tensor) -> list[_Cell]:
    row = ((log_scale - log_scale.amin()) / _CELL_LOG_RATIO).floor().long()
    cells = []
    for r in row.unique().tolist():
        members = torch.nonzero(row == r).squeeze(-1)
        width = _CELL_WIDTH * log_scale[members].amin().exp()
        column = ((loc[members] - loc[members].amin()) / width).floor().long()
        cells += [_Cell.gather(members[column == c], loc, log_scale) for c in column.unique().tolist()]
    return cells


@torch.no_grad()
def interpolated_argmax_normal_probs(loc: Tensor, scale: Tensor) -> Tensor:
    """Compute propensities of very many independent normal scores, to about 1e-12 absolutely.

    For a hundred thousand arms and more, where `ArgmaxNormal` takes seconds; for fewer, or for small
    probabilities to full relative accuracy, or gradients, use that. Scales that differ by more than a factor of 30 are
    handed on to it.

    Args:
        loc: A.
        scale: A, standard deviations, positive for interpolation; with deterministic arms the direct way is taken.

    Returns:
        A probabilities, in the dtype of the input.

    Raises:
        ValueError: as for `ArgmaxNormal`, or parameters with a batch dimension.

    Source: eq. 5 of O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025).

    >>> _ = torch.manual_seed(0)
    >>> loc, scale = torch.randn(2000).double(), torch.rand(2000).double() + 0.5
    >>> error = interpolated_argmax_normal_probs(loc, scale) - ArgmaxNormal(loc, scale).probs
    >>> bool(error.abs().max() < 1e-12)
    True
    """
    owner = "interpolated_argmax_normal_probs"
    loc, scale = check_vectors(owner, loc=loc, scale=scale)
    check_finite(owner, "loc", loc)
    check_scale(owner, "scale", scale)
    if loc.dim() > 1:
        raise ValueError(f"{owner}: loc has shape {tuple(loc.shape)}, but must be one vector. Call it for each row.")
    if bool((scale.amax() > _LARGEST_RATIO * scale.amin()) | (scale.amin() < torch.finfo(torch.float64).tiny)):
        return ArgmaxNormal(loc, scale).probs
    dtype, loc, scale = loc.dtype, loc.double(), scale.double()
    unit = scale.amin()
    # Seen from an arm that can win, large locations cancel; what is 1e300 scales below it cannot.
    ahead = loc - loc.gather(0, (loc / 64 - scale * (_UPPER_TAIL / 64)).argmax(0, keepdim=True))
    loc, scale = (ahead / unit).clamp_min(-1e300), scale / unit
    log_scale = scale.log()
    # Arms that cannot reach the lowest threshold that matters have no part in anything.
    floor = (loc - math.sqrt(-2 * _LOG_FLOOR) * scale).amax()
    reaching = torch.nonzero(loc + 12 * scale > floor).squeeze(-1)
    cells = _cells(loc[reaching], log_scale[reaching])

    def total(y: Tensor) -> Tensor:
        return torch.stack([cell.sum_of_log_cdf(y) for cell in cells]).sum(0)

    high = (loc + _UPPER_TAIL * scale).amax()
    coarse = floor + (high - floor) * torch.linspace(0, 1, 129, dtype=torch.float64, device=loc.device)
    low = coarse[max(int((total(coarse) < _LOG_FLOOR).sum()) - 1, 0)]
    nodes, weights = gauss_legendre(16, loc.device)
    count = max(1, math.ceil(float((high - low) / (_PANEL_WIDTH * scale.amin()))))
    width = (high - low) / count
    y = (low + width * (torch.arange(count, device=loc.device)[:, None] + nodes)).flatten()
    log_mass = total(y) + (weights * width).log().repeat(count)
    keep = log_mass > _LOG_FLOOR - 20
    y, log_mass = y[keep], log_mass[keep]
    probs = torch.zeros_like(loc)
    for cell in cells:
        log_probs = cell.interpolate(cell.log_probs_on_grid(y, log_mass), loc[reaching], log_scale[reaching])
        probs[reaching[cell.index]] = log_probs.exp()
    check_total(owner, probs.sum(), total_tolerance(dtype), lambda _: f"{len(loc):,} actions")
    return probs.to(dtype)
