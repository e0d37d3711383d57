"""Table 2 in small: the process, the rows, and the arithmetic of the summary."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from blob_pyro.cli.reproduce import reproduce
from blob_pyro.experiments.table2 import PAPER, Table2, summarize

SMALL = Table2(
    num_items=40, num_train=30, num_test=200, mean_views=12.0, embedding_dim=3, num_epochs=60, num_gru_epochs=2
)


@pytest.fixture(scope="module")
def results():
    return SMALL.run("recogym", 0)


def test_sessions_are_the_process_s():
    environment = SMALL.environment("no intercepts", 3)
    assert (environment.mu_organic == 0).all()
    sessions, interest = SMALL.sessions(environment, 0, 3000)
    assert sessions.lengths.double().mean().item() == pytest.approx(12, abs=4 * 12 / 3000**0.5)
    expected = environment.organic_probability(interest)
    views = sessions.counts(torch.float64)
    deviation = (views - sessions.lengths.unsqueeze(-1) * expected).sum(0)
    variance = (sessions.lengths.unsqueeze(-1) * expected * (1 - expected)).sum(0)
    assert (deviation.abs() < 4.5 * variance.sqrt()).all()  # interests do not drift
    other, _ = SMALL.sessions(environment, 1, 3000)
    assert other.to_sequences() != sessions.to_sequences()


def test_every_row_of_the_paper_is_there_and_two_more(results):
    methods = set(results.method)
    assert set(PAPER) <= methods
    assert {"oracle", "session frequency"} <= methods
    assert (results.dcg <= results.recall + 1e-6).all()
    recall = results.set_index("method").recall
    assert recall["oracle"] > recall["popularity"]
    assert recall["BLO's default / EM / mean"] > recall["popularity"]


def test_summary_by_hand():
    runs = pd.DataFrame(
        {
            "environment": "recogym",
            "seed": [0, 1, 2] * 3,
            "method": ["oracle"] * 3 + ["session frequency"] * 3 + ["GRU"] * 3,
            "recall": [0.5, 0.8, 0.5, 0.4, 0.4, 0.1, 0.25, 0.4, 0.3],
            "dcg": [0.3] * 9,
            "short_recall": [0.5, 0.8, 0.5, 0.1, 0.2, 0.3, 0.2, 0.5, 0.4],
        }
    )
    row = summarize(runs).loc["GRU"]
    assert row["RC@5"] == pytest.approx(0.95 / 3)
    assert row["se"] == pytest.approx(np.std([0.25, 0.4, 0.3], ddof=1) / 3**0.5)
    assert row["of oracle"] == pytest.approx((0.5 + 0.5 + 0.6) / 3)
    assert row["paper"] == 0.035
    interval = stats.t.interval(0.95, 2, loc=0.5 / 3, scale=stats.sem([0.1, 0.3, 0.1]))
    assert (row["low"], row["high"]) == pytest.approx(interval)


def test_command(tmp_path, monkeypatch):
    arguments = ["table2", "--seeds", "2", "--environment", "no intercepts", "--items", "20", "--test-sessions", "10"]
    arguments += ["--first-seed", "5", "--epochs", "3", "--gru-epochs", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(reproduce, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "RT / EM / mean" in result.output
    assert "0.117" in result.output
    assert "DCG@5 is the standard one" in result.output
    assert set(pd.read_csv(tmp_path / "runs.csv").seed) == {5, 6}
    assert (tmp_path / "table2.txt").read_text() in result.output
    assert json.loads((tmp_path / "settings.json").read_text())["done"]["seed"] == [5, 6]
    monkeypatch.setattr(Table2, "run", lambda *_: pytest.fail("it was run already"))
    assert CliRunner().invoke(reproduce, arguments, catch_exceptions=False).exit_code == 0
    other = CliRunner().invoke(reproduce, [*arguments, "--epochs", "4"])
    assert other.exit_code == 1
    assert "num_epochs was 3, is 4" in other.output
