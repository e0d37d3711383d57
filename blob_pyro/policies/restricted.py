"""Distributions over actions that must be among the candidates of their context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints

from blob_pyro.data import Candidates, Histories

__all__ = ["CandidateActions", "among", "categorical", "over_candidates", "restricted"]


def categorical(probs: Tensor) -> dist.Categorical:
    """Make a Categorical whose impossible actions have log-probability -inf, not the log of a rounding unit.

    Args:
        probs: ``N x P``; rows sum to one.
    """
    # Checked by whoever calls this; torch's check takes longer than the rest, and cannot reshape what has no rows.
    distribution = dist.Categorical(probs=probs, validate_args=False)
    if len(probs):
        del distribution._validate_args  # from here on as everywhere: what is asked of it is checked
    distribution.logits = distribution.probs.log()  # known, so that torch does not work it out in its own way
    return distribution


class CandidateActions(TorchDistribution):
    """A distribution over the candidates of each context; asking for the probability of another item is an error.

    All else is the distribution's own: ``sample``, ``probs``, ``mode``, ``entropy``, ``error_estimate`` if it has one.

    Args:
        actions: over the candidates alone, batch shape ``(N,)``.
        candidates: of the ``N`` contexts.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    log_prob_each: ClassVar[None] = None  # that of the actions would not mind what is no candidate

    def __init__(self, actions: TorchDistribution, candidates: Candidates) -> None:
        self.actions, self.candidates = actions, candidates
        super().__init__(actions.batch_shape, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "actions":
            raise AttributeError(name)
        return getattr(self.actions, name)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The numbers of the items; those of the candidates have a probability."""
        return constraints.integer_interval(0, self.candidates.num_items - 1)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> CandidateActions:
        """Return the same distribution, for the batch shape that it has."""
        if tuple(batch_shape) != tuple(self.batch_shape):
            raise ValueError(f"batch_shape: expected {tuple(self.batch_shape)}, got {tuple(batch_shape)}")
        return self

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw the items played, ``sample_shape x N`` int64."""
        sample: Tensor = self.actions.sample(Size(sample_shape))
        return sample

    @property
    def probs(self) -> Tensor:
        """The probability of every item, ``N x P``; 0 for what is no candidate."""
        probs: Tensor = self.actions.probs
        return probs

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each context, ``N`` int64."""
        mode: Tensor = self.actions.mode
        return mode

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``N``."""
        entropy: Tensor = self.actions.entropy()
        return entropy

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-propensity of the items ``value``, whose shape broadcasts with ``N``.

        Raises:
            ValueError: for an item that is not among the candidates, naming the context.
        """
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        outside = self.candidates.outside(value)
        if bool(outside.any()):
            at = tuple(outside.nonzero()[0].tolist())
            raise ValueError(
                f"value: item number {int(value[at])} is not among the candidates of context {at[-1]}, so it cannot "
                "have been played there; pass the candidates of that decision"
            )
        log_prob: Tensor = self.actions.log_prob(value)
        return log_prob


def among(actions: TorchDistribution, candidates: Candidates | None) -> TorchDistribution:
    """Wrap a distribution that has been computed for candidates, which minds that it is asked about them alone."""
    return actions if candidates is None else CandidateActions(actions, candidates)


def over_candidates(
    actions: Callable[[Histories, slice], Any], candidates: Candidates | None
) -> Callable[[Histories, slice], Any]:
    """Return the distributions of some contexts, each over its candidates alone: for `in_chunks`.

    Args:
        actions: from some histories, and which of them they are, to a distribution over all items.
        candidates: of all the contexts.
    """
    if candidates is None:
        return actions
    return lambda part, where: restricted(actions(part, where), candidates.mask(where, part.device), where.start)


def restricted(actions: Any, allowed: Tensor | None, first: int = 0) -> Any:
    """Return the distribution over the candidates alone.

    A distribution that can be restricted says what that means: the best of the candidates' scores, say. Any other is
    conditioned on its action being a candidate.

    Args:
        actions: over all items, batch shape ``(n,)``.
        allowed: the candidates, ``n x P`` booleans; None for all items.
        first: number of the first context, for errors.

    Raises:
        ValueError: for a context none of whose candidates has a probability.
    """
    if allowed is None:
        return actions
    if callable(own := getattr(actions, "restrict", None)) and getattr(actions, "_restrictable", True):
        return own(allowed)
    probs = torch.where(allowed, actions.probs, 0.0)
    total = probs.sum(-1, keepdim=True)
    never = ~(total > 0)
    if bool(never.any()):
        row = first + int(never.nonzero()[0, 0])
        raise ValueError(
            f"candidates[{row}]: the policy plays none of them (their probabilities are 0); give it one that it plays"
        )
    return categorical(probs / total)
