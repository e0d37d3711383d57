"""Gradients and ordinary tensors, whatever the caller has switched off."""

from dataclasses import dataclass

import pytest
import torch

from blob_pyro.ops.gradients import ordinary, ordinary_tensors, with_gradients


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_computed_inside(outside):
    with outside():
        with with_gradients():
            x = torch.ones(2, requires_grad=True)
            (gradient,) = torch.autograd.grad((3 * x).sum(), x)
            assert not x.is_inference()
        assert torch.is_grad_enabled() == (outside is torch.enable_grad)
    assert gradient.tolist() == [3, 3]


def test_ordinary_tensors_leave_gradients_as_they_are():
    with torch.no_grad(), ordinary_tensors():
        assert not torch.is_grad_enabled()


@dataclass(frozen=True)
class Pair:
    """A tensor, and what holds another one."""

    tensor: torch.Tensor
    inside: object


def test_tensors_of_inference_are_copied_however_deep():
    with torch.inference_mode():
        made = torch.ones(2)
    kept = torch.zeros(2)
    found = ordinary(Pair(made, Pair(kept, "text")))
    assert not found.tensor.is_inference()
    assert torch.equal(found.tensor, made)
    assert found.inside.tensor is kept
    nothing_to_do = Pair(kept, 3)
    assert ordinary(nothing_to_do) is nothing_to_do
