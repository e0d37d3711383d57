"""What all distributions over the index of the best score have in common."""

import math
from copy import copy
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Distribution

from blob_pyro.ops.memory import require_memory
from blob_pyro.propensity._checks import check_total, total_tolerance
from blob_pyro.propensity._types import check_actions, check_flag, check_shape, checked_mask
from blob_pyro.propensity.kernels.draws import best_index

# Scores drawn at once, 128 MiB in float64, and bytes that nobody needs to ask for.
MAX_SCORES = 2**24
_UNASKED_BYTES = 2**28
# One probability takes about a fifth of the time of all of them, if these are many.
_FEW, _MANY_ACTIONS = 3, 16


def wants_validation(validate_args: bool | None) -> bool:
    """Whether arguments are checked: the caller's word, else torch's default, which Pyro switches."""
    # torch has no public reader for the default that Distribution.set_default_validate_args sets.
    return Distribution._validate_args if validate_args is None else validate_args


class Propensity(NamedTuple):
    """Probabilities of what was played, and how far they are known.

    Attributes:
        probability: some shape x batch_shape.
        error: the same shape, one standard error where the probability is an estimate, 0 where it is exact.
    """

    probability: Tensor
    error: Tensor


class ScoreDistribution(TorchDistribution):
    """A distribution of what is best among A random scores, with parameters over a batch of contexts.

    Subclasses set `event_dims`: the parameters, and how many of their last dimensions describe the actions.
    """

    event_dims: ClassVar[dict[str, int]]
    # Whether scores can be drawn for some of the contexts.
    _divisible: ClassVar[bool] = True
    minimum: bool
    num_actions: int
    # Which actions may be the best, batch_shape x A; None for all of them.
    allowed: Tensor | None = None

    def _start(
        self, batch_shape: torch.Size, event_shape: torch.Size, num_actions: int, minimum: bool, validate: bool | None
    ) -> None:
        owner = type(self).__name__
        check_flag(owner, "minimum", minimum)
        check_flag(owner, "validate_args", validate, optional=True)
        self.minimum, self.num_actions = minimum, num_actions
        # The parameters have been checked; torch would check them again, and cannot if there are none.
        super().__init__(batch_shape, event_shape, validate_args=False)
        self._validate_args = wants_validation(validate)

    def _copy_attributes(self, new: Any) -> None:
        """Give `new` whatever is neither a parameter nor a shape."""

    def _with_parameters(self, new: Any, batch_shape: torch.Size, change: Any) -> Any:
        for name, event_dim in self.event_dims.items():
            setattr(new, name, change(getattr(self, name), event_dim))
        if self.allowed is not None:
            new.allowed = change(self.allowed, 1)
        self._copy_attributes(new)
        new._start(batch_shape, self.event_shape, self.num_actions, self.minimum, self._validate_args)
        return new

    def _expanded(self, batch_shape: Any, instance: Any) -> Any:
        new = self._get_checked_instance(type(self), instance)
        batch_shape = check_shape(type(self).__name__, "batch_shape", batch_shape)

        def change(parameter: Tensor, event_dim: int) -> Tensor:
            return parameter.expand(batch_shape + parameter.shape[parameter.dim() - event_dim :])

        try:
            return self._with_parameters(new, batch_shape, change)
        except RuntimeError as error:
            raise ValueError(
                f"{type(self).__name__}: batch_shape {tuple(self.batch_shape)} cannot be expanded to "
                f"{tuple(batch_shape)}. Only dimensions of size 1 grow, and new ones come first."
            ) from error

    def _part(self, dim: int, start: int, size: int) -> Any:
        """The distribution for some indices of a batch dimension."""
        size = min(size, self.batch_shape[dim] - start)
        shape = torch.Size([*self.batch_shape[:dim], size, *self.batch_shape[dim + 1 :]])
        new = self._get_checked_instance(type(self), None)
        return self._with_parameters(new, shape, lambda parameter, event_dim: parameter.narrow(dim, start, size))

    @property
    def _device(self) -> torch.device:
        result: torch.device = getattr(self, next(iter(self.event_dims))).device
        return result

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(self, next(iter(self.event_dims))).dtype
        return dtype

    def _is_differentiable(self) -> bool:
        return any(getattr(self, name).requires_grad for name in self.event_dims)

    def _nothing(self, shape: torch.Size) -> Tensor:
        """An empty result for an empty batch, with gradients (of nothing) for the parameters."""
        result = torch.zeros(shape, dtype=self._dtype, device=self._device)
        for name in self.event_dims:
            result = result + getattr(self, name).sum() * 0
        return result

    def _working_bytes(self) -> int:
        """Bytes that computing the probabilities takes at once, beside the parameters."""
        return 4 * math.prod(self.batch_shape) * self.num_actions * self._dtype.itemsize

    def _require_memory(self, num_bytes: int) -> None:
        if num_bytes > _UNASKED_BYTES:
            what = f"{type(self).__name__} of {math.prod(self.batch_shape):,} contexts x {self.num_actions:,} actions"
            remedy = "take fewer contexts at a time, or leave out actions that cannot win."
            require_memory(num_bytes, what, remedy, self._device)

    def _draw_scores(self, sample_shape: torch.Size) -> tuple[Tensor, ...]:
        """Scores, sample_shape x batch_shape x A, by parts with the leading one first; the largest (smallest) wins."""
        raise NotImplementedError(f"{type(self).__name__} must define _draw_scores, or sample")

    def _best(self, scores: tuple[Tensor, ...]) -> Tensor:
        """The event that these scores make, sample_shape x batch_shape x event_shape."""
        raise NotImplementedError(f"{type(self).__name__} must define _best")

    def _sample(self, sample_shape: torch.Size) -> Tensor:
        draws, contexts = sample_shape.numel(), self.batch_shape.numel()
        whole = sample_shape + self.batch_shape + self.event_shape
        if draws == 0 or contexts == 0:
            return torch.zeros(whole, dtype=torch.long, device=self._device)
        at_once = MAX_SCORES // self.num_actions
        if draws * contexts <= max(at_once, 1):
            return self._best(self._draw_scores(sample_shape))
        if draws > 1:
            some = max(1, at_once // contexts)
            counts = [min(some, draws - start) for start in range(0, draws, some)]
            return torch.cat([self._sample(torch.Size([count])) for count in counts]).reshape(whole)
        if not self._divisible:
            self._require_memory(16 * contexts * self.num_actions)
            return self._best(self._draw_scores(sample_shape))
        dim = next(dim for dim, size in enumerate(self.batch_shape) if size > 1)
        size = self.batch_shape[dim]
        some = max(1, at_once * size // contexts)
        parts = [self._part(dim, start, some)._sample(torch.Size()) for start in range(0, size, some)]
        return torch.cat(parts, dim).reshape(whole)

    def _parameter_ranges(self, index: tuple[int, ...]) -> str:
        """The smallest and largest parameters of a context, for an error."""
        texts = []
        for name in self.event_dims:
            values = getattr(self, name).detach()[index].double()
            texts.append(f"{name} is between {values.amin():.3g} and {values.amax():.3g}")
        return ", ".join(texts)


class IndexDistribution(ScoreDistribution):
    """A distribution over 0..A-1, the index of the largest (or smallest) of A random scores.

    Subclasses define `_compute_log_probs` and `_draw_scores`. Probabilities are computed once, when first
    asked for, checked to be finite and to sum to one, and shared by everything that `expand` makes of the
    distribution.
    """

    has_enumerate_support = True
    # Whether `_compute_log_probs` heeds `allowed`.
    _restrictable: ClassVar[bool] = False
    # Whether `_log_prob_of_few` is there.
    _knows_few: ClassVar[bool] = False
    _source: "IndexDistribution | None" = None
    _cached_log_probs: Tensor | None = None

    def _finish(self, batch_shape: torch.Size, num_actions: int, minimum: bool, validate_args: bool | None) -> None:
        self._start(batch_shape, torch.Size(), num_actions, minimum, validate_args)

    def _compute_log_probs(self) -> Tensor:
        """The log-probability of every action, batch_shape x A; the batch is not empty."""
        raise NotImplementedError(f"{type(self).__name__} must define _compute_log_probs")

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "IndexDistribution":
        """Repeat over a larger batch shape, without repeating the work."""
        new: IndexDistribution = self._expanded(batch_shape, _instance)
        new._source = self
        return new

    def restrict(self, mask: Tensor) -> Self:
        """The distribution of the best among some of the actions only: the others have probability 0.

        Actions keep their numbers. The scores are those of before, so this is what would be played if the others were
        not there, and not the old probabilities divided by their sum.

        Args:
            mask: which actions may be played, booleans of shape A for all contexts alike, or batch_shape x A. What an
                earlier restriction ruled out stays ruled out.

        Raises:
            ValueError: a mask of another dtype or shape, a context without any action, or a distribution that does not
                know how to leave out actions.

        >>> from blob_pyro.propensity import ArgmaxNormal
        >>> d = ArgmaxNormal(torch.tensor([0.0, 0.5, 3.0]), torch.ones(3))
        >>> d.restrict(torch.tensor([True, True, False])).probs
        tensor([0.3618, 0.6382, 0.0000])
        """
        owner = type(self).__name__
        if not self._restrictable:
            raise ValueError(
                f"{owner}: cannot be restricted to some of its actions; build it from the parameters of those alone."
            )
        shape = torch.Size([*self.batch_shape, self.num_actions])
        allowed = checked_mask(owner, mask, self.allowed, shape, self._device)
        new = copy(self)
        new._source = new._cached_log_probs = None
        new.allowed = allowed
        return new

    def _tolerance(self) -> float | Tensor:
        """By how much the probabilities of a context may miss a sum of one."""
        return total_tolerance(self._dtype)

    @property
    def log_probs(self) -> Tensor:
        """batch_shape x A: the log-probability of every action. Differentiable; computed once.

        Raises:
            ValueError: scores so extreme that their probabilities do not come out finite with a sum of one.
            MemoryError: more contexts x actions than fit, naming the bytes.
        """
        shape = torch.Size([*self.batch_shape, self.num_actions])
        if self._source is not None:
            return self._source.log_probs.expand(shape)
        # What was cached under no_grad cannot be differentiated later.
        cached = self._cached_log_probs
        if cached is None or (torch.is_grad_enabled() and not cached.requires_grad and self._is_differentiable()):
            if shape.numel() == 0:
                cached = self._nothing(shape)
            else:
                self._require_memory(self._working_bytes())
                cached = self._compute_log_probs()
                if self.allowed is not None:
                    cached = cached.masked_fill(~self.allowed, -math.inf)
                total = cached.detach().exp().sum(-1, dtype=torch.float64)
                check_total(type(self).__name__, total, self._tolerance(), self._parameter_ranges)
            self._cached_log_probs = cached
        return cached

    @property
    def logits(self) -> Tensor:
        """The same as `log_probs`: normalised logits."""
        return self.log_probs

    @property
    def probs(self) -> Tensor:
        """batch_shape x A: the probability of every action."""
        return self.log_probs.exp()

    @property
    def mode(self) -> Tensor:
        """The most probable action."""
        return self.log_probs.argmax(-1)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0..A-1."""
        return constraints.integer_interval(0, self.num_actions - 1)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw all scores, as many at a time as fit, and return the index of the best; ties are broken at random."""
        sample_shape = check_shape(type(self).__name__, "sample_shape", sample_shape)
        with torch.no_grad():
            return self._sample(sample_shape)

    def _best(self, scores: tuple[Tensor, ...]) -> Tensor:
        if self.allowed is not None:
            worst = math.inf if self.minimum else -math.inf
            scores = (scores[0].masked_fill(~self.allowed, worst), *scores[1:])
        return best_index(scores, self.minimum)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of the actions `value`, whose shape broadcasts with the batch shape."""
        index = self._played(value)
        if self._is_quick_to_ask(index.shape):
            return self._log_prob_of_few(index)
        return self._pick(self.log_probs, index)

    def propensity(self, value: Tensor) -> Propensity:
        """The probability of the actions `value`, whose shape broadcasts with the batch shape, and its error."""
        probability = self.log_prob(value).exp()
        return Propensity(probability, torch.zeros_like(probability))

    def _played(self, value: Tensor) -> Tensor:
        """Actions as int64, some shape x batch_shape."""
        index = check_actions(type(self).__name__, "value", value)
        if self._validate_args:
            self._validate_sample(value)
        return index.expand(torch.broadcast_shapes(index.shape, self.batch_shape))

    @staticmethod
    def _pick(table: Tensor, index: Tensor) -> Tensor:
        """The entries of a table, batch_shape x A, for some shape x batch_shape actions."""
        return table.expand((*index.shape, -1)).gather(-1, index.unsqueeze(-1)).squeeze(-1)

    def _is_quick_to_ask(self, shape: torch.Size) -> bool:
        """Whether so few actions are asked about that the probabilities of all of them would be wasted work."""
        if not self._knows_few or self._source is not None or self._cached_log_probs is not None:
            return False
        if self.num_actions < _MANY_ACTIONS or not 0 < shape.numel() <= _FEW * self.batch_shape.numel():
            return False
        return not (torch.is_grad_enabled() and self._is_differentiable())

    def _log_prob_of_few(self, index: Tensor) -> Tensor:
        """The log-probability of few actions, some shape x batch_shape, without gradients."""
        raise NotImplementedError(f"{type(self).__name__} must define _log_prob_of_few")

    def entropy(self) -> Tensor:
        """batch_shape: the entropy in nats."""
        log_probs = self.log_probs
        return -(log_probs.exp() * log_probs.clamp_min(-math.log(torch.finfo(log_probs.dtype).max))).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All actions along a new first dimension, expanded over the batch shape unless told otherwise."""
        check_flag(type(self).__name__, "expand", expand)
        values = torch.arange(self.num_actions, device=self._device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


class EstimatedIndexDistribution(IndexDistribution):
    """An `IndexDistribution` whose probabilities carry a numerical error, which it estimates.

    Subclasses define `_estimate` in place of `_compute_log_probs`.
    """

    _cached_error: Tensor | None = None

    def _estimate(self) -> tuple[Tensor, Tensor]:
        """Probabilities and their absolute error, both batch_shape x A."""
        raise NotImplementedError(f"{type(self).__name__} must define _estimate")

    def _compute_log_probs(self) -> Tensor:
        probs, error = self._estimate()
        self._cached_error = error.detach()
        # An action that no point of the sample shows keeps a finite logarithm, with gradient 0.
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def _tolerance(self) -> float | Tensor:
        assert self._cached_error is not None
        # Every probability is an estimate, and so is its error: this finds sums that are no accident.
        return max(1e-3, total_tolerance(self._dtype)) + 10 * self._cached_error.double().sum(-1)

    @property
    def error_estimate(self) -> Tensor:
        """batch_shape x A: the numerical error of `probs`, one standard error where it is random."""
        if isinstance(self._source, EstimatedIndexDistribution):
            return self._source.error_estimate.expand((*self.batch_shape, self.num_actions))
        if self._cached_error is None:
            log_probs = self.log_probs
            if self._cached_error is None:
                self._cached_error = torch.zeros_like(log_probs)
        return self._cached_error

    def propensity(self, value: Tensor) -> Propensity:
        """The probability of the actions `value`, whose shape broadcasts with the batch shape, and its error."""
        index = self._played(value)
        return Propensity(self._pick(self.log_probs, index).exp(), self._pick(self.error_estimate, index))
