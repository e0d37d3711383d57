"""Coverage in RecoGym: truths by hand, all kinds of propensities, folders that are gone on with, tables by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro.experiments.off_policy_coverage import DIFFERENCE, KINDS, OffPolicyCoverage
from blob_pyro.experiments.off_policy_coverage_report import CELLS, Runs, plot, shifts, summarize, verdict

SMALL = OffPolicyCoverage(
    num_items=4, num_start_users=30, num_organic_users=50, num_users=10, shared_draws=4, num_test_users=20,
    first_environment=5, num_environments=1, logs_per_block=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    return pd.concat([SMALL.run(0, kind) for kind in KINDS], ignore_index=True)


def test_a_row_for_each_log_policy_and_estimator(runs):
    assert len(runs) == 3 * 2 * CELLS
    assert not runs.isna().any(axis=None)
    assert set(runs["kind"]) == set(KINDS)
    assert (runs["low"] < runs["high"]).all()
    wide = runs[runs["estimator"] == "IPS"].pivot(index=["kind", "log"], columns="target", values=["truth", "value"])
    for column in ("truth", "value"):
        of = wide[column]
        assert np.allclose(of[DIFFERENCE], of["sharper Thompson"] - of["epsilon-greedy"])


def test_policies_look_at_the_latest_view():
    players = SMALL.players(5)
    for name, policy in (players.logging | players.targets).items():
        if name != "conditional":
            probs = policy.action_distribution([[0, 1, 2], [2], [1, 2, 3], []]).probs
            assert torch.equal(probs[0], probs[1])
            assert name == "epsilon-greedy" or not torch.equal(probs[0], probs[2])
            assert torch.allclose(probs.sum(-1), torch.ones(4, dtype=torch.float64))
    estimate = players.logging["estimate"]
    logged = estimate.action_distribution([[2]] * 4).log_prob(torch.arange(4)).exp()
    assert 0 < (logged / estimate.acts[0, 3] - 1).abs().max() < 0.3
    given = players.logging["conditional"].action_distribution([[2]] * 500).probs
    assert len(given.unique(dim=0)) > 100  # a draw for each session
    of_draws = players.logging["conditional"].acts[:, 3]
    error = given.std(0) / 500**0.5 + of_draws.std(0) / len(of_draws) ** 0.5
    assert ((given.mean(0) - estimate.acts[0, 3]).abs() < 5 * error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_that_of_the_logged_contexts(kind, runs):
    players = SMALL.players(5)
    log, click = SMALL.simulate(players, kind, 0)
    mine = torch.as_tensor(np.asarray(log.users.ids))[log.user] >= SMALL.num_users
    probs = players.targets["epsilon-greedy"].action_distribution(log.contexts).probs.double()[log.context]
    expected = np.mean([float(p @ c) for p, c in zip(probs[mine], click[mine])])
    found = runs[(runs["kind"] == kind) & (runs["log"] == 1) & (runs["target"] == "epsilon-greedy")]
    assert found["truth"].to_numpy() == pytest.approx(expected, rel=1e-6)
    assert found["rows"].unique().tolist() == [int(mine.sum())]
    rewards = log.reward.double()
    expected = (probs.gather(-1, log.action[:, None])[:, 0] / log.propensity * rewards)[mine].mean()
    assert found[found["estimator"] == "IPS"]["value"].item() == pytest.approx(float(expected), rel=1e-6)


def test_clicks_have_the_probabilities_that_the_truth_is_made_of():
    many = OffPolicyCoverage(num_items=4, num_start_users=30, num_organic_users=50, num_users=300, first_environment=5)
    log, click = many.simulate(SMALL.players(5), "conditional", 1)
    of_played = click.gather(-1, log.action[:, None])[:, 0]
    error = float((of_played * (1 - of_played)).sum().sqrt())
    assert float(log.reward.sum()) == pytest.approx(float(of_played.sum()), abs=4 * error)
    inverse = 1 / log.propensity
    assert float(inverse.mean()) == pytest.approx(4, abs=5 * float(inverse.std()) / len(inverse) ** 0.5)


def test_a_folder_is_gone_on_with(tmp_path, runs):
    first = Runs(SMALL, tmp_path)
    assert list(first.complete(range(1))) == [0]
    first.complete_ab_tests()
    with (tmp_path / "logs.csv").open("a") as file:
        file.write("sharper Thompson,IPS,0.1")  # killed while it wrote
    again = Runs(SMALL, tmp_path)
    assert len(again.logs) == len(first.logs) == 3 * 2 * CELLS
    assert list(again.complete(range(1))) == [0]
    assert np.allclose(again.logs["value"], runs["value"], rtol=1e-6)
    assert len(pd.read_csv(tmp_path / "logs.csv")) == len(first.logs)
    assert set(again.ab_tests["target"]) == {"logging", "sharper Thompson", "epsilon-greedy", DIFFERENCE}
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["num_items"] == 4
    with pytest.raises(ValueError, match="is of other settings"):
        Runs(OffPolicyCoverage(), tmp_path)
    table = shifts(again.logs, again.ab_tests).set_index("target")
    truths = again.logs.drop_duplicates(["log", "kind", "target"]).groupby("target")["truth"].mean()
    tests = again.ab_tests.set_index("target")["rate"]
    assert table["shift"][DIFFERENCE] == pytest.approx(tests[DIFFERENCE] - truths[DIFFERENCE])


def test_summary_by_hand():
    logs = pd.DataFrame(
        {
            "kind": "mixture", "target": "one", "estimator": "IPS", "log": range(4), "value": [1.0, 2.0, 3.0, 4.0],
            "truth": [1.5, 1.5, 3.0, 3.0], "low": [0.0, 1.6, 2.0, 2.0], "high": [2.0, 3.0, 4.0, 5.0],
            "standard_error": 0.5, "effective_sample_size": [900.0, 1100.0, 2000.0, 2000.0], "skewness": 0.1,
            "warned": [True, False, False, False],
        }
    )  # fmt: skip
    (row,) = summarize(logs).itertuples()
    assert (row.coverage, row.below, row.above, row.few, row.warned) == (0.75, 0.25, 0.0, 0.25, 0.25)
    error = np.array([-0.5, 0.5, 0.0, 1.0])
    assert row.bias_errors == pytest.approx(error.mean() / (error.std(ddof=1) / 2))
    assert row.coverage_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    (line,) = verdict(summarize(logs))
    assert line.startswith("mixture: coverage 75.0% to 75.0%, on average 75.00%, within 93% to 97% in 0 of 1 cells")
    assert len(plot(summarize(logs)).axes) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="kind: expected 'estimate', 'mixture' or 'conditional', got 'exact'"):
        SMALL.run(0, "exact")
