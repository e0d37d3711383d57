"""The index of the largest of independent scores from any univariate distribution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from blob_pyro.propensity._checks import total_tolerance
from blob_pyro.propensity._index import IndexDistribution
from blob_pyro.propensity._types import check_not_batched, kind
from blob_pyro.propensity.kernels.adaptive import PanelRows, resolve
from blob_pyro.propensity.kernels.cumulative import Distributions

__all__ = ["Argmax"]

# How many points to look at for a density, and how often to look closer.
_SCAN_POINTS = 4001
_ZOOMS = 6
# A density counts where it is above e^-45 of its largest value.
_LOG_TRIM = 45.0
_MASS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Coordinate:
    """A map from the real line onto a support, the same for all actions.

    Attributes:
        to_score: the map.
        log_derivative: the logarithm of its derivative.
        reach: how far from 0 a density may lie.
    """

    to_score: Callable[[Tensor], Tensor]
    log_derivative: Callable[[Tensor], Tensor]
    reach: float

    @classmethod
    def of(cls, support: Any) -> "_Coordinate":
        lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
        # Where the ends differ between actions, densities are 0 on a part of the common range.
        lower = None if lower is None else float(torch.as_tensor(lower).min())
        upper = None if upper is None else float(torch.as_tensor(upper).max())
        if lower is not None and upper is not None:
            start, span = lower, upper - lower
            logsigmoid = torch.nn.functional.logsigmoid
            return cls(
                lambda t: start + span * torch.sigmoid(t),
                lambda t: math.log(span) + logsigmoid(t) + logsigmoid(-t),
                700.0,
            )
        if lower is not None:
            return cls(lambda t: lower + t.exp(), lambda t: t, 700.0)
        if upper is not None:
            return cls(lambda t: upper - (-t).exp(), lambda t: -t, 700.0)
        return cls(torch.sinh, lambda t: t.abs() + torch.log1p(torch.exp(-2 * t.abs())) - math.log(2), 60.0)


def _device_of(distribution: Distribution) -> torch.device:
    """Where a distribution's parameters live, looking into what it is made of."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, Distribution):
            return _device_of(value)
    return torch.device("cpu")


class Argmax(IndexDistribution):
    r"""Propensities for independent scores from any univariate distribution with a density.

    .. math:: \pi_i = \int f_i(y) \prod_{j \ne i} F_j(y)\, dy

    needs only `log_prob` and `support` of the scores: distribution functions are cumulated integrals of the densities
    (so families without a `cdf`, such as StudentT, and mixtures work), on panels that are halved until all densities
    are resolved. The mass of every density is checked. Absolute accuracy is about 1e-12 (1e-8 where a density is
    unbounded at an upper end of its support, next to which scores are rounded). Rare actions have fewer digits than in
    `ArgmaxNormal` and `ArgmaxBeta`, which should be preferred where they apply.

    Args:
        base: a distribution with batch shape batch_shape x A and no event dimensions, continuous, whose support is the
            real line, a half line or an interval: Gamma, StudentT, Laplace, Kumaraswamy, MixtureSameFamily, ...
        minimum: take the index of the smallest score instead.
        validate_args: check the values given to `log_prob`; torch's default if None.

    Raises:
        ValueError: a base distribution that is discrete, multivariate or has no actions; densities whose mass the
            quadrature does not find (for example a mixture with a component far narrower than the rest).

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), eq. 5.

    >>> rate = torch.tensor([1.0, 2.0, 4.0])
    >>> Argmax(torch.distributions.Gamma(torch.tensor([1.0, 3.0, 9.0]), rate)).probs
    tensor([0.1124, 0.2089, 0.6787])
    """

    event_dims: ClassVar[dict[str, int]] = {}
    _divisible: ClassVar[bool] = False
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: Distribution, *, minimum: bool = False, validate_args: bool | None = None) -> None:
        owner = type(self).__name__
        if not isinstance(base, Distribution):
            raise ValueError(f"{owner}: base must be a distribution of scores, got {kind(base)}.")
        if len(base.event_shape) > 0 or len(base.batch_shape) == 0 or base.batch_shape[-1] == 0:
            raise ValueError(
                f"{owner}: base has batch shape {tuple(base.batch_shape)} and event shape {tuple(base.event_shape)}, "
                "but needs the actions as its last batch dimension and no event dimensions. Expand it over the actions."
            )
        try:
            support = base.support
        except NotImplementedError:
            support = None
        if support is None:
            raise ValueError(f"{owner}: base, a {type(base).__name__}, does not say what its support is.")
        if support.is_discrete:
            raise ValueError(
                f"{owner}: base is a discrete {type(base).__name__}, but ties have to be "
                "impossible. Use a continuous one."
            )
        for name, value in vars(base).items():
            if isinstance(value, Tensor):
                check_not_batched(owner, f"base.{name}", value)
        self.base, self._support, self._coordinate = base, support, _Coordinate.of(support)
        self._finish(base.batch_shape[:-1], base.batch_shape[-1], minimum, validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "IndexDistribution":
        """Repeat over a larger batch shape, without repeating the work."""
        new = super().expand(batch_shape, _instance)
        new.base = self.base.expand(torch.Size(batch_shape) + self.base.batch_shape[-1:])
        return new

    def _copy_attributes(self, new: Any) -> None:
        new.base, new._support, new._coordinate = self.base, self._support, self._coordinate

    def _log_density(self, t: Tensor) -> Tensor:
        """Log-densities, rows x N x A, at positions t, rows x N (x A)."""
        rows, points = t.shape[:2]
        t = t[..., None].expand(-1, -1, self.num_actions) if t.dim() == 2 else t
        t = t.transpose(0, 1).reshape(points, *self.base.batch_shape)
        score = self._coordinate.to_score(t)
        # Rounding takes positions onto the ends of the support, and supports may differ between actions.
        inside = self._support.check(score)
        safe = torch.where(inside, score, self._inner_score())
        log_density = torch.where(inside, self.base.log_prob(safe) + self._coordinate.log_derivative(t), -math.inf)
        log_density = log_density.reshape(points, rows, self.num_actions).transpose(0, 1)
        return torch.nan_to_num(log_density, nan=-math.inf, posinf=-math.inf).double()

    def _inner_score(self) -> Tensor:
        """A score inside each action's own support."""
        support = self._support
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
        if lower is not None and upper is not None:
            return (torch.as_tensor(lower) + torch.as_tensor(upper)) / 2
        return zero if lower is None and upper is None else _Coordinate.of(support).to_score(zero)

    @torch.no_grad()
    def _first_edges(self, rows: int, device: torch.device) -> Tensor:
        """Each density's ends and peak, found by looking closer and closer at where it is largest."""
        fraction = torch.linspace(-1, 1, _SCAN_POINTS, dtype=torch.float64, device=device)
        centre = torch.zeros(rows, 1, self.num_actions, dtype=torch.float64, device=device)
        reach = torch.full_like(centre, self._coordinate.reach)
        found = []
        for _ in range(_ZOOMS):
            t = centre + reach * fraction[:, None]
            log_density = self._log_density(t)
            peak, where = log_density.max(dim=1, keepdim=True)
            counts = log_density > peak - _LOG_TRIM
            step = 2 * reach / (_SCAN_POINTS - 1)
            low = torch.where(counts, t, math.inf).amin(1, keepdim=True) - step
            high = torch.where(counts, t, -math.inf).amax(1, keepdim=True) + step
            centre = t.gather(1, where)
            found += [low, centre, high]
            if bool(((high - low) > 20 * step).all()):
                break
            reach = torch.maximum(high - centre, centre - low)
        return torch.cat(found, dim=1).flatten(1).sort(dim=-1).values

    def _probe(self) -> Tensor:
        return self.base.log_prob(self._inner_score().expand(self.base.batch_shape))

    def _is_differentiable(self) -> bool:
        return self._probe().requires_grad

    @property
    def _device(self) -> torch.device:
        return _device_of(self.base)

    @property
    def _dtype(self) -> torch.dtype:
        return self._probe().dtype

    def _nothing(self, shape: torch.Size) -> Tensor:
        return self._probe().reshape(shape)

    def _tolerance(self) -> float:
        return max(_MASS_TOLERANCE, total_tolerance(self._dtype))

    def _parameter_ranges(self, index: tuple[int, ...]) -> str:
        return f"base is {self.base}"

    def _compute_log_probs(self) -> Tensor:
        rows = math.prod(self.batch_shape)
        probe = self._probe()
        sign = -1 if self.minimum else 1
        with torch.no_grad():
            first = PanelRows.between(self._first_edges(rows, probe.device))
            panels = resolve(lambda t, _: self._log_density(t), first)
        nodes, _ = panels.nodes()
        log_density = self._log_density(nodes.flatten(1)).unflatten(1, nodes.shape[1:])
        nothing = torch.zeros(rows, self.num_actions, dtype=torch.float64, device=probe.device)
        scores = Distributions.cumulate(log_density, panels.width, nothing, nothing)
        self._check_mass(scores)
        log_probs = (scores if sign > 0 else scores.reversed()).argmax_log_probs()
        return log_probs.reshape(*self.batch_shape, self.num_actions).to(probe.dtype)

    def _check_mass(self, scores: Distributions) -> None:
        mass = (scores.log_density.detach().exp() * scores.weights[..., None]).sum(1)
        bad = ~((mass - 1).abs() <= _MASS_TOLERANCE)
        if bool(bad.any()):
            row, action = torch.nonzero(bad)[0].tolist()
            found = mass[row, action].item()
            raise ValueError(
                f"Argmax: the quadrature finds a mass of {found:g} for action {action} of row {row} of base. "
                "Give a normalised density and float64 parameters (small ones underflow in float32), and split off "
                "components that are far narrower than the rest."
            )

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        return (self.base.sample(sample_shape),)
