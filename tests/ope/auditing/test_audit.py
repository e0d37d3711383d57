"""The audit: healthy logs pass, every planted fault is found by the test that looks for it, Open Bandit's are found."""

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.ope import audit, auditing
from blob_pyro.ope.auditing import TESTS, Finding, LogFacts
from blob_pyro.ope.auditing.granularity import number_of_draws
from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym

matplotlib.use("Agg")
ITEMS = 12
WOMEN = Path(__file__).parents[2] / "data" / "open_bandit" / "women_bts.parquet"


@pytest.fixture(scope="module")
def healthy():
    """300 users at times of their own, one after another."""
    log = RecoGym(num_items=ITEMS, num_flips=6, seed=5).simulate(SessionPopularity(ITEMS, epsilon=0.3), num_users=300)
    return dataclasses.replace(log, time=log.user * 1000 + log.time)


def probabilities(log, epsilon=0.3):
    return SessionPopularity(ITEMS, epsilon).action_distribution(log.contexts).probs[log.context]


def with_propensity(log, propensity):
    return dataclasses.replace(log, propensity=torch.as_tensor(propensity, dtype=torch.float64))


def counted(log, draws, seed=0):
    """As a Monte Carlo estimate has them: counts over draws, never zero because the action was played."""
    noise = np.random.default_rng(seed).binomial(draws, log.propensity.numpy())
    return with_propensity(log, np.maximum(noise, 1) / draws)


def of_another_policy(log):
    return with_propensity(log, probabilities(log, 0.6).gather(-1, log.action[:, None]).squeeze(-1))


def changed_half_way(log):
    """Both halves exact: what acted in the second half explored more."""
    other = RecoGym(num_items=ITEMS, num_flips=6, seed=5).simulate(SessionPopularity(ITEMS, epsilon=0.7), num_users=300)
    views = torch.cat([log.view_user, other.view_user + 1000]), torch.cat([log.view_time, other.view_time])
    return EventLog.from_arrays(
        ITEMS,
        *views,
        torch.cat([log.view_item, other.view_item]),
        torch.cat([log.user, other.user + 1000]),
        torch.cat([log.time, 10**6 + other.user * 1000 + other.time]),
        torch.cat([log.action, other.action]),
        torch.cat([log.reward, other.reward]),
        torch.cat([log.propensity, other.propensity]),
    )


def one_tiny_row(log):
    propensity = log.propensity.clone()
    propensity[1234] = 1e-6
    return with_propensity(log, propensity)


def noisy(log):
    return with_propensity(log, (log.propensity * torch.exp(0.1 * torch.randn(len(log.propensity)))).clamp(max=0.99))


FAULTS = {
    "counted from 1,000 draws": (lambda log: counted(log, 1000), "granularity"),
    "counted from 4,096 draws": (lambda log: counted(log, 4096), "granularity"),
    "counted from 12,345 draws": (lambda log: counted(log, 12_345), "granularity"),
    "counted from 200,000 draws": (lambda log: counted(log, 200_000), "granularity"),
    "counted, in single precision": (
        lambda log: with_propensity(log, counted(log, 50_000).propensity.float().double()),
        "granularity",
    ),
    "a floor": (lambda log: with_propensity(log, log.propensity.clamp(min=0.05)), "mean of 1/p"),
    "1/A everywhere": (
        lambda log: with_propensity(log, torch.full_like(log.propensity, 1 / ITEMS)),
        "each action's weights",
    ),
    "too large": (lambda log: with_propensity(log, (log.propensity * 1.3).clamp(max=1)), "mean of 1/p"),
    "too small": (lambda log: with_propensity(log, log.propensity / 1.3), "mean of 1/p"),
    "of another policy": (of_another_policy, "mean of 1/p"),
    "rows mixed up": (lambda log: with_propensity(log, log.propensity.roll(37)), "drift"),
    "one tiny row": (one_tiny_row, "largest weight"),
    "one tiny row, effective": (one_tiny_row, "effective sample size"),
    "policy changed": (changed_half_way, "drift"),
    "noisy": (noisy, "drift"),
    "a pause": (
        lambda log: dataclasses.replace(log, time=log.time + 10**9 * (log.time > 150_000)),
        "delays",
    ),
    "zero": (lambda log: with_propensity(log, log.propensity * (torch.arange(len(log.propensity)) != 7)), "range"),
    "above one": (lambda log: with_propensity(log, log.propensity + (torch.arange(len(log.action)) == 7)), "range"),
    "NaN": (
        lambda log: with_propensity(log, log.propensity.where(torch.arange(len(log.action)) != 7, torch.nan)),
        "range",
    ),
    "certain": (lambda log: with_propensity(log, log.propensity.where(log.propensity < 0.6, 1.0)), "alternatives"),
}


def test_a_healthy_log_passes(healthy):
    report = audit(healthy, logging_probs=probabilities(healthy))
    assert report.flagged == ()
    assert report.warnings == ()
    assert repr(report).startswith(f"audit of {healthy.num_impressions:,} impressions: nothing flagged\nok  range")
    assert len(repr(report).splitlines()) == 1 + len(TESTS)


@pytest.mark.parametrize(("plant", "test"), FAULTS.values(), ids=FAULTS.keys())
def test_planted_faults_are_found(plant, test, healthy):
    report = audit(plant(healthy))
    assert report[test].flagged, report
    assert f"!!  {test}" in repr(report)
    assert any(warning.startswith(f"{test}: ") for warning in report.warnings)


def test_what_it_says_of_the_faults(healthy):
    assert "counted from 200,000 draws" in audit(counted(healthy, 200_000))["granularity"].says
    tiny = audit(one_tiny_row(healthy))
    assert tiny["largest weight"].row == 1234
    assert tiny["effective sample size"].statistic == pytest.approx(1.67, abs=0.1)
    assert "neighbours in time are alike" in audit(changed_half_way(healthy))["drift"].says
    assert "in no order of time" in audit(noisy(healthy))["drift"].says
    zero = audit(FAULTS["zero"][0](healthy))["range"]
    assert zero.row == 7
    assert "row 7 has 0 and" in zero.says


def test_frequencies_against_whole_distributions(healthy):
    wrong = audit(healthy, logging_probs=probabilities(healthy, 0.5))
    assert wrong["action frequencies"].flagged
    shifted = probabilities(healthy).roll(1, -1)
    assert audit(healthy, logging_probs=shifted)["action frequencies"].flagged
    assert "pass logging_probs" in audit(healthy)["action frequencies"].says


def test_frequencies_by_hand(healthy):
    probs = probabilities(healthy).double().numpy()
    played = np.bincount(healthy.action.numpy(), minlength=ITEMS)
    z = (played - probs.sum(0)) / np.sqrt((probs * (1 - probs)).sum(0))
    assert audit(healthy, logging_probs=probs)["action frequencies"].statistic == pytest.approx(z[abs(z).argmax()])


def test_mean_of_inverse_by_hand(healthy):
    inverse = 1 / healthy.propensity.numpy()
    rest = np.delete(inverse, inverse.argmax())
    for name, values in (("mean of 1/p", inverse), ("mean of 1/p without its largest row", rest)):
        z = (values.mean() - ITEMS) / (values.std(ddof=1) / len(values) ** 0.5)
        assert audit(healthy)[name].statistic == pytest.approx(z, rel=1e-9)


def false_alarms(seeds):
    flagged = []
    for seed in seeds:
        num_items, epsilon = (5, 10, 12, 30, 100)[seed % 5], (0.1, 0.3, 0.6)[seed % 3]
        environment = RecoGym(num_items=num_items, num_flips=num_items // 2, seed=seed)
        users = (40, 100, 300)[seed % 3]
        report = audit(environment.simulate(SessionPopularity(num_items, epsilon), num_users=users, seed=seed))
        flagged.extend((seed, *f.test) for f in report.flagged[:1])
    return flagged


def test_false_alarms_of_a_few_logs():
    rarely_explored = (24, 39, 54, 69)  # 100 items, one in ten explored, 40 users: contexts that the log does not show
    assert false_alarms([*range(405, 411), *rarely_explored]) == []


@pytest.mark.slow
def test_false_alarms_of_200_healthy_logs():
    assert len(false_alarms(range(200))) <= 2


def test_uniform_logs_pass():
    log = RecoGym(num_items=20, seed=1).simulate(Uniform(20), num_users=60)
    report = audit(log)
    assert report.flagged == ()
    assert "every row has 20; 20 actions" in report["mean of 1/p"].says


# --- granularity by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [64, 100, 997, 1000, 8192, 10_000, 65_536, 1_000_000])
def test_the_number_of_draws_is_found_exactly(draws):
    probs = np.random.default_rng(0).beta(1, 8, size=3000)
    counts = np.maximum(np.random.default_rng(1).binomial(draws, probs), 1)
    assert number_of_draws(counts / draws, 10) == draws


def test_exact_numbers_and_small_ratios_are_not_counts():
    rng = np.random.default_rng(0)
    assert number_of_draws(rng.beta(1, 8, size=3000), 10) is None
    total = rng.integers(1, 9, size=3000)
    shares = 0.7 * rng.integers(1, total + 1) / total
    assert number_of_draws(np.concatenate([shares, 0.3 / rng.integers(5, 12, size=3000)]), 12) is None
    assert number_of_draws(np.full(100, 0.125), 4) is None
    few = np.array([0.7 * views / total for total in range(1, 7) for views in range(1, total + 1)])
    assert len(np.unique(few)) > 8  # all of them multiples of 1/600, and none needs it
    assert number_of_draws(few.repeat(50), 7) is None


# --- Open Bandit ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def women():
    table = pq.read_table(WOMEN).rename_columns(["time", "action", "position", "reward", "propensity"])
    return EventLog.from_tables(impressions=table.append_column("user", [np.arange(len(table))]), items=range(46))


def test_open_bandit(women):
    report = audit(women)
    assert report["granularity"].statistic == 200_000
    assert "99.96% of propensities are multiples of 5e-06" in report["granularity"].says
    size = report["effective sample size"]
    assert size.flagged
    assert "effective sample size of 2 of 10,000 rows; without its largest row 537" in size.says
    assert "at a propensity of 1e-06" in report["largest weight"].says
    assert women.propensity[report["largest weight"].row].item() == 1e-6
    drift = report["drift"]
    assert drift.flagged
    assert "neighbours in time are alike" in drift.says
    assert "a value that repeats lasts for 1.8 minutes in the median" in drift.says
    # The plain test passes because of the row that should fail it.
    assert not report["mean of 1/p"].flagged
    assert report["mean of 1/p"].statistic < 1.1


# --- the report -------------------------------------------------------------------------------------------------------


def test_table_and_plot(women):
    report = audit(women)
    table = report.table
    assert list(table.columns) == ["flagged", "statistic", "p_value", "row", "says"]
    assert table.loc["largest weight", "row"] == report["largest weight"].row
    assert table.flagged.sum() == len(report.flagged) == 4
    figure = report.plot()
    assert len(figure.axes) == 4
    assert figure.axes[2].get_ylabel() == "average uniform weight"
    average = figure.axes[2].lines[0].get_ydata()[-1]
    assert average == pytest.approx((1 / (46 * women.propensity)).mean().item())
    matplotlib.pyplot.close(figure)
    with pytest.raises(KeyError, match="no test 'nothing' in this audit; there are range"):
        report["nothing"]


def test_a_test_from_outside(healthy, monkeypatch):
    def short(facts: LogFacts) -> Finding:
        return Finding("short", len(facts) < 10**6, "fewer than a million rows")

    monkeypatch.setattr(auditing, "TESTS", [*TESTS, short])
    assert [f.test for f in audit(healthy).flagged] == ["short"]


def test_bad_input(healthy):
    with pytest.raises(ValueError, match="log: has no column 'propensity'"):
        audit(dataclasses.replace(healthy, propensity=None))
    with pytest.raises(ValueError, match=r"logging_probs: has shape \(\d+, 12\), expected \(\d+, 12\)"):
        audit(healthy, logging_probs=probabilities(healthy)[1:])
    with pytest.raises(ValueError, match="false_alarms: a probability"):
        audit(healthy, false_alarms=1)
    with pytest.raises(ValueError, match="log: has no bandit events"):
        audit(EventLog.from_tables(views={"user": [1], "time": [1], "item": [1]}))


def test_nothing_usable(healthy):
    report = audit(with_propensity(healthy, torch.zeros_like(healthy.propensity)))
    assert [f.test for f in report.flagged] == ["range"]
