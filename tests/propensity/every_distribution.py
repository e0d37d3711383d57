"""One of each distribution over actions or slates, for tests that ask all of them the same."""

import torch
from torch.distributions import Gamma

from blob_pyro.propensity import (
    Argmax,
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    ArgmaxNormalMixture,
    RankBeta,
    RankNormal,
)

BUILD = {
    "normal": lambda x: ArgmaxNormal(x, torch.ones_like(x)),
    "lognormal": lambda x: ArgmaxLogNormal(x, torch.ones_like(x), minimum=True),
    "beta": lambda x: ArgmaxBeta(x.exp(), torch.ones_like(x)),
    "low rank": lambda x: ArgmaxLowRankNormal(
        x, torch.eye(x.shape[-1])[:, :2].to(x), torch.ones_like(x), num_points=64
    ),
    "multivariate": lambda x: ArgmaxMultivariateNormal(x, 1 + torch.eye(x.shape[-1]).to(x), num_points=64),
    "conditional": lambda x: ArgmaxConditionallyNormal(
        lambda z: x.unsqueeze(-2) + z.sum(-1, keepdim=True) * x.detach().cos().unsqueeze(-2), torch.ones_like(x), 2
    ),
    "mixture": lambda x: ArgmaxNormalMixture(
        lambda z: x.unsqueeze(-2) + z.sum(-1, keepdim=True) * x.detach().cos().unsqueeze(-2),
        torch.ones_like(x),
        torch.tensor([[-1.0, 0.3], [0.2, 0.9], [1.5, 0.0]]).to(x),
    ),
    "generic": lambda x: Argmax(Gamma(x.exp(), torch.ones_like(x))),
    "rank normal": lambda x: RankNormal(x, torch.ones_like(x), num_ranks=2),
    "rank beta": lambda x: RankBeta(x.exp(), torch.ones_like(x), num_ranks=2),
}
