"""Ranking metrics against a sort and scikit-free loops, ties against every order of the tied."""

import itertools
import math

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.data.splits import leave_last_out, split_sessions
from blob_pyro.ops.ranking_metrics import dcg_at_k, log_likelihood, mean_reciprocal_rank, recall_at_k

VALUE = {
    "recall": (lambda rank, k: float(rank <= k), recall_at_k),
    "dcg": (lambda rank, k: 1 / math.log2(rank + 1) if rank <= k else 0.0, dcg_at_k),
    "reciprocal rank": (lambda rank, k: 1 / rank, lambda scores, target, k: mean_reciprocal_rank(scores, target)),
}


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(("value", "metric"), VALUE.values(), ids=VALUE.keys())
def test_against_every_order_of_the_tied(value, metric, k):
    scores = torch.tensor(
        [[3.0, 1.0, 3.0, 2.0, 3.0], [0.0] * 5, [5.0, 4.0, 3.0, 2.0, 1.0], [-1.0, -1.0, 0.0, 7.0, -1.0]]
    )
    target = torch.tensor([2, 4, 1, 0])
    for n in range(4):
        orders = [
            order
            for order in itertools.permutations(range(5))
            if all(scores[n, a] >= scores[n, b] for a, b in itertools.pairwise(order))
        ]
        expected = sum(value(1 + order.index(int(target[n])), k) for order in orders) / len(orders)
        assert metric(scores, target, k)[n].item() == pytest.approx(expected, rel=1e-6)


def test_gain_never_exceeds_recall():
    torch.manual_seed(0)
    scores, target = torch.randn(500, 20), torch.randint(20, (500,))
    gain, recall = dcg_at_k(scores, target, 5), recall_at_k(scores, target, 5)
    assert (gain <= recall).all()
    assert 0.2 < recall.mean() < 0.3


def test_log_likelihood_needs_probabilities():
    probs = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    assert log_likelihood(probs, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(0.8), math.log(0.5)])
    with pytest.raises(ValueError, match="probabilities: rows must be probabilities that sum to 1"):
        log_likelihood(probs * 3, torch.tensor([1, 0]))


BAD = {
    "k": (lambda: recall_at_k(torch.zeros(1, 3), torch.tensor([0]), 4), "k: must lie between 1 and .* 3, got 4"),
    "shape": (lambda: recall_at_k(torch.zeros(2, 3), torch.tensor([0]), 1), "target: expected one item per row"),
    "nan": (lambda: recall_at_k(torch.full((1, 3), math.nan), torch.tensor([0]), 1), "scores: must not be NaN"),
    "fraction": (
        lambda: split_sessions(Histories.from_sequences([[0], [0]], 1), 1.0),
        "test_fraction: must lie between",
    ),
    "one session": (lambda: split_sessions(Histories.from_sequences([[0]], 1)), "sessions: a split needs at least two"),
    "max_views": (lambda: leave_last_out(Histories.from_sequences([[0]], 1), -1), "max_views: must not be negative"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_split_is_of_whole_sessions():
    sessions = Histories.from_sequences([[n] * (n % 3) + [n] for n in range(50)], num_items=50)
    train, test = split_sessions(sessions, 0.3, seed=1)
    assert (len(train), len(test)) == (35, 15)
    assert sorted(train.to_sequences() + test.to_sequences()) == sorted(sessions.to_sequences())
    assert split_sessions(sessions, 0.3, seed=1)[1].to_sequences() == test.to_sequences()
    assert split_sessions(sessions, 0.3, seed=2)[1].to_sequences() != test.to_sequences()


def test_short_histories_keep_the_most_recent_views():
    sessions = Histories.from_sequences([[0, 1, 2, 3, 4], [], [5], [6, 7]], num_items=8)
    histories, target = leave_last_out(sessions, max_views=2)
    assert histories.to_sequences() == [[2, 3], [], [6]]
    assert target.tolist() == [4, 5, 7]
