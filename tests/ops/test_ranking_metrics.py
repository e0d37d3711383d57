"""Ranking metrics against a sort and scikit-free loops, ties against every order of the tied."""

import itertools
import math

import pytest
import torch

from blob_pyro.ops import ranking_metrics
from blob_pyro.ops.ranking_metrics import dcg_at_k, log_likelihood, recall_at_k, reciprocal_rank

VALUE = {
    "recall": (lambda rank, k: float(rank <= k), recall_at_k),
    "dcg": (lambda rank, k: 1 / math.log2(rank + 1) if rank <= k else 0.0, dcg_at_k),
    "reciprocal rank": (lambda rank, k: 1 / rank, lambda scores, target, k: reciprocal_rank(scores, target)),
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
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


S, T, NAN = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 1.0]]), torch.tensor([1, 1]), math.nan
METRICS = {
    "recall": (lambda scores, target: recall_at_k(scores, target, 1), "scores"),
    "gain": (lambda scores, target: dcg_at_k(scores, target, 1), "scores"),
    "reciprocal rank": (reciprocal_rank, "scores"),
    "log-likelihood": (log_likelihood, "probabilities"),
}
REFUSED = {
    "list": ([[1.0, 2.0]], T, TypeError, "{}: expected a tensor, got list"),
    "NumPy": (S.numpy(), T, TypeError, "{}: expected a tensor, got ndarray"),
    "vector": (S[0], T, ValueError, r"{}: expected a matrix, histories x items, got shape \(3,\)"),
    "complex": (S.to(torch.complex64), T, TypeError, "{}: expected real numbers, got torch.complex64"),
    "NaN in one row": (torch.tensor([[0.5, 0.5, 0.0], [NAN, 0.5, 0.5]]), T, ValueError, "{}: .* row 1 "),
    "list of targets": (S, [1, 1], TypeError, "target: expected a tensor, got list"),
    "targets of floats": (S, T.float(), TypeError, "target: expected item numbers of dtype int64, got torch.float32"),
    "targets of booleans": (S, T.bool(), TypeError, "target: expected item numbers of dtype int64, got torch.bool"),
    "too few targets": (S, T[:1], ValueError, r"target: expected one item per row of {} \(2, 3\), got \(1,\)"),
    "too many targets": (S, T.repeat(2), ValueError, r"target: expected one item per row of {} \(2, 3\), got \(4,\)"),
    "no item": (S, torch.tensor([1, 3]), ValueError, "target: expected item numbers between 0 and 2, got 3 at row 1"),
    "negative": (
        S,
        torch.tensor([1, -1]),
        ValueError,
        "target: expected item numbers between 0 and 2, got -1 at row 1",
    ),
    "another device": (S, T.to("meta"), ValueError, "target: is on meta, {} on cpu"),
}


@pytest.mark.parametrize(("metric", "name"), METRICS.values(), ids=METRICS.keys())
@pytest.mark.parametrize(("scores", "target", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_rank_is_refused_by_name(metric, name, scores, target, error, message):
    with pytest.raises(error, match=message.format(name)):
        metric(scores, target)


@pytest.mark.parametrize("k", [1.5, "1", True, None], ids=repr)
@pytest.mark.parametrize("metric", [recall_at_k, dcg_at_k])
def test_k_is_a_whole_number(metric, k):
    with pytest.raises(TypeError, match="k: expected a whole number, got"):
        metric(S, T, k)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_counts_are_scores_too(dtype):
    counts = torch.tensor([[2, 2, 0], [0, 0, 0]], dtype=dtype)
    assert recall_at_k(counts, T, 1).tolist() == pytest.approx([1 / 2, 1 / 3])
    assert dcg_at_k(counts, T, 2).tolist() == pytest.approx([(1 + 1 / math.log2(3)) / 2, (1 + 1 / math.log2(3)) / 3])
    assert reciprocal_rank(counts, T).tolist() == pytest.approx([3 / 4, 11 / 18])


def test_the_old_name_that_promised_a_mean_warns():
    with pytest.warns(DeprecationWarning, match="'mean_reciprocal_rank' is now called 'reciprocal_rank'"):
        assert ranking_metrics.mean_reciprocal_rank is reciprocal_rank
