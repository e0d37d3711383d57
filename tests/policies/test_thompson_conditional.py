"""Propensities given this decision's draw of what items share: exact, unbiased, and refused where they mean nothing."""

import pytest
import torch

from blob_pyro import BLOB
from blob_pyro.data import Vocabulary
from blob_pyro.models import BanditPriors
from blob_pyro.ops.seeds import generator
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies import thompson as thompson_module
from blob_pyro.policies.thompson import ThompsonActions
from blob_pyro.policies.thompson_actions import ConditionalThompsonActions
from blob_pyro.propensity import ArgmaxNormal
from tests.policies.test_thompson_mixture import posterior

HISTORIES = [[0, 2, 2], [], [0, 1, 2, 3, 11], [5], [11, 10], [3, 3, 3], [7]]


class Known:
    """A posterior that does not care about histories: four contexts over and over."""

    items = Vocabulary.numbered(6)

    def __init__(self, doubt=(0.1, 1.0)):
        self.doubt = doubt

    def click_logits(self, histories):
        return posterior(doubt=self.doubt)[torch.arange(len(histories)) % 4]


def test_given_the_draw_items_are_independent():
    logits, shared = posterior(), torch.randn(4, 5, dtype=torch.float64)
    actions = ConditionalThompsonActions(logits, shared)
    for context in range(4):
        loc = logits.given_shared(shared[context])[context]
        expected = ArgmaxNormal(loc, logits.own_scale).probs
        torch.testing.assert_close(actions.probs[context], expected, rtol=0, atol=1e-13)


def test_frequencies_of_its_own_draws():
    actions = ThompsonSampling(Known(), propensity="conditional").given_draw([[]] * 4, seed=3)
    played = torch.nn.functional.one_hot(actions.sample((50_000,)), 6).double().mean(0)
    assert ((played - actions.probs).abs() < 4.5 * (actions.probs / 50_000).sqrt() + 1 / 50_000).all()


def test_on_average_over_draws_it_is_thompson_sampling():
    policy = ThompsonSampling(Known(), propensity="conditional")
    contexts = 8000
    probs = policy.given_draw([[]] * contexts, seed=0).probs.view(-1, 4, 6)
    whole = ThompsonActions(posterior(), num_points=256, num_replicates=16)
    error = (probs.var(0) / len(probs) + whole.error_estimate.square()).sqrt()
    assert ((probs.mean(0) - whole.probs).abs() < 5 * error).all()
    action = policy.sample_with_propensity([[]] * contexts, seed=1).action
    played = torch.nn.functional.one_hot(action, 6).double().view(-1, 4, 6).mean(0)
    assert ((played - whole.probs).abs() < 5 * (whole.probs / len(probs)).sqrt() + 5 * whole.error_estimate).all()


def reward_of(action, context):
    return 1.0 + ((action * 7 + context * 3) % 5).double()


KINDS = {
    "conditional": {"propensity": "conditional"},
    "mixture": {"shared_draws": 4},
    "quasi-Monte Carlo": {"num_points": 256},
}
WIDE, NUMBER = (3.0, 6.0), 20_000  # so much doubt about every item that each is played at times, whatever the draw


@pytest.mark.parametrize("kind", KINDS)
def test_importance_weights_are_unbiased(kind):
    """The value of the uniform policy, from what Thompson sampling played."""
    context = torch.arange(NUMBER) % 4
    played = ThompsonSampling(Known(WIDE), **KINDS[kind]).sample_with_propensity([[]] * NUMBER, seed=5)
    assert (played.error == 0).all() == (kind != "quasi-Monte Carlo")
    truth = torch.stack([reward_of(torch.arange(6), torch.tensor(c)) for c in range(4)]).mean()
    terms = reward_of(played.action, context) / 6 / played.propensity
    error = terms.std() / NUMBER**0.5
    assert abs(terms.mean() - truth) < 4.5 * error
    assert error < 0.05 * truth


def test_propensities_that_ignore_what_is_shared_would_be_seen():
    """Those of independent normals with the marginal scales are not of what is played: weights do not average to 1."""
    context, doubt = torch.arange(NUMBER) % 4, (1.5, 3.0)
    played = ThompsonSampling(Known(doubt), propensity="conditional").sample_with_propensity([[]] * NUMBER, seed=5)
    logits = posterior(doubt=doubt)
    marginal = ArgmaxNormal(logits.mean, (logits.variance - logits.weights[2].scale ** 2).sqrt()).probs
    wrong, right = 1 / 6 / marginal[context, played.action], 1 / 6 / played.propensity
    assert abs(wrong.mean() - 1) > 8 * wrong.std() / NUMBER**0.5
    assert abs(right.mean() - 1) < 4.5 * right.std() / NUMBER**0.5


def test_conditional_weights_vary_more_than_marginal_ones():
    spread = {}
    for kind in KINDS:
        played = ThompsonSampling(Known(WIDE), **KINDS[kind]).sample_with_propensity([[]] * NUMBER, seed=6)
        spread[kind] = float((1 / played.propensity).std())
    assert spread["conditional"] > 1.1 * spread["quasi-Monte Carlo"]


def test_a_seed_is_the_same_decision_in_chunks_too(blob, monkeypatch):
    policy = ThompsonSampling(blob, propensity="conditional")
    first, again = (policy.given_draw(HISTORIES, seed=4) for _ in range(2))
    assert torch.equal(first.probs, again.probs)
    assert not torch.equal(policy.given_draw(HISTORIES, seed=5).probs, first.probs)
    same = policy.given_draw([[5]] * 3, seed=4).probs
    assert (same[0] - same[1]).abs().max() > 1e-6  # a draw of its own for every decision
    played, repeated = (policy.sample_with_propensity(HISTORIES, seed=4) for _ in range(2))
    assert torch.equal(played.action, repeated.action)
    torch.testing.assert_close(played.propensity, repeated.propensity, rtol=1e-12, atol=0)
    monkeypatch.setattr(thompson_module, "MAX_ELEMENTS", 30)
    parts = policy.given_draw(HISTORIES, seed=4)
    torch.testing.assert_close(parts.probs, first.probs, rtol=1e-4, atol=1e-9)  # the encoder is in single precision
    chunked = policy.sample_with_propensity(HISTORIES, seed=4)
    expected = parts.probs.gather(-1, chunked.action[:, None]).squeeze(-1)
    torch.testing.assert_close(chunked.propensity, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("arguments", [{}, {"shared_draws": 4}, {"propensity": "conditional"}], ids=str)
def test_no_histories(blob, arguments):
    played = ThompsonSampling(blob, **arguments).sample_with_propensity([], seed=0)
    assert played.action.shape == played.propensity.shape == played.error.shape == (0,)


def test_torchs_own_generator_is_left_alone(blob):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    ThompsonSampling(blob, propensity="conditional").sample_with_propensity(HISTORIES, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_restricted_to_candidates(blob):
    actions = ThompsonSampling(blob, propensity="conditional").given_draw(HISTORIES, seed=4)
    mask = torch.arange(12) % 3 == 0
    some = actions.restrict(mask)
    assert mask[some.sample((20,))].all()
    expected = ArgmaxNormal(actions.loc[:, mask], actions.scale[:, mask]).probs
    torch.testing.assert_close(some.probs[:, mask], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "candidates", [None, [1, 2, 4], [[0, 1], [2, 3, 4, 5], [1, 5], [0, 3]]], ids=["all", "some", "own"]
)
def test_decisions_are_logged_with_one_integral_each(candidates, monkeypatch):
    monkeypatch.setattr("blob_pyro.propensity._index._MANY_ACTIONS", 2)
    monkeypatch.setattr(ArgmaxNormal, "_compute_log_probs", lambda self: pytest.fail("all items are computed"))
    policy = ThompsonSampling(Known(), propensity="conditional")
    frame = policy.decide([[]] * 4, candidates=candidates, seed=2, time=0)
    shared = torch.randn(4, 5, generator=generator(2), dtype=torch.float64)
    monkeypatch.undo()
    given = ConditionalThompsonActions(posterior(), shared)
    if candidates is not None:
        mask = torch.zeros(4, 6, dtype=torch.bool)
        for row, some in enumerate(candidates if isinstance(candidates[0], list) else [candidates] * 4):
            mask[row, some] = True
        given = given.restrict(mask)
    expected = given.probs[torch.arange(4), torch.tensor(frame.action.to_numpy())]
    torch.testing.assert_close(torch.tensor(frame.propensity.to_numpy()), expected, rtol=1e-11, atol=0)
    assert (frame.propensity_error == 0).all()


def test_refused_where_given_the_draw_nothing_is_open(blo, log):
    drawn = BLOB(blo, omega="sample", priors=BanditPriors(kappa_scale=0.3))
    drawn.fit(log, num_epochs=2, progress=False, device="cpu")
    with pytest.raises(ValueError, match="needs a posterior in closed form, and this one is known by draws"):
        ThompsonSampling(drawn, propensity="conditional").sample_with_propensity(HISTORIES, seed=0)
    certain = BLOB(blo, priors=BanditPriors(kappa=0.0))
    certain.fit(log, num_epochs=2, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"needs doubt about each item's own click rate, .* none about item number 0"):
        ThompsonSampling(certain, propensity="conditional").given_draw(HISTORIES, seed=0)


BAD = {
    "kind": ({"propensity": "joint"}, ValueError, "propensity: expected 'marginal' or 'conditional', got 'joint'"),
    "both": ({"propensity": "conditional", "shared_draws": 4}, ValueError, "propensity: 'conditional' is of full"),
    "tolerance of exact ones": ({"shared_draws": 4, "tolerance": 0.1}, ValueError, "tolerance: is for estimated"),
    "tolerance": ({"tolerance": 0.0}, ValueError, "tolerance: must be positive and finite"),
    "text": ({"tolerance": "1 %"}, TypeError, "tolerance: expected a number"),
    "budget": ({"tolerance": 0.1, "max_points": 100}, ValueError, "max_points: one round takes .* = 128, got 100"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(blob, arguments, error, message):
    with pytest.raises(error, match=message):
        ThompsonSampling(blob, **arguments)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (None, TypeError), (0.5, TypeError)])
def test_bad_seeds(blob, seed, error):
    policy = ThompsonSampling(blob, propensity="conditional")
    for call in (policy.sample_with_propensity, policy.given_draw):
        with pytest.raises(error, match="seed: "):
            call(HISTORIES, seed=seed)
