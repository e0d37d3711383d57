"""Guides of the bandit model that treat its sites as independent: the paper's NQ and MNQ, their kin, and MAP.

The contract, for your own, which `blob_pyro.testing.check_guide` checks:

1. It is called as ``guide(batch)``, like the model.
2. It samples the model's global sites, each once: all of `BanditModel.site_priors`, and no others but auxiliary ones
   (``infer={"is_auxiliary": True}``). Each draw has the shape that the prior says. Under a `BanditPriors.vector` the
   vector is a site, too, `blob_pyro.models.sites.MULTIVARIATE`: only guides that sample it are taken.
3. As a class it is constructed from the model, with all its parameters there: none appears at the first call, so that a
   saved state loads into a fresh one.
4. Every parameter gets a gradient that is finite and, somewhere, not zero.
5. Two of one class are two: their names in Pyro's global parameter store differ.
6. Calling it with ``None`` for the batch works: what it knows of global sites is not in the events.

It may say how it likes to be trained, in an attribute ``training_defaults``: see `TrainingDefaults`. A guide that needs
no gradient descent registers how it is fitted with `blob_pyro.infer.fit_guide`. `blob_pyro.register_guide` gives it a
name, by which it is asked for, saved and loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from blob_pyro.distributions import MatrixNormal
from blob_pyro.guides.registry import register_guide
from blob_pyro.guides.takeover import normal_moments, take_over_rows
from blob_pyro.guides.training_defaults import TrainingDefaults
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import ZETA
from blob_pyro.ops.names import unique_name
from blob_pyro.ops.tensors import any_tensor

__all__ = [
    "WIDEST_START",
    "DeltaGuide",
    "MatrixNormalFullGuide",
    "MatrixNormalGuide",
    "NormalGuide",
    "prior_moments",
    "start_scale",
]


_BESIDE = torch.tensor([-1.0, 0.0, 1.0])  # standard deviations from the mean, of a normal's quantiles

WIDEST_START = 0.3
"""Posteriors start at the prior's standard deviations, but no wider than this. Wider, and the first thousand steps go
into w_c, whose prior has a width of 10. Narrower, and a learned prior scale shrinks to that of posteriors which know
nothing yet, and stays there: a worse optimum, with an ELBO 0.15 % lower on a log of 1,000 users."""


def prior_moments(prior: TorchDistribution) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of a site's prior.

    Where it has none, as heavy tails have not, they are those of the normal with its median and the quantiles beside
    it; zero and one if it does not say these either.
    """
    kind = any_tensor(prior)
    zeros = torch.zeros(prior.event_shape).to(kind)
    loc, scale = zeros, zeros + 1
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    with contextlib.suppress(NotImplementedError):
        low, loc, high = (base.icdf(level).detach() + zeros for level in torch.special.ndtr(_BESIDE.to(kind)))
        scale = (high - low) / 2
    with contextlib.suppress(NotImplementedError):
        mean, spread = prior.mean.detach(), prior.stddev.detach()
        loc, scale = torch.where(mean.isfinite(), mean, loc), torch.where(spread.isfinite(), spread, scale)
    return loc.clone(), scale.clone()


def start_scale(prior_scale: Tensor) -> Tensor:
    """Return the standard deviations that the posterior starts with."""
    return prior_scale.clamp(max=WIDEST_START)


@register_guide("normal")
class NormalGuide(PyroModule):
    """NQ: an independent normal on every number; ``2 (P + K^2 + 3)`` parameters for the paper's sites.

    Source: Sakhi et al. 2020, section 3.2.

    Args:
        model: whose sites it covers.
    """

    training_defaults = TrainingDefaults(num_steps=300, batch_size=131_072, learning_rate=0.2, capture="auto")

    def __init__(self, model: BanditModel) -> None:
        super().__init__(unique_name("bandit_guide"))  # unique: Pyro's parameter store is global
        self._event_dims: dict[str, int] = {}
        for name, prior in model.site_priors().items():
            self._event_dims[name] = len(prior.event_shape)
            loc, scale = prior_moments(prior)
            self.start(name, loc, start_scale(scale))

    def start(self, name: str, loc: Tensor, scale: Tensor) -> None:
        """Make the parameters of a site, which start at this mean and standard deviation."""
        setattr(self, f"{name}_loc", PyroParam(loc))
        setattr(self, f"{name}_scale", PyroParam(scale, constraints.positive))

    def site_posterior(self, name: str) -> TorchDistribution:
        """Return the posterior of a site, as a distribution."""
        normal = dist.Normal(getattr(self, f"{name}_loc"), getattr(self, f"{name}_scale"))
        event_dim = self._event_dims[name]
        return normal.to_event(event_dim) if event_dim else normal

    def take_over(self, old: NormalGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior: see `blob_pyro.guides.takeover`."""
        for name in self._event_dims:
            if f"{name}_scale_unconstrained" in dict(self.named_parameters()):
                for kind, moment in zip(("loc", "scale"), normal_moments(priors[name])):
                    setattr(self, f"{name}_{kind}", moment)
        take_over_rows(self, old)

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Draw every global site; the batch is not needed."""
        return {name: pyro.sample(name, self.site_posterior(name)) for name in self._event_dims}


@register_guide("matrix_normal")
class MatrixNormalGuide(NormalGuide):
    """MNQ: zeta ~ MN(M, diag(s1^2), diag(s2^2)), the rest as in NQ; ``2 (P + 3) + K^2 + 2 K`` parameters.

    Source: Sakhi et al. 2020, section 3.2.

    Args:
        model: whose sites it covers.
    """

    def start(self, name: str, loc: Tensor, scale: Tensor) -> None:
        """Make the parameters of a site; see `NormalGuide.start`."""
        if name != ZETA:
            return super().start(name, loc, scale)
        self.zeta_loc = PyroParam(loc)
        self.zeta_row_scale = PyroParam(scale.mean(1).sqrt(), constraints.positive)
        self.zeta_column_scale = PyroParam(scale.mean(0).sqrt(), constraints.positive)
        return None

    def site_posterior(self, name: str) -> TorchDistribution:
        """Return the posterior of a site, as a distribution; see `NormalGuide.site_posterior`."""
        if name != ZETA:
            return super().site_posterior(name)
        return MatrixNormal.from_scales(self.zeta_loc, self.zeta_row_scale, self.zeta_column_scale)


@register_guide("matrix_normal_full")
class MatrixNormalFullGuide(MatrixNormalGuide):
    """zeta ~ MN(M, U, V) with full row and column covariances, the rest as in NQ; ``K (K - 1)`` parameters more.

    ``U = A A'`` with ``A = diag(s1) (I + lower)``, and so ``V``.

    Args:
        model: whose sites it covers.
    """

    def start(self, name: str, loc: Tensor, scale: Tensor) -> None:
        """Make the parameters of a site; see `NormalGuide.start`."""
        super().start(name, loc, scale)
        if name == ZETA:
            size = len(loc) * (len(loc) - 1) // 2
            self.zeta_row_lower = PyroParam(loc.new_zeros(size))
            self.zeta_column_lower = PyroParam(loc.new_zeros(size))

    def site_posterior(self, name: str) -> TorchDistribution:
        """Return the posterior of a site, as a distribution; see `NormalGuide.site_posterior`."""
        if name != ZETA:
            return super().site_posterior(name)
        row = scale_tril(self.zeta_row_scale, self.zeta_row_lower)
        return MatrixNormal(self.zeta_loc, row, scale_tril(self.zeta_column_scale, self.zeta_column_lower))


@register_guide("delta")
class DeltaGuide(PyroModule):
    """MAP: one value for every number, and no doubt.

    Args:
        model: whose sites it covers.

    Raises:
        ValueError: if the model learns a scale: at the mode it is zero, with all that it scales.
    """

    training_defaults = TrainingDefaults(capture="auto")

    def __init__(self, model: BanditModel) -> None:
        super().__init__(unique_name("bandit_guide"))
        refuse_learned_scales(model, "'delta'")
        self._event_dims = {name: len(prior.event_shape) for name, prior in model.site_priors().items()}
        for name, prior in model.site_priors().items():
            setattr(self, f"{name}_value", PyroParam(prior_moments(prior)[0]))

    def take_over(self, old: DeltaGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior's mean: see `NormalGuide`."""
        for name in self._event_dims:
            setattr(self, f"{name}_value", normal_moments(priors[name])[0])
        take_over_rows(self, old)

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Sample every global site at its value."""
        return {
            name: pyro.sample(name, dist.Delta(getattr(self, f"{name}_value"), event_dim=event_dim))
            for name, event_dim in self._event_dims.items()
        }


def refuse_learned_scales(model: BanditModel, guide: str) -> None:
    """Raise a ValueError if a point mass were to be fitted together with a scale that is learned."""
    if model.learned:
        raise ValueError(
            f"guide {guide}: the model learns {', '.join(sorted(model.learned))}, and a density has no mode with a "
            "scale to shrink: it runs to zero. Give a number, as in BanditPriors(kappa_scale=0.3), or use 'laplace'"
        )


def scale_tril(scale: Tensor, lower: Tensor) -> Tensor:
    """Build ``diag(scale) (I + strictly lower triangle)``, from ``n`` and ``n (n - 1) / 2`` numbers."""
    size = len(scale)
    row, column = torch.tril_indices(size, size, offset=-1, device=scale.device)
    factor = torch.eye(size, dtype=scale.dtype, device=scale.device).index_put((row, column), lower)
    return scale.unsqueeze(-1) * factor
