"""What may add to a click logit beyond the paper's story: the contract of an extension of the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyro.distributions import TorchDistribution
from torch import Tensor

if TYPE_CHECKING:
    from blob_pyro.models.bandit import BanditModel

__all__ = ["Events", "LogitTerm"]


@dataclass(frozen=True)
class Events:
    """What a term may look at, a row per event.

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
    entries of its sites for ArviZ: ``{site: {dimension: labels}}``.

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

    def build(self, model: BanditModel) -> None:
        """Check against the model, and put what is needed into it: `BanditModel.number`, ``register_buffer``."""

    def site_priors(self, model: BanditModel) -> dict[str, TorchDistribution]:
        """The prior of each of its sites, by name."""

    def logit(self, model: BanditModel, values: dict[str, Tensor], events: Events) -> Tensor:
        """What it adds to each event's logit, ``B``."""
