"""Top-two sampling: the formula against what it says in words, and what is refused."""

import numpy as np
import pytest
import torch

from blob_pyro.policies import PosteriorDraws, ThompsonSampling, TopTwoThompsonSampling, Uniform
from blob_pyro.policies.top_two_thompson import top_two

BEST = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.97, 0.01, 0.015, 0.005], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_against_drawing_until_the_challenger_is_another(beta):
    random, draws = np.random.default_rng(1), 20_000
    for best, found in zip(BEST.numpy(), top_two(BEST, beta).numpy()):
        leader = random.choice(4, draws, p=best)
        challenger = random.choice(4, draws, p=best)
        while (same := challenger == leader).any():
            challenger[same] = random.choice(4, same.sum(), p=best)
        played = np.where(random.random(draws) < beta, leader, challenger)
        frequency = np.bincount(played, minlength=4) / draws
        assert np.abs(frequency - found).max() < 5 * 0.5 / draws**0.5
        assert found.sum() == pytest.approx(1.0, abs=1e-15)


def test_all_but_certain_items_and_certain_ones():
    doubt = 1e-14
    best = torch.tensor([[1 - 3 * doubt, 2 * doubt, doubt], [0.0, 1.0, 0.0]], dtype=torch.float64)
    found = top_two(best, 0.5)
    torch.testing.assert_close(found[0], torch.tensor([0.5, 1 / 3, 1 / 6], dtype=torch.float64), rtol=1e-2, atol=0)
    assert found[1].tolist() == [0.0, 1.0, 0.0]


def test_draws_are_counted(blob):
    histories = [[0, 2, 2], []]
    thompson = ThompsonSampling(PosteriorDraws(blob, 50, seed=3))
    counts = 50 * thompson.action_distribution(histories).probs
    assert torch.allclose(counts, counts.round(), rtol=0, atol=1e-9)
    drawn = blob.drawn_click_logits(histories, num_draws=50, seed=3)
    assert torch.equal(drawn.logits, blob.drawn_click_logits(histories, num_draws=50, seed=3).logits)
    best = drawn.logits.argmax(-1)
    assert torch.equal(torch.stack([(best == item).sum(0) for item in range(12)], -1).double(), counts.round())
    exact = blob.click_logits(histories)
    many = blob.drawn_click_logits(histories, num_draws=4000)
    error = many.variance.sqrt() / 4000**0.5
    assert ((many.mean - exact.mean).abs() < 5 * error).all()
    assert torch.equal(PosteriorDraws(blob, 50, seed=3).scores(histories), drawn.mean)
    top = TopTwoThompsonSampling(thompson, 0.25)
    assert torch.allclose(top.action_distribution(histories).probs, top_two(counts.double() / 50, 0.25))
    few = top.action_distribution(histories, candidates=[1, 5]).probs
    assert few[:, [1, 5]].sum(-1).tolist() == pytest.approx([1, 1])


def test_what_is_refused(blob):
    with pytest.raises(TypeError, match="thompson: expected a ThompsonSampling, got Uniform"):
        TopTwoThompsonSampling(Uniform(3))
    with pytest.raises(ValueError, match="beta: must lie between 0 and 1, got 2"):
        TopTwoThompsonSampling(ThompsonSampling(blob), 2)
    with pytest.raises(TypeError, match=r"model: expected a posterior with drawn_click_logits\(histories\)"):
        PosteriorDraws(Uniform(3))
