"""Policies over more contexts than fit: the same answers in chunks, and no N x P matrix that was not asked for."""

import pytest
import torch

from blob_pyro import BLO
from blob_pyro.data import Histories, Vocabulary
from blob_pyro.policies import EpsilonGreedy, Greedy, SessionPopularity, Softmax, ThompsonSampling, Uniform
from blob_pyro.policies import chunked as chunked_module
from blob_pyro.policies import thompson as thompson_module
from blob_pyro.policies.chunked import ChunkedActions
from blob_pyro.posteriors import drawn_click_logits as drawn_module
from blob_pyro.posteriors import logits_of_contexts as logits_module

MANY = [[0, 2, 2], [], [0, 1, 2, 3, 11], [5], [11, 10], [3, 3, 3], [7]]


class Scores:
    """Views scored by how often and by the item; remembers the largest matrix that it was asked for."""

    items = Vocabulary.numbered(12)
    largest = 0

    def scores(self, histories):
        self.largest = max(self.largest, len(histories) * 12)
        return histories.counts() + torch.arange(12) / 100


POLICIES = {
    "uniform": lambda: Uniform(12),
    "session popularity": lambda: SessionPopularity(12, 0.4),
    "greedy": lambda: Greedy(Scores()),
    "epsilon greedy": lambda: EpsilonGreedy(Scores(), 0.2),
    "softmax": lambda: Softmax(Scores(), 0.5),
}


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
def test_chunks_answer_as_the_whole(make, monkeypatch):
    whole = make().action_distribution(MANY)
    monkeypatch.setattr(chunked_module, "PROBABILITIES_AT_ONCE", 25)  # two contexts, and one alone at the end
    policy = make()
    parts = policy.action_distribution(MANY)
    assert isinstance(parts, ChunkedActions)
    assert not isinstance(whole, ChunkedActions)
    assert parts.batch_shape == whole.batch_shape == (7,)
    assert torch.equal(parts.probs, whole.probs)
    assert torch.equal(parts.entropy(), whole.entropy())
    assert torch.equal(parts.mode, whole.mode)
    actions = torch.arange(12).unsqueeze(-1).expand(12, 7)
    assert torch.equal(parts.log_prob(actions), whole.log_prob(actions))
    assert torch.equal(parts.log_prob(torch.tensor(3)), whole.log_prob(torch.tensor(3)))
    draws = parts.sample((4000,))
    assert draws.shape == (4000, 7)
    frequencies = torch.stack([torch.bincount(s, minlength=12) for s in draws.T]) / 4000
    assert (frequencies - whole.probs).abs().max() < 0.04  # five standard errors
    counts = torch.tensor([3, 0, 1000, 1, 2, 4000, 2])
    each = parts.sample_each(counts).split(counts.tolist())
    assert [len(actions) for actions in each] == counts.tolist()
    assert (torch.bincount(each[5], minlength=12) / 4000 - whole.probs[5]).abs().max() < 0.04
    model = getattr(policy, "model", None)
    assert model is None or model.largest <= 25


def test_thompson_sampling_in_chunks(blob, monkeypatch):
    policy = ThompsonSampling(blob, num_points=4)
    whole = policy.action_distribution(MANY)
    monkeypatch.setattr(thompson_module, "MAX_ELEMENTS", 30)
    parts = policy.action_distribution(MANY)
    assert isinstance(parts, ChunkedActions)
    assert torch.allclose(parts.probs, whole.probs)
    draws = parts.sample((2000,))
    frequencies = torch.stack([torch.bincount(s, minlength=12) for s in draws.T]) / 2000
    assert (frequencies - whole.probs).abs().max() < 0.06


@pytest.mark.parametrize("draws", [1, 5, 40])
def test_the_best_of_draws_in_chunks(blob, draws, monkeypatch):
    logits, total = blob.click_logits(MANY), 1500 if draws == 1 else 4000
    expected = torch.stack([torch.bincount(s, minlength=12) for s in logits.best((20_000,)).T]) / 20_000
    monkeypatch.setattr(logits_module, "MAX_ELEMENTS", 60)
    found = torch.cat([logits.best((draws,)) for _ in range(total // draws)])
    assert found.shape == (total, 7)
    frequencies = torch.stack([torch.bincount(s, minlength=12) for s in found.T]) / total
    assert (frequencies - expected).abs().max() < 0.05


def test_click_logits_in_chunks(blob, monkeypatch):
    whole = blob.click_logits(MANY)
    value = torch.linspace(-5, -3, 7 * 12).view(7, 12)
    expected = whole.mean, whole.variance, whole.click_probability(), whole.icdf(0.9), whole.cdf(value)
    monkeypatch.setattr(logits_module, "MAX_ELEMENTS", 40)
    parts = blob.click_logits(MANY)
    found = parts.mean, parts.variance, parts.click_probability(), parts.icdf(0.9), parts.cdf(value)
    for part, of_all in zip(found, expected):
        assert torch.allclose(part, of_all, rtol=1e-5)
    assert torch.allclose(parts.cdf(torch.tensor(-4.0)), whole.cdf(torch.tensor(-4.0)))
    assert torch.allclose(parts.cdf(value[0]), whole.cdf(value[0]))
    draws = parts.rsample((3, 2))
    assert draws.shape == (3, 2, 7, 12)
    assert torch.isfinite(draws).all()


def test_drawn_click_logits_in_chunks(blob, monkeypatch):
    torch.manual_seed(4)
    logits = drawn_module.DrawnClickLogits(torch.randn(9, 12, 3), torch.randn(7, 3) * torch.tensor([0.1, 1.0, 4.0]))
    value = torch.linspace(-1, 1, 7 * 12).view(7, 12)
    expected = logits.mean, logits.variance, logits.click_probability(), logits.icdf(0.9), logits.cdf(value)
    best = logits.best()
    monkeypatch.setattr(drawn_module, "MAX_ELEMENTS", 250)
    parts = logits[torch.arange(7)]
    found = parts.mean, parts.variance, parts.click_probability(), parts.icdf(0.9), parts.cdf(value)
    for part, of_all in zip(found, expected):
        assert torch.allclose(part, of_all)
    assert torch.equal(parts.best(), best)
    draws = parts.sample((5,))
    among = (draws.unsqueeze(1) - logits.logits).abs().amax(-1).amin(1)  # each is one of the nine
    assert draws.shape == (5, 7, 12)
    assert (among < 1e-5).all()


HUGE = 10**6


@pytest.fixture(scope="module")
def crowd():
    nothing = torch.zeros(HUGE, dtype=torch.int64)
    return Histories(torch.zeros(0, dtype=torch.int64), nothing, nothing, HUGE)


@pytest.mark.parametrize("policy", [Uniform(HUGE), SessionPopularity(HUGE)], ids=["uniform", "session popularity"])
def test_a_matrix_that_does_not_fit_is_refused_with_its_size(policy, crowd):
    d = policy.action_distribution(crowd)  # 10^12 probabilities, none of which exists
    with pytest.raises(MemoryError, match=r"probs of 1,000,000 contexts x 1,000,000 items .*bytes.*log_prob"):
        _ = d.probs


def test_click_logits_that_do_not_fit_are_refused_with_their_size(blob):
    logits = blob.click_logits([[1]]).expand((10**12,))
    for ask in (lambda: logits.mean, logits.rsample, logits.click_probability, lambda: logits.icdf(0.5)):
        with pytest.raises(MemoryError, match=r"Click logits of 1 x 1,000,000,000,000 contexts x 12 items .*bytes"):
            ask()


def test_views_that_do_not_fit_are_refused_with_their_size(crowd):
    blo = BLO(HUGE, embedding_dim=2)
    blo.fits = [{"call": "none: a test of shapes"}]
    for ask, name in ((blo.scores, "scores"), (blo.predict_next, "predict_next")):
        with pytest.raises(MemoryError, match=rf"{name} of 1,000,000 histories x 1,000,000 items .*bytes.*top_k"):
            ask(crowd)


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
def test_no_contexts(make):
    d = make().action_distribution([])
    assert d.batch_shape == (0,)
    assert d.sample().shape == (0,)
    assert d.probs.shape == (0, 12)
    assert d.log_prob(torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_no_contexts_for_a_posterior(blob):
    logits = blob.click_logits([])
    assert logits.mean.shape == logits.variance.shape == logits.click_probability().shape == (0, 12)
    assert logits.best((3,)).shape == (3, 0)
    assert blob.scores([]).shape == (0, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_none_are_refused(value):
    class Broken(Scores):
        def scores(self, histories):
            return super().scores(histories).index_fill(0, torch.tensor([1]), value)

    with pytest.raises(ValueError, match=r"scores: Broken.scores gave (nan|inf) for item number 0 after history 1"):
        Greedy(Broken()).action_distribution([[0], [1], []])


def test_an_item_with_score_minus_infinity_is_not_played():
    class Sold(Scores):
        def scores(self, histories):
            return super().scores(histories).index_fill(1, torch.tensor([11]), -float("inf"))

    assert Softmax(Sold()).action_distribution([[11]]).probs[0, 11] == 0
    assert Greedy(Sold()).action_distribution([[11]]).probs[0].tolist() == [0.0] * 10 + [1.0, 0.0]
