"""Slates of the best few of independent scores, against the distributions over ranks."""

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.slates import (
    Contexts,
    slates_of,
)
from blob_pyro.propensity import ArgmaxBeta, ArgmaxLogNormal, ArgmaxNormal, RankBeta, RankNormal
from blob_pyro.propensity.kernels.normal_ranks import normal_rank_probs
from tests.policies.slates.every_slate import every


def test_scales_that_differ_too_much_are_left_to_others():
    loc, scale = torch.tensor([[0.0, 0.1, 0.2]]).double(), torch.tensor([[1.0, 1e-9, 2.0]]).double()
    _, reached = normal_rank_probs(loc, scale, 2)
    assert not reached.any()
    distribution = slates_of(ArgmaxNormal(loc, scale), contexts(1, 3), 2)
    torch.testing.assert_close(every(distribution, 1), RankNormal(loc, scale, 2).probs)


def contexts(size, num_items, allowed=None):
    return Contexts(Histories.from_sequences([[]] * size, num_items), allowed)


SHAPES = torch.tensor([[2.0, 1, 5, 3], [1, 1, 1, 1]]), torch.tensor([[3.0, 9, 4, 30], [1, 2, 3, 4]])


OF_SCORES = {
    "normal": (ArgmaxNormal, RankNormal, {}),
    "lowest normal": (ArgmaxNormal, RankNormal, {"minimum": True}),
    "beta": (ArgmaxBeta, RankBeta, {}),
    "lowest beta": (ArgmaxBeta, RankBeta, {"minimum": True}),
}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("argmax", "rank", "options"), OF_SCORES.values(), ids=OF_SCORES.keys())
def test_the_best_few_of_independent_scores(argmax, rank, options, slots):
    first, second = (p.double() for p in SHAPES)
    actions = argmax(first, second, **options)
    distribution = slates_of(actions, contexts(2, 4), slots)
    torch.testing.assert_close(every(distribution, 2), rank(first, second, slots, **options).probs, rtol=0, atol=1e-9)
    allowed = torch.tensor([[True, False, True, True], [True, True, False, False]])
    some = every(slates_of(actions, contexts(2, 4, allowed), slots), 2)
    for row in range(2):
        keep = allowed[row]
        expected = rank(first[row, keep], second[row, keep], slots, **options).probs
        torch.testing.assert_close(some[row, keep], expected, rtol=0, atol=1e-9)
        assert (some[row, ~keep] == 0).all()


def test_lognormal_scores_have_the_order_of_their_logarithms():
    first, second = (p.double() for p in SHAPES)
    normal, log_normal = (slates_of(d(first, second), contexts(2, 4), 2) for d in (ArgmaxNormal, ArgmaxLogNormal))
    torch.testing.assert_close(every(normal, 2), every(log_normal, 2))
