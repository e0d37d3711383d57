"""Marginalised weights and replay: exact expectations, identities, by hand."""

import numpy as np
import pytest
import torch

from blob_pyro.ope import MissingSupportWarning, ips, marginalized_ips, snips


def test_clusters_by_hand(sample):
    clusters = np.array(["a", "b", "a", "b"])
    estimate = marginalized_ips(
        sample.reward, sample.target_probs, sample.logging_probs, action=sample.action, clusters=clusters
    )
    w = np.array([
        t[clusters == clusters[a]].sum() / p[clusters == clusters[a]].sum()
        for t, p, a in zip(sample.target_probs, sample.logging_probs, sample.action)
    ])  # fmt: skip
    assert estimate.value == pytest.approx((w * sample.reward).mean(), rel=1e-13)
    assert estimate.standard_error == pytest.approx((w * sample.reward).std(ddof=1) / len(w) ** 0.5, rel=1e-12)
    assert estimate.max_weight == pytest.approx(w.max())
    assert estimate.support == 0


def test_each_action_its_own_cluster_is_ips(sample):
    arguments = {"action": sample.action, "clusters": [7, 3, 5, 1]}
    matrices = sample.reward, sample.target_probs, sample.logging_probs
    plain, normalised = ips, snips
    of_action = sample.reward, sample.target, sample.logging
    assert marginalized_ips(*matrices, **arguments).value == pytest.approx(plain(*of_action).value, rel=1e-13)
    found = marginalized_ips(*matrices, **arguments, self_normalized=True)
    assert found.value == pytest.approx(normalised(*of_action).value, rel=1e-13)
    assert found.standard_error == pytest.approx(normalised(*of_action).standard_error, rel=1e-12)


def test_unbiased_for_random_embeddings_without_direct_effect():
    """Every (action, embedding, reward) of one row enumerated; the reward depends on the embedding alone."""
    logging, target = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    kernel = np.array([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    rate = np.array([0.2, 0.9])
    expectation = 0.0
    for a in range(3):
        for e in range(2):
            for r in range(2):
                probability = logging[a] * kernel[a, e] * (rate[e] if r else 1 - rate[e])
                estimate = marginalized_ips([r], [target], [logging], embedding=[e], embedding_probs=kernel)
                expectation += probability * estimate.value
    assert expectation == pytest.approx(target @ kernel @ rate, rel=1e-13)


def test_unbiased_where_ips_is_not():
    """The log never shows action 2, but another action of its cluster."""
    logging, target, click = np.array([0.4, 0.6, 0.0]), np.array([0.1, 0.2, 0.7]), np.array([0.3, 0.8, 0.8])
    expectation = sum(
        logging[a] * (click[a] if r else 1 - click[a])
        * marginalized_ips([r], [target], [logging], action=[a], clusters=[0, 1, 1]).value
        for a in range(2) for r in range(2)
    )  # fmt: skip
    assert expectation == pytest.approx(target @ click, rel=1e-13)
    with pytest.warns(MissingSupportWarning, match="70.000%"):
        marginalized_ips([1], [target], [logging], action=[0], clusters=[0, 1, 2])


def test_gradients(sample):
    scores = torch.from_numpy(np.log(sample.target_probs[:10])).requires_grad_()

    def value(scores):
        arguments = {"action": sample.action[:10], "clusters": [0, 0, 1, 1]}
        return marginalized_ips(sample.reward[:10], scores.softmax(-1), sample.logging_probs[:10], **arguments).value

    assert torch.autograd.gradcheck(value, scores)


GOOD = {"reward": [1, 0], "target_probs": [[0.5, 0.5]] * 2, "logging_probs": [[1.0, 0.0]] * 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "clusters: pass action and clusters, or embedding and embedding_probs"),
        ({"action": [0, 0]}, "clusters: pass action and clusters"),
        ({"action": [0, 0], "clusters": [0, 1, 2]}, "clusters: has 3 entries where 2 are expected"),
        ({"action": [0, 1], "clusters": [0, 1]}, "action, row 1: the logging policy could not have shown"),
        ({"embedding": [0, 2], "embedding_probs": [[0.5, 0.5]] * 2}, r"embedding, row 1: .*0\.\.1, got 2"),
        ({"embedding": [0, 1], "embedding_probs": [[0.5, 0.4]] * 2}, "embedding_probs, row 0: .*sum to one, got 0.9"),
        ({"embedding": [0, 1], "embedding_probs": [[0.5, 0.5]] * 3}, "embedding_probs: has 3 rows where there are 2"),
    ],
    ids=["neither", "half", "clusters", "outside", "embedding", "sums", "rows"],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        marginalized_ips(**GOOD, **arguments)
