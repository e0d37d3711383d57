"""The index of the largest of normal scores that a shared draw, one of finitely many, makes independent."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import check_batch_shapes, check_found, check_scale
from blob_pyro.propensity._index import IndexDistribution, wants_validation
from blob_pyro.propensity._types import check_float_tensor, kind
from blob_pyro.propensity.argmax_conditionally_normal import mix_conditional_probs
from blob_pyro.propensity.kernels.draws import draw_normals
from blob_pyro.propensity.kernels.normal import EXACT, without_the_rest
from blob_pyro.propensity.kernels.played_normal import played_normal_log_probs

__all__ = ["ArgmaxNormalMixture"]

_BLOCK = 2**21


class ArgmaxNormalMixture(IndexDistribution):
    r"""Exact propensities of a policy that picks one of M shared points at random, then the largest normal score.

    .. math:: \pi_i = \frac1M \sum_{m=1}^M P(Y_i > Y_j \text{ for all } j \ne i \mid z_m),
        \qquad Y_j \mid z \sim N(\mathrm{location}_j(z), \mathrm{scale}_j^2) \text{ independently}.

    Where `ArgmaxConditionallyNormal` estimates an expectation over all z, this *is* the finite mixture:
    `sample` plays one of the points, and `probs` are the averages of M exact quadratures, to 1e-12;
    `log_prob` of what was played takes one integral for each point, and not one for each of all actions. With
    points that are draws from a posterior it tends to Thompson sampling from it as M grows.

    Args:
        location: maps points to the means of the scores given them. Points have the shape n x D, the same ones in all
            contexts, or batch_shape x n x D; the result is batch_shape x n x A. It must be deterministic, and is called
            several times, with different n.
        scale: batch_shape x A, conditional standard deviations; 0 is allowed.
        points: M x D.
        minimum: take the index of the smallest score instead.
        validate_args: as for `ArgmaxNormal`.

    Raises:
        ValueError: a scale that is not finite or negative, points that are no matrix or not finite, a location of the
            wrong shape or that is not finite.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), eq. 5 given each point.

    >>> loc, loading = torch.tensor([0.0, 0.5]), torch.tensor([[2.0, -1.0]])
    >>> points = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> d = ArgmaxNormalMixture(lambda z: loc + z @ loading, torch.tensor([1.0, 0.5]), points)
    >>> d.probs
    tensor([0.4385, 0.5615])
    """

    event_dims: ClassVar[dict[str, int]] = {"scale": 1}
    _restrictable: ClassVar[bool] = True
    _knows_few: ClassVar[bool] = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "scale": constraints.independent(constraints.nonnegative, 1)
    }
    # `location` knows all contexts and cannot be asked for some.
    _divisible: ClassVar[bool] = False

    def __init__(
        self,
        location: Callable[[Tensor], Tensor],
        scale: Tensor,
        points: Tensor,
        *,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        check_float_tensor(owner, "scale", scale)
        check_float_tensor(owner, "points", points)
        if scale.dim() == 0 or scale.shape[-1] == 0:
            raise ValueError(
                f"{owner}: scale has shape {tuple(scale.shape)}, so there is no action to choose from. "
                "Give it a last dimension with at least one action."
            )
        if points.dim() != 2 or len(points) == 0:
            raise ValueError(
                f"{owner}: points has shape {tuple(points.shape)}, but must be M x D with at least one point."
            )
        if not callable(location):
            raise ValueError(f"{owner}: location must be a function of points, got {kind(location)}.")
        probe = location(points[:1])
        check_float_tensor(owner, "location's result", probe)
        if probe.dim() < 2 or probe.shape[-2] != 1 or probe.shape[-1] != scale.shape[-1]:
            raise ValueError(
                f"{owner}: location maps points of shape (1, {points.shape[-1]}) to {tuple(probe.shape)}, but it must "
                f"give batch_shape x 1 x {scale.shape[-1]}. Keep the points' dimension before the actions'."
            )
        if wants_validation(validate_args):
            check_scale(owner, "scale", scale)
            if not bool(points.isfinite().all()):
                raise ValueError(f"{owner}: points must be finite. Repair the posterior that they come from.")
            if not bool(probe.isfinite().all()):
                raise ValueError(f"{owner}: location is not finite. Repair the posterior that it comes from.")
        batch_shape = check_batch_shapes(owner, location=probe.shape[:-2], scale=scale.shape[:-1])
        self.scale = scale.expand(batch_shape + scale.shape[-1:])
        self.location, self.points = location, points
        self._finish(batch_shape, scale.shape[-1], minimum, validate_args)

    @property
    def num_points(self) -> int:
        """The number of points, M."""
        return len(self.points)

    def _copy_attributes(self, new: Any) -> None:
        new.location, new.points = self.location, self.points

    def _nothing(self, shape: torch.Size) -> Tensor:
        return super()._nothing(shape) + self.location(self.points[:1]).sum() * 0

    def _working_bytes(self) -> int:
        return 8 * self.scale.numel() * 8

    def _is_differentiable(self) -> bool:
        return self.scale.requires_grad or self.location(self.points[:1]).requires_grad

    def _compute_log_probs(self) -> Tensor:
        sign = -1.0 if self.minimum else 1.0
        weights = torch.full((1, self.num_points), 1 / self.num_points, dtype=torch.float64, device=self._device)
        probs = mix_conditional_probs(
            lambda z: sign * self.location(z), self.scale, self.points, weights, EXACT, self.allowed
        )[0]
        possible = probs > 0
        return torch.where(possible, probs, 1.0).log().masked_fill(~possible, -torch.inf)

    def _log_prob_of_few(self, index: Tensor) -> Tensor:
        rows, num_actions = index.numel(), self.num_actions
        sign = -1.0 if self.minimum else 1.0
        scale, allowed, action = self.scale, self.allowed, index.flatten()
        some = max(1, _BLOCK // max(1, rows * num_actions))
        total = torch.full((rows,), -torch.inf, dtype=torch.float64, device=self._device)
        for points in self.points.split(some):
            loc, own = sign * self.location(points), scale.unsqueeze(-2)
            if allowed is not None:
                loc, own = without_the_rest(loc, own, allowed.unsqueeze(-2))
            loc = loc.expand((*index.shape, len(points), num_actions)).reshape(-1, num_actions)
            # The same scales everywhere need to be looked at once.
            once = all(own.stride(dim) == 0 or own.shape[dim] == 1 for dim in range(own.dim() - 1))
            own = own.expand((*index.shape, len(points), num_actions))
            own = own[(0,) * (own.dim() - 1)][None] if once else own.reshape(-1, num_actions)
            found = played_normal_log_probs(loc, own, action.repeat_interleave(len(points))).view(rows, -1)
            total = torch.logaddexp(total, found.logsumexp(-1))
        result = (total - math.log(self.num_points)).view(index.shape)
        check_found(type(self).__name__, result)
        if allowed is not None:
            result = result.masked_fill(~self._pick(allowed, index), -torch.inf)
        return result.to(self.scale.dtype)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        which = torch.randint(self.num_points, (*self.batch_shape, sample_shape.numel()), device=self._device)
        loc = self.location(self.points[which])
        scores = draw_normals(loc, self.scale.unsqueeze(-2), torch.Size())
        return tuple(part.movedim(-2, 0).reshape(sample_shape + self.scale.shape) for part in scores)
