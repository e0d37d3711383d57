"""The best items of draws: how often, among which, and of nothing."""

import pytest
import torch
from scipy import stats

from blob_pyro.posteriors import best_items
from blob_pyro.posteriors.best_items import best_each
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.propensity import ArgmaxConditionallyNormal
from tests.posteriors.posteriors import P, S, by_hand, correlated, draw_jointly, posterior, zetas


@pytest.mark.parametrize("at_once", [1 << 18, 7000, 600], ids=["together", "in parts", "one context in parts"])
@pytest.mark.parametrize("name", ["independent", "matrix normal", "full", "low rank", "arrowhead"])
def test_best_items_of_some_contexts_more_often_than_others(problem, name, at_once, monkeypatch):
    psi, factor, interest = problem
    distribution, q = (
        correlated(name) if name in ("full", "low rank", "arrowhead") else (None, posterior(zetas()[name]))
    )
    draws = {n: d.sample((S,)) for n, d in q.items()} if distribution is None else draw_jointly(distribution, q)
    reference = by_hand(draws, psi, factor, interest).argmax(-1)
    monkeypatch.setattr(best_items, "_NUMBERS_AT_ONCE", at_once)
    monkeypatch.setattr(best_items, "_LOGITS_AT_ONCE", at_once // 2)
    contexts = [0, 1, 2, 0, 1]
    counts = torch.tensor([30, 0, 4000, 3970, 4000])
    drawn = best_each(ClickLogits(q, psi, factor, interest)[contexts], counts).split(counts.tolist())
    assert [len(part) for part in drawn] == counts.tolist()
    for n, part in enumerate((torch.cat([drawn[0], drawn[3]]), drawn[4], drawn[2])):
        probability = torch.bincount(reference[:, n], minlength=P) / S
        found = torch.bincount(part, minlength=P) / len(part)
        error = (probability * (1 - probability) * (1 / len(part) + 1 / S)).sqrt()
        assert ((found - probability).abs() < 4.5 * error + 1e-3).all()
        again, chance = (part[1:] == part[:-1]).double().mean(), float(probability.square().sum())
        assert abs(again - chance) < 5 * (chance * (1 - chance) / len(part)) ** 0.5 + 5e-3  # no draw knows the last one


def test_best_items_among_those_allowed(problem):
    psi, factor, interest = problem
    logits = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest)
    allowed = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()
    drawn = best_each(logits, torch.tensor([5000, 40, 5000]), allowed).split([5000, 40, 5000])
    assert (drawn[1] == 4).all()
    reference = logits.best((20_000,), allowed)
    for n in (0, 2):
        probability = torch.bincount(reference[:, n], minlength=P) / 20_000
        assert (probability[~allowed[n]] == 0).all()
        assert torch.allclose(torch.bincount(drawn[n], minlength=P) / 5000, probability, atol=0.04)


@pytest.mark.parametrize("name", ["independent", "matrix normal", "arrowhead"])
def test_best_items_have_the_exact_propensities(problem, name):
    """Whatever is left out of a draw, or drawn together: by chi-square, each context and each guide by itself."""
    psi, factor, interest = problem
    q = correlated(name)[1] if name == "arrowhead" else posterior(zetas()[name])
    logits, counts = ClickLogits(q, psi, factor, interest), torch.tensor([20_000, 700, 9_000])
    exact = ArgmaxConditionallyNormal(
        lambda numbers: logits.given_shared(numbers.unsqueeze(-2)).movedim(0, -2),
        logits.own_scale,
        logits.num_factors,
        num_points=2**12,
    )
    assert (exact.error_estimate < 7e-4).all()  # adds less than .1 to a chi-square of 20,000 draws
    torch.manual_seed(11)
    for drawn, probs, count in zip(best_each(logits, counts).split(counts.tolist()), exact.probs, counts.tolist()):
        common = probs * count >= 5
        found, expected = torch.bincount(drawn, minlength=P)[common], (probs * count)[common]
        rest = torch.tensor([count - found.sum(), count - expected.sum()])
        if rest[1] >= 5:
            found, expected = torch.cat([found, rest[:1].long()]), torch.cat([expected, rest[1:]])
        assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("counts", [[0, 0, 0], []], ids=str)
def test_best_items_of_nothing(problem, counts):
    psi, factor, interest = problem
    logits = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest[: len(counts)])
    assert best_each(logits, torch.tensor(counts, dtype=torch.int64)).shape == (0,)
