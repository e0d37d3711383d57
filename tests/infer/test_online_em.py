"""EM online: within its stated error, which falls with the number of steps, and which it says where it is larger."""

import warnings

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.infer import ConvergenceWarning, expectation_maximization, online_expectation_maximization
from tests.infer.em_problems import P

LENGTHS = torch.tensor([0, 1, 2, 3, 5, 8, 15, 30, 60, 120, 300, 600] * 5)
CATALOGUES = ["weak", "medium", "strong", "zipf", "three dominate", "one dominates"]


def next_item(q, items):
    return (q.mean @ items[0].T + items[1]).softmax(-1)


def distance(q, p, items):
    """Total variation of the next item, by session."""
    return 0.5 * (next_item(q, items) - next_item(p, items)).abs().sum(-1)


def of_a_thousand_items(kind, seed):
    """Sessions of no to 600 views, drawn from their own interests."""
    draw = torch.Generator().manual_seed(seed)
    scale = {"weak": 0.3, "strong": 1.0}.get(kind, 0.6)
    psi, rho = scale * torch.randn(1000, 10, generator=draw).double(), torch.zeros(1000).double()
    if kind == "zipf":
        rho = -1.1 * torch.arange(1, 1001).double().log()[torch.randperm(1000, generator=draw)]
    if kind == "three dominate":
        rho[:3] = torch.tensor([8.0, 7.0, 6.0])
    if kind == "one dominates":
        rho[0] = 10.0
    probs = (torch.randn(len(LENGTHS), 10, generator=draw).double() @ psi.mT + rho).softmax(-1)
    views = [torch.multinomial(p, int(n), True, generator=draw) for p, n in zip(probs, LENGTHS) if n]
    return Histories.from_ragged(torch.cat(views), LENGTHS, 1000), (psi, rho)


@pytest.mark.filterwarnings("ignore:online_expectation_maximization")
@pytest.mark.parametrize("kind", CATALOGUES)
def test_a_thousand_items_are_within_the_stated_error(kind):
    histories, items = of_a_thousand_items(kind, seed=11)
    exact = expectation_maximization(histories, *items, num_cycles=6000, tolerance=1e-10)
    online = online_expectation_maximization(histories, *items, seed=7)
    off = distance(online, exact, items)
    assert off.max() < (0.06 if kind == "strong" else 0.05)
    assert off.mean() < 0.015
    prior = torch.distributions.Normal(torch.zeros_like(exact.loc), 1.0)
    assert distance(prior, exact, items).max() > 0.2  # it had a way to go


@pytest.mark.parametrize("kind", ["medium", "strong", "zipf", "three dominate", "one dominates"])
def test_what_has_not_arrived_is_said(kind):
    """Of a few items a step sessions of many views stray, and none of them in silence."""
    histories, items = of_a_thousand_items(kind, seed=12)
    exact = expectation_maximization(histories, *items, num_cycles=6000, tolerance=1e-10)
    with pytest.warns(ConvergenceWarning, match=r"\d+ of 60 sessions may not have arrived; .* Take more num_negatives"):
        online = online_expectation_maximization(histories, *items, num_negatives=16)
    assert distance(online, exact, items).max() > 0.06


@pytest.mark.parametrize("num_negatives", [10, 30])
def test_online_follows_within_its_stated_error(num_negatives, items, typical):
    exact = expectation_maximization(typical, *items, num_cycles=3000, tolerance=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        online = online_expectation_maximization(typical, *items, num_negatives=num_negatives)
    assert (distance(online, exact, items) < 0.01).all()
    assert torch.allclose(online.stddev, exact.stddev, rtol=0.05)
    start = torch.full((P,), 0.0).double() + items[1]
    assert (0.5 * (start.softmax(-1) - next_item(exact, items)).abs().sum(-1)).max() > 0.2  # it had a way to go


@pytest.mark.filterwarnings("ignore:online_expectation_maximization")
def test_online_error_falls_with_the_number_of_steps(items, typical):
    exact = next_item(expectation_maximization(typical, *items, num_cycles=3000, tolerance=1e-9), items)

    def error(num_steps):
        runs = [
            online_expectation_maximization(typical, *items, num_steps=num_steps, num_negatives=5, seed=seed)
            for seed in range(3)
        ]
        return torch.stack([(next_item(q, items) - exact).square().sum(-1) for q in runs]).mean().sqrt()

    assert error(1000) < 0.5 * error(50)


def test_steps_that_do_not_converge_are_refused(items, histories):
    with pytest.raises(ValueError, match=r"decay: must be above 1/2 and at most 1 for the steps to converge, got 0\.4"):
        online_expectation_maximization(histories, *items, decay=0.4)
