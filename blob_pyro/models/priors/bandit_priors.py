"""The bandit model's priors, as one replaceable object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import Any, TypeAlias

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch.distributions import Distribution

from blob_pyro.models.priors.covariates import EventCovariates
from blob_pyro.models.priors.items import ItemDeviations
from blob_pyro.models.priors.learned import Learned, Scale
from blob_pyro.models.priors.positions import POSITION, PositionEffects
from blob_pyro.models.priors.terms import LogitTerm
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.models.priors.view import ModelView
from blob_pyro.ops.arguments import positive_number, true_or_false

__all__ = ["BanditPriors", "Learned", "Prior", "Scale"]


Prior: TypeAlias = float | TorchDistribution | Callable[[ModelView], TorchDistribution]
"""A number holds the parameter fixed; a callable is given the model and returns the distribution."""


@dataclass(frozen=True)
class BanditPriors:
    """Priors of Sakhi et al. (2020, section 3.2), and what one may put in their place.

    Every parameter's prior is a distribution, a number that holds the parameter fixed, or a callable that is given
    the model and returns a distribution: it may look at ``model.item_embedding``, ``model.item_intercept`` and
    ``model.kappa_scale``.

    Args:
        w_a: strength of the action-history distance, before the softplus.
        w_b: strength of the learned deviation, before the softplus.
        w_c: base click logit.
        kappa_scale: standard deviation, in logits, of an item's own click rate around the base: a positive number,
            `Learned`, or a distribution over positive numbers. The paper fixes it at 0.01, which all but switches
            kappa off; learning it from the log is the one change to the paper's priors that pays most. Where it is
            learned, "laplace" and guides of independent normals end with the root of its posterior mean square in place
            of its mode: what is known of an item that was never shown, see `blob_pyro.infer.kappa_scale`. The scale's
            prior is half-normal there, or exponential with the rate of ``Learned(start, rate)``.
        kappa: of the items' own click logits, event ``P``. Default: independent ``N(0, kappa_scale^2)``. See
            `StudentTKappa`; ``kappa=0.0`` leaves them out.
        zeta: of the whitened deviation, event ``K x K``. Default ``MN(0, I, I)``; ``zeta=0.0`` leaves it out.
        normalize_embeddings: divide each column of Psi by its norm and multiply omega by it. Affinities
            ``Psi_a omega`` stay what they are, and so does what ``w_a`` means. ``L`` becomes that of a matrix with a
            diagonal of ``1/P``, so the deviation no longer grows with the units of the organic dimensions, and its
            size falls with the catalogue: with it, a larger ``w_b`` is the same prior. The published code normalises
            Psi in place and leaves omega: its affinities change too.
        terms: what else adds to the logit, each with parameters of its own: `KappaOnPopularity`, `ItemDeviations`,
            `ItemCategories`, `ItemFeatures`, `HorseshoeKappa`, `UserCovariates`, or yours: see `LogitTerm`. A tuple,
            or a mapping from names to terms, ``{"brand": ItemCategories(...), "type": ItemCategories(...)}``: what a
            term with a name adds to the model has the name in front, ``brand_category_kappa``, so that there may be
            several of one class.
        positions: of the effects of positions, where the log has more than one: an item that was shown further down is
            not blamed for it. None leaves them out, as do `EventCovariates` that ask for ``"position"`` themselves.
        sites: priors by site name, in place of all that the other fields say: what `blob_pyro.BLOB.update` fills.
        vector: one Gaussian over all sites together, in place of all that the other fields say of them: what
            `blob_pyro.BLOB.update` fills where the posterior correlates sites. Guides "low_rank", "full" and "laplace"
            take it, and "arrowhead_normal" takes its own.
        scales: values of learned scales at which `sites` or `vector` hold, by the name of the model's attribute: what
            `blob_pyro.BLOB.update` fills. Training goes on learning these scales, from old and new events together:
            see `BanditModel.earlier_evidence`.
        initial: the priors before any event, where the others are what an update has left.

    Raises:
        ValueError: naming the field, for a prior over something else than the field is.

    Example:
        >>> BanditPriors.paper().kappa_scale
        0.01
        >>> BanditPriors(w_c=dist.Normal(-3.0, 1.0)).w_c
        Normal(loc: -3.0, scale: 1.0)
        >>> by_popularity = BanditPriors(kappa=lambda m: dist.Normal(0.1 * m.item_intercept, 0.2).to_event(1))
    """

    w_a: Prior = field(default_factory=lambda: dist.Normal(-1.0, 1.0))
    w_b: Prior = field(default_factory=lambda: dist.Normal(-6.0, 1.0))
    w_c: Prior = field(default_factory=lambda: dist.Normal(-4.5, 10.0))
    kappa_scale: Scale | TorchDistribution = field(default_factory=lambda: Learned(0.1))
    kappa: Prior | None = None
    zeta: Prior | None = None
    normalize_embeddings: bool = False
    terms: Sequence[LogitTerm] | Mapping[str, LogitTerm] = ()
    positions: PositionEffects | None = field(default_factory=PositionEffects)
    sites: Mapping[str, TorchDistribution] = field(default_factory=dict)
    vector: VectorPrior | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    initial: BanditPriors | None = None

    @property
    def replaced(self) -> set[str]:
        """The sites whose prior is in `sites` or `vector`, whatever the other fields say."""
        return {*self.sites, *(() if self.vector is None else self.vector.shapes)}

    @property
    def all_terms(self) -> list[tuple[str | None, LogitTerm]]:
        """The terms, each with its name or None; that of positions first, where there is more than one."""
        positions = self.positions
        some = positions is not None and positions.num_covariates and not self._asks_for_positions
        return [*([(None, positions)] if some and positions is not None else []), *self.named_terms]

    @property
    def _asks_for_positions(self) -> bool:
        """Whether a term of the user's has the positions of events in it already."""
        return any(isinstance(term, EventCovariates) and POSITION in term.covariates for _, term in self.named_terms)

    @property
    def named_terms(self) -> list[tuple[str | None, LogitTerm]]:
        """The terms, each with its name or None."""
        if isinstance(self.terms, Mapping):
            return list(self.terms.items())
        return [(None, term) for term in self.terms]

    def __post_init__(self) -> None:
        if not isinstance(self.terms, (Sequence, Mapping)) or isinstance(self.terms, str):
            raise ValueError(
                f"terms: expected a tuple of terms, or a mapping from names to terms, got {self.terms!r}; one term is "
                "terms=(term,)"
            )
        for name, _ in self.named_terms:
            if name is not None and (not isinstance(name, str) or not name.isidentifier()):
                raise ValueError(f"terms: a name is letters, digits and underscores, got {name!r}")
        true_or_false(self.normalize_embeddings, "normalize_embeddings")
        if self.positions is not None and not isinstance(self.positions, PositionEffects):
            raise TypeError(
                f"positions: expected PositionEffects(scale), or None to leave them out, got {self.positions!r}"
            )
        for name in ("w_a", "w_b", "w_c"):
            _check_prior(name, getattr(self, name), event_dim=0)
        for name, event_dim in (("kappa", 1), ("zeta", 2)):
            if getattr(self, name) is not None:
                _check_prior(name, getattr(self, name), event_dim)
        if self.vector is not None and self.sites:
            raise ValueError("vector: holds all sites together, so `sites` must be empty; give one of the two")
        for name, value in self.scales.items():
            positive_number(value, f"scales[{name!r}]")
        scale: Any = self.kappa_scale
        is_number = isinstance(scale, Real) and not isinstance(scale, bool)
        if not isinstance(scale, (Learned, Distribution)) and not (is_number and 0 < scale < inf):
            raise ValueError(
                f"kappa_scale: must be positive, Learned(start) or a distribution, got {scale!r}; kappa=0.0 leaves "
                "the items' own click rates out"
            )

    @classmethod
    def paper(cls) -> BanditPriors:
        """Return the published setting (Sakhi et al. 2020, section 4.2.1)."""
        return cls(kappa_scale=0.01)

    @classmethod
    def recommended(cls) -> BanditPriors:
        """Return priors that keep learning, for guide "laplace": items may depart from the low-rank beta.

        `ItemDeviations` of learned scale take the place of zeta. Where the log does not ask for them the evidence, and
        the exponential prior of that scale, put it to nothing, and what is left is `BanditPriors` without zeta; with
        more data it grows, and clicks that views do not explain are learned item by item. No product of two unknown
        numbers is left, so the posterior is close to a Gaussian, and `blob_pyro.BLOB.update` ends near where a fit to
        all events does.

        In RecoGym with 100 items, greedy play by guide "laplace" goes so far from random items to the oracle, in
        brackets under `BanditPriors()`: with 50 pairs of items swapped .565 (.568), .645 (.642), .788 (.706) and .877
        (.756) after 1,000, 3,000, 10,000 and 30,000 logged users; with none swapped, where views say all there is to
        know, .944 (.945), .944 (.944), .951 (.958) and .950 (.965) (``python benchmarks/more_data.py``, six
        environments, standard errors up to .04; ``benchmarks/results/more_data``).
        """
        return cls(w_b=-6.0, zeta=0.0, terms=(ItemDeviations(Learned(0.1, rate=30.0)),))


def _check_prior(name: str, prior: Any, event_dim: int) -> None:
    if isinstance(prior, Real) and not isinstance(prior, bool):
        if not -inf < float(prior) < inf:
            raise ValueError(f"{name}: must be finite, got {prior}")
        return
    if isinstance(prior, Distribution):
        if tuple(prior.batch_shape) == () and len(prior.event_shape) == event_dim:
            return
        wanted = ("one number", "a vector of num_items: use .to_event(1)", "a K x K matrix: use .to_event(2)")
        raise ValueError(
            f"{name}: expected a distribution over {wanted[event_dim]}; got batch shape {tuple(prior.batch_shape)} and "
            f"event shape {tuple(prior.event_shape)} of {prior!r}"
        )
    if not callable(prior):
        raise ValueError(f"{name}: expected a distribution, a number or a callable of the model, got {prior!r}")
