"""Ordered slates: the best few of independent scores, and which of them lands in which slot."""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from blob_pyro.propensity._checks import check_finite, check_positive, check_ranks, check_scale, check_vectors
from blob_pyro.propensity._index import wants_validation
from blob_pyro.propensity.argmax_beta import draw_beta_logits
from blob_pyro.propensity.kernels.adaptive import resolve
from blob_pyro.propensity.kernels.beta import Arms
from blob_pyro.propensity.kernels.cumulative import Distributions, panel_nodes, panel_weights
from blob_pyro.propensity.kernels.ranks import ordering_log_probs, rank_probs

__all__ = ["RankBeta", "RankNormal"]

_LOG_TRIM = 45.0
_BLOCK = 2**21


class _RankDistribution(TorchDistribution):
    """A distribution over ordered slates of the `num_ranks` best of A independent scores.

    Subclasses give the densities (:meth:`_distributions`) and draw scores.
    """

    event_dims: ClassVar[dict[str, int]]
    num_ranks: int
    num_actions: int
    minimum: bool
    _source: "_RankDistribution | None" = None
    _cached_probs: Tensor | None = None

    def _finish(self, num_ranks: int, minimum: bool, validate_args: bool | None) -> None:
        shape = getattr(self, next(iter(self.event_dims))).shape
        check_ranks(type(self).__name__, num_ranks, shape[-1])
        self.num_ranks, self.num_actions, self.minimum = num_ranks, shape[-1], minimum
        super().__init__(shape[:-1], torch.Size([num_ranks]), validate_args=validate_args)

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        """Densities and distribution functions for rows of parameters (rows x A each)."""
        raise NotImplementedError(f"{type(self).__name__} must define _distributions")

    def _draw_scores(self, sample_shape: torch.Size) -> Tensor:
        """Scores, sample_shape x batch_shape x A, whose order is the slate."""
        raise NotImplementedError(f"{type(self).__name__} must define _draw_scores")

    def _flat_parameters(self, batch_shape: torch.Size) -> tuple[Tensor, ...]:
        shape = (*batch_shape, self.num_actions)
        return tuple(
            getattr(self, name).expand(shape).reshape(-1, self.num_actions).double() for name in self.event_dims
        )

    def _rows_per_chunk(self) -> int:
        return max(1, _BLOCK // (self.num_actions * 640 * self.num_ranks))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "_RankDistribution":
        """Repeat over a larger batch shape, without repeating the work."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self.event_dims:
            setattr(new, name, getattr(self, name).expand((*batch_shape, self.num_actions)))
        new._source = self
        new._finish(self.num_ranks, self.minimum, False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Slates of integers 0..A-1; a slate that repeats an action has probability 0."""
        return constraints.independent(constraints.integer_interval(0, self.num_actions - 1), 1)

    @property
    def probs(self) -> Tensor:
        """batch_shape x A x num_ranks: the probability of every action in every slot, the best one first."""
        if self._source is not None:
            return self._source.probs.expand((*self.batch_shape, self.num_actions, self.num_ranks))
        parameters = self._flat_parameters(self.batch_shape)
        wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        if self._cached_probs is None or (wanted and not self._cached_probs.requires_grad):
            size = self._rows_per_chunk()
            parts = [
                rank_probs(self._distributions(tuple(p[start : start + size] for p in parameters)), self.num_ranks)
                for start in range(0, parameters[0].shape[0], size)
            ]
            shape = (*self.batch_shape, self.num_actions, self.num_ranks)
            self._cached_probs = torch.cat(parts).reshape(shape).to(getattr(self, next(iter(self.event_dims))).dtype)
        return self._cached_probs

    def ordering_log_prob(self, ordering: Tensor) -> Tensor:
        r"""The log-probability that these actions are the best ones, in this order.

        .. math:: \log P(Y_{o_1} > Y_{o_2} > \dots > Y_{o_k} > Y_j \text{ for all } j \text{ not in } o)

        Args:
            ordering: ... x k distinct actions, 1 <= k <= A, the best first; its batch shape broadcasts with the
                distribution's. k need not be num_ranks.

        Returns:
            The broadcast batch shape; -inf for an ordering that repeats an action. The mesh covers e^-45 of every
            density: orderings far rarer than 1e-12 have few correct digits.
        """
        ordering = ordering.long()
        batch_shape = torch.broadcast_shapes(ordering.shape[:-1], self.batch_shape)
        parameters = self._flat_parameters(batch_shape)
        flat = ordering.expand(batch_shape + ordering.shape[-1:]).reshape(-1, ordering.shape[-1])
        size = self._rows_per_chunk()
        parts = []
        for start in range(0, flat.shape[0], size):
            part = slice(start, start + size)
            parts.append(ordering_log_probs(self._distributions(tuple(p[part] for p in parameters)), flat[part]))
        distinct = flat.sort(-1).values.diff(dim=-1).ne(0).all(-1)
        result = torch.where(distinct, torch.cat(parts), -math.inf)
        return result.reshape(batch_shape).to(getattr(self, next(iter(self.event_dims))).dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of ordered slates ... x num_ranks: :meth:`ordering_log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        return self.ordering_log_prob(value)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw all scores and return the indices of the best num_ranks, the best first."""
        with torch.no_grad():
            scores = self._draw_scores(torch.Size(sample_shape))
            return scores.topk(self.num_ranks, dim=-1, largest=not self.minimum).indices


class RankNormal(_RankDistribution):
    r"""Which of independent normal scores lands in which slot of a Thompson-sampled slate.

    Scores :math:`Y_j \sim N(\mathrm{loc}_j, \mathrm{scale}_j^2)` are drawn once and the `num_ranks` best actions are
    shown in order. A sample (and the argument of :meth:`log_prob`) is an ordered slate of num_ranks actions;
    :attr:`probs` holds the propensity of each action in each slot,

    .. math:: P(\text{rank of } i = r) = \int f_i(y)\, P(\#\{j \ne i : Y_j > y\} = r - 1)\, dy,

    where the number of others above y is Poisson-binomial. Absolute accuracy about 1e-12.

    Args:
        loc: batch_shape x A.
        scale: batch_shape x A, standard deviations, greater than 0.
        num_ranks: slots, 1 to A.
        minimum: rank from the smallest score upwards instead.
        validate_args: as for :class:`ArgmaxNormal`.

    Raises:
        ValueError: locations that are not finite, scales that are not finite and positive, shapes that do not fit,
            more slots than actions.

    Source: eq. 5 of O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), extended to ranks.

    >>> d = RankNormal(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([3.0, 1.0, 0.1]), num_ranks=2)
    >>> d.probs
    tensor([[0.3463, 0.1140],
            [0.2178, 0.4366],
            [0.4358, 0.4494]])
    >>> d.ordering_log_prob(torch.tensor([2, 1])).exp()
    tensor(0.3450)
    """

    event_dims: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1}
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        num_ranks: int = 3,
        *,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        self.loc, self.scale = check_vectors(owner, loc=loc, scale=scale)
        if wants_validation(validate_args):
            check_finite(owner, "loc", self.loc)
            check_scale(owner, "scale", self.scale, zero=False)
        self._finish(num_ranks, minimum, validate_args)

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        loc, scale = parameters
        loc = -loc if self.minimum else loc
        # Distances from a location in the middle: large locations cancel.
        loc = loc - loc.detach().median(-1, keepdim=True).values

        def log_density(y: Tensor) -> Tensor:
            z = (y[..., None] - loc[:, None]) / scale[:, None]
            return -0.5 * z.square() - scale[:, None].log() - 0.5 * math.log(2 * math.pi)

        with torch.no_grad():
            reach = math.sqrt(2 * _LOG_TRIM) * scale
            edges = resolve(log_density, torch.cat([loc - reach, loc, loc + reach], dim=-1).sort(dim=-1).values)
        nodes, width = panel_nodes(edges)
        z = (nodes.flatten(1)[..., None] - loc[:, None]) / scale[:, None]
        return Distributions(
            panel_weights(width),
            log_density(nodes.flatten(1)),
            torch.special.log_ndtr(z),
            torch.special.log_ndtr(-z),
        )

    def _draw_scores(self, sample_shape: torch.Size) -> Tensor:
        loc, scale = self.loc.double(), self.scale.double()
        return loc + scale * loc.new_empty(sample_shape + loc.shape).normal_()


class RankBeta(_RankDistribution):
    r"""Which of independent Beta scores lands in which slot of a Thompson-sampled slate.

    The sampler of the Open Bandit Dataset: click probabilities are drawn once for every impression,
    :math:`Y_j \sim \mathrm{Beta}(\mathrm{concentration1}_j, \mathrm{concentration0}_j)`, and the `num_ranks` best
    items fill the slots in order. See :class:`RankNormal` for the formula and for what samples, :meth:`log_prob` and
    :attr:`probs` are.

    Args:
        concentration1: batch_shape x A, positive.
        concentration0: batch_shape x A, positive.
        num_ranks: slots, 1 to A.
        minimum: rank from the smallest score upwards instead.
        validate_args: as for :class:`ArgmaxNormal`.

    Raises:
        ValueError: concentrations that are not finite and positive, shapes that do not fit, more slots than actions.

    Source: eq. 5 of O. Jeunen, "Counterfactual Inference under Thompson Sampling" (2025), extended to ranks; Y. Saito
    et al., "Open Bandit Dataset and Pipeline" (2021).

    >>> d = RankBeta(torch.tensor([2.0, 10.0, 5.0]), torch.tensor([8.0, 30.0, 5.0]), num_ranks=2)
    >>> d.probs
    tensor([[0.0564, 0.2802],
            [0.0540, 0.6320],
            [0.8896, 0.0879]])
    >>> d.log_prob(torch.tensor([2, 0])).exp()
    tensor(0.2710)
    """

    event_dims: ClassVar[dict[str, int]] = {"concentration1": 1, "concentration0": 1}
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.independent(constraints.positive, 1),
        "concentration0": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        concentration1: Tensor,
        concentration0: Tensor,
        num_ranks: int = 3,
        *,
        minimum: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        owner = type(self).__name__
        self.concentration1, self.concentration0 = check_vectors(
            owner, concentration1=concentration1, concentration0=concentration0
        )
        if wants_validation(validate_args):
            check_positive(owner, "concentration1", self.concentration1)
            check_positive(owner, "concentration0", self.concentration0)
        self._finish(num_ranks, minimum, validate_args)

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        arms = Arms(*(reversed(parameters) if self.minimum else parameters))

        def log_density(x: Tensor) -> Tensor:
            return arms.relative_log_density(x[..., None]) + arms.log_peak[:, None]

        with torch.no_grad():
            ends = [arms.fall(_LOG_TRIM, -1), arms.mode, arms.fall(_LOG_TRIM, +1)]
            edges = resolve(log_density, torch.cat(ends, dim=-1).sort(dim=-1).values)
        nodes, width = panel_nodes(edges)
        values = log_density(nodes.flatten(1)).unflatten(1, nodes.shape[1:])
        nothing = torch.zeros_like(arms.a)
        return Distributions.cumulate(values, width, nothing, nothing)

    def _draw_scores(self, sample_shape: torch.Size) -> Tensor:
        return draw_beta_logits(self.concentration1, self.concentration0, sample_shape)
