"""Figure 1 in small: the published problem, the two sets of propensities, resumption, and the arithmetic."""

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import multivariate_normal

from blob_pyro.cli.reproduce import reproduce
from blob_pyro.experiments.figure1 import ESTIMATORS, Figure1, published_propensities
from blob_pyro.experiments.figure1_report import Runs
from blob_pyro.ope import beta_ips, doubly_robust, ips, snips
from tests.experiments.figure1_runs import SMALL


@pytest.mark.parametrize("power", [2, 1], ids=["exact: variances", "published: standard deviations"])
def test_both_sets_of_propensities_are_equation_6_with_these_covariances(power):
    loc, scale = torch.tensor([[0.3, -0.2, 0.1]]).double(), torch.tensor([[0.2, 0.9, 0.4]]).double()
    regression = SMALL.regression
    ours = published_propensities(loc, scale)[0] if power == 1 else None
    if power == 2:
        x = np.random.default_rng(0).normal(size=(1, 10))
        loc, scale = regression.logits(x)
        ours = regression.action_distribution(x).probs[0]
    mean, spread = loc[0].numpy(), scale[0].numpy() ** power
    for action in range(len(mean)):
        others = np.arange(len(mean)) != action
        covariance = spread[action] + np.diag(spread[others])
        expected = multivariate_normal(mean[others], covariance).cdf(np.full(others.sum(), mean[action]))
        assert ours[action].item() == pytest.approx(expected, abs=1e-4)


def test_a_log_is_estimated_as_by_the_estimators_on_its_whole_matrices(monkeypatch):
    seen = []
    monkeypatch.setitem(
        ESTIMATORS, "IPS", lambda rows: seen.append(rows) or ips(rows.reward, rows.target, rows.logging)
    )
    frame = SMALL.run(3).set_index(["rows", "propensities", "estimator"])["value"]
    rows, population = seen[2], SMALL.population  # the largest, exact
    exact = population.target["exact"]
    place = [(exact == p).nonzero()[0] for p in rows.target[:400]]  # its numbers are as good as names
    found, action = torch.stack(place).T
    assert torch.equal(population.logging[found, action], rows.logging[:400])
    few = type(rows)(*(column[:400] for column in rows))
    whole = doubly_robust(
        few.reward, population.target["exact"][found], few.logging, action=action,
        predicted_reward=population.predicted[found],
    )  # fmt: skip
    assert float(ESTIMATORS["DR"](few).value) == pytest.approx(float(whole.value), rel=1e-10)
    assert ESTIMATORS["DR"](few).standard_error == pytest.approx(whole.standard_error, rel=1e-10)
    for name, estimator in {"IPS": ips, "SNIPS": snips, "beta-IPS": beta_ips}.items():
        value = float(estimator(rows.reward, rows.target, rows.logging).value)
        assert frame[4000, "exact", name] == pytest.approx(value, rel=1e-12)


def test_logs_are_fresh_and_sizes_nested(runs):
    assert SMALL.sizes == [199, 893, 4000]
    assert Figure1().sizes[:4] == [199, 267, 359, 483]
    assert Figure1().sizes[-1] == 316_227
    assert len(Figure1().sizes) == 26
    assert runs.groupby(["rows", "propensities", "estimator"])["value"].nunique().eq(60).all()
    again = SMALL.run(701)
    pd.testing.assert_frame_equal(again, runs[runs.log == 701].reset_index(drop=True))


def test_exact_propensities_arrive_at_the_policy_s_value_and_published_ones_at_another(runs):
    population = SMALL.population
    for propensities in ("exact", "published"):
        values = runs[(runs.propensities == propensities) & (runs.rows == 4000) & (runs.estimator == "DR")]["value"]
        error = values.std() / 60**0.5
        assert abs(values.mean() - population.value(propensities)) < 4.5 * error
        if propensities == "published":
            assert abs(values.mean() - population.value("exact")) > 4.5 * error
    values = (population.target["exact"] * population.expected_reward).sum(-1).numpy()
    assert population.value_error() == pytest.approx(values.std(ddof=1) / 3000**0.5)


def test_runs_go_on_from_what_is_on_disk(tmp_path, monkeypatch):
    tiny = Figure1(num_contexts=500, most_rows=1000.0, num_sizes=2)
    list(Runs(tiny, tmp_path).complete(range(2)))
    file = tmp_path / "logs.csv"
    text = file.read_text()
    file.write_text(text + "2,199,exact,IPS,0.5,0.1\n2,1000,exa")  # killed while it wrote
    runs = Runs(tiny, tmp_path)
    assert set(runs.frame.log) == {0, 1}
    asked = []
    run = Figure1.run
    monkeypatch.setattr(Figure1, "run", lambda self, log: asked.append(log) or run(self, log))
    list(runs.complete(range(4)))
    assert asked == [2, 3]
    assert set(Runs(tiny, tmp_path).frame.log) == {0, 1, 2, 3}
    assert len(pd.read_csv(file)) == 4 * 2 * 2 * 4
    with pytest.raises(ValueError, match="is of other settings"):
        Runs(SMALL, tmp_path)


def test_command(tmp_path):
    arguments = ["figure1", "--logs", "3", "--contexts", "500", "--sizes", "3", "--most-rows", "1500"]
    arguments += ["--scipy-contexts", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(reproduce, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "times as long" in result.output
    assert (tmp_path / "figure1.txt").read_text() in result.output
    assert {"figure1.png", "logs.csv", "settings.json", "summary.csv"} < {path.name for path in tmp_path.iterdir()}
    again = CliRunner().invoke(reproduce, [*arguments[:4], "600", *arguments[5:]])
    assert again.exit_code == 1
    assert "is of other settings" in again.output
