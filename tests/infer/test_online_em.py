"""EM online: within its stated error, which falls with the number of steps."""

import pytest
import torch

from blob_pyro.infer import expectation_maximization, online_expectation_maximization
from tests.infer.em_problems import P


def next_item(q, items):
    return (q.mean @ items[0].T + items[1]).softmax(-1)


@pytest.mark.parametrize("num_negatives", [10, 30])
def test_online_follows_within_its_stated_error(num_negatives, items, typical):
    exact = expectation_maximization(typical, *items, num_cycles=3000, tolerance=1e-9)
    torch.manual_seed(0)
    online = online_expectation_maximization(typical, *items, num_negatives=num_negatives)
    distance = 0.5 * (next_item(online, items) - next_item(exact, items)).abs().sum(-1)
    assert (distance < 0.03).all()
    assert torch.allclose(online.stddev, exact.stddev, rtol=0.2)
    start = torch.full((P,), 0.0).double() + items[1]
    assert (0.5 * (start.softmax(-1) - next_item(exact, items)).abs().sum(-1)).max() > 0.2  # it had a way to go


def test_online_error_falls_with_the_number_of_steps(items, typical):
    exact = next_item(expectation_maximization(typical, *items, num_cycles=3000, tolerance=1e-9), items)

    def error(num_steps):
        torch.manual_seed(0)
        runs = [
            online_expectation_maximization(typical, *items, num_steps=num_steps, num_negatives=5) for _ in range(3)
        ]
        return torch.stack([(next_item(q, items) - exact).square().sum(-1) for q in runs]).mean().sqrt()

    assert error(1000) < 0.5 * error(50)


def test_steps_that_do_not_converge_are_refused(items, histories):
    with pytest.raises(ValueError, match=r"decay: must be above 1/2 and at most 1 for the steps to converge, got 0\.4"):
        online_expectation_maximization(histories, *items, decay=0.4)
