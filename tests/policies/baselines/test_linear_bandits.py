"""Ridge regressions per item, and the bandits on them, by brute force."""

import numpy as np
import pyro.distributions as dist
import torch

from blob_pyro.policies.baselines import (
    LinTS,
    LinUCB,
)
from tests.policies.baselines.baseline_data import constant_and_last


def test_linear_bandits_by_brute_force(clicks):
    ucb = LinUCB(clicks.items, constant_and_last, 2, alpha=0.7, l2=0.5)
    ts = LinTS(clicks.items, constant_and_last, 2, noise=0.7, l2=0.5)
    for model in (ucb, ts):
        model.update(clicks)
    x = constant_and_last(clicks.contexts)[clicks.context].numpy()
    at = np.array([[1.0, 0.0], [1.0, 1.0]])
    mean, spread = np.zeros((2, 4)), np.zeros((2, 4))
    for item in range(4):
        rows = clicks.action.numpy() == item
        precision = 0.5 * np.eye(2)
        for row in x[rows]:
            precision += np.outer(row, row)
        theta = np.linalg.solve(precision, (x[rows] * clicks.reward.numpy()[rows, None]).sum(0))
        mean[:, item] = at @ theta
        spread[:, item] = np.sqrt(np.einsum("nd,de,ne->n", at, np.linalg.inv(precision), at))
    assert np.allclose(ucb.scores([[1], [0]]), mean + 0.7 * spread)
    assert np.allclose(ts.scores([[1], [0]]), mean)
    draws = dist.Normal(torch.tensor(mean), 0.7 * torch.tensor(spread)).sample((200_000,)).argmax(-1)
    probs = ts.action_distribution([[1], [0]]).probs
    for n in range(2):
        assert torch.allclose(torch.bincount(draws[:, n], minlength=4) / 2e5, probs[n].float(), atol=0.006)
    assert probs[1].argmax() == 3  # who has viewed item 0 clicks on item 3


def test_two_updates_are_one(clicks):
    from dataclasses import replace

    once, twice = (LinUCB(clicks.items, constant_and_last, 2) for _ in range(2))
    once.update(clicks)
    half = torch.arange(clicks.num_impressions) < 2500
    for rows in (half, ~half):
        some = {name: getattr(clicks, name)[rows] for name in ("user", "time", "action", "reward", "context")}
        twice.update(replace(clicks, propensity=None, **some))
    assert torch.allclose(once.scores([[0], [1]]), twice.scores([[0], [1]]))
