"""Ordered slates: the best few of independent scores, and which of them lands in which slot."""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from blob_pyro.propensity._checks import (
    check_batch_shapes,
    check_concentration,
    check_finite,
    check_ordering,
    check_ranks,
    check_scale,
    check_total,
    check_vectors,
    total_tolerance,
)
from blob_pyro.propensity._index import ScoreDistribution, wants_validation
from blob_pyro.propensity._types import check_actions, check_shape
from blob_pyro.propensity.argmax_beta import draw_beta_logits
from blob_pyro.propensity.kernels.beta import Arms
from blob_pyro.propensity.kernels.cumulative import Distributions
from blob_pyro.propensity.kernels.draws import best_indices, draw_normals
from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL
from blob_pyro.propensity.kernels.rank_meshes import normal_distributions, resolved_beta_distributions
from blob_pyro.propensity.kernels.ranks import ordering_log_probs, rank_probs

__all__ = ["RankBeta", "RankNormal"]

_BLOCK = 2**21


class _RankDistribution(ScoreDistribution):
    """A distribution over ordered slates of the `num_ranks` best of A independent scores.

    Subclasses give the densities (`_distributions`) and draw scores.
    """

    num_ranks: int
    _source: "_RankDistribution | None" = None
    _cached_probs: Tensor | None = None

    def _finish(self, num_ranks: int, minimum: bool, validate_args: bool | None) -> None:
        shape = getattr(self, next(iter(self.event_dims))).shape
        check_ranks(type(self).__name__, num_ranks, shape[-1])
        self.num_ranks = num_ranks
        self._start(shape[:-1], torch.Size([num_ranks]), shape[-1], minimum, validate_args)

    def _copy_attributes(self, new: Any) -> None:
        new.num_ranks = self.num_ranks

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        """Densities and distribution functions for rows of parameters (rows x A each)."""
        raise NotImplementedError(f"{type(self).__name__} must define _distributions")

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        """Scores, sample_shape x batch_shape x A, by parts with the leading one first, whose order is the slate."""
        raise NotImplementedError(f"{type(self).__name__} must define _draw_scores")

    def _flat_parameters(self, batch_shape: torch.Size) -> tuple[Tensor, ...]:
        shape = (*batch_shape, self.num_actions)
        return tuple(getattr(self, name).expand(shape).reshape(-1, self.num_actions) for name in self.event_dims)

    def _rows_per_chunk(self) -> int:
        return max(1, _BLOCK // (self.num_actions * 640 * self.num_ranks))

    def _allow(self, num_nodes: int) -> None:
        """Refuse what does not fit: every action is looked at on all nodes of a row."""
        rows = min(self._rows_per_chunk(), max(1, self.batch_shape.numel()))
        result = 3 * self.batch_shape.numel() * self.num_actions * self.num_ranks * self._dtype.itemsize
        self._require_memory(8 * rows * num_nodes * self.num_actions * (6 + 4 * self.num_ranks) + result)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "_RankDistribution":
        """Repeat over a larger batch shape, without repeating the work."""
        new: _RankDistribution = self._expanded(batch_shape, _instance)
        new._source = self
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Slates of integers 0..A-1; a slate that repeats an action has probability 0."""
        return constraints.independent(constraints.integer_interval(0, self.num_actions - 1), 1)

    @property
    def probs(self) -> Tensor:
        """batch_shape x A x num_ranks: the probability of every action in every slot, the best one first.

        Raises:
            ValueError: scores so extreme that a slot's probabilities do not come out finite with a sum of one.
            MemoryError: more actions than fit, naming the bytes.
        """
        shape = torch.Size([*self.batch_shape, self.num_actions, self.num_ranks])
        if self._source is not None:
            return self._source.probs.expand(shape)
        cached = self._cached_probs
        if cached is None or (torch.is_grad_enabled() and not cached.requires_grad and self._is_differentiable()):
            if shape.numel() == 0:
                cached = self._nothing(shape)
            else:
                self._allow(NODES_PER_PANEL)  # at least
                cached = self._compute_probs().reshape(shape)
                self._check(cached.detach())
            self._cached_probs = cached
        return cached

    def _compute_probs(self) -> Tensor:
        size = self._rows_per_chunk()
        parts = []
        for rows in zip(*(parameter.split(size) for parameter in self._flat_parameters(self.batch_shape))):
            scores = self._distributions(tuple(parameter.double() for parameter in rows))
            parts.append(rank_probs(scores, self.num_ranks).to(self._dtype))
        return torch.cat(parts)

    def _check(self, probs: Tensor) -> None:
        """Every slot holds one action, and an action is in one slot at most."""
        owner, tolerance = type(self).__name__, total_tolerance(self._dtype)
        per_slot = probs.sum(-2, dtype=torch.float64)
        per_action = probs.sum(-1, dtype=torch.float64).amax(-1, keepdim=True).clamp_min(1.0)
        context = len(self.batch_shape)
        check_total(
            owner,
            torch.cat([per_slot, per_action], dim=-1),
            tolerance,
            lambda index: self._parameter_ranges(index[:context]),
        )

    def ordering_log_prob(self, ordering: Tensor) -> Tensor:
        r"""The log-probability that these actions are the best ones, in this order.

        .. math:: \log P(Y_{o_1} > Y_{o_2} > \dots > Y_{o_k} > Y_j \text{ for all } j \text{ not in } o)

        Args:
            ordering: ... x k distinct actions, 1 <= k <= A, the best first; its batch shape broadcasts with the
                distribution's. k need not be num_ranks.

        Returns:
            The broadcast batch shape; -inf for an ordering that repeats an action. The mesh covers e^-45 of every
            density: orderings far rarer than 1e-12 have few correct digits.

        Raises:
            ValueError: what is no tensor of action numbers, actions outside 0..A-1, more actions than there are; scores
                too extreme for the quadrature.
        """
        owner = type(self).__name__
        ordering = check_ordering(owner, ordering, self.num_actions)
        batch_shape = check_batch_shapes(owner, ordering=ordering.shape[:-1], distribution=self.batch_shape)
        if batch_shape.numel() == 0:
            return self._nothing(batch_shape)
        self._allow(NODES_PER_PANEL)
        flat = ordering.expand(batch_shape + ordering.shape[-1:]).reshape(-1, ordering.shape[-1])
        size = self._rows_per_chunk()
        parts = []
        for chosen, *rows in zip(flat.split(size), *(p.split(size) for p in self._flat_parameters(batch_shape))):
            parts.append(ordering_log_probs(self._distributions(tuple(p.double() for p in rows)), chosen))
        log_probs = torch.cat(parts)
        # Nothing more can be checked of a single ordering: NaN and more than one are no probabilities.
        total = log_probs.detach().exp().clamp_min(1.0)
        check_total(owner, total, total_tolerance(self._dtype), lambda index: "the actions of this slate")
        distinct = flat.sort(-1).values.diff(dim=-1).ne(0).all(-1)
        return torch.where(distinct, log_probs, -math.inf).reshape(batch_shape).to(self._dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of ordered slates ... x num_ranks: `ordering_log_prob`."""
        check_actions(type(self).__name__, "value", value)
        # torch cannot look at no values along a dimension.
        if self._validate_args and value.numel() > 0:
            self._validate_sample(value)
        return self.ordering_log_prob(value)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw all scores, as many at a time as fit, and return the indices of the best num_ranks, the best first."""
        sample_shape = check_shape(type(self).__name__, "sample_shape", sample_shape)
        with torch.no_grad():
            return self._sample(sample_shape)

    def _best(self, scores: tuple[Tensor, ...]) -> Tensor:
        return best_indices(scores, self.num_ranks, self.minimum)


class RankNormal(_RankDistribution):
    r"""The distribution of independent normal scores over the slots of a Thompson-sampled slate.

    Scores :math:`Y_j \sim N(\mathrm{loc}_j, \mathrm{scale}_j^2)` are drawn once and the `num_ranks` best actions are
    shown in order. A sample (and the argument of `log_prob`) is an ordered slate of num_ranks actions;
    `probs` holds the propensity of each action in each slot,

    .. math:: P(\text{rank of } i = r) = \int f_i(y)\, P(\#\{j \ne i : Y_j > y\} = r - 1)\, dy,

    where the number of others above y is Poisson-binomial. Absolute accuracy about 1e-12. Every density is looked at on
    all nodes of a mesh that resolves each of them; densities that lie together share their nodes. 1,000 actions with
    similar scales take about a second and half a GiB, and 7 KB x A^2 (7 GB for 1,000) if all lie apart from each other.

    Args:
        loc: batch_shape x A.
        scale: batch_shape x A, standard deviations, greater than 0.
        num_ranks: slots, 1 to A.
        minimum: rank from the smallest score upwards instead.
        validate_args: as for `ArgmaxNormal`.

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
            check_finite(owner, "loc", loc)
            check_scale(owner, "scale", scale, zero=False)
        self._finish(num_ranks, minimum, validate_args)

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        loc, scale = parameters
        return normal_distributions(-loc if self.minimum else loc, scale, self._allow)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        return draw_normals(self.loc, self.scale, sample_shape)


class RankBeta(_RankDistribution):
    r"""The distribution of independent Beta scores over the slots of a Thompson-sampled slate.

    The sampler of the Open Bandit Dataset: click probabilities are drawn once for every impression,
    :math:`Y_j \sim \mathrm{Beta}(\mathrm{concentration1}_j, \mathrm{concentration0}_j)`, and the `num_ranks` best
    items fill the slots in order. See `RankNormal` for the formula and for what samples, `log_prob` and
    `probs` are.

    Args:
        concentration1: batch_shape x A, positive.
        concentration0: batch_shape x A, positive.
        num_ranks: slots, 1 to A.
        minimum: rank from the smallest score upwards instead.
        validate_args: as for `ArgmaxNormal`.

    Raises:
        ValueError: concentrations outside 1e-45 to 1e12, shapes that do not fit, more slots than actions.

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
            check_concentration(owner, "concentration1", concentration1)
            check_concentration(owner, "concentration0", concentration0)
        self._finish(num_ranks, minimum, validate_args)

    def _distributions(self, parameters: tuple[Tensor, ...]) -> Distributions:
        return resolved_beta_distributions(Arms(*(reversed(parameters) if self.minimum else parameters)), self._allow)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        return (draw_beta_logits(self.concentration1, self.concentration0, sample_shape),)
