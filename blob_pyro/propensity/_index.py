"""What all distributions over the index of the best score have in common."""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Distribution


def wants_validation(validate_args: bool | None) -> bool:
    """Whether arguments are checked: the caller's word, else torch's default, which Pyro switches."""
    # torch has no public reader for the default that Distribution.set_default_validate_args sets.
    return Distribution._validate_args if validate_args is None else validate_args


class IndexDistribution(TorchDistribution):
    """A distribution over 0..A-1, the index of the largest (or smallest) of A random scores.

    Subclasses set :attr:`event_dims`, the parameters and how many of their last dimensions describe the actions,
    and define :meth:`_compute_log_probs` and :meth:`_draw_scores`. Probabilities are computed once, when first
    asked for, and shared by everything that :meth:`expand` makes of the distribution.
    """

    has_enumerate_support = True
    event_dims: ClassVar[dict[str, int]]
    minimum: bool
    num_actions: int
    _source: "IndexDistribution | None" = None
    _cached_log_probs: Tensor | None = None

    def _finish(self, batch_shape: torch.Size, num_actions: int, minimum: bool, validate_args: bool | None) -> None:
        self.minimum = minimum
        self.num_actions = num_actions
        super().__init__(batch_shape, torch.Size(), validate_args=validate_args)

    def _compute_log_probs(self) -> Tensor:
        """The log-probability of every action, batch_shape x A."""
        raise NotImplementedError(f"{type(self).__name__} must define _compute_log_probs")

    def _draw_scores(self, sample_shape: torch.Size) -> Tensor:
        """Scores, sample_shape x batch_shape x A, of which the largest (smallest) wins."""
        raise NotImplementedError(f"{type(self).__name__} must define _draw_scores, or sample")

    def _is_differentiable(self) -> bool:
        return any(getattr(self, name).requires_grad for name in self.event_dims)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "IndexDistribution":
        """Repeat over a larger batch shape, without repeating the work."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        for name, event_dim in self.event_dims.items():
            parameter = getattr(self, name)
            setattr(new, name, parameter.expand(batch_shape + parameter.shape[parameter.dim() - event_dim :]))
        new._source = self
        new._finish(batch_shape, self.num_actions, self.minimum, False)
        new._validate_args = self._validate_args
        return new

    @property
    def _device(self) -> torch.device:
        return getattr(self, next(iter(self.event_dims))).device

    @property
    def log_probs(self) -> Tensor:
        """batch_shape x A: the log-probability of every action. Differentiable; computed once."""
        if self._source is not None:
            return self._source.log_probs.expand((*self.batch_shape, self.num_actions))
        # What was cached under no_grad cannot be differentiated later.
        cached = self._cached_log_probs
        if cached is None or (torch.is_grad_enabled() and not cached.requires_grad and self._is_differentiable()):
            cached = self._cached_log_probs = self._compute_log_probs()
        return cached

    @property
    def logits(self) -> Tensor:
        """The same as :attr:`log_probs`: normalised logits."""
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
        """Draw all scores and return the index of the best; ties are broken at random."""
        with torch.no_grad():
            scores = self._draw_scores(torch.Size(sample_shape))
            if self.minimum:
                scores = -scores
            best = scores == scores.amax(-1, keepdim=True)
            if bool((best.sum(-1) > 1).any()):
                return torch.where(best, torch.rand_like(scores), -1.0).argmax(-1)
            return best.to(torch.uint8).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of the actions `value`, whose shape broadcasts with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        index, log_probs = torch.broadcast_tensors(value.long().unsqueeze(-1), self.log_probs)
        return log_probs.gather(-1, index[..., :1]).squeeze(-1)

    def entropy(self) -> Tensor:
        """batch_shape: the entropy in nats."""
        log_probs = self.log_probs
        return -(log_probs.exp() * log_probs.clamp_min(-math.log(torch.finfo(log_probs.dtype).max))).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All actions along a new first dimension, expanded over the batch shape unless told otherwise."""
        values = torch.arange(self.num_actions, device=self._device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


class EstimatedIndexDistribution(IndexDistribution):
    """An :class:`IndexDistribution` whose probabilities carry a numerical error, which it estimates.

    Subclasses define :meth:`_estimate` in place of :meth:`_compute_log_probs`.
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

    @property
    def error_estimate(self) -> Tensor:
        """batch_shape x A: the numerical error of :attr:`probs`, one standard error where it is random."""
        if isinstance(self._source, EstimatedIndexDistribution):
            return self._source.error_estimate.expand((*self.batch_shape, self.num_actions))
        if self._cached_error is None:
            _ = self.log_probs
        assert self._cached_error is not None
        return self._cached_error
