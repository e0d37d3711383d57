"""Distributions made anew from their tensors; what several share they share afterwards."""

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.ops.tensors import any_tensor, detached, like, map_tensors


def test_every_tensor_however_deep():
    normal = dist.Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])).to_event(1)
    twice = map_tensors(normal, lambda t: 2 * t)
    assert twice.mean.tolist() == [2, 4]
    assert twice.stddev.tolist() == [1, 6]
    assert normal.mean.tolist() == [1, 2]


def test_what_is_shared_stays_shared():
    base = dist.Normal(torch.zeros(2), 1.0)
    memo = {}
    one, other = (map_tensors(base.to_event(1), torch.clone, memo) for _ in range(2))
    assert one.base_dist is other.base_dist is not base


def test_detached_and_like():
    loc = torch.zeros(2, requires_grad=True)
    free = detached({"a": dist.Normal(loc, 1.0)})["a"]
    assert not free.loc.requires_grad
    assert like(free, torch.zeros(1, dtype=torch.float64)).mean.dtype == torch.float64
    categorical = dist.Delta(torch.tensor([1, 2]))
    assert like(categorical, torch.zeros(1, dtype=torch.float64)).v.dtype == torch.int64


def test_a_tensor_of_real_numbers_or_none():
    assert any_tensor(dist.Normal(torch.zeros(2).double(), 1.0)).dtype == torch.float64
    with pytest.raises(TypeError, match="Empty: has no tensor of real numbers"):
        any_tensor(Empty())


class Empty(dist.TorchDistribution):
    """Has no numbers."""

    arg_constraints = {}  # noqa: RUF012
