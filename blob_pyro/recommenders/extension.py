"""Organic and bandit models with more items: what is known of the others stays as it is, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories, ScannedLog, Vocabulary
from blob_pyro.distributions.insertion import Insertion, inserted
from blob_pyro.guides import AmortizedGuide, DrawsGuide, ItemGuide, make_guide
from blob_pyro.guides.registry import registered_name
from blob_pyro.guides.takeover import guide_taking_over, normal_moments
from blob_pyro.infer.new_items import Prediction, rows_from_design, rows_from_views
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors, OrganicModel, PositionEffects
from blob_pyro.models.priors.new_items import ItemValues, first_priors_of_more, padded
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.ops.modules import own_copy
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.recommenders.interest_model_parts import OrganicParts, sessions_of

if TYPE_CHECKING:
    from blob_pyro.recommenders.blo import BLO
    from blob_pyro.recommenders.click_model_parts import ClickParts

__all__ = ["extended_blo", "extended_parts", "ready_for"]

_CHECKED = 256  # items and contexts for which old answers are compared with new ones


def extended_blo(
    blo: BLO, items: Vocabulary, log: EventLog | None = None, design: tuple[Tensor, Tensor] | None = None
) -> BLO:
    """Copy an organic model, with rows for items that it did not know.

    Args:
        blo: fitted.
        items: its own, and then others.
        log: whose views say more of them, if there are any.
        design: what describes the known items, ``P x F``, and the new ones, ``M x F``.

    Raises:
        ValueError: for an encoder of the user's that does not say which of its parameters have rows for items.
    """
    parts, num_new = blo._parts, len(items) - len(blo.items)
    psi, rho = (t.detach().cpu().double() for t in (parts.model.item_embedding, parts.model.item_intercept))
    rows = torch.cat([psi, rho.unsqueeze(-1)], -1)
    none = (rows.new_zeros(len(rows), 0), rows.new_zeros(num_new, 0))
    found = rows_from_design(rows, *(none if design is None else design))
    if design is None:
        found = _by_organic_priors(parts.model, found)
    new = found.mean
    if log is not None and log.num_views:
        new = _from_views(blo, sessions_of(log.with_items(items)), found)
    embedding, intercept = (
        torch.cat([old.detach(), more.to(old)])
        for old, more in ((parts.model.item_embedding, new[:, :-1]), (parts.model.item_intercept, new[:, -1]))
    )
    result = copy(blo)
    result._parts = _organic_parts(parts, items, embedding, intercept, lambda table: _predicted(table, rows, new))
    if blo._given_encoder:
        tables = set(getattr(parts.guide.encoder, "item_tables", ()))
        result._given_encoder = {
            name: torch.cat([value, _predicted(value, rows, new).to(value)]) if name in tables else value
            for name, value in blo._given_encoder.items()
        }
    result.fits = [*deepcopy(blo.fits), {"call": "extend", "num_items": num_new}]
    return result


def extended_parts(
    parts: ClickParts,
    recipe: Any,
    items: Vocabulary,
    values: Mapping[str, Any] | None,
    log: EventLog | None,
    positions: PositionEffects | None = None,
) -> ClickParts:
    """Copy a click model, with what its prior says of items that it did not know.

    Args:
        parts: of the fitted one.
        recipe: of its guide.
        items: its own, and then others.
        values: see `ItemValues`.
        log: whose views say more of them, if there are any.
        positions: with those that are new; default as they are.

    Raises:
        ValueError: naming what is not known of the new items, or a part of the model that does not say how it is
            extended.
    """
    known, num_old = parts.known, len(parts.blo.items)
    if isinstance(recipe, nn.Module):
        raise ValueError(
            f"guide: this {type(recipe).__name__} was given as an instance, which belongs to {num_old:,} items; give "
            "its class, or a function of the model, and fit again"
        )
    first = first_priors_of_more(known.model, len(items), ItemValues(items.ids[num_old:], values), positions)
    described = [term.describe().double() for _, term in first.named_terms if hasattr(term, "describe")]
    design = None
    if described:
        design = (every := torch.cat(described, -1))[:num_old], every[num_old:]
    blo = parts.blo if len(items) == num_old else extended_blo(parts.blo, items, log, design).frozen()
    model = _extended_model(known.model, blo, first)
    at_present = model.initial_site_priors()
    guide = guide_taking_over(known.guide, lambda: _fresh_guide(recipe, known.guide, model), at_present)
    _require_the_same(known.model, model)
    return type(parts)(blo, GuidePosterior(model, guide.to(blo.device)))


def ready_for(
    parts: ClickParts,
    recipe: Any,
    log: EventLog | ScannedLog,
    new: Sequence[Hashable],
    values: Mapping[str, Any] | None,
) -> tuple[ClickParts, EventLog | ScannedLog]:
    """Return the parts that are to learn from a log, with its new items and positions, and the log over their items.

    Args:
        parts: of the fitted model.
        recipe: of its guide.
        log: over the model's items, or with new ones.
        new: the ids of those.
        values: see `ItemValues`.

    Raises:
        ValueError: if there are no events; as `extended_parts`.
    """
    if isinstance(log, ScannedLog):
        return parts, log
    if new:
        log.require_impressions()
    priors = parts.known.model.priors
    if (before := priors.positions) is not None:
        priors = replace(priors, positions=before.with_more(log.position))
    if not new and priors.all_terms == parts.known.model.priors.all_terms:
        return parts, log
    items = parts.blo.items.extended(new, "log.items") if new else parts.blo.items
    parts = extended_parts(parts, recipe, items, values, log, priors.positions)
    return parts, log.with_items(parts.blo.items)


def _organic_parts(
    parts: OrganicParts, items: Vocabulary, embedding: Tensor, intercept: Tensor, rows: Callable[[Tensor], Tensor]
) -> OrganicParts:
    old = parts.model
    model = OrganicModel(len(items), old.embedding_dim, old.priors, old.sparse).to(embedding)
    with torch.no_grad():
        model.item_embedding.copy_(embedding), model.item_intercept.copy_(intercept)
    encoder = own_copy(parts.guide.encoder, "encoder")
    tables = getattr(encoder, "item_tables", None)
    if tables is None:
        raise ValueError(
            f"encoder: {type(encoder).__name__} does not say which of its parameters have a row for each item; name "
            "them in an attribute, item_tables = ('weight',), or () if there are none"
        )
    for name in tables:
        owner, _, attribute = name.rpartition(".")
        table = encoder.get_parameter(name)
        longer = torch.cat([table.detach(), rows(table).to(table)])
        setattr(encoder.get_submodule(owner), attribute, nn.Parameter(longer, requires_grad=table.requires_grad))
    own = None
    if parts.guide.items is not None:
        own = ItemGuide(model).to(embedding.device)
        with torch.no_grad():
            for name in own._sites.values():
                prior = getattr(old.priors, name)
                setattr(own, f"{name}_scale", torch.full_like(getattr(model, name).detach(), float(prior.scale)))
                before = getattr(parts.guide.items, f"{name}_scale_unconstrained")
                getattr(own, f"{name}_scale_unconstrained")[: len(before)] = before
    return OrganicParts(model, AmortizedGuide(encoder, own), deepcopy(parts.bound), items)


def _by_organic_priors(model: OrganicModel, found: Prediction) -> Prediction:
    """The organic model's own priors of an embedding and an intercept, where it has some."""
    mean, variance = found.mean.clone(), found.variance.clone()
    for prior, columns in ((model.priors.item_embedding, slice(0, -1)), (model.priors.item_intercept, slice(-1, None))):
        if prior is not None:
            mean[:, columns], variance[columns] = float(prior.loc), float(prior.scale) ** 2
    return Prediction(mean, variance)


def _predicted(table: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Rows of another table of items, as they go with embeddings and intercepts."""
    flat = table.detach().cpu().flatten(1)
    return rows_from_design(flat, rows, new).mean.view(len(new), *table.shape[1:])


def _from_views(blo: BLO, sessions: Histories, prior: Prediction) -> Tensor:
    """Embeddings and intercepts of the new items that were viewed; of others, the prior's."""
    num_old, (item, row) = len(blo.items), sessions.flatten()
    is_old, count = item < num_old, len(sessions)
    num_known = torch.bincount(row[is_old], minlength=count)
    viewed, number = torch.unique(item[~is_old] - num_old, return_inverse=True)
    if not len(viewed):
        return prior.mean
    interest = blo.embed(Histories.from_ragged(item[is_old], num_known, num_old)).cpu()
    chunk = max(1, MAX_ELEMENTS // num_old)
    with torch.no_grad():
        log_others = torch.cat([blo._parts.logits(part.to(blo.device)).logsumexp(-1) for part in interest.split(chunk)])
    times = torch.sparse_coo_tensor(
        torch.stack([row[~is_old], number]), torch.ones(len(number)), (count, len(viewed)), check_invariants=False
    ).coalesce()
    mean = prior.mean.clone()
    mean[viewed] = rows_from_views(
        Prediction(mean[viewed], prior.variance), interest, log_others.cpu(), num_known, times
    )
    return mean


def _extended_model(old: BanditModel, blo: BLO, first: BanditPriors) -> BanditModel:
    """The bandit model over more items: zeta in the units of before, priors of before and, of new items, the first."""

    def make(priors: BanditPriors) -> BanditModel:
        return BanditModel(blo.model.item_embedding, priors, blo.model.item_intercept, old.jitter, old.basis)

    priors = first
    if old.priors.initial is not None:  # there have been updates: their posterior is the prior of what it is about
        then = make(replace(first, scales=old.priors.scales)).initial_site_priors()
        vector, sites = old.priors.vector, dict(old.priors.sites)
        for name, prior in sites.items():
            if tuple(prior.event_shape) != tuple(then[name].event_shape):
                sites[name] = padded(f"prior of {name!r}", prior, then[name], len(blo.items))
        if vector is not None:
            vector = _extended_vector(vector, then)
        priors = replace(first, sites=sites, vector=vector, scales=old.priors.scales, initial=first)
    model = make(priors)
    with torch.no_grad():
        before = dict(old.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])  # scales that are learned
    return model


def _extended_vector(vector: VectorPrior, priors: Mapping[str, Any]) -> VectorPrior:
    shapes = {name: torch.Size(shape) for name, shape in vector.shapes.items()}
    order = [*(name for name in priors if name not in shapes), *shapes]  # what items have of their own comes last
    after = {name: torch.Size(priors[name].event_shape) for name in order}
    moments = {name: normal_moments(priors[name]) for name in order}
    loc, scale = ({name: pair[i] for name, pair in moments.items()} for i in (0, 1))
    distribution = inserted(vector.distribution, Insertion(shapes, after, loc, scale))
    return VectorPrior(distribution, {name: tuple(shape) for name, shape in after.items()})


def _fresh_guide(recipe: Any, old: nn.Module, model: BanditModel) -> nn.Module:
    if isinstance(old, DrawsGuide):
        made: nn.Module = DrawsGuide(model, old.num_draws, old.num_chains)
        if (name := registered_name(recipe)) is not None:
            made.__dict__["registered_name"] = name
        return made
    return make_guide(recipe, model)


def _require_the_same(old: BanditModel, new: BanditModel) -> None:
    """Compare the click logits of some old items at one value of all sites.

    Raises:
        ValueError: for a term that says something else of them than it did.
    """
    generator = torch.Generator().manual_seed(0)
    psi = old.item_embedding
    action = torch.randint(old.num_items, (_CHECKED,), generator=generator).to(psi.device)
    row = torch.arange(_CHECKED, device=psi.device)
    interest = torch.randn(_CHECKED, old.embedding_dim, generator=generator).to(psi)
    answers = []
    values = {n: torch.randn(p.event_shape, generator=generator).to(psi) for n, p in new.initial_site_priors().items()}
    for model in (old, new):
        extra = None
        if model.num_covariates:
            extra = interest.new_zeros(_CHECKED, model.num_covariates)
        batch = BanditBatch(interest, row, action, None, _CHECKED, extra)
        own = {name: _first_rows(values[name], p.event_shape) for name, p in model.initial_site_priors().items()}
        with torch.no_grad():
            answers.append(model.logit(own, batch))
    if not torch.equal(*answers):
        raise ValueError(
            "terms: with more items the model says something else of those it knew; give your terms a method "
            "extended(model, values) that keeps what they say: see blob_pyro.models.LogitTerm"
        )


def _first_rows(value: Tensor, shape: torch.Size) -> Tensor:
    return value[tuple(slice(size) for size in shape)]
