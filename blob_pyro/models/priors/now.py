"""A bandit model's priors at the present values of its learned scales, before and after updates.

After an update the prior is the last posterior ``q``, which was learned at scales ``s_0``. What the events said, as far
as it is Gaussian, is ``q / p(. | s_0)``; so at other scales the prior is ``q p(. | s) / p(. | s_0)``, normalised, and
the normalising constant is what these events say of ``s``. Learning the scales again is learning them from all events.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions.powers import log_normalizer, sharpened
from blob_pyro.models.priors.bandit_priors import BanditPriors
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.ops.tensors import like

__all__ = ["PriorDistributions", "note_scales", "prior_distributions"]


class _Model(Protocol):
    """What is asked of a `BanditModel`."""

    priors: BanditPriors
    item_embedding: Tensor
    learned: dict[str, str]

    def initial_site_priors(self) -> dict[str, TorchDistribution]: ...

    def register_buffer(self, name: str, tensor: Tensor, persistent: bool) -> Any: ...


class PriorDistributions(NamedTuple):
    """The prior of each site; of all together, where they are correlated; what earlier events say of the scales."""

    sites: dict[str, TorchDistribution]
    vector: VectorPrior | None
    evidence: Tensor


class _Change(NamedTuple):
    """Of an independent normal prior since an update: of its precisions, where its means are, of ``log p`` there."""

    precision: Tensor
    loc: Tensor
    constant: Tensor


def prior_distributions(model: _Model) -> PriorDistributions:
    """Return the priors of a model, as distributions.

    Raises:
        ValueError: for a `BanditPriors.vector` of other sites than the model's.
    """
    priors, initial = model.priors, model.initial_site_priors()
    changes, evidence, sites = _changes(model, initial), model.item_embedding.new_zeros(()), {}
    for name, prior in {**initial, **priors.sites}.items():
        distribution = like(prior, model.item_embedding)
        if name in changes and name in priors.sites:
            distribution, gain = _changed(distribution, *changes[name])
            evidence = evidence + gain
        sites[name] = distribution
    vector = priors.vector
    if vector is None:
        return PriorDistributions(sites, None, evidence)
    if set(vector.shapes) != set(sites):
        raise ValueError(
            f"vector: it must hold all sites or none; the model has the sites {list(sites)}, got "
            f"{list(vector.shapes)}. A number in place of a prior, as in BanditPriors(w_b=-6.0), takes a site out"
        )
    distribution = like(vector.distribution, model.item_embedding)
    if changes:
        none = {name: torch.zeros(Size(shape)).to(model.item_embedding) for name, shape in vector.shapes.items()}
        every = [changes.get(name, _Change(zeros, zeros, zeros.sum())) for name, zeros in none.items()]
        precision, loc = (torch.cat([change[i].flatten() for change in every]) for i in (0, 1))
        distribution, evidence = _changed(
            distribution, precision, loc, torch.stack([change.constant for change in every]).sum()
        )
    vector = replace(vector, distribution=distribution)
    marginals = vector.marginals()
    return PriorDistributions({name: marginals[name] for name in sites}, vector, evidence)


def note_scales(model: _Model) -> None:
    """Keep the precisions that initial priors had at the scales of the last update.

    Raises:
        ValueError: for a scale that the model does not learn.
    """
    if not model.priors.scales:
        return
    if unknown := sorted(set(model.priors.scales) - set(model.learned)):
        raise ValueError(f"scales: {unknown} are not learned here; learned are {sorted(model.learned)}")
    initial = model.initial_site_priors()
    for name in model.priors.scales:
        precision = initial[model.learned[name]].variance.reciprocal().detach()
        model.register_buffer(f"{name}_precision", precision, persistent=False)


def _changes(model: _Model, initial: dict[str, TorchDistribution]) -> dict[str, _Change]:
    """By site, of those whose scale is learned again."""
    changes = {}
    for name in model.priors.scales:
        site = model.learned[name]
        before, precision = getattr(model, f"{name}_precision"), initial[site].variance.reciprocal()
        constant = 0.5 * (precision / before).log().sum()
        changes[site] = _Change(precision - before, initial[site].mean, constant)
    return changes


def _changed(
    distribution: TorchDistribution, precision: Tensor, loc: Tensor, constant: Tensor
) -> tuple[TorchDistribution, Tensor]:
    """A posterior whose initial prior is exchanged, and the logarithm of the ratio of the two evidences."""
    new = sharpened(distribution, precision, loc)
    if new is None:
        raise ValueError(
            f"scales: {distribution!r} is not known to be Gaussian, so no scale can be learned again; leave it out"
        )
    return new, log_normalizer(distribution, new, precision, loc) + constant
