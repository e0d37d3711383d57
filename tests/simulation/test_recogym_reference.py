"""The real RecoGym: raw frames, agents both ways, and no trace left behind."""

import subprocess
import sys

import numpy as np
import pytest
import scipy
import torch

from blob_pyro.data import EventLog, Histories
from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import (
    AgentPolicy,
    RecoGym,
    RecoGymReference,
    agent_from_policy,
    session_popularity_agent,
)

REFERENCE = RecoGymReference(num_items=12, seed=3)


@pytest.fixture(scope="module")
def frame():
    return REFERENCE.simulate(session_popularity_agent(12, epsilon=0.2), num_users=40, num_organic_users=15)


def test_one_impression_too_many_per_user(frame):
    bandit = frame[frame["z"] == "bandit"]
    last = frame[frame["u"] >= 15].groupby("u").tail(1)
    assert (last["z"] == "bandit").all()
    assert (last["c"] == 0).all()
    log = EventLog.from_recogym(frame, num_items=12)
    assert log.num_impressions == len(bandit) - 40
    assert EventLog.from_recogym(frame, num_items=12, drop_final_rows=False).num_impressions == len(bandit)
    assert log.num_views == int((frame["z"] == "organic").sum())


def test_agents_propensities_are_exact(frame):
    log = EventLog.from_recogym(frame, num_items=12)
    probs = SessionPopularity(12, epsilon=0.2).action_distribution(log.contexts).probs
    everything_seen = (log.contexts.counts() > 0).all(-1)
    assert not everything_seen.any(), "there the agent would divide by zero"
    assert torch.allclose(probs[log.context, log.action].double(), log.propensity, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_agent_cannot_explore_when_everything_was_viewed():
    histories = Histories.from_sequences([[0, 1]], 2)
    with pytest.raises(ValueError, match="NaN"):
        AgentPolicy(session_popularity_agent(2, epsilon=1.0), 2).action_distribution(histories).sample()


@pytest.mark.parametrize("policy", [Uniform(12), SessionPopularity(12, epsilon=0.4)], ids=lambda p: type(p).__name__)
def test_our_policies_as_agents(policy):
    before = torch.get_rng_state()
    log = EventLog.from_recogym(REFERENCE.simulate(policy, num_users=30), num_items=12)
    assert torch.equal(torch.get_rng_state(), before)
    probs = policy.action_distribution(log.contexts).probs
    assert torch.allclose(probs[log.context, log.action].double(), log.propensity, rtol=1e-5)
    # The actions have that distribution: expected and observed plays of the items viewed before.
    viewed = (log.contexts.counts() > 0)[log.context]
    expected = (probs[log.context] * viewed).sum(-1)
    observed = viewed.gather(1, log.action[:, None]).sum()
    error = float((expected * (1 - expected)).sum().sqrt())
    assert abs(float(observed - expected.sum())) < 4 * error


def test_an_agents_seed_is_its_own():
    logs = [REFERENCE.make().generate_logs(5, agent_from_policy(Uniform(12), seed)) for seed in (0, 0, 1)]
    actions = [log["a"].dropna().tolist() for log in logs]
    assert actions[0] == actions[1] != actions[2]


def test_agents_as_our_policies():
    environment = RecoGym(num_items=12, seed=3)
    policy = AgentPolicy(session_popularity_agent(12, epsilon=0.2, seed=4), 12)
    log = environment.simulate(policy, num_users=20)
    probs = SessionPopularity(12, epsilon=0.2).action_distribution(log.contexts).probs
    assert torch.allclose(probs[log.context, log.action].double(), log.propensity, rtol=1e-5)

    actions = policy.action_distribution([[1, 1, 2], []][:1])
    draws = actions.sample((2_000,))
    assert draws.shape == (2_000, 1)
    share = torch.bincount(draws[:, 0], minlength=12)[[1, 2]] / 2_000
    assert share.tolist() == pytest.approx([0.8 * 2 / 3, 0.8 / 3], abs=4 * 0.5 / 2_000**0.5)
    assert actions.log_prob(torch.tensor([[1], [2]])).exp().flatten().tolist() == pytest.approx([0.8 * 2 / 3, 0.8 / 3])


def test_an_agent_keeps_its_other_probabilities_to_itself():
    actions = AgentPolicy(session_popularity_agent(12), 12).action_distribution([[1]])
    with pytest.raises(ValueError, match="action 5 after history 0 was never sampled"):
        actions.log_prob(torch.tensor([5]))


def test_epochs_are_other_users_in_the_same_catalogue():
    frames = [REFERENCE.simulate(num_users=0, num_organic_users=30, epoch=epoch) for epoch in (0, 0, 1)]
    views = [frame["v"].tolist() for frame in frames]
    assert views[0] == views[1] != views[2]


def test_since_last_action_reaches_agents():
    shown = []

    class Spy(Uniform):
        def action_distribution(self, histories):
            shown.append(histories.to_sequences()[0])
            return super().action_distribution(histories)

    frame = REFERENCE.simulate(Spy(12), num_users=10, history="since_last_action")
    bandit = (frame["z"] == "bandit").to_numpy()
    # Each view is shown at exactly one decision, the next one; and there is a call per decision.
    assert [view for views in shown for view in views] == frame["v"].dropna().tolist()
    assert len(shown) == bandit.sum()
    runs = np.add.reduceat((~bandit).astype(int), np.flatnonzero(np.concatenate([[True], bandit[:-1]])))
    assert [len(views) for views in shown] == runs.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_users": 60_000, "num_organic_users": 6_000}, "at most 65536 .* got 66000"),
        ({"num_users": -1}, "num_users: must be 0 or more, got -1"),
    ],
)
def test_bad_numbers_of_users(arguments, message):
    with pytest.raises(ValueError, match=message):
        REFERENCE.simulate(**arguments)


def test_too_many_items():
    with pytest.raises(ValueError, match="num_items must be at most 32768"):
        RecoGymReference(num_items=40_000)


def test_progress(capsys):
    REFERENCE.simulate(num_users=2, progress=True)
    assert "2/2" in capsys.readouterr().err
    REFERENCE.simulate(num_users=2)
    assert capsys.readouterr().err == ""


def run(code):
    filters = ["-W", "error", "-W", "ignore::DeprecationWarning"]  # matplotlib's calls of pyparsing, for one
    return subprocess.run([sys.executable, *filters, "-c", code], capture_output=True, text=True, check=False)


def test_importing_leaves_no_trace_and_without_it_the_remedy_is_named():
    """In one process, as each takes seconds to start."""
    done = run(
        "import sys; sys.modules['recogym'] = None; sys.modules['gym'] = None\n"
        "from blob_pyro.simulation import RecoGym, RecoGymReference\n"
        "RecoGym(num_items=5).simulate(num_users=5)\n"
        "try:\n    RecoGymReference(num_items=3).make()\n"
        "except ImportError as error:\n    print(error)\n"
        "del sys.modules['recogym'], sys.modules['gym']\n"
        "import numpy as np, scipy; np.random.seed(0); before = np.random.get_state()[1].tolist()\n"
        "assert 'recogym' not in sys.modules\n"
        "RecoGymReference(num_items=3).make(); assert 'recogym' in sys.modules\n"
        "assert not hasattr(scipy, 'rand'); assert np.random.get_state()[1].tolist() == before"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install 'blob-pyro[recogym]'" in done.stdout
    assert "pip install --no-deps recogym==0.1.3.0" in done.stdout
    assert not hasattr(scipy, "rand")
