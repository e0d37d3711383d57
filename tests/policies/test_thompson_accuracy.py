"""How far estimated propensities are known, on request; and how far the mixture is from what it stands for."""

import warnings

import pytest
import torch

from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies import thompson_actions as actions_module
from blob_pyro.policies.thompson import MixtureThompsonActions, ThompsonActions
from blob_pyro.propensity import ArgmaxConditionallyNormal, PropensityToleranceWarning
from tests.policies.test_thompson_conditional import HISTORIES
from tests.policies.test_thompson_mixture import posterior


def test_points_are_added_until_the_tolerance_is_met():
    logits = posterior()
    precise = ThompsonActions(logits, num_points=512, num_replicates=16)
    action = torch.tensor([[0, 1, 2, 3], [5, 4, 3, 2]])
    loose = ThompsonActions(logits, num_points=2, num_replicates=8)
    assert (loose.propensity(action).error / loose.propensity(action).probability).max() > 0.03
    close = ThompsonActions(logits, num_points=2, num_replicates=8, tolerance=0.02, max_points=2**16)
    found = close.propensity(action)
    assert (found.error <= 0.02 * found.probability).all()
    exact = precise.propensity(action)
    spread = (found.error.square() + exact.error.square()).sqrt()
    assert ((found.probability - exact.probability).abs() < 6 * spread).all()
    torch.testing.assert_close(close.log_prob(action), found.probability.log(), rtol=0, atol=1e-14)


def test_only_what_needs_them_gets_more_points(monkeypatch):
    """A common action is known after one round; a rare one takes rounds of its own."""
    actions = ThompsonActions(posterior(), num_points=2, num_replicates=4, tolerance=0.2, max_points=2**12)
    asked = []
    sums = ArgmaxConditionallyNormal._sums
    monkeypatch.setattr(
        ArgmaxConditionallyNormal,
        "_sums",
        lambda self, c, a, z: asked.append((len(a), z.shape[1])) or sums(self, c, a, z),
    )
    actions.propensity(actions.probs.argsort(-1)[:, [0, 5]].mT)
    numbers = [number for number, _ in asked]
    assert numbers[0] == 8
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] < 8
    assert [points for _, points in asked] == [2, *(2**k for k in range(1, len(asked)))]


def test_an_action_that_is_asked_about_again_is_integrated_once(monkeypatch):
    actions = ThompsonActions(posterior(), num_points=2, num_replicates=4, tolerance=0.2)
    once, asked = actions.propensity(torch.tensor([0, 1, 2, 3])), []
    sums = ArgmaxConditionallyNormal._sums
    monkeypatch.setattr(
        ArgmaxConditionallyNormal, "_sums", lambda self, c, a, z: asked.append(len(a)) or sums(self, c, a, z)
    )
    again = actions.propensity(torch.tensor([[0, 1, 2, 3], [0, 5, 2, 3], [0, 1, 2, 3]]))
    assert asked[0] == 5
    torch.testing.assert_close(again.probability[0], once.probability, rtol=1e-12, atol=0)
    torch.testing.assert_close(again.error[2], once.error, rtol=1e-9, atol=0)
    assert again.probability[1, 1] != once.probability[1]


def test_contexts_that_are_alike_are_integrated_once(monkeypatch):
    logits, asked = posterior(), []
    sums = ArgmaxConditionallyNormal._sums
    monkeypatch.setattr(
        ArgmaxConditionallyNormal, "_sums", lambda self, c, a, z: asked.append(len(a)) or sums(self, c, a, z)
    )
    one = ThompsonActions(logits, num_points=2, num_replicates=4, tolerance=0.2)
    many = ThompsonActions(logits[torch.arange(40) % 4], num_points=2, num_replicates=4, tolerance=0.2)
    found = many.propensity(torch.arange(40) % 4)
    assert asked[0] == 4
    torch.testing.assert_close(found.probability, one.propensity(torch.arange(4)).probability.repeat(10))


def test_a_budget_that_is_not_enough_is_said():
    actions = ThompsonActions(posterior(), num_points=2, num_replicates=8, tolerance=1e-5, max_points=64)
    with pytest.warns(PropensityToleranceWarning, match=r"4 of 4 probabilities .* after 64 points, above .* of 1e-05"):
        found = actions.propensity(torch.tensor([0, 1, 2, 3]))
    assert (found.error > 0).all()
    with pytest.warns(PropensityToleranceWarning):
        actions.log_prob(torch.tensor([0, 1, 2, 3]))


def test_what_has_gradients_keeps_them_and_its_tolerance():
    scale = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([0.0, 0.3, -1.0], dtype=torch.float64)
    d = ArgmaxConditionallyNormal(lambda z: loc + z @ loc[None].cos(), scale, 1, tolerance=0.5)
    (gradient,) = torch.autograd.grad(d.log_prob(torch.tensor(1)), scale)
    assert gradient.abs().sum() > 0
    with pytest.warns(PropensityToleranceWarning):
        ArgmaxConditionallyNormal(lambda z: loc + z @ loc[None].cos(), scale, 1, num_points=2, tolerance=1e-9).log_prob(
            torch.tensor(1)
        )


def test_what_may_not_be_played_needs_no_points():
    actions = ThompsonActions(posterior(), num_points=16, tolerance=0.1)
    mask = torch.tensor([True, False, True, True, True, True])
    found = actions.restrict(mask).propensity(torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert (found.probability[0] == 0).all()
    assert (found.error[0] == 0).all()
    expected = ThompsonActions(posterior(), num_points=1024).restrict(mask).probs[:, 0]
    assert ((found.probability[1] - expected).abs() < 0.6 * expected).all()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1 %", True])
def test_bad_tolerances(value):
    loc = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"tolerance is .*, but must be a positive number"):
        ArgmaxConditionallyNormal(lambda z: loc + z, torch.ones(2), 1, tolerance=value)


def test_a_budget_below_one_round_is_refused():
    loc = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"max_points is 100, .* at least 1024"):
        ArgmaxConditionallyNormal(lambda z: loc + z, torch.ones(2), 1, tolerance=0.1, max_points=100)


def test_policies_hand_their_tolerance_on(blob):
    policy = ThompsonSampling(blob, num_points=2, tolerance=0.05, max_points=2**13)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played = policy.sample_with_propensity(HISTORIES, seed=0)
    assert (played.error <= 0.05 * played.propensity).all()
    assert (played.error > 0).all()


@pytest.mark.parametrize("make", [lambda x: ThompsonActions(x, num_points=4), lambda x: MixtureThompsonActions(x, 4)])
def test_equal_contexts_are_computed_once(make, monkeypatch):
    logits = posterior()
    index = torch.tensor([0, 1, 1, 0, 2, 3, 0, 2])
    several, each = make(logits[index]), make(logits)
    seen = []
    means = actions_module._means
    monkeypatch.setattr(actions_module, "_means", lambda x, p: seen.append(len(x.interest)) or means(x, p))
    torch.testing.assert_close(several.probs, each.probs[index], rtol=0, atol=1e-8)
    assert set(seen) == {4}
    mask = torch.tensor([True, False, True, True, True, True])
    torch.testing.assert_close(several.restrict(mask).probs, each.restrict(mask).probs[index], rtol=0, atol=1e-8)
    own = torch.ones(8, 6, dtype=torch.bool)
    own[0, 0] = False
    assert several.restrict(own).probs[0, 0] == 0
    assert several.restrict(own).probs[3, 0] > 0


def test_equal_decisions_are_computed_once(monkeypatch):
    monkeypatch.setattr("blob_pyro.propensity._index._MANY_ACTIONS", 2)
    logits = posterior()
    index, action = torch.tensor([0, 1, 1, 0, 2, 3, 0, 2]), torch.tensor([3, 3, 3, 3, 1, 0, 2, 1])
    expected = MixtureThompsonActions(logits, 4).probs[index, action].log()
    asked = []
    played = "blob_pyro.propensity.argmax_normal_mixture.played_normal_log_probs"
    from blob_pyro.propensity.kernels.played_normal import played_normal_log_probs

    monkeypatch.setattr(played, lambda m, s, a: asked.append(len(a)) or played_normal_log_probs(m, s, a))
    torch.testing.assert_close(MixtureThompsonActions(logits[index], 4).log_prob(action), expected, rtol=0, atol=1e-11)
    assert sum(asked) == 5 * 4  # five different decisions, four points


def test_each_context_may_be_drawn_as_often_as_it_comes():
    actions = MixtureThompsonActions(posterior(), 4)
    counts = torch.tensor([20_000, 0, 7, 20_000])
    drawn = actions.sample_each(counts)
    assert drawn.shape == (40_007,)
    played = torch.bincount(drawn[20_007:], minlength=6) / 20_000
    assert ((played - actions.probs[3]).abs() < 4.5 * (actions.probs[3] / 20_000).sqrt() + 1 / 20_000).all()
