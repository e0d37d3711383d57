"""Posteriors of the sites in closed form."""

import math

import pyro.distributions as dist
import torch
from torch.nn.functional import softplus

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA

P, K, S = 5, 2, 200_000


def posterior(zeta):
    """Every scale different, zeta important."""
    kappa = dist.Normal(torch.linspace(-1, 1, P).double(), torch.linspace(0.1, 0.9, P).double()).to_event(1)
    w_a, w_b = dist.Normal(torch.tensor(0.4).double(), 0.8), dist.Normal(torch.tensor(0.9).double(), 0.5)
    return {W_A: w_a, W_B: w_b, W_C: dist.Normal(torch.tensor(-3.0).double(), 0.3), KAPPA: kappa, ZETA: zeta}


def zetas():
    loc = torch.tensor([[0.5, -1.0], [0.2, 0.7]]).double()
    row, column = torch.tensor([[0.4, 0], [0.9, 1.2]]).double(), torch.tensor([[1.0, 0], [-0.5, 0.3]]).double()
    return {
        "independent": dist.Normal(loc, torch.tensor([[0.2, 1.0], [0.6, 0.1]]).double()).to_event(2),
        "matrix normal": MatrixNormal(loc, row, column),
    }


def by_hand(draws, psi, factor, interest):
    """S x N x P logits, from draws of every site."""
    beta = softplus(draws[W_A])[:, None, None] * psi + softplus(draws[W_B])[:, None, None] * (
        psi @ draws[ZETA] @ factor.mT
    )
    return interest @ beta.mT + (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(1)


def correlated(kind):
    """All sites parts of one vector, strongly correlated, in the order of a guide: kappa last."""
    torch.manual_seed(8)
    size, num_shared = 3 + K * K + P, 3 + K * K
    factor, loc = 0.5 * torch.randn(size, size).double(), torch.randn(size).double()
    own = torch.rand(size).double() + 0.05
    if kind == "full":
        tril = (0.4 * factor).tril()
        tril.diagonal().abs_().add_(0.15)
        distribution = dist.MultivariateNormal(loc, scale_tril=tril)
    elif kind == "low rank":
        distribution = dist.LowRankMultivariateNormal(loc, factor[:, :2], own)
    else:
        tril = factor[:num_shared, :num_shared].tril()
        tril.diagonal().abs_().add_(0.1)
        distribution = ArrowheadNormal(loc, tril, factor[num_shared:, :num_shared], own[num_shared:])
    draw, parts, start = distribution.mean, {}, 0
    for name, shape in ((W_A, ()), (W_B, ()), (W_C, ()), (ZETA, (K, K)), (KAPPA, (P,))):
        parts[name] = MultivariatePart(draw, distribution, start, torch.Size(shape))
        start += math.prod(shape)
    return distribution, parts


def draw_jointly(distribution, parts):
    draws = distribution.sample((S,))
    return {n: MultivariatePart(draws, distribution, p.start, p.part_shape).v for n, p in parts.items()}
