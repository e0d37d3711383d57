"""From distributions to actions: frequencies, exact propensities, and what is refused."""

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from blob_pyro.data import Histories
from blob_pyro.ops.seeds import seeded
from blob_pyro.policies import SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.policies.repeated import sample_each
from blob_pyro.simulation import RecoGym
from blob_pyro.simulation.decisions import Decisions, check_policy, sample_by_inversion
from tests.policies.test_thompson_conditional import Known
from tests.simulation.decided import PROBS, Fixed, Opaque, decisions


def test_inversion_has_the_right_frequencies():
    row = torch.arange(2).repeat_interleave(20_000)
    action = sample_by_inversion(PROBS, row, torch.rand(40_000, dtype=torch.float64))
    for r in range(2):
        counts = torch.bincount(action[row == r], minlength=6)
        possible = PROBS[r] > 0
        assert int(counts[~possible].sum()) == 0
        assert stats.chisquare(counts[possible], 20_000 * PROBS[r][possible]).pvalue > 1e-3


@pytest.mark.parametrize("u", [2.0**-53, 0.1 - 1e-12, 0.1 + 1e-12, 0.7 - 1e-12, 1 - 2.0**-53])
def test_inversion_steps_over_impossible_items(u):
    expected = 1 if u < 0.1 else 3 if u < 0.7 else 4
    for rows in (1, 1000):  # whatever the row's place in the batch
        probs = PROBS[:1].expand(rows, 6)
        assert (
            int(sample_by_inversion(probs, torch.tensor([rows - 1]), torch.tensor([u], dtype=torch.float64)))
            == expected
        )


@pytest.mark.parametrize("family", [dist.Categorical, Opaque])
@pytest.mark.parametrize("forget", [False, True])
def test_actions_and_propensities(family, forget):
    session, position = torch.arange(3).repeat_interleave(1000), torch.arange(1000).repeat(3)
    uniform = torch.rand(3000, dtype=torch.float64)
    choices = decisions(Fixed(PROBS[0], family), forget)
    action, propensity = choices.draw(session, position, lambda: uniform, propensities=True)
    forgetful = forget & (position > 0)
    assert bool((action[forgetful] == 0).all())
    expected = torch.where(forgetful, 1.0, PROBS[0][action])
    assert torch.allclose(propensity, expected, rtol=1e-12, atol=0)
    if not forget:
        assert stats.chisquare(torch.bincount(action, minlength=6)[[1, 3, 4]], [300, 1800, 900]).pvalue > 1e-3
    assert choices.draw(session, position, lambda: uniform)[1] is None


@pytest.mark.parametrize("counts", [[5, 0, 2], [0, 0, 0], [1, 1, 1]], ids=str)
def test_other_distributions_are_cut_to_what_decides(counts):
    actions = sample_each(Opaque(probs=torch.eye(3)), torch.tensor(counts), 3)
    assert actions.tolist() == [n for n, count in enumerate(counts) for _ in range(count)]


def test_a_propensity_that_rounding_has_carried_above_one_is_one():
    class Rounded(Opaque):
        def log_prob(self, value):
            return torch.full(value.shape, 3e-16, dtype=torch.float64)

    _, propensity = decisions(Fixed(PROBS[0], Rounded)).draw(
        torch.tensor([0]), torch.tensor([0]), lambda: pytest.fail("nobody needs it"), propensities=True
    )
    assert propensity.tolist() == [1.0]


def test_conditional_propensities_are_those_of_one_draw_a_session():
    policy = ThompsonSampling(Known(), propensity="conditional")
    session = torch.arange(4).repeat_interleave(500)
    histories = Histories.from_sequences([[1]] * 4, 6)
    with seeded(3, "cpu"):
        two = [Decisions(policy, histories, torch.zeros(4, 5)) for _ in range(2)]
        drawn = [
            one.draw(session, torch.zeros_like(session), lambda: torch.rand(2000).double(), propensities=True)
            for one in two
        ]
    for action, propensity in drawn:
        for mine in range(4):
            found = {(a, p) for a, p in zip(action[session == mine].tolist(), propensity[session == mine].tolist())}
            assert len(found) == len({a for a, _ in found})  # one propensity for each action
            share = torch.bincount(action[session == mine], minlength=6) / 500
            assert all(abs(share[a] - p) < 5 * (p / 500) ** 0.5 for a, p in found)
    assert drawn[0][1].unique().tolist() != drawn[1][1].unique().tolist()


def test_plain_categoricals_do_not_touch_the_generator():
    before = torch.get_rng_state()
    decisions(Uniform(6)).draw(torch.tensor([0]), torch.tensor([0]), lambda: torch.tensor([0.5]).double())
    assert torch.equal(torch.get_rng_state(), before)


def test_oracle_plays_the_best_item():
    environment = RecoGym(num_items=30, num_flips=10, seed=2)
    omega = torch.randn(50, 5, dtype=torch.float64)
    best = environment.oracle().action_distribution_given_interests(omega).probs.argmax(-1)
    affinity = omega @ environment.beta.T + environment.mu_bandit
    assert torch.equal(best, affinity.argmax(-1))


def test_check_policy():
    environment = RecoGym(num_items=10)
    with pytest.raises(ValueError, match="policy has num_items=11, the environment has 10"):
        check_policy(Uniform(11), environment)
    with pytest.raises(TypeError, match="wrap a model in a policy"):
        check_policy(object(), environment)


def test_a_policy_must_answer_for_every_history():
    class Lazy(SessionPopularity):
        def action_distribution(self, histories):
            return super().action_distribution(histories[:1])

    with pytest.raises(ValueError, match=r"batch_shape \(3,\), one distribution per history, got \(1,\)"):
        decisions(Lazy(6))
