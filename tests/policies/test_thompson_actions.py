"""Draws are counted to the last one."""

import torch

from blob_pyro.policies.thompson import DrawnThompsonActions
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits


def test_draws_are_counted_to_the_last_one():
    """Three items, a hundred draws: what `probs` says is what `sample` plays."""
    torch.manual_seed(2)
    logits = DrawnClickLogits(torch.randn(100, 3, 4) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1), torch.randn(5, 4))
    actions = DrawnThompsonActions(logits)
    expected = torch.stack([(logits.logits.argmax(-1) == item).double().mean(0) for item in range(3)], -1)
    assert torch.allclose(actions.probs, expected, rtol=0, atol=1e-15)
    assert torch.allclose(actions.error_estimate, (expected * (1 - expected) / 100).sqrt())
    played = torch.nn.functional.one_hot(actions.sample((20_000,)), 3).double().mean(0)
    assert ((played - expected).abs() < 4.5 * (expected * (1 - expected) / 20_000).sqrt() + 1e-12).all()
    assert torch.equal(actions.expand((2, 5)).error_estimate[1], actions.error_estimate)
