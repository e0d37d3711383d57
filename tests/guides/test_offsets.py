"""Offsets start at log P and depend on the posterior."""

import torch

from blob_pyro.guides import OffsetNetwork
from tests.guides.encoded import K, P


def test_offsets_start_at_log_p_and_depend_on_the_posterior():
    network = OffsetNetwork(P, K)
    loc, variance = torch.randn(5, K), torch.rand(5, K) + 0.1
    assert torch.allclose(network(loc, variance), torch.tensor(float(P)).log().expand(5))
    network.offset.weight.data += 0.1
    assert network(loc, variance).std() > 0
