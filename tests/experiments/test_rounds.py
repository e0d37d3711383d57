"""Rounds in small: what agents are told, resumption after a kill, and the arithmetic of the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from blob_pyro.cli.reproduce import reproduce
from blob_pyro.experiments import AGENTS, BLOBAgent, RoundsResult, Start, register_agent, rounds
from blob_pyro.experiments.agents import UpdatedPolicy
from blob_pyro.policies import (
    EpsilonGreedy,
    Greedy,
    Policy,
    SessionPopularity,
    ThompsonSampling,
    TopTwoThompsonSampling,
    Uniform,
)
from blob_pyro.policies.baselines import Popularity
from blob_pyro.simulation import RecoGym

SMALL = {
    "users_per_round": 30, "num_organic_users": 60, "embedding_dim": 3, "test_users": 40, "progress": False,
}  # fmt: skip
TWO = [RecoGym(num_items=10, num_flips=5, seed=seed) for seed in (100, 101)]
pytestmark = pytest.mark.filterwarnings("ignore:log. .* never shown", "ignore::blob_pyro.ope.OffPolicyWarning")


class Recorder:
    """An agent of one's own, in a few lines: plays what is popular, and notes what it is given."""

    seen: list = []  # noqa: RUF012 - the test empties it

    def __init__(self, start):
        self.start = start

    def learn(self, new, everything):
        self.seen.append((new, everything))
        self.model = Popularity(everything)

    def policy(self, seed):
        return EpsilonGreedy(self.model, 0.2)

    def greedy(self):
        return Greedy(self.model)


def test_what_an_agent_is_told():
    Recorder.seen.clear()
    result = rounds(TWO[0], {"mine": Recorder, "uniform": AGENTS["uniform"]}, 3, num_logs=2, **SMALL)
    assert len(result.rows) == 2 * 2 * 3
    assert len(Recorder.seen) == 2 * 3
    first, second, third = Recorder.seen[:3]
    assert first[0] is first[1]
    assert set(first[0].users.ids[:60]) == set(range(60))
    for number, (new, everything) in enumerate((second, third), 2):
        users = set(range(60 + 30 * (number - 1), 60 + 30 * number))
        assert set(new.users.ids) <= users
        assert set(everything.users.ids) == set(first[0].users.ids) | set(second[0].users.ids) | (
            set(third[0].users.ids) if number == 3 else set()
        )
        assert everything.num_impressions == sum(log.num_impressions for log, _ in Recorder.seen[:number])
        best = Popularity(Recorder.seen[number - 2][1]).scores([[]])[0].argmax()
        expected = torch.where(new.action == best, 0.82, 0.02).double()
        assert torch.allclose(new.propensity, expected, atol=1e-6)
    rows = result.rows[(result.rows["agent"] == "mine") & (result.rows["log"] == 0)].set_index("round")
    assert rows.loc[2, "impressions"] == second[0].num_impressions
    assert rows.loc[2, "clicks"] == second[0].reward.sum()
    assert (Recorder.seen[3][0].num_views, Recorder.seen[3][0].num_impressions) != (
        first[0].num_views,
        first[0].num_impressions,
    )


class OneItem(Policy):
    """Always recommends the same item."""

    def __init__(self, item):
        super().__init__(10)
        self.item = item

    def action_distribution(self, histories):
        return dist.Categorical(probs=torch.eye(10)[[self.item] * len(histories)])


class Turns:
    """Another item in every round."""

    def __init__(self, start):
        self.round = 0

    def learn(self, new, everything):
        self.round += 1

    def policy(self, seed):
        return OneItem(self.round)

    def greedy(self):
        return OneItem(self.round)


def test_a_policy_that_plays_nothing_of_the_log_has_no_estimate(tmp_path):
    first = rounds(TWO[0], {"turns": Turns}, 2, output=tmp_path, **SMALL).rows
    again = rounds(TWO[0], {"turns": Turns}, 3, output=tmp_path, **SMALL)
    assert again.rows["estimate"].isna().tolist() == [False, True, True]
    assert again.rows["effective_sample_size"].tolist()[1:] == [0, 0]
    pd.testing.assert_frame_equal(again.rows[:2], first, rtol=1e-6)
    assert np.isnan(again.predictions()["errors"].iloc[-1])


def test_rates_and_regret_against_a_simulation_of_ones_own():
    environment = TWO[1]
    result = rounds(environment, ["session popularity"], 2, **SMALL)
    row = result.rows.iloc[1]
    policy = SessionPopularity(10, 0.3)

    def rate(played):
        events = environment.played(played, 30, seed=0, first_user=90, click_probabilities=True)
        clicks = [e.click_probability for e in events if hasattr(e, "action")]
        return float(torch.cat(clicks).mean()), len(torch.cat(clicks))

    found, impressions = rate(policy)
    assert row["played"] == pytest.approx(found, rel=1e-12)
    assert row["oracle"] == pytest.approx(rate(environment.oracle())[0], rel=1e-12)
    assert row["random"] == pytest.approx(rate(Uniform(10))[0], rel=1e-12)
    assert row["regret"] == pytest.approx(impressions * (rate(environment.oracle())[0] - found), rel=1e-9)
    log = environment.simulate(policy, 30, seed=0, first_user=90)
    assert row["clicks"] == log.reward.sum()
    first = environment.simulate(policy, 30, 60, seed=0)
    assert result.rows.iloc[0]["impressions"] == first.num_impressions
    # The same policy again: SNIPS of itself is the log's click rate.
    assert result.rows.iloc[0]["estimate"] == pytest.approx(first.reward.double().mean().item())


KILLED = """
import os, sys, warnings
warnings.simplefilter("ignore")
from tests.experiments.test_rounds import SMALL, TWO
from blob_pyro.experiments import AGENTS, rounds
from blob_pyro.experiments.agents import UpdatedPolicy

class Killed:
    def __init__(self, start):
        self.agent, self.count = AGENTS["LinTS"](start), 0
    def learn(self, new, everything):
        self.count += 1
        if self.count == 3:
            os._exit(9)  # as a kill: nothing is cleaned up
        self.agent.learn(new, everything)
    def policy(self, seed):
        return self.agent.policy(seed)
    def greedy(self):
        return self.agent.greedy()

rounds(TWO[0], {"uniform": AGENTS["uniform"], "LinTS": Killed}, 4, output=sys.argv[1], **SMALL)
"""


@pytest.mark.slow
def test_a_killed_experiment_goes_on(tmp_path):
    whole = rounds(TWO[0], ["uniform", "LinTS"], 4, **SMALL).rows
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 9, run.stderr
    kept = sorted(path.name for path in (tmp_path / "runs" / "100-0" / "LinTS").iterdir())
    assert kept == ["round-001.safetensors", "round-002.safetensors"]
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").rglob("*.safetensors"))]
    result = rounds(TWO[0], ["uniform", "LinTS"], 4, output=tmp_path, **SMALL)
    timing = ["play_seconds", "learn_seconds"]
    pd.testing.assert_frame_equal(result.rows.drop(columns=timing), whole.drop(columns=timing), rtol=1e-9)
    assert len(list((tmp_path / "runs").rglob("*.safetensors"))) == 8
    assert set(times) <= {path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    more = rounds(TWO, ["uniform", "LinTS"], 5, output=tmp_path, **SMALL)
    assert more.rows.groupby(["environment", "agent"]).size().tolist() == [5] * 4
    pd.testing.assert_frame_equal(RoundsResult.load(tmp_path).rows, more.rows, rtol=1e-6)
    about = json.loads((tmp_path / "settings.json").read_text())
    assert about["settings"]["users_per_round"] == 30
    assert about["settings"]["environment"]["num_flips"] == 5
    with pytest.raises(ValueError, match=r"of other settings \(settings test_users was 40, is 50\)"):
        rounds(TWO, ["uniform"], 2, output=tmp_path, **{**SMALL, "test_users": 50})
    with pytest.raises(ValueError, match="is of the agent uniform, not of BLOBAgent"):
        rounds(TWO, {"uniform": BLOBAgent("greedy")}, 2, output=tmp_path, **SMALL)
    damaged = tmp_path / "runs" / "100-0" / "LinTS" / "round-002.safetensors"
    damaged.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"round-002\.safetensors cannot be read .*remove it"):
        rounds(TWO, ["LinTS"], 2, output=tmp_path, **SMALL)


EXPLORERS = {
    "greedy": Greedy, "epsilon": EpsilonGreedy, "thompson": ThompsonSampling, "top_two": TopTwoThompsonSampling,
}  # fmt: skip


def test_agents_that_play_from_a_blob():
    log = TWO[0].simulate(SessionPopularity(10), 60, 100)
    more = TWO[0].simulate(SessionPopularity(10), 60, first_user=160)
    from blob_pyro import EventLog

    both, start = EventLog.concat([log, more]), Start(log, embedding_dim=3)
    agents = {explore: BLOBAgent(explore)(start) for explore in EXPLORERS}
    for explore, kind in EXPLORERS.items():
        agents[explore].learn(log, log)
        assert isinstance(agents[explore].policy(1), kind)
        assert isinstance(agents[explore].greedy(), Greedy)
    thompson = agents["thompson"]
    first, again, other = (thompson.policy(seed).action_distribution([[1]]).probs for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    refit, updated = (BLOBAgent("greedy", learn=learn)(start) for learn in ("refit", "update"))
    for agent in (refit, updated):
        agent.learn(log, log)
        agent.learn(more, both)
    assert [fit["call"] for fit in refit.blob.fits] == ["fit"]
    assert refit.blob.fits[0]["num_rows"] == both.num_impressions
    assert [(fit["call"], fit["num_rows"]) for fit in updated.blob.fits] == [
        ("fit", log.num_impressions), ("update", more.num_impressions)
    ]  # fmt: skip
    assert refit.blob.blo is updated.blob.blo  # one organic model for all
    with pytest.raises(ValueError, match=r"explore: .*'thompson'.*got 'boltzmann'"):
        BLOBAgent("boltzmann")


@pytest.mark.parametrize("name", ["LinTS", "logistic Thompson"])
def test_agents_that_update_a_policy(name):
    log = TWO[0].simulate(Uniform(10), 200, 100)
    agent = AGENTS[name](Start(log, embedding_dim=3))
    agent.learn(log, log)
    clicked = torch.zeros(10).index_add(0, log.action, log.reward.float()) / torch.bincount(log.action, minlength=10)
    scores = agent.greedy().model.scores([[]])[0]
    assert np.corrcoef(scores, clicked)[0, 1] > 0.5
    assert agent.policy(0).action_distribution([[]]).probs.max() < 0.9


def made_up():
    """Two environments, two logs, two agents, three rounds, whose numbers are known."""
    rows = []
    for environment in (1, 2):
        for log in (0, 1):
            for number in (1, 2, 3):
                for agent, lost in (("a", 10 * environment + log), ("b", 12 * environment + 3 * log)):
                    rows.append(
                        {"environment": environment, "log": log, "agent": agent, "round": number, "impressions": 100,
                         "clicks": 1, "played": 0.01 + 0.001 * number, "random": 0.01, "oracle": 0.02,
                         "regret": lost * number, "greedy": 0.015 + 0.001 * environment, "test_random": 0.01,
                         "test_oracle": 0.02, "estimate": 0.013, "estimate_error": 0.002,
                         "effective_sample_size": 50.0}
                    )  # fmt: skip
    return RoundsResult(pd.DataFrame(rows))


def test_the_arithmetic_of_the_table():
    result = made_up()
    regret = result.per_environment("regret")
    assert regret["a"].tolist() == [10.5, 31.5, 63, 20.5, 61.5, 123]
    table = result.table().set_index("agent")
    assert table.loc["a", "regret"] == 93
    reach = stats.t.ppf(0.975, 1) * 30  # of 63 and 123 the standard error is 30
    assert table.loc["a", "regret_high"] == pytest.approx(93 + reach)
    gaps = np.array([6 * 13.5 - 63, 6 * 25.5 - 123])
    found = result.difference("b", "a")
    assert found.value == pytest.approx(gaps.mean())
    assert found.lower == pytest.approx(gaps.mean() - stats.t.ppf(0.975, 1) * gaps.std(ddof=1) / 2**0.5)
    assert (table.loc["b", "against"], table.loc["b", "against_low"]) == (found.value, found.lower)
    assert table.loc["a", "share"] == pytest.approx(0.65)
    assert table.loc["a", "played_share"] == pytest.approx(0.3)
    told = result.predictions()
    assert sorted(set(told["round"])) == [2, 3]
    assert told.loc[told["round"] == 3, "errors"].to_numpy() == pytest.approx(0.0, abs=1e-9)
    assert told.loc[told["round"] == 2, "errors"].to_numpy() == pytest.approx(0.5)
    assert table.loc["a", "earned"] == pytest.approx(0.013)
    one = RoundsResult(result.rows[result.rows["environment"] == 1])
    assert np.isnan(one.interval("a").lower)
    with pytest.raises(ValueError, match="agent: there is no 'c'; there are a, b"):
        result.difference("c", "a")
    with pytest.raises(ValueError, match="number: all agents have played rounds 1 to 3, got 4"):
        result.table(number=4)


def test_the_figure_has_a_line_and_a_band_for_each_agent():
    ax = made_up().plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.lines[0].get_ydata().tolist() == [15.5, 46.5, 93]
    assert len(ax.collections) == 2
    assert "share" in made_up().plot("share").get_ylabel()


BAD = {
    "an unknown agent": ({"agents": ["nobody"]}, ValueError, "agents: there is no 'nobody'; known: greedy"),
    "one name": ({"agents": "greedy"}, TypeError, "agents: expected a list"),
    "no agents": ({"agents": []}, ValueError, "agents: there are none"),
    "no function": ({"agents": {"mine": 3}}, TypeError, r"agents\['mine'\]: expected a function of a Start, got 3"),
    "names alike": ({"agents": {"a b": Recorder, "a-b": Recorder}}, ValueError, "agents: names must differ"),
    "no environment": ({"environment": []}, ValueError, "environment: there are none"),
    "something else": ({"environment": [3]}, TypeError, r"environment\[0\]: expected a RecoGym, got 3"),
    "other catalogues": (
        {"environment": [TWO[0], RecoGym(num_items=11, seed=1)]}, ValueError, r"environment\[1\]: has num_items=11",
    ),
    "one twice": ({"environment": [TWO[0], TWO[0]]}, ValueError, "environment: two have the same seed"),
    "no rounds": ({"num_rounds": 0}, ValueError, "num_rounds: must be 1 or more, got 0"),
    "no users": ({"users_per_round": 1}, ValueError, "users_per_round: must be 2 or more"),
    "an unknown setting": ({"speed": 1}, TypeError, "speed"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(options, kind, message):
    with pytest.raises(kind, match=message):
        rounds(**{"environment": TWO[0], "agents": ["uniform"], "num_rounds": 1, **SMALL, **options})


def test_agents_by_name(monkeypatch):
    monkeypatch.setattr("blob_pyro.experiments.agents.AGENTS", dict(AGENTS))
    register_agent("mine", Recorder)
    with pytest.raises(ValueError, match="name: 'mine' is taken"):
        register_agent("mine", Recorder)
    with pytest.raises(TypeError, match="maker: expected a name and a function"):
        register_agent("other", 3)


def test_agents_that_do_not_learn():
    agent = UpdatedPolicy(Uniform(4))
    agent.learn(None, None)
    assert agent.policy(0) is agent.greedy()
    assert not agent.needs_every_round


def test_the_command(tmp_path):
    arguments = ["rounds", "--seeds", "2", "--first-seed", "100", "--logs", "1", "--rounds", "2", "--users", "30",
                 "--organic-users", "60", "--test-users", "40", "--items", "10", "--flips", "5", "--interests", "5",
                 "--embedding-dim", "3", "--agent", "uniform", "--agent", "session popularity", "--output",
                 str(tmp_path)]  # fmt: skip
    result = CliRunner().invoke(reproduce, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 environments from seed 100" in result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "settings.json",
        "rows.csv",
        "summary.csv",
        "predictions.csv",
        "rounds.txt",
        "regret.png",
        "share.png",
    }
    wrong = CliRunner().invoke(reproduce, [*arguments, "--agent", "nobody"])
    assert wrong.exit_code == 1
    assert "there is no 'nobody'" in wrong.output
