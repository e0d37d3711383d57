"""Priors of a larger catalogue: what terms have to be told of new items, and what they keep of the others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import Distribution

from blob_pyro.models.priors.bandit_priors import BanditPriors
from blob_pyro.models.priors.positions import PositionEffects
from blob_pyro.models.priors.terms import LogitTerm

__all__ = ["ItemValues", "first_priors_of_more", "padded"]


class ItemValues:
    """The values that terms ask for of new items, by the name of the term, or of its field if it has none.

    Args:
        ids: of the new items.
        values: by name: a mapping from id to value, which may hold more ids, or a value for each new item in order.

    Raises:
        TypeError: for what is no such mapping.
    """

    def __init__(self, ids: Sequence[Hashable], values: Mapping[str, Any] | None) -> None:
        if values is not None and (not isinstance(values, Mapping) or not all(isinstance(n, str) for n in values)):
            raise TypeError(
                "item_values: expected a mapping from names to values of the new items, such as "
                f"{{'categories': {{id: number}}}}, got {values!r}"
            )
        self.ids, self.values = ids, dict(values or {})
        self._asked: set[str] = set()

    def of(self, name: str, what: str) -> list[Any]:
        """Return a value for each new item.

        Args:
            name: to look up.
            what: it is for, for an error message.

        Raises:
            ValueError: naming what is missing, and the first new item without a value.
        """
        self._asked.add(name)
        given, first = self.values.get(name), self.ids[0]
        example = f"item_values={{{name!r}: {{{first!r}: ...}}}}, by id, or a list in the order of the new items"
        if given is None:
            raise ValueError(f"item_values: {what} needs {name!r} of {len(self.ids):,} new items; pass {example}")
        if isinstance(given, (pd.Series, pd.DataFrame)):
            raise TypeError(
                f"item_values[{name!r}]: a {type(given).__name__} has an index, which may hold ids or row numbers; "
                "pass .to_dict() for the former, .tolist() of its values for the latter"
            )
        if isinstance(given, Mapping):
            if without := [id_ for id_ in self.ids if id_ not in given]:
                raise ValueError(
                    f"item_values[{name!r}]: has no value for {len(without):,} new items, {without[0]!r} for one"
                )
            return [given[id_] for id_ in self.ids]
        if isinstance(given, (str, bytes)) or not hasattr(given, "__len__") or len(given) != len(self.ids):
            size = len(given) if hasattr(given, "__len__") else "no sequence"
            raise ValueError(
                f"item_values[{name!r}]: expected {len(self.ids):,} values, one for each new item, got {size}; "
                f"pass {example}"
            )
        return list(np.asarray(given).tolist())

    def refuse_others(self) -> None:
        """Raise a ValueError for values that no term has asked for."""
        if odd := sorted(set(self.values) - self._asked):
            asked = f"asks for {sorted(self._asked)}" if self._asked else "asks for none"
            raise ValueError(f"item_values: no term of the model asks for {odd[0]!r}; it {asked}")


def first_priors_of_more(
    model: Any, num_items: int, values: ItemValues, positions: PositionEffects | None = None
) -> BanditPriors:
    """Return the priors before any event, of a model with more items.

    Args:
        model: the `BanditModel` of fewer.
        num_items: with the new ones.
        values: of the new ones, for terms that ask for some.
        positions: of its events, where some are new; default those that it has.

    Raises:
        ValueError: for a prior that is written out number by number, and says nothing of new items.
    """
    first: BanditPriors = model.priors if model.priors.initial is None else model.priors.initial
    if positions is not None:
        first = replace(first, positions=positions)
    if num_items == model.num_items:
        return first
    placed = {id(term.term): term for term in model.terms}
    terms: list[tuple[str | None, LogitTerm]] = []
    for name, term in first.named_terms:
        view = placed[id(term)].view(model) if id(term) in placed else model
        extended = getattr(term, "extended", None)
        if extended is not None:
            term = extended(view, partial(_value_of, values, name, type(term).__name__))
        terms.append((name, term))
    values.refuse_others()
    kappa = first.kappa
    if isinstance(kappa, Distribution):
        kappa = padded("kappa", kappa, None, num_items)
    if first.vector is not None:
        raise ValueError("vector: one Gaussian over all sites says nothing of new items; fit a new BLOB to all events")
    sites, known = dict(first.sites), model.site_priors()
    for name, prior in sites.items():
        if tuple(known[name].event_shape)[:1] == (model.num_items,):
            sites[name] = padded(f"sites[{name!r}]", prior, None, num_items)
    again: Any = dict(terms) if isinstance(first.terms, Mapping) else tuple(term for _, term in terms)
    result: BanditPriors = replace(first, terms=again, kappa=kappa, sites=sites)
    return result


def _value_of(values: ItemValues, name: str | None, term: str, field: str) -> list[Any]:
    return values.of(name or field, term)


def padded(what: str, prior: TorchDistribution, more: TorchDistribution | None, num_items: int) -> TorchDistribution:
    """Return independent normals with further rows.

    Args:
        what: they are, for an error message.
        prior: of the old rows.
        more: of all rows, whose first are not looked at; None to repeat the old ones, if they are all alike.
        num_items: rows afterwards.

    Raises:
        ValueError: for another family, or where there is nothing to say of the new rows.
    """
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    other = getattr(more, "base_dist", more)
    if isinstance(base, dist.Normal) and isinstance(other, dist.Normal):
        loc, scale = (
            torch.cat([a.detach(), b.detach().expand(more.event_shape)[len(a) :].to(a)])  # type: ignore[union-attr]
            for a, b in ((base.loc, other.loc), (base.scale, other.scale))
        )
        return dist.Normal(loc, scale, validate_args=False).to_event(prior.event_dim)
    alike = isinstance(base, dist.Normal) and all(bool((t == t.flatten()[0]).all()) for t in (base.loc, base.scale))
    if alike and more is None:
        shape = (num_items, *prior.event_shape[1:])
        return dist.Normal(base.loc.flatten()[0], base.scale.flatten()[0]).expand(shape).to_event(len(shape))
    raise ValueError(
        f"{what}: is {prior!r}, which says nothing of new items; give a function of the model in its place, as in "
        "BanditPriors(kappa=lambda model: ...), or fit a new BLOB"
    )
