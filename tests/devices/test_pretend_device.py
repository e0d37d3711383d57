"""The pretend device does what a real one would: keeps to itself, computes the same, and every read is noted."""

import copy

import pytest
import torch
from torch import nn

from blob_pyro.data import Histories
from blob_pyro.ops.row_chunks import in_row_chunks
from tests.devices.pretend_device import PretendTensor, pretend_device


def test_tensors_say_where_they_are(reads):
    x = torch.ones(2, 3, device="pretend")
    assert isinstance(x, PretendTensor)
    assert x.device == torch.device("pretend", 0)
    assert (x @ x.mT).device == (x + 1).device == torch.zeros_like(x).device == x.new_tensor([1.0]).device == x.device
    assert torch.tensor([1.0], device=x.device).device == torch.as_tensor([1.0], device="pretend").device == x.device
    assert x.cpu().device == torch.tensor([1.0]).device == torch.device("cpu")


@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(lambda x, y: x + y, id="sum"),
        pytest.param(lambda x, y: x @ y, id="product"),
        pytest.param(lambda x, y: torch.cat([x, y]), id="cat"),
        pytest.param(lambda x, y: torch.stack([x[0, 0], y[0, 0]]), id="stack-of-numbers"),
        pytest.param(lambda x, y: y[x.long()], id="host-by-device-index"),
        pytest.param(lambda x, y: x.index_add(0, torch.tensor([0, 1, 2]), x), id="index-add"),
    ],
)
def test_both_devices_in_one_operation_raise(reads, mix):
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        mix(torch.ones(3, 3, device="pretend"), torch.ones(3, 3))


def test_what_cuda_takes_from_the_host_is_taken(reads):
    x = torch.arange(3.0, device="pretend")
    assert (x + torch.tensor(1.0)).host.tolist() == [1, 2, 3]
    assert x[torch.tensor([2, 0])].host.tolist() == [2, 0]
    x[torch.tensor([1])] = 5.0
    x.copy_(x.new_ones(3).host * x.host)
    assert x.host.tolist() == [0, 5, 2]
    assert not reads


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: float(x.sum()), id="float"),
        pytest.param(lambda x: bool((x > 0).all()), id="bool"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: torch.zeros(3).copy_(x), id="copy"),
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: torch.unique(x), id="unique"),
        pytest.param(lambda x: torch.equal(x, x), id="equal"),
        pytest.param(lambda x: x.repeat_interleave(x.long()), id="repeat"),
        pytest.param(lambda x: torch.bincount(x.long()), id="bincount"),
        pytest.param(lambda x: torch.linalg.cholesky(torch.diag(x)), id="cholesky"),
        pytest.param(copy.copy, id="pickle"),
    ],
)
def test_each_read_is_noted(reads, read):
    read(torch.tensor([1.0, 2.0, 3.0], device="pretend"))
    assert len(reads) == 1, reads


def test_a_read_is_noted_with_its_place_in_the_library(reads):
    Histories.from_sequences([[0, 1]], num_items=2).to("pretend").to_sequences()
    assert {read.where.split(":")[0] for read in reads} == {"data/histories.py"}
    assert "views.cpu()" in reads[-1].where
    assert "1 x " in str(reads)


def test_gradients_parameters_and_random_numbers_are_those_of_the_host(reads):
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    there = copy.deepcopy(layer).to("pretend")
    torch.manual_seed(2)
    here_loss = layer(torch.randn(4, 3)).square().sum()
    torch.manual_seed(2)
    there_loss = there(torch.randn(4, 3, device="pretend")).square().sum()
    here_loss.backward()
    there_loss.backward()
    assert not reads
    assert there.weight.grad.device.type == "pretend"
    torch.testing.assert_close(there.weight.grad.cpu(), layer.weight.grad, rtol=0, atol=0)
    copied = copy.deepcopy(there)
    assert copied.weight.device.type == "pretend"
    assert torch.equal(copied.weight, there.weight)


def test_nothing_is_left_when_it_is_over(log):
    with pretend_device() as reads:
        torch.ones(1, device="pretend").item()
    torch.manual_seed(0)  # torch warns here of a device that cannot be seeded; warnings are errors
    weight = torch.ones(2, requires_grad=True)
    # torch.utils.checkpoint asks for the accelerator's autocast
    in_row_chunks(lambda x: (x * weight).sum(-1), torch.ones(3, 2), width=2, max_elements=2).sum().backward()
    assert type(weight.grad) is torch.Tensor
    assert weight.grad.tolist() == [3.0, 3.0]
    assert len(reads) == 1


def test_chunks_are_computed_twice_there_too(reads):
    weight = torch.ones(2, device="pretend", requires_grad=True)
    rows = torch.ones(3, 2, device="pretend")
    in_row_chunks(lambda x: (x * weight).sum(-1), rows, width=2, max_elements=2).sum().backward()
    assert weight.grad.tolist() == [3.0, 3.0]
