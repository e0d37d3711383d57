"""Guides of the bandit model that correlate its sites: one Gaussian over all of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Size, Tensor
from torch.nn.functional import pad

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal, NestedNormal, TabulatedDensity
from blob_pyro.distributions.block_arrowhead_normal import to_blocks
from blob_pyro.distributions.insertion import Insertion, inserted
from blob_pyro.distributions.multivariate import MultivariatePart, with_analytic_entropy
from blob_pyro.guides.bandit import prior_moments, scale_tril, start_scale
from blob_pyro.guides.registry import register_guide
from blob_pyro.guides.takeover import normal_moments
from blob_pyro.guides.training_defaults import TrainingDefaults
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import KAPPA, MULTIVARIATE, W_B
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.renamed import renamed_attribute
from blob_pyro.ops.tensors import map_tensors

__all__ = ["MULTIVARIATE", "FullGuide", "LaplaceGuide", "LowRankGuide", "MultivariateGuide"]

_NESTED = ("loc", "shared_scale_tril", "stretch", "slope", "own_scale")  # of a NestedNormal, beside its density

MOST_NUMBERS = 5_000
"""A full covariance of more is refused: its factor alone is 100 MB, its gradient and Adam's state three times that."""


class MultivariateGuide(PyroModule):
    """One Gaussian vector, dealt out to the model's sites; subclasses say which Gaussian.

    The vector holds kappa last, which is what items do not share.

    Args:
        model: whose sites it covers.
    """

    def __init__(self, model: BanditModel) -> None:
        super().__init__(unique_name("bandit_guide"))  # unique: Pyro's parameter store is global
        priors = model.site_priors()
        self.order, self._prior = list(priors), model.vector_prior
        if self._prior is not None:  # where it is now: a scale that is learned moves it
            self._prior = replace(self._prior, distribution=map_tensors(self._prior.distribution, Tensor.detach))
        self.is_auxiliary = self._prior is None
        """Whether the vector is the guide's own affair, and not a site of the model, which has a prior for it."""
        names = sorted(priors, key=lambda name: name == KAPPA) if self._prior is None else self._prior.shapes  # stable
        self.shapes = {name: Size(priors[name].event_shape) for name in names}
        self.num_own = self.shapes[KAPPA].numel() if KAPPA in priors else 0
        self.deviations = self._deviations(model, priors)
        moments = [prior_moments(priors[name]) for name in names]
        self.prior_loc, self.prior_scale = (torch.cat([pair[i].flatten() for pair in moments]) for i in (0, 1))

    def _deviations(self, model: BanditModel, priors: dict[str, TorchDistribution]) -> str | None:
        """Name the site of items' own betas, if it lies before kappa: "laplace" eliminates both together then."""
        names = list(self.shapes)
        own = {term.items_own for term in model.terms}
        if not self.num_own or len(names) < 2 or names[-2] not in own:
            return None
        prior = priors[names[-2]]
        independent = isinstance(getattr(prior, "base_dist", None), dist.Normal) or self._prior is not None
        return names[-2] if independent else None

    @property
    def size(self) -> int:
        """The number of entries of the vector, ``D``."""
        return sum(shape.numel() for shape in self.shapes.values())

    def multivariate(self) -> TorchDistribution:
        """Return the distribution of the vector, event ``D``."""
        raise TypeError(f"{type(self).__name__} does not say which Gaussian it is; give it a method 'multivariate'")

    joint = renamed_attribute("joint", "multivariate")

    def insertion(self, old: MultivariateGuide, priors: Mapping[str, TorchDistribution]) -> Insertion:
        """Say where the numbers of a guide of fewer items are in this vector, and the moments of what is new."""
        moments = {name: normal_moments(priors[name]) for name in self.shapes}
        loc, scale = ({name: pair[i] for name, pair in moments.items()} for i in (0, 1))
        return Insertion(old.shapes, self.shapes, loc, scale)

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Draw the vector and deal it out; the batch is not needed."""
        multivariate = self.multivariate()
        draw = pyro.sample(MULTIVARIATE, with_analytic_entropy(multivariate), infer={"is_auxiliary": self.is_auxiliary})
        return {name: pyro.sample(name, part) for name, part in self.parts(draw, multivariate).items()}

    def parts(self, draw: Tensor, multivariate: TorchDistribution) -> dict[str, MultivariatePart]:
        """Return each site's piece of a draw, ``... x D``."""
        pieces, start = {}, 0
        for name, shape in self.shapes.items():
            pieces[name] = MultivariatePart(draw, multivariate, start, shape)
            start += shape.numel()
        return {name: pieces[name] for name in self.order}


@register_guide("low_rank")
class LowRankGuide(MultivariateGuide):
    """``theta = loc + scale (W z + e)`` with a few factors ``z``; ``D (rank + 2)`` parameters.

    Args:
        model: whose sites it covers.
        rank: factors; default the square root of ``D``, at most 20.
    """

    training_defaults = TrainingDefaults(num_steps=500, capture="auto")

    def __init__(self, model: BanditModel, rank: int | None = None) -> None:
        super().__init__(model)
        prior = None if self._prior is None else self._prior.distribution
        usual = min(20, max(1, round(self.size**0.5)))
        if isinstance(prior, dist.LowRankMultivariateNormal):
            usual = prior.cov_factor.shape[-1]
        rank = usual if rank is None else rank
        if not 1 <= rank <= self.size:
            raise ValueError(f"rank: must lie between 1 and {self.size}, got {rank}")
        self.loc = PyroParam(self.prior_loc)
        self.scale = PyroParam(start_scale(self.prior_scale), constraints.positive)
        spread = torch.randn(self.size, rank, generator=torch.Generator().manual_seed(0)).to(self.prior_loc)
        self.factor = PyroParam(0.1 * spread / rank**0.5)
        if isinstance(prior, dist.LowRankMultivariateNormal) and rank == prior.cov_factor.shape[-1]:
            self.scale = prior.cov_diag.sqrt()  # from what is known already
            self.factor = prior.cov_factor / prior.cov_diag.sqrt().unsqueeze(-1)

    def start_from(self, distribution: ArrowheadNormal | BlockArrowheadNormal) -> None:
        """Take the variances of a distribution of the same vector as the start, and its largest correlations.

        Those along the leading directions of its factor in units of its standard deviations.
        """
        deviation = distribution.variance.sqrt()
        rank = self.factor.shape[-1]
        loadings = distribution.common_factor / deviation.unsqueeze(-1)
        left, singular, _ = torch.svd_lowrank(loadings.double(), q=min(rank + 10, *loadings.shape), niter=4)
        shared = (left * singular)[:, :rank].to(distribution.loc)
        own = (1 - shared.square().sum(-1)).clamp(min=1e-3).sqrt()  # of the whole variance
        self.loc, self.scale = distribution.loc, deviation * own
        with torch.no_grad():
            self.factor.zero_()
            self.factor[:, : shared.shape[1]] = shared / own.unsqueeze(-1)

    def take_over(self, old: LowRankGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior: see `blob_pyro.guides.takeover`."""
        new = self.insertion(old, priors)
        rank = max(old.factor.shape[-1], self.factor.shape[-1])  # further factors load on nothing
        known = pad(old.factor, (0, rank - old.factor.shape[-1]))
        self.factor = PyroParam(new.vector(known, known.new_zeros(self.size, rank)))
        _take_loc_and_scale(self, old, new)

    def multivariate(self) -> TorchDistribution:
        """Return the distribution of the vector, event ``D``; see `MultivariateGuide.multivariate`."""
        factor = self.scale.unsqueeze(-1) * self.factor
        return dist.LowRankMultivariateNormal(self.loc, factor, self.scale.square(), validate_args=False)


@register_guide("full")
class FullGuide(MultivariateGuide):
    """``theta ~ N(loc, A A')`` with a full Cholesky factor: ``D (D + 3) / 2`` parameters.

    Args:
        model: whose sites it covers.

    Raises:
        ValueError: for more than `MOST_NUMBERS` numbers.
    """

    training_defaults = TrainingDefaults(num_steps=200, capture="auto")

    def __init__(self, model: BanditModel) -> None:
        super().__init__(model)
        if self.size > MOST_NUMBERS:
            raise ValueError(
                f"guide 'full': a covariance of {self.size} numbers would need {self.size * (self.size + 1) // 2:,} "
                f"parameters; use 'low_rank' or 'laplace' beyond {MOST_NUMBERS} numbers"
            )
        self.loc = PyroParam(self.prior_loc)
        self.scale = PyroParam(start_scale(self.prior_scale), constraints.positive)
        self.lower = PyroParam(self.prior_loc.new_zeros(self.size * (self.size - 1) // 2))
        if self._prior is not None:
            self.start_from(self._prior.distribution)

    def start_from(self, distribution: TorchDistribution) -> None:
        """Take a distribution of the same vector as the start."""
        if isinstance(distribution, NestedNormal):
            distribution = distribution.gaussian()
        if isinstance(distribution, dist.MultivariateNormal):
            tril = distribution.scale_tril
        else:
            tril = torch.linalg.cholesky(distribution.covariance_matrix.double()).to(distribution.mean)
        row, column = torch.tril_indices(self.size, self.size, offset=-1, device=tril.device)
        self.loc = distribution.mean.clone()
        self.scale = tril.diagonal()
        self.lower = (tril / tril.diagonal().unsqueeze(-1))[row, column]

    def take_over(self, old: FullGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior: see `blob_pyro.guides.takeover`."""
        new = self.insertion(old, priors)
        place = new.place.to(self.lower.device)
        (row, column), (old_row, old_column) = (
            torch.tril_indices(size, size, offset=-1, device=place.device) for size in (self.size, old.size)
        )
        lower = self.lower.new_zeros(self.size, self.size)
        lower[place[old_row], place[old_column]] = old.lower
        self.lower = lower[row, column]
        _take_loc_and_scale(self, old, new)

    def multivariate(self) -> TorchDistribution:
        """Return the distribution of the vector, event ``D``; see `MultivariateGuide.multivariate`."""
        return dist.MultivariateNormal(self.loc, scale_tril=scale_tril(self.scale, self.lower), validate_args=False)


@register_guide("laplace")
class LaplaceGuide(MultivariateGuide):
    """Laplace's approximation, nested: ``w_b`` has a density of its own, and all else is Gaussian given it.

    See `blob_pyro.infer.laplace.fit` for how it is found, and `blob_pyro.distributions.NestedNormal` for what it is.
    Given what items share their kappas are independent, in the posterior as here: an arrowhead; and so are the blocks
    of an item's kappa and its own beta, where `ItemDeviations` give it one. Unless the prior correlates them
    otherwise, as an update from guide "full" does: then every number counts as shared. Nothing to train. Where ``w_b``
    has no prior, and before a fit, the vector is one Gaussian.

    Args:
        model: whose sites it covers.
    """

    takes_checkpoint = False

    def __init__(self, model: BanditModel) -> None:
        super().__init__(model)
        self._known: tuple[list[tuple[Tensor, int]], TorchDistribution] | None = None
        prior = None if self._prior is None else self._prior.distribution
        if isinstance(prior, NestedNormal):
            prior = prior.at_node(0)  # of all numbers but one that items share
        if prior is not None and not isinstance(prior, BlockArrowheadNormal):
            self.deviations = None
        if prior is not None and self.deviations is None:
            self.num_own *= isinstance(prior, ArrowheadNormal) and len(prior.scale) == self.num_own
        self.own_widths: tuple[int, ...] = (1,)
        """Numbers of each item, array by array: those of its own beta, if it has one, and kappa."""
        if self.deviations is not None:
            self.own_widths = (model.embedding_dim, 1)
            self.num_own *= sum(self.own_widths)
        num_shared = self.size - self.num_own
        self._index = next((i for n, i in Insertion.starts(self.shapes).items() if n == W_B), num_shared)
        shared_scale, own_scale = start_scale(self.prior_scale).split([num_shared, self.num_own])
        self.register_buffer("loc", self.prior_loc)
        self.register_buffer("shared_scale_tril", shared_scale.diag())
        if self.deviations is None:
            self.register_buffer("loading", own_scale.new_zeros(self.num_own, num_shared))
            self.register_buffer("own_scale", own_scale.clone())
        else:
            scale = to_blocks(own_scale, model.num_items, self.own_widths)
            self.register_buffer("loading", own_scale.new_zeros(*scale.shape, num_shared))
            self.register_buffer("own_scale", scale.diag_embed())

    @torch.no_grad()
    def take(self, distribution: TorchDistribution) -> None:
        """Become this distribution of the vector: a `NestedNormal`, or an arrowhead."""
        own = "scale" if self.deviations is None else "own_scale_tril"
        if isinstance(distribution, NestedNormal):
            density = distribution.density
            numbers = {"nodes": density.nodes, "log_density": density.log_density}
            numbers.update({f"node_{name}": getattr(distribution, name) for name in _NESTED})
        else:
            names = {"loc": "loc", "shared_scale_tril": "shared_scale_tril", "loading": "loading", "own_scale": own}
            numbers = {name: getattr(distribution, attribute) for name, attribute in names.items()}
        self._hold({name: tensor.to(self._kind) for name, tensor in numbers.items()})

    @property
    def _kind(self) -> Tensor:
        """A buffer of the kind and on the device of all."""
        kind: Tensor = next(iter(self.buffers()))
        return kind

    def _hold(self, numbers: Mapping[str, Tensor]) -> None:
        """Keep these as buffers, in place of what there is."""
        if {n: t.shape for n, t in self.named_buffers()} == {n: t.shape for n, t in numbers.items()}:
            for name, tensor in numbers.items():
                getattr(self, name).copy_(tensor)
            return
        for name in [name for name, _ in self.named_buffers()]:
            delattr(self, name)
        for name, tensor in numbers.items():
            self.register_buffer(name, tensor.clone(memory_format=torch.contiguous_format))  # as a saved one

    def expect(self, state: Mapping[str, Tensor]) -> None:
        """Make room for a saved state, which may be nested or one Gaussian; what is wrong with it is found out later.

        Args:
            state: by the names of the guide's own buffers.
        """
        if "nodes" not in state or "node_loc" not in state:
            return
        num_nodes, (num_own, num_shared) = len(state["nodes"]), (self.num_own, self.size - self.num_own - 1)
        like = self._kind
        width = sum(self.own_widths)
        own = (num_own,) if self.deviations is None else (num_own // width, width)
        noise = own if self.deviations is None else (*own, own[-1])
        shapes = {
            "nodes": (num_nodes,),
            "log_density": (num_nodes,),
            "node_loc": (num_nodes, num_shared + num_own),
            "node_shared_scale_tril": (num_nodes, num_shared, num_shared),
            "node_stretch": (num_nodes, num_shared),
            "node_slope": (*own, num_shared),
            "node_own_scale": noise,
        }
        if all(name in state and tuple(state[name].shape) == shape for name, shape in shapes.items()):
            self._hold({name: like.new_zeros(shape) for name, shape in shapes.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        self.expect({k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def take_over(self, old: LaplaceGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior: see `blob_pyro.guides.takeover`."""
        self.take(inserted(old.multivariate(), self.insertion(old, priors)))

    @property
    def is_nested(self) -> bool:
        """True where ``w_b`` has a density of its own."""
        return hasattr(self, "nodes")

    def multivariate(self) -> TorchDistribution:
        """Return the distribution of the vector, event ``D``; see `MultivariateGuide.multivariate`.

        It is one object for as long as no buffer changes: what it has once computed of itself stays.
        """
        buffers = tuple(self.buffers())
        if any(b.is_inference() for b in buffers):  # which do not say whether they have changed
            return self._distribution()
        now = [(b, b._version) for b in buffers]
        known = self._known
        if known is None or [(id(b), v) for b, v in known[0]] != [(id(b), v) for b, v in now]:
            known = self._known = (now, self._distribution())
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}

    def _distribution(self) -> TorchDistribution:
        widths = None if self.deviations is None else self.own_widths
        if self.is_nested:
            density = TabulatedDensity(self.nodes, self.log_density)
            parts: dict[str, Any] = {name: getattr(self, f"node_{name}") for name in _NESTED}
            return NestedNormal(index=self._index, density=density, widths=widths, validate_args=False, **parts)
        arrowhead = (self.loc, self.shared_scale_tril, self.loading, self.own_scale)
        if widths is None:
            return ArrowheadNormal(*arrowhead, validate_args=False)
        return BlockArrowheadNormal(*arrowhead, widths, validate_args=False)

    def gaussians(self) -> list[ArrowheadNormal | BlockArrowheadNormal]:
        """Return Gaussians of the vector for what has to start somewhere; which is nearest the ELBO tells.

        One has the moments of ``w_b``; another lies at its mode, and is half as wide: where the density of ``w_b`` ends
        soon above its mode and has a long tail below, the first reaches where no event allows it.
        """
        vector: Any = self.multivariate()
        if not self.is_nested:
            return [vector]
        density = vector.density
        return [vector.gaussian(), vector.gaussian(density.mode, density.variance.sqrt() / 2)]

    @property
    def mode(self) -> Tensor:
        """The mode of ``w_b`` and that of all else given it, ``D``; of one Gaussian its mean."""
        vector: Any = self.multivariate()
        if not self.is_nested:
            loc: Tensor = vector.loc
            return loc
        w_b = vector.density.mode
        result: Tensor = vector.together(w_b, vector.given(w_b).loc)
        return result


def _take_loc_and_scale(guide: LowRankGuide | FullGuide, old: LowRankGuide | FullGuide, new: Insertion) -> None:
    """Take these over as the parameters that they are of: a logarithm and back would not give the same bits."""
    guide.loc, guide.scale = new.numbers(new.loc).to(old.loc), new.numbers(new.scale).to(old.loc)
    place = new.place.to(old.loc.device)
    for name in ("loc_unconstrained", "scale_unconstrained"):
        getattr(guide, name)[place] = getattr(old, name)
