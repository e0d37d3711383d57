"""Rank probabilities of normal scores on one mesh, against a mesh for each."""

import pytest
import torch

from blob_pyro.propensity import RankNormal
from blob_pyro.propensity.kernels.normal_ranks import normal_rank_probs


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0], ids=["equal scales", "1:10", "1:100"])
def test_normal_ranks_are_those_of_meshes_of_their_own(ratio, num_ranks):
    source = torch.Generator().manual_seed(1)
    loc = torch.randn(4, 6, generator=source, dtype=torch.float64) * 2
    scale = ratio ** torch.rand(4, 6, generator=source, dtype=torch.float64) * 0.3
    found, reached = normal_rank_probs(loc, scale, num_ranks)
    assert reached.all()
    torch.testing.assert_close(found, RankNormal(loc, scale, num_ranks).probs, rtol=0, atol=1e-12)
