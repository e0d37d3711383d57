"""The contract of a bound, and the registry of those that have a name.

The contract, for your own: subclass `Bound`, implement `Bound.expected_log_prob`, and pass an instance to
``BLO(bound=...)`` or to `GuidedELBO`. `register_bound` gives it a name, by which it is asked for, saved and loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer.elbo import Posterior
from blob_pyro.models.sites import INTEREST
from blob_pyro.ops.row_noise import per_row
from blob_pyro.ops.saved_classes import is_same, register

__all__ = ["BOUNDS", "Bound", "draw_items", "draws_of", "register_bound", "require_positive"]

B = TypeVar("B", bound=type)


class Bound(ABC):
    """A lower bound on ``E_q log p(views | omega)`` per session, or an unbiased estimate of it or of the bound.

    Called with the guide's distributions it is a handler for `GuidedELBO`.
    """

    @abstractmethod
    def expected_log_prob(self, views: SoftmaxViews, q: TorchDistribution, value: Tensor) -> Tensor:
        """Return the bound, in nats.

        Args:
            views: the likelihood, whose ``interest`` is a draw from ``q``: Psi, rho and the item rows needed.
            q: posterior of omega, batch ``B``, event ``K``.
            value: views, ``B x width``, -1 where there is none.

        Returns:
            ``B``.
        """

    @property
    def is_same_every_step(self) -> bool:
        """True where a call does the same tensor operations every time: steps may then be recorded and replayed.

        False for one of your own that does not say so: see `blob_pyro.infer.training.capture`.
        """
        return False

    @property
    def module(self) -> nn.Module | None:
        """The module that is to be trained along with the model, if there is any."""
        return None

    def __call__(self, posterior: Posterior) -> Messenger:
        """The handler that puts the bound in the place of the likelihood."""
        return _InPlaceOfLikelihood(self, posterior)


BOUNDS: dict[str, Callable[[], Bound]] = {}
"""Classes of bounds by name; each makes one without arguments."""


def register_bound(name: str) -> Callable[[B], B]:
    """Give a class of bounds a name, ``BLO(bound=name)``, and let models with one be saved: makes a decorator.

    A saved model holds the class's name and the bound's fields, no code: register it again before the model is loaded
    in another process.

    Args:
        name: not taken by another class. The class can be made without arguments; its fields are those of a dataclass.

    Raises:
        TypeError: for what is no class of bounds.
        ValueError: for a name that another class has, or a class whose fields are not known.

    Example:
        Jensen's inequality: the expected normaliser is at most the logarithm of its expected sum, which is known for
        independent normals.

        >>> from dataclasses import dataclass
        >>> @register_bound("jensen")
        ... @dataclass(frozen=True)
        ... class Jensen(Bound):
        ...     def expected_log_prob(self, views, q, value):
        ...         psi, rho = views.item_embedding, views.item_intercept
        ...         normalizer = (q.mean @ psi.mT + rho + q.variance @ psi.square().mT / 2).logsumexp(-1)
        ...         return views.linear(value, q.mean) - (value >= 0).sum(-1) * normalizer
        >>> BOUNDS.pop("jensen")()
        Jensen()
    """

    def add(cls: B) -> B:
        if not isinstance(cls, type) or not issubclass(cls, Bound):
            raise TypeError(f"register_bound: expected a class of bounds, a subclass of Bound, got {cls!r}")
        known = BOUNDS.get(name)
        if known is not None and not is_same(known, cls):
            raise ValueError(f"name: a bound {name!r} is known already, {known!r}; choose another name")
        register(cls)
        BOUNDS[name] = cls
        return cls

    return add


class _InPlaceOfLikelihood(Messenger):
    def __init__(self, bound: Bound, posterior: Posterior) -> None:
        super().__init__()
        self.bound = bound
        self.posterior = posterior

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and isinstance(msg["fn"], SoftmaxViews):
            msg["fn"] = _BoundedViews(msg["fn"], self.posterior[INTEREST], self.bound)


class _BoundedViews(SoftmaxViews):
    """The likelihood's place holder in the trace: what is scored is the bound."""

    def __init__(self, views: SoftmaxViews, q: TorchDistribution, bound: Bound) -> None:
        super().__init__(
            views.interest,
            views.item_embedding,
            views.item_intercept,
            views.lengths,
            width=views.event_shape[0],
            num_views=views.num_views,
            sparse=views.sparse,
            validate_args=False,
        )
        self.q = q
        self.bound = bound

    def log_prob(self, value: Tensor) -> Tensor:
        """The bound on the expectation of the log-probability, ``B``."""
        return self.bound.expected_log_prob(self, self.q, value)


def draws_of(views: SoftmaxViews, q: TorchDistribution, num_samples: int) -> Tensor:
    """Draw from the posterior, ``B x num_samples x K``; a single draw has been drawn already."""
    if num_samples == 1:
        return views.interest.unsqueeze(-2)
    with per_row(1):
        result: Tensor = q.rsample((num_samples,)).movedim(0, -2)
    return result


def draw_items(views: SoftmaxViews, num_items: int) -> Tensor:
    """Draw items uniformly, with replacement, ``num_items``."""
    return torch.randint(views.num_items, (num_items,), device=views.item_embedding.device)


def require_positive(**numbers: int | None) -> None:
    """Raise a ValueError naming the first number that is below 1."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}: must be at least 1, got {number}")
