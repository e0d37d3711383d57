"""Scores that are independent normals once a few shared normals are known."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import check_batch_shapes, check_sampling, check_scale, check_tolerance
from blob_pyro.propensity._index import EstimatedIndexDistribution, Propensity, wants_validation
from blob_pyro.propensity._types import check_float_tensor, check_no_tangent, check_number, kind
from blob_pyro.propensity.kernels.normal import QUICK, Accuracy, argmax_normal_log_probs, without_the_rest
from blob_pyro.propensity.kernels.played_normal import played_normal_log_probs
from blob_pyro.propensity.kernels.qmc import mean_and_error, normal_replicates

__all__ = ["ArgmaxConditionallyNormal", "PropensityToleranceWarning", "mix_conditional_probs"]

_BLOCK = 2**21


class PropensityToleranceWarning(UserWarning):
    """An estimated propensity is known less well than was asked for."""


def mix_conditional_probs(
    location: Callable[[Tensor], Tensor],
    scale: Tensor,
    draws: Tensor,
    weights: Tensor,
    accuracy: Accuracy = QUICK,
    allowed: Tensor | None = None,
) -> Tensor:
    """Average the propensities given each of the shared draws, by weights.

    Args:
        location: maps draws (n x D) to conditional locations, batch_shape x n x A. It is called with a few draws at a
            time, so that nothing of size batch x draws x A has to exist at once.
        scale: batch_shape x A, the standard deviations of the scores given the draws.
        draws: M x D.
        weights: G x M, one row for each average that is wanted.
        accuracy: of the conditional propensities.
        allowed: batch_shape x A, which actions may win; None for all.

    Returns:
        G x batch_shape x A.
    """
    chunk = max(1, _BLOCK // max(1, scale.numel()))
    total: Tensor | None = None
    for start in range(0, draws.shape[0], chunk):
        part = slice(start, start + chunk)
        loc, own = location(draws[part]), scale.unsqueeze(-2)
        if allowed is not None:
            loc, own = without_the_rest(loc, own, allowed.unsqueeze(-2))
        probs = argmax_normal_log_probs(loc, own, accuracy).exp()
        average = torch.einsum("gm,...ma->g...a", weights[:, part].to(probs.dtype), probs)
        total = average if total is None else total + average
    assert total is not None
    return total


class ArgmaxConditionallyNormal(EstimatedIndexDistribution):
    r"""Propensities of scores that are independent normals given shared standard normals z.

    .. math:: \pi_i = E_{z \sim N(0, I_D)} P(Y_i > Y_j \text{ for all } j \ne i \mid z),
        \qquad Y_j \mid z \sim N(\mathrm{location}_j(z), \mathrm{scale}_j^2).

    The inner probability is exact up to 1e-8 (`ArgmaxNormal`'s grid), the outer expectation is randomised
    quasi-Monte Carlo: Rao-Blackwellisation leaves only what the shared normals do. The location may be any function
    of z: a linear one gives jointly normal scores (`ArgmaxLowRankNormal`), a nonlinear one for example a
    posterior in which a few shared coefficients multiply the conditional means.

    Args:
        location: maps draws n x D to batch_shape x n x A. It must be deterministic and is called several times, with
            different n.
        scale: batch_shape x A, conditional standard deviations; 0 is allowed.
        num_shared: D.
        num_points: points of each replicate, a power of two.
        num_replicates: independent randomisations, at least 2; their spread gives `error_estimate`.
        seed: of the randomisation. The same seed gives the same probabilities.
        minimum: take the index of the smallest score instead.
        validate_args: as for `ArgmaxNormal`.
        tolerance: relative standard error that `log_prob` and `propensity` bring the probabilities to that
            they are asked for: points are doubled, for the contexts that need it, until it is met. (`probs` has
            the points that it has.) The inner probabilities are then exact to 1e-12, so that rare actions can be asked
            for. None for no such thing.
        max_points: the budget: no more than so many points in all replicates together, and so many integrals over the
            scores of one context, are spent on an action's probability. Where that is not enough, the best estimate is
            returned and `PropensityToleranceWarning` says how far it is known.

    Actions are drawn from the computed probabilities, so that what is sampled and what is logged agree.

    Raises:
        ValueError: a scale that is not finite or negative, a location of the wrong shape or that is not finite,
            fewer than two replicates, a tolerance that is not positive, a budget below the points of one round.

    Warns:
        PropensityToleranceWarning: where the budget does not bring a probability to the tolerance.

    Source: O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), eq. 5 given z.

    >>> loc, loading = torch.tensor([0.0, 0.5]), torch.tensor([[2.0, -1.0]])
    >>> d = ArgmaxConditionallyNormal(lambda z: loc + z @ loading, torch.tensor([1.0, 0.5]), num_shared=1)
    >>> d.probs
    tensor([0.4380, 0.5620])
    >>> bool((d.error_estimate < 1e-3).all())
    True
    """

    event_dims: ClassVar[dict[str, int]] = {"scale": 1}
    _restrictable: ClassVar[bool] = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "scale": constraints.independent(constraints.nonnegative, 1)
    }

    def __init__(
        self,
        location: Callable[[Tensor], Tensor],
        scale: Tensor,
        num_shared: int,
        *,
        num_points: int = 64,
        num_replicates: int = 16,
        seed: int = 0,
        minimum: bool = False,
        validate_args: bool | None = None,
        tolerance: float | None = None,
        max_points: int = 2**14,
    ) -> None:
        owner = type(self).__name__
        check_float_tensor(owner, "scale", scale)
        check_no_tangent(owner, "scale", scale)
        if scale.dim() == 0 or scale.shape[-1] == 0:
            raise ValueError(
                f"{owner}: scale has shape {tuple(scale.shape)}, so there is no action to choose from. "
                "Give it a last dimension with at least one action."
            )
        check_number(owner, "num_shared", num_shared, 0, "It is the number of normals that location takes.")
        check_sampling(owner, None, (), num_points, num_replicates, seed)
        check_tolerance(owner, tolerance)
        if tolerance is not None:
            least = num_points * num_replicates
            check_number(owner, "max_points", max_points, least, "One round of points in all replicates takes as many.")
        if not callable(location):
            raise ValueError(f"{owner}: location must be a function of draws, got {kind(location)}.")
        validates = wants_validation(validate_args)
        if validates:
            check_scale(owner, "scale", scale)
        of_location = self._location_shape(location, num_shared, scale, validates)
        batch_shape = check_batch_shapes(owner, location=of_location, scale=scale.shape[:-1])
        self.scale = scale.expand(batch_shape + scale.shape[-1:])
        self.location = location
        self.num_shared, self.num_points, self.num_replicates, self.seed = num_shared, num_points, num_replicates, seed
        self.tolerance, self.max_points = tolerance, max_points
        self._finish(batch_shape, scale.shape[-1], minimum, validate_args)

    def _location_shape(
        self, location: Callable[[Tensor], Tensor], num_shared: int, scale: Tensor, validates: bool
    ) -> torch.Size:
        """The batch shape of what ``location`` returns, which is checked at zero."""
        owner = type(self).__name__
        probe = location(torch.zeros(1, num_shared, dtype=scale.dtype, device=scale.device))
        check_float_tensor(owner, "location's result", probe)
        check_no_tangent(owner, "location's result", probe)
        if probe.dim() < 2 or probe.shape[-2] != 1 or probe.shape[-1] != scale.shape[-1]:
            raise ValueError(
                f"{owner}: location maps draws of shape (1, {num_shared}) to {tuple(probe.shape)}, but it must give "
                f"batch_shape x 1 x {scale.shape[-1]}. Keep the draws' dimension before the actions'."
            )
        if validates and not bool(probe.isfinite().all()):
            raise ValueError(f"{owner}: location is not finite at z = 0. Repair the posterior that it comes from.")
        return probe.shape[:-2]

    def _copy_attributes(self, new: Any) -> None:
        for name in ("location", "num_shared", "num_points", "num_replicates", "seed", "tolerance", "max_points"):
            setattr(new, name, getattr(self, name))

    def _nothing(self, shape: torch.Size) -> Tensor:
        probe = self.location(self.scale.new_zeros(1, self.num_shared))
        return super()._nothing(shape) + probe.sum() * 0

    def _working_bytes(self) -> int:
        return (self.num_replicates + 8) * self.scale.numel() * 8

    def _is_differentiable(self) -> bool:
        return self.scale.requires_grad or self.location(self.scale.new_zeros(1, self.num_shared)).requires_grad

    def _estimate(self) -> tuple[Tensor, Tensor]:
        sign = -1.0 if self.minimum else 1.0
        draws = normal_replicates(
            self.num_replicates, self.num_points, self.num_shared, self.seed, self.scale.device
        ).to(self.scale.dtype)
        weights = torch.eye(self.num_replicates, dtype=torch.float64, device=draws.device).repeat_interleave(
            self.num_points, dim=-1
        )
        replicates = mix_conditional_probs(
            lambda z: sign * self.location(z),
            self.scale,
            draws.flatten(0, 1),
            weights / self.num_points,
            QUICK,
            self.allowed,
        )
        return mean_and_error(replicates)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the actions `value`, whose shape broadcasts with the batch shape."""
        if self.tolerance is None:
            return super().log_prob(value)
        return self.propensity(value).probability.log()

    def propensity(self, value: Tensor) -> Propensity:
        """Return the probability of the actions `value`, whose shape broadcasts with the batch shape, and its error."""
        if self.tolerance is None:
            return super().propensity(value)
        if torch.is_grad_enabled() and self._is_differentiable():
            found = super().propensity(value)
        else:
            index = self._played(value)
            with torch.no_grad():
                found = self._refine(index)
        self._warn_of_misses(found)
        return found

    def _locations_in(self, contexts: Tensor) -> Callable[[Tensor], Tensor]:
        """From points n x D to locations, contexts x n x A, in some contexts (numbers in the flattened batch)."""
        whole = self.batch_shape
        return lambda z: self.location(z).expand((*whole, len(z), self.num_actions)).flatten(0, -3)[contexts]

    def _alike(self, contexts: Tensor) -> Tensor:
        """For each of the contexts (numbers in the flattened batch), one that is the same, as far as that is known."""
        return contexts

    def _refine(self, index: Tensor) -> Propensity:
        """Probabilities of actions, some shape x batch_shape, with as many points as each of them needs."""
        assert self.tolerance is not None
        asked, batch = index.flatten(), self.batch_shape.numel()
        where = self._alike(torch.arange(batch, device=index.device)).repeat(max(1, len(asked) // max(1, batch)))
        # An action may be asked about many times in one context, or in contexts that are alike: it is integrated once.
        pair, place = torch.unique(where * self.num_actions + asked, return_inverse=True)
        context, action = pair // self.num_actions, pair % self.num_actions
        mean, error = (torch.zeros(len(action), dtype=torch.float64, device=index.device) for _ in range(2))
        sums = mean.new_zeros(self.num_replicates, len(action))
        todo, before, points = torch.arange(len(action), device=index.device), 0, self.num_points
        while len(todo):
            draws = normal_replicates(self.num_replicates, points, self.num_shared, self.seed, index.device)
            sums[:, todo] += self._sums(context[todo], action[todo], draws[:, before:].to(self.scale.dtype))
            mean[todo], error[todo] = mean_and_error(sums[:, todo] / points)
            todo = todo[error[todo] > self.tolerance * mean[todo]]
            before, points = points, 2 * points
            if points * self.num_replicates > self.max_points:
                break
        mean, error = mean[place], error[place]
        if self.allowed is not None:
            mean = mean.masked_fill(~self._pick(self.allowed, index).flatten(), 0.0)
        return Propensity(*(t.view(index.shape).to(self.scale.dtype) for t in (mean, error)))

    def _sums(self, context: Tensor, action: Tensor, draws: Tensor) -> Tensor:
        """Sums over draws (replicates x n x D) of the conditional probabilities: replicates x actions."""
        sign, num_actions = -1.0 if self.minimum else 1.0, self.num_actions
        total = torch.zeros(draws.shape[0], len(action), dtype=torch.float64, device=action.device)
        scale = self.scale.reshape(-1, num_actions)
        allowed = None if self.allowed is None else self.allowed.reshape(-1, num_actions)
        for some in torch.arange(len(action), device=action.device).split(max(1, _BLOCK // (num_actions * 64))):
            location, own = self._locations_in(context[some]), scale[context[some]][:, None]
            for replicate, z in enumerate(draws):
                for part in z.split(max(1, _BLOCK // (num_actions * len(some)))):
                    loc, width = sign * location(part), own
                    if allowed is not None:
                        loc, width = without_the_rest(loc, width, allowed[context[some]][:, None])
                    log_probs = played_normal_log_probs(
                        loc.reshape(-1, num_actions),
                        width.expand_as(loc).reshape(-1, num_actions),
                        action[some].repeat_interleave(len(part)),
                    )
                    total[replicate, some] += log_probs.exp().view(len(some), -1).sum(-1)
        return total

    def _warn_of_misses(self, found: Propensity) -> None:
        assert self.tolerance is not None
        relative = (found.error / found.probability.detach()).nan_to_num(0.0)
        missed = relative > self.tolerance
        if bool(missed.any()):
            warnings.warn(
                f"{type(self).__name__}: {int(missed.sum())} of {missed.numel()} probabilities have relative standard "
                f"errors of up to {float(relative.max()):.2g} after {self.max_points} points, above the tolerance of "
                f"{self.tolerance:g}. Raise max_points, or play a policy whose propensities are exact (a mixture over "
                "fixed draws, or the conditional propensities)",
                PropensityToleranceWarning,
                stacklevel=4,
            )

    def _sample(self, sample_shape: torch.Size) -> Tensor:
        """Actions from the computed probabilities."""
        if sample_shape.numel() * self.scale.numel() == 0:
            return torch.zeros(sample_shape + self.batch_shape, dtype=torch.long, device=self._device)
        result: Tensor = torch.distributions.Categorical(logits=self.log_probs, validate_args=False).sample(
            sample_shape
        )
        return result
