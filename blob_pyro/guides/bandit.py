"""Guides of the bandit model: the paper's NQ and MNQ.

The contract, for your own: called as ``guide(batch)`` like the model, it samples the model's global sites (`W_A`,
`W_B`, `W_C`, `KAPPA`, `ZETA`) in the model's order; as a class it is constructed from the model, with all its
parameters there, so that a saved state loads into a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from blob_pyro.distributions import MatrixNormal
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA

__all__ = ["GUIDES", "MatrixNormalGuide", "NormalGuide"]

_number = count()

START = math.exp(-3.0)
"""Posterior scales start at this fraction of the prior's: started at the prior, the first thousand steps are lost."""


class _GaussianGuide(PyroModule):
    """Independent normals on the scalars and on kappa; subclasses say what zeta is."""

    def __init__(self, model: BanditModel) -> None:
        super().__init__(f"bandit_guide_{next(_number)}")  # unique: Pyro's parameter store is global
        priors = model.site_priors()
        self.num_items, self.embedding_dim = model.num_items, model.embedding_dim
        for name in (W_A, W_B, W_C, KAPPA):
            prior = priors[name]
            setattr(self, f"{name}_loc", PyroParam(prior.mean.detach().clone()))
            scale = START * prior.stddev.detach().clone()
            setattr(self, f"{name}_scale", PyroParam(scale, constraints.positive))
        self.zeta_loc = PyroParam(torch.zeros_like(priors[ZETA].mean))

    def zeta(self) -> TorchDistribution:
        """The posterior of zeta, event ``K x K``."""
        raise TypeError(f"{type(self).__name__} does not say what its posterior of zeta is")

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Draw every global site; the batch is not needed."""
        draws = {n: pyro.sample(n, dist.Normal(*self._normal(n))) for n in (W_A, W_B, W_C)}
        draws[KAPPA] = pyro.sample(KAPPA, dist.Normal(*self._normal(KAPPA)).to_event(1))
        draws[ZETA] = pyro.sample(ZETA, self.zeta())
        return draws

    def _normal(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"{name}_loc"), getattr(self, f"{name}_scale")


class NormalGuide(_GaussianGuide):
    """NQ: an independent normal on each of the ``K x K`` entries of zeta; ``2 (P + K^2 + 3)`` parameters.

    Args:
        model: whose sites it covers.
    """

    def __init__(self, model: BanditModel) -> None:
        super().__init__(model)
        self.zeta_scale = PyroParam(torch.full_like(self.zeta_loc, START), constraints.positive)

    def zeta(self) -> TorchDistribution:
        """Independent normals, event ``K x K``."""
        return dist.Normal(self.zeta_loc, self.zeta_scale).to_event(2)


class MatrixNormalGuide(_GaussianGuide):
    """MNQ: zeta ~ MN(M, diag(s1^2), diag(s2^2)); ``2 (P + 3) + K^2 + 2 K`` parameters.

    Args:
        model: whose sites it covers.
    """

    def __init__(self, model: BanditModel) -> None:
        super().__init__(model)
        start = self.zeta_loc.new_full((self.embedding_dim,), math.sqrt(START))
        self.zeta_row_scale = PyroParam(start, constraints.positive)
        self.zeta_column_scale = PyroParam(start.clone(), constraints.positive)

    def zeta(self) -> TorchDistribution:
        """A matrix normal with diagonal row and column covariances, event ``K x K``."""
        return MatrixNormal(self.zeta_loc, self.zeta_row_scale.diag_embed(), self.zeta_column_scale.diag_embed())


GUIDES: dict[str, Callable[[BanditModel], Callable[..., Any]]] = {
    "normal": NormalGuide,
    "matrix_normal": MatrixNormalGuide,
}
