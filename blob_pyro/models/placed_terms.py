"""A term in its place in a model: what it calls its sites and buffers, and what they are called there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.models.operations import renamed_sites
from blob_pyro.models.priors.learned import Scale
from blob_pyro.models.priors.terms import Events, LogitTerm
from blob_pyro.models.priors.view import ModelView
from blob_pyro.ops.renamed import renamed_attribute

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PlacedTerm"]

Coordinates = dict[str, dict[str, Sequence[Hashable]]]


class PlacedTerm:
    """A `LogitTerm` with the name that `BanditPriors.terms` gives it.

    A term that has a name speaks of its sites, its buffers and its attributes as it does without, and they are in the
    model under ``<name>_<what it calls them>``: terms of one class do not meet.

    Args:
        term: see `LogitTerm`.
        name: of the term, or None.
    """

    def __init__(self, term: LogitTerm, name: str | None) -> None:
        self.term, self.name = term, name
        self._sites: dict[str, str] = {}
        self._attributes: dict[str, str] = {}

    def __repr__(self) -> str:
        return type(self.term).__name__ if self.name is None else f"{self.name!r} ({type(self.term).__name__})"

    @property
    def num_covariates(self) -> int:
        """The number of covariates that it asks for, ``F``."""
        return getattr(self.term, "num_covariates", 0)

    @property
    def moves_all_items_alike(self) -> bool:
        """True where it leaves the order of items as it is."""
        return getattr(self.term, "moves_all_items_alike", False)

    @property
    def items_own(self) -> str | None:
        """The site of which each row, ``P x K``, is added to one item's beta; None where there is none."""
        site = getattr(self.term, "items_own", None)
        return None if site is None else self._full(site)

    @property
    def attributes(self) -> set[str]:
        """The attributes that it has put into the model, as that calls them."""
        return set(self._attributes.values())

    def build(self, model: nn.Module) -> None:
        """Check against the model, which is the bandit model itself, and add the term's buffers."""
        self.term.build(self.view(model))

    def site_priors(self, model: nn.Module) -> dict[str, TorchDistribution]:
        """Return the priors of its sites, by the model's names."""
        priors = self.term.site_priors(self.view(model))
        self._sites = {site: self._full(site) for site in priors}
        return {self._sites[site]: prior for site, prior in priors.items()}

    def logit(self, model: nn.Module, values: dict[str, Tensor], events: Events) -> Tensor:
        """Compute what the term adds to each event's logit, ``B``; ``values`` are by the model's names."""
        view = self.view(model)
        if self.name is None:
            return self.term.logit(view, values, events)
        own = {site: values[full] for site, full in self._sites.items()}
        with renamed_sites(self._sites):
            return self.term.logit(view, {**values, **own}, events)

    def fold(self, model: nn.Module, posterior: dict[str, TorchDistribution]) -> dict[str, TorchDistribution] | None:
        """Fold the term into the posterior of the paper's sites; None if the term or the posterior allows none."""
        fold = getattr(self.term, "fold", None)
        if fold is None:
            return None
        own = {full: site for site, full in self._sites.items()}
        for name in posterior:
            own.setdefault(name, f"{name} of the model" if name in self._sites else name)
        folded = fold(self.view(model), {own[name]: distribution for name, distribution in posterior.items()})
        back = {site: name for name, site in own.items()}
        return None if folded is None else {back[site]: distribution for site, distribution in folded.items()}

    def coordinates(self) -> Coordinates:
        """Name the dimensions of its sites, and their labels, by the model's names."""
        found: Coordinates = getattr(self.term, "coordinates", dict)()
        return {
            self._full(site): {self._full(dimension): labels for dimension, labels in dimensions.items()}
            for site, dimensions in found.items()
        }

    @property
    def item_sites(self) -> tuple[str, ...]:
        """Its sites with an entry for each item, by the model's names."""
        return tuple(self._full(site) for site in getattr(self.term, "item_sites", ()))

    def _full(self, name: str) -> str:
        return name if self.name is None else f"{self.name}_{name}"

    def view(self, model: nn.Module) -> ModelView:
        """Return what the term is given of the model."""
        return cast(ModelView, _View(model, self))

    def _take(self, model: Any, name: str) -> str:
        """The model's name for what the term is about to put into it.

        Raises:
            ValueError: if something else of the model has the name.
        """
        full = self._full(name)
        if full not in self.attributes and hasattr(model, full):
            others = [repr(other) for other in model.terms if full in other.attributes]
            whose = f"term {others[0]}" if others else "the model itself"
            raise ValueError(
                f"terms: {self!r} puts {full!r} into the model, and {whose} has that already; give the term (another) "
                "name, as in BanditPriors(terms={'brand': ..., 'category': ...})"
            )
        self._attributes[name] = full
        return full


class _View:
    """The `ModelView` of a term."""

    _model: Any
    _place: PlacedTerm

    def __init__(self, model: nn.Module, place: PlacedTerm) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_place", place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, self._place._attributes.get(name, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, self._place._take(self._model, name), value)

    def register_buffer(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        self._model.register_buffer(self._place._take(self._model, name), tensor, persistent)

    def register_scale(self, name: str, value: Scale, site: str) -> None:
        self._model.register_scale(self._place._take(self._model, name), value, self._place._full(site))

    number = renamed_attribute("number", "register_scale")
