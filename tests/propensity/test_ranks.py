"""Ranks and ordered slates against exact rationals, enumeration and Monte Carlo."""

import itertools
import math

import pytest
import torch

from blob_pyro.propensity import ArgmaxBeta, ArgmaxNormal, RankBeta, RankNormal
from tests.propensity.propensity_oracles import double, exact_beta_rank_probs, standard_errors


def _normal(num_ranks=3, **options):
    return RankNormal(double(0.0, 0.5, 1.0, 0.9), double(3.0, 1.0, 0.1, 0.4), num_ranks, **options)


def _beta(num_ranks=3, **options):
    return RankBeta(double(2.0, 10.0, 5.0, 0.5), double(8.0, 30.0, 5.0, 0.5), num_ranks, **options)


BUILDERS = pytest.mark.parametrize("build", [_normal, _beta], ids=["normal", "beta"])


def test_beta_ranks_match_exact_rationals():
    a, b = [2, 3, 1, 4], [5, 4, 2, 3]
    exact = torch.tensor([[float(p) for p in row] for row in exact_beta_rank_probs(a, b)], dtype=torch.float64)
    torch.testing.assert_close(RankBeta(double(*a), double(*b), num_ranks=4).probs, exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(RankBeta(double(*a), double(*b), num_ranks=2).probs, exact[:, :2], rtol=0, atol=1e-12)


def test_first_and_last_ranks_are_argmax_and_argmin():
    d = _normal(num_ranks=4)
    torch.testing.assert_close(d.probs[:, 0], ArgmaxNormal(d.loc, d.scale).probs, rtol=0, atol=1e-12)
    torch.testing.assert_close(d.probs[:, -1], ArgmaxNormal(d.loc, d.scale, minimum=True).probs, rtol=0, atol=1e-12)
    d = _beta(num_ranks=4)
    expected = ArgmaxBeta(d.concentration1, d.concentration0, minimum=True).probs
    torch.testing.assert_close(d.probs[:, -1], expected, rtol=0, atol=1e-12)


@BUILDERS
@pytest.mark.parametrize("minimum", [False, True], ids=["largest first", "smallest first"])
def test_samples_follow_the_probabilities(build, minimum):
    d = build(minimum=minimum)
    draws = d.sample((200_000,))
    for rank in range(3):
        frequency = torch.bincount(draws[:, rank], minlength=4) / 200_000
        assert standard_errors(d.probs[:, rank], frequency, 200_000) < 4.5
    slate = draws.mode(0).values
    frequency = (draws == slate).all(-1).double().mean()
    assert standard_errors(d.log_prob(slate).exp(), frequency, 200_000) < 4.5


@BUILDERS
def test_slates_add_up_to_the_ranks(build):
    d = build(num_ranks=2)
    slates = torch.tensor(list(itertools.permutations(range(4), 2)))
    probs = d.log_prob(slates).exp()
    assert abs(probs.sum().item() - 1) < 1e-12
    for action in range(4):
        for rank in range(2):
            total = probs[slates[:, rank] == action].sum()
            assert total.item() == pytest.approx(d.probs[action, rank].item(), abs=1e-12)


def test_orderings_of_any_length():
    d = _normal()
    assert d.ordering_log_prob(torch.tensor([2])).item() == pytest.approx(
        ArgmaxNormal(d.loc, d.scale).log_probs[2].item(), abs=1e-12
    )
    complete = torch.tensor(list(itertools.permutations(range(4))))
    assert abs(d.ordering_log_prob(complete).exp().sum().item() - 1) < 1e-12
    assert d.ordering_log_prob(torch.tensor([2, 2])).item() == -math.inf


def test_exchangeable_arms_share_all_orders():
    d = RankNormal(torch.full((3,), 7.0).double(), torch.full((3,), 0.2).double())
    assert d.log_prob(torch.tensor([1, 0, 2])).item() == pytest.approx(-math.log(6), abs=1e-12)


def test_an_order_of_one_in_a_hundred_million_keeps_its_digits():
    d = RankNormal(double(0.0, 8.0), double(1.0, 1.0), num_ranks=2)
    expected = torch.special.log_ndtr(double(-8 / math.sqrt(2))).item()
    assert d.log_prob(torch.tensor([0, 1])).item() == pytest.approx(expected, abs=1e-8)


@BUILDERS
def test_expand_and_broadcast(build):
    d = build().expand((5, 2))
    assert d.batch_shape == (5, 2)
    assert d.event_shape == (3,)
    assert d.probs.shape == (5, 2, 4, 3)
    assert d.sample((7,)).shape == (7, 5, 2, 3)
    assert d.log_prob(torch.tensor([0, 1, 2])).shape == (5, 2)


def test_slates_outside_the_support():
    with pytest.raises(ValueError, match="within the support"):
        _normal().log_prob(torch.tensor([0, 1, 4]))


def test_gradients():
    loc, scale = double(0.0, 0.5, 1.0).requires_grad_(), double(1.0, 0.5, 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: RankNormal(m, s, 2).probs, (loc, scale))
    slate = torch.tensor([2, 0])
    assert torch.autograd.gradcheck(lambda m, s: RankNormal(m, s, 2).log_prob(slate), (loc, scale))
    assert torch.autograd.gradcheck(lambda a, b: RankBeta(a.exp(), b.exp(), 2).probs, (loc, scale))


def _many(num_actions):
    generator = torch.Generator().manual_seed(num_actions)
    return torch.rand(2, num_actions, generator=generator, dtype=torch.float64)


MANY = {
    "normals of similar scales": lambda n: RankNormal(_many(n)[0], 0.05 + _many(n)[1]),
    "equal normals": lambda n: RankNormal(torch.zeros(n).double(), torch.ones(n).double()),
    "betas": lambda n: RankBeta(1 + 20 * _many(n)[0], 1 + 3000 * _many(n)[1]),
    "equal betas": lambda n: RankBeta(torch.full((n,), 3.0).double(), torch.full((n,), 70.0).double()),
}


@pytest.mark.parametrize(
    "build", [pytest.param(b, id=n, marks=[pytest.mark.slow] if n == "equal normals" else []) for n, b in MANY.items()]
)
def test_many_actions_share_their_mesh(build, monkeypatch):
    """Three panels for each action would be 24,000 nodes; the best one's slot is known by another method."""
    d, looked = build(500), []
    monkeypatch.setattr(d, "_allow", looked.append)
    probs = d.probs
    assert max(looked) < 8_000
    assert (probs.sum(-2) - 1).abs().max() < 1e-10
    best = ArgmaxNormal(d.loc, d.scale) if isinstance(d, RankNormal) else ArgmaxBeta(d.concentration1, d.concentration0)
    torch.testing.assert_close(probs[:, 0], best.probs, rtol=0, atol=1e-12)
    draws = d.sample((20_000,))
    likely = probs[:, 2].topk(5).indices
    frequency = (draws[:, 2, None] == likely).double().mean(0)
    assert standard_errors(probs[likely, 2], frequency, 20_000) < 4.5


MANY_SCALES = [(0, 12), (3, 12), *(pytest.param(seed, 40, marks=pytest.mark.slow) for seed in range(8))]


@pytest.mark.parametrize(("seed", "num_actions"), MANY_SCALES)
def test_densities_that_lie_together_are_still_seen(seed, num_actions):
    """Scales over ten orders of magnitude, locations that coincide, nearly coincide, or lie far from each other."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, num_actions, generator=generator, dtype=torch.float64)
    scale = 10 ** (-9 * draw[0] + draw[1])
    loc = (
        torch.tensor([0.0, 0.3, 1.0])[(3 * draw[2]).long()].double()
        + scale * torch.randint(0, 2, (num_actions,)).double()
    )
    loc = loc + 10.0 ** (seed % 4 * 2)
    both = RankNormal(loc, scale, num_ranks=num_actions)
    for slot, minimum in ((0, False), (-1, True)):
        expected = ArgmaxNormal(loc, scale, minimum=minimum).probs
        torch.testing.assert_close(both.probs[:, slot], expected, rtol=0, atol=1e-11)
    assert (both.probs.sum(-1) - 1).abs().max() < 1e-11  # every action has a slot


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    here, there = (
        RankBeta(double(2.0, 10.0, 5.0).to(device), double(8.0, 30.0, 5.0).to(device), 2) for device in ("cpu", "cuda")
    )
    assert there.probs.is_cuda
    torch.testing.assert_close(there.probs.cpu(), here.probs, rtol=0, atol=1e-11)
