"""Rank propensities against every slate that there is, one by one."""

import itertools
from fractions import Fraction

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.slates import (
    Contexts,
    EpsilonGreedySlates,
    MixtureSlates,
    PlackettLuceSlates,
    TwoClassSlates,
    slates_of,
)
from blob_pyro.policies.slates.distinct import distinct_contexts
from blob_pyro.propensity import ArgmaxBeta, ArgmaxLogNormal, ArgmaxNormal, RankBeta, RankNormal
from blob_pyro.propensity.kernels.normal_ranks import normal_rank_probs
from blob_pyro.propensity.kernels.plackett_luce import plackett_luce_rank_probs


def by_enumeration(distribution, row):
    """P(item, slot) of one context: over all ordered slates, by the distribution's own next step."""
    found = torch.zeros(distribution.num_items, distribution.num_slots, dtype=torch.float64)
    for slate in itertools.permutations(range(distribution.num_items), distribution.num_slots):
        left, chance = distribution.mask().clone(), 1.0
        for item in slate:
            step = distribution.next_probs(left)[row]
            chance *= float(step[item] / step.sum()) if step[item] > 0 else 0.0
            left[:, item] = False
            if not chance:
                break
        for slot, item in enumerate(slate):
            found[item, slot] += chance
    return found


def every(distribution, size):
    return distribution.rank_probs(torch.arange(distribution.num_items).expand(size, -1))


INF = float("inf")
SCORES = torch.tensor(
    [
        [0.1, 2.0, -1.0, 0.5, 0.3],
        [1.0, 1.0, 0.0, 1.0, 0.0],
        [0.0, -INF, 0.5, 0.5, -2.0],
        [0.0] * 5,
        [3.0, 1, -INF, -INF, 2],
    ]
)
WEIGHTS = torch.tensor([[1.0, 2, 0, 0, 5], [0, 0, 0, 0, 0], [1, 1, 1, 3, 2], [0, 0, 7, 0, 0], [1, 1e-9, 0, 0, 1e9]])
ALLOWED = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 1]]).bool()
DISTRIBUTIONS = {
    **{
        f"epsilon {epsilon}, {slots} slots": lambda e=epsilon, s=slots: EpsilonGreedySlates(SCORES, s, e)
        for epsilon in (0.0, 0.25, 1.0)
        for slots in (1, 2, 3)
    },
    **{
        f"two classes, epsilon {epsilon}, {slots} slots": lambda e=epsilon, s=slots: TwoClassSlates(
            WEIGHTS, ALLOWED, s, e
        )
        for epsilon in (0.0, 0.25, 1.0)
        for slots in (1, 2, 3)
    },
    **{f"weights, {slots} slots": lambda s=slots: PlackettLuceSlates(SCORES.double().exp(), s) for slots in (1, 2, 3)},
}


@pytest.mark.parametrize("make", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
def test_rank_propensities_are_sums_over_all_slates(make):
    distribution = make()
    found = every(distribution, 5)
    expected = torch.stack([by_enumeration(distribution, row) for row in range(5)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.sum(1), torch.ones(5, distribution.num_slots).double(), rtol=0, atol=1e-12)
    slates = distribution.draw(torch.Generator().manual_seed(0))
    assert all(len(set(slate)) == distribution.num_slots for slate in slates.tolist())
    picked = found.gather(1, slates.unsqueeze(-1).expand(-1, -1, distribution.num_slots)).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(distribution.propensities(slates), picked)
    assert (distribution.propensities(slates) > 0).all()
    assert (distribution.propensity_errors(slates) == 0).all()


def test_a_mixture_shows_the_slate_of_one_part():
    parts = [EpsilonGreedySlates(SCORES, 2, 0.1), PlackettLuceSlates(SCORES.double().exp(), 2)]
    distribution = MixtureSlates(parts, [0.3, 0.7])
    torch.testing.assert_close(every(distribution, 5), 0.3 * every(parts[0], 5) + 0.7 * every(parts[1], 5))
    assert distribution.draw(torch.Generator().manual_seed(1)).shape == (5, 2)


# --- kernels ----------------------------------------------------------------------------------------------------------


def in_fractions(weights, num_ranks):
    weights = [Fraction(w) for w in weights]
    found = [[Fraction(0)] * num_ranks for _ in weights]
    for order in itertools.permutations([i for i, w in enumerate(weights) if w], num_ranks):
        chance, rest = Fraction(1), sum(weights)
        for item in order:
            chance, rest = chance * weights[item] / rest, rest - weights[item]
        for rank, item in enumerate(order):
            found[item][rank] += chance
    return torch.tensor([[float(p) for p in row] for row in found], dtype=torch.float64)


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2, 3, 4, 5], [1, 1e-6, 1e-12, 1e-3, 0], [1, 1e-100, 1e-200, 1e-250, 3], [1e-9, 1e-9, 1, 0, 0], [1] * 6,
        [7, 2, 1], [1, 0, 1e-285, 1e-284, 2],
    ],
    ids=["near", "far", "very far", "three", "equal", "as many as ranks", "at the end of time"],
)  # fmt: skip
def test_plackett_luce_to_the_last_digits(weights):
    found = plackett_luce_rank_probs(torch.tensor([weights], dtype=torch.float64), 3)[0]
    torch.testing.assert_close(found, in_fractions(weights, 3), rtol=1e-12, atol=1e-15)


def test_items_without_a_weight_change_nothing():
    weight = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[1, 3:], weight[2, 0] = 0, 0
    wide = torch.zeros(4, 40, dtype=torch.float64)
    places = torch.tensor([[1, 9, 20, 30, 39], [0, 1, 2, 3, 4], [5, 39, 7, 12, 1], [3, 6, 9, 12, 15]])
    wide.scatter_(1, places, weight)
    found = plackett_luce_rank_probs(wide, 3)
    expected = plackett_luce_rank_probs(weight, 3)
    torch.testing.assert_close(
        found.gather(1, places.unsqueeze(-1).expand(-1, -1, 3)), expected, rtol=1e-12, atol=1e-15
    )
    torch.testing.assert_close(found.sum(1), expected.sum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("smallest", [5e-324, 1e-310, 1e-300, 1e-291])
def test_weights_beyond_what_time_can_tell_apart(smallest):
    distribution = PlackettLuceSlates(torch.tensor([[1.0, smallest, 2e-320, 0.0, 1e-3]], dtype=torch.float64), 3)
    found = every(distribution, 1)
    torch.testing.assert_close(found[0], by_enumeration(distribution, 0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("num_items", [1, 2, 3, 31, 64, 1000])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_plackett_luce_of_any_size_adds_up(num_items, num_ranks):
    weight = torch.rand(3, num_items, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    found = plackett_luce_rank_probs(weight, num_ranks)
    ranks = min(num_items, num_ranks)
    torch.testing.assert_close(found.sum(1)[:, :ranks], torch.ones(3, ranks).double(), rtol=0, atol=1e-12)
    assert (found[..., ranks:] == 0).all()
    assert (found.sum(-1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0], ids=["equal scales", "1:10", "1:100"])
def test_normal_ranks_are_those_of_meshes_of_their_own(ratio, num_ranks):
    source = torch.Generator().manual_seed(1)
    loc = torch.randn(4, 6, generator=source, dtype=torch.float64) * 2
    scale = ratio ** torch.rand(4, 6, generator=source, dtype=torch.float64) * 0.3
    found, reached = normal_rank_probs(loc, scale, num_ranks)
    assert reached.all()
    torch.testing.assert_close(found, RankNormal(loc, scale, num_ranks).probs, rtol=0, atol=1e-12)


def test_scales_that_differ_too_much_are_left_to_others():
    loc, scale = torch.tensor([[0.0, 0.1, 0.2]]).double(), torch.tensor([[1.0, 1e-9, 2.0]]).double()
    _, reached = normal_rank_probs(loc, scale, 2)
    assert not reached.any()
    distribution = slates_of(ArgmaxNormal(loc, scale), contexts(1, 3), 2)
    torch.testing.assert_close(every(distribution, 1), RankNormal(loc, scale, 2).probs)


# --- slates of distributions ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("shared", [True, False])
def test_contexts_that_are_alike_are_found(shared):
    sequences = [[0, 1], [1, 0], [], [0, 1], [], [0, 1, 1], [2], [0, 1]]
    kinds = [0, 1, 2, 0, 2, 3, 4, 0]
    allowed = torch.ones(1, 3, dtype=torch.bool).expand(8, -1)
    if not shared:
        allowed = allowed.clone()
        allowed[7, 2] = False
        kinds[7] = 5
    first, kind = distinct_contexts(Contexts(Histories.from_sequences(sequences, 3), allowed))
    renumbered = torch.tensor([kinds.index(k) for k in kinds])
    assert first[kind].tolist() == renumbered.tolist()
