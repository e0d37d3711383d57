"""Some of the actions only: the same as if the others were not there."""

import pytest
import torch

from blob_pyro.propensity import (
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxNormal,
    ArgmaxNormalMixture,
)
from tests.propensity.every_distribution import BUILD

A = 5
LOC = torch.tensor([[0.0, 3.0, 1.0, 0.5, -1.0], [2.0, 1.0, 0.0, 2.5, 9.0]], dtype=torch.float64)
SCALE = torch.tensor([[3.0, 1.0, 0.1, 0.5, 7.0], [1.0, 0.5, 2.0, 0.0, 1.0]], dtype=torch.float64)
POINTS = torch.tensor([[-1.0, 0.3], [0.2, 0.9], [1.5, 0.0]], dtype=torch.float64)


def location(loc):
    return lambda z: loc.unsqueeze(-2) + z.sum(-1, keepdim=True) * loc.cos().unsqueeze(-2)


MAKE = {
    "normal": ArgmaxNormal,
    "smallest": lambda loc, scale: ArgmaxNormal(loc, scale, minimum=True),
    "lognormal": ArgmaxLogNormal,
    "mixture": lambda loc, scale: ArgmaxNormalMixture(location(loc), scale, POINTS),
    "smallest of a mixture": lambda loc, scale: ArgmaxNormalMixture(location(loc), scale, POINTS, minimum=True),
    "conditional": lambda loc, scale: ArgmaxConditionallyNormal(location(loc), scale, 2, num_points=8),
}
MASKS = {
    "one": torch.tensor([False, False, True, False, False]),
    "shared": torch.tensor([True, False, True, False, True]),
    "own": torch.tensor([[True, False, True, False, False], [True, True, False, True, False]]),
    "all": torch.ones(A, dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_as_if_the_others_were_not_there(make, mask):
    d = make(LOC, SCALE).restrict(mask)
    for row, keep in enumerate(mask.expand(2, A)):
        alone = make(LOC[row, keep], SCALE[row, keep])
        exact = 1e-8 if isinstance(d, ArgmaxConditionallyNormal) else 1e-13
        torch.testing.assert_close(d.probs[row, keep], alone.probs, rtol=0, atol=exact)
        assert (d.log_probs[row, ~keep] == -torch.inf).all()
    drawn = torch.nn.functional.one_hot(d.sample((20_000,)), A).double().mean(0)
    # The conditional one plays its estimated probabilities.
    spread = (d.probs * (1 - d.probs)).clamp_min(0).sqrt() / 20_000**0.5
    assert ((drawn - d.probs).abs() < 4.5 * spread + 1 / 20_000).all()
    assert torch.equal(d.log_prob(torch.tensor([2, 0])), d.log_probs[torch.arange(2), torch.tensor([2, 0])])


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_restrictions_add_up_and_follow_the_batch(make):
    first, second = torch.tensor([True, True, True, True, False]), MASKS["own"]
    d = make(LOC, SCALE).restrict(first).restrict(second)
    both = make(LOC, SCALE).restrict(first & second)
    assert torch.equal(d.probs, both.probs)
    assert torch.equal(d.expand((3, 2)).probs[2], both.probs)
    later = make(LOC, SCALE).expand((3, 2)).restrict(second)
    torch.testing.assert_close(later.probs[1], make(LOC, SCALE).restrict(second).probs, rtol=0, atol=1e-8)


def test_scores_of_any_size_and_scale():
    loc = torch.tensor([1e20, 0.0, -1e20, 5.0], dtype=torch.float64)
    scale = torch.tensor([1e-3, 1.0, 1e10, 1e-20], dtype=torch.float64)
    d = ArgmaxNormal(loc, scale)
    some = torch.tensor([False, True, False, True])
    expected = ArgmaxNormal(loc[some], scale[some]).probs
    torch.testing.assert_close(d.restrict(some).probs[some], expected, rtol=0, atol=1e-13)
    assert (d.restrict(some).probs[~some] == 0).all()
    assert d.restrict(torch.tensor([False, False, True, False])).probs.tolist() == pytest.approx([0, 0, 1, 0])
    same = ArgmaxNormal(torch.full((3,), 1e300, dtype=torch.float64), torch.ones(3).double())
    assert same.restrict(torch.tensor([True, True, False])).probs.tolist() == pytest.approx([0.5, 0.5, 0])


def test_gradients_are_of_what_is_left():
    loc = LOC[0].clone().requires_grad_()
    keep = MASKS["shared"]
    (gradient,) = torch.autograd.grad(ArgmaxNormal(loc, SCALE[0]).restrict(keep).log_prob(torch.tensor(2)), loc)
    (expected,) = torch.autograd.grad(ArgmaxNormal(loc[keep], SCALE[0, keep]).log_prob(torch.tensor(1)), loc)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert (gradient[~keep] == 0).all()


BAD = {
    "numbers": (torch.tensor([0, 2]), "mask must be a tensor of booleans, .* got a tensor of int64"),
    "a list": ([True] * A, "mask must be a tensor of booleans, .* got list"),
    "length": (torch.ones(4, dtype=torch.bool), r"mask has shape \(4,\), but must broadcast to .* \(2, 5\)"),
    "batch": (torch.ones(3, A, dtype=torch.bool), r"mask has shape \(3, 5\)"),
    "nothing": (torch.zeros(A, dtype=torch.bool), "mask leaves no action to play"),
    "nothing for one": (
        torch.tensor([[True], [False]]).expand(2, A),
        r"mask leaves no action of context \[1\]",
    ),
}


@pytest.mark.parametrize(("mask", "message"), BAD.values(), ids=BAD)
def test_bad_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        ArgmaxNormal(LOC, SCALE).restrict(mask)


def test_two_restrictions_that_leave_nothing():
    d = ArgmaxNormal(LOC, SCALE).restrict(MASKS["one"])
    with pytest.raises(ValueError, match="mask leaves no action"):
        d.restrict(~MASKS["one"])


def test_what_cannot_be_restricted_says_so():
    with pytest.raises(ValueError, match="ArgmaxBeta: cannot be restricted"):
        ArgmaxBeta(SCALE + 1, SCALE + 1).restrict(MASKS["shared"])


@pytest.mark.parametrize("name", ["normal", "mixture", "conditional"])
def test_an_empty_batch(name):
    d = BUILD[name](torch.zeros(0, 4, dtype=torch.float64)).restrict(torch.tensor([True, False, True, True]))
    assert d.probs.shape == (0, 4)
    assert d.sample((2,)).shape == (2, 0)
