"""The contract of a term, an extension of the prior that adds to a click logit beyond the paper's story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.models.priors.view import ModelView
from blob_pyro.ops.saved_classes import register

__all__ = ["Events", "LogitTerm", "register_term"]

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Events:
    """The events that a term may look at, a row each.

    Attributes:
        action: item number, ``B``.
        interest: omega, ``B x K``.
        covariates: those that the term asks for, ``B x F``, or None where the batch has none.
    """

    action: Tensor
    interest: Tensor
    covariates: Tensor | None


@runtime_checkable
class LogitTerm(Protocol):
    """Adds to the logit, from parameters of its own. Yours is a class with these three methods.

    All parameters are real numbers (put the logarithm of a positive one in a site), their priors do not depend on
    other sites' values (scale the standard ones instead), and the logit uses them through `blob_pyro.models.operations`
    and is affine in ``events.interest`` and ``events.covariates``: so any guide fits them, every KL is what it says,
    and local reparameterisation applies. A term may also have a method ``fold``, as `KappaOnPopularity` does, which
    gives the posterior that the paper's model would need to answer for both; click logits then have a closed form.

    A term that asks for covariates has an attribute ``num_covariates``, its ``F``; one that is the same for all items
    has ``moves_all_items_alike = True``, and policies do not ask for its covariates. ``coordinates()`` may name the
    entries of its sites for ArviZ: ``{site: {dimension: labels}}``. ``item_sites`` may name sites whose first dimension
    is the items, which get the items' own ids.

    When new items come, ``extended(model, values)`` may return the term of more: ``values("field")`` asks for a value
    for each new item, and what it says of others has to stay as it is. ``describe()`` may return ``P x F`` numbers that
    describe items, from which a new one's embedding is predicted.

    Example:
        >>> import pyro.distributions as dist
        >>> from blob_pyro.models.operations import broadcast
        >>> class FreshItems:
        ...     '''A click rate of their own for the last ten items of the catalogue.'''
        ...     def build(self, model):
        ...         pass
        ...     def site_priors(self, model):
        ...         return {"fresh": dist.Normal(model.item_embedding.new_zeros(()), 0.5)}
        ...     def logit(self, model, values, events):
        ...         is_fresh = (events.action >= model.num_items - 10).to(events.interest.dtype)
        ...         return broadcast("fresh", values["fresh"], is_fresh) * is_fresh
        >>> isinstance(FreshItems(), LogitTerm)
        True
    """

    def build(self, model: ModelView) -> None:
        """Check against the model, and put what is needed into it: see `ModelView`."""

    def site_priors(self, model: ModelView) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by name."""

    def logit(self, model: ModelView, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``."""


@overload
def register_term(
    cls: T, *, name: str | None = ..., fields: Sequence[str] | None = ..., added: Sequence[str] = ...
) -> T: ...


@overload
def register_term(
    *, name: str | None = ..., fields: Sequence[str] | None = ..., added: Sequence[str] = ...
) -> Callable[[T], T]: ...


def register_term(
    cls: Any = None, *, name: str | None = None, fields: Sequence[str] | None = None, added: Sequence[str] = ()
) -> Any:
    """Let models with a term of a class be saved and loaded by themselves: a decorator for a `LogitTerm` of yours.

    A saved model holds the class's name and the term's fields, no code: register it again, under the same name, before
    the model is loaded in another process. A term that is not registered works, too, and is passed to
    `blob_pyro.BLOB.load` again.

    Args:
        cls: of the terms. Without one, this makes a decorator.
        name: under which it is saved; default the class's.
        fields: attributes that are keyword arguments of the class, too. Default: a dataclass's own fields; none for a
            class without a constructor of its own.
        added: fields with defaults that the class has gained: models which were saved before lack them.

    Returns:
        The class, or a decorator.

    Raises:
        TypeError: for what is no class, or has no ``build``, ``site_priors`` and ``logit``.
        ValueError: if another class has the name, or the fields are not known.

    Example:
        >>> from dataclasses import dataclass
        >>> import blob_pyro
        >>> @blob_pyro.register_term
        ... @dataclass(frozen=True)
        ... class Weekends:
        ...     scale: float = 1.0
        ...     def build(self, model): ...
        ...     def site_priors(self, model): ...
        ...     def logit(self, model, values, events): ...
    """
    if cls is None:
        return lambda cls: register_term(cls, name=name, fields=fields, added=added)
    missing = [method for method in ("build", "site_priors", "logit") if not callable(getattr(cls, method, None))]
    if not isinstance(cls, type) or missing:
        lack = f", which has no {', '.join(missing)}" if isinstance(cls, type) else ""
        raise TypeError(f"cls: expected a class of terms, with build, site_priors and logit, got {cls!r}{lack}")
    return register(cls, name=name, fields=fields, added=added)
