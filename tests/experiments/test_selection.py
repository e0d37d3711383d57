"""Which settings to take: scores as `evaluate` gives them, the rule by hand, and a kill that costs one fit."""

import numpy as np
import pandas as pd
import pytest

from blob_pyro import BanditPriors
from blob_pyro.experiments import Selection, select, selection

PRIORS = {"paper": BanditPriors.paper(), "wide": BanditPriors(kappa_scale=0.5)}
GRID = {"priors": PRIORS, "embedding_dim": [1, 2], "guide": ["laplace"]}
SMALL = {"num_epochs": 8, "patience": 2, "device": "cpu", "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:log. .* never shown")


@pytest.fixture(scope="module")
def found(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    return select(log, GRID, refit=True, seed=3, output=folder, **SMALL), folder


def test_scores_are_those_of_held_out_users(found, log):
    found, _ = found
    table = found.table()
    assert table["embedding_dim"].tolist() == [1, 1, 2, 2]
    assert table["priors"].tolist() == ["paper", "wide"] * 2
    rest, judge = log.split(users=0.2, seed=3)
    train, stop = rest.split(users=0.15, seed=4)
    setting = {"embedding_dim": 2, "guide": "laplace", "priors": PRIORS["wide"]}
    blo, blob, traces = selection._fit(setting, train, stop, 8, 2, 3, "cpu")
    clicks = blob.evaluate(judge).table().loc["log_score"]
    assert table.loc[3, "clicks"] == pytest.approx(clicks["value"], rel=1e-5)
    assert table.loc[3, "clicks_error"] == pytest.approx(clicks["standard_error"], rel=1e-4)
    last = [blo.predict_next([s[:-1]])[0, s[-1]].log().item() for s in judge.sessions.to_sequences() if s]
    assert table.loc[3, "views"] == pytest.approx(np.mean(last), rel=1e-4)
    assert table.loc[3, "views_error"] == pytest.approx(np.std(last, ddof=1) / np.sqrt(len(last)), rel=1e-4)
    assert table.loc[3, "epochs"] == int(traces[0]["validation_elbo"].to_numpy().argmax()) + 1
    assert table["chosen"].sum() == 1
    assert table["converged"].dtype == bool


def test_the_chosen_setting_is_fitted_to_everything(found, log):
    found, _ = found
    assert found.blo.fits[0]["num_rows"] == len(log.sessions)
    assert found.blob.fits[0]["num_rows"] == log.num_impressions
    assert found.blo.embedding_dim == found.chosen["embedding_dim"]
    assert found.blob.model.priors.kappa_scale == found.chosen["priors"].kappa_scale


def test_a_second_call_fits_nothing(found, log, monkeypatch):
    found, folder = found
    monkeypatch.setattr(selection, "_fit", None)
    again = select(log, GRID, seed=3, output=folder, rule="best", **SMALL)
    pd.testing.assert_frame_equal(again.table().drop(columns="chosen"), found.table().drop(columns="chosen"))
    with pytest.raises(ValueError, match=r"output: .* is of other settings"):
        select(log, {**GRID, "embedding_dim": [1, 3]}, seed=3, output=folder, **SMALL)


def rows(scores, counts):
    """Of four settings, on three users, with their sums of scores."""
    return pd.DataFrame(
        [
            {"setting": n, "kind": "clicks", "user": u, "score": score, "count": counts[u], "seconds": 1.0, "epochs": 3,
             "converged": True}
            for n, mine in enumerate(scores) for u, score in enumerate(mine)
        ]
    )  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), [("one_standard_error", 1), ("best", 2)])
def test_the_rule_by_hand(rule, expected):
    """The second is 0.1 behind the third on average, with an error above that; the first lags for every user alike."""
    scores = [[-3.0, -6.0, -3.0], [-1.0, -3.0, -0.9], [-1.4, -2.2, -0.9], [-2.0, -5.0, -2.0]]
    counts = [1, 2, 1]
    labels = [{"embedding_dim": k} for k in (1, 2, 3, 4)]
    found = Selection(labels, labels, rows(scores, counts), "clicks", rule)
    table = found.table()
    assert table["chosen"].to_numpy().argmax() == expected
    for n, mine in enumerate(scores):
        away = np.subtract(scores[2], mine)
        mean = away.sum() / 4
        error = np.sqrt(((away - mean * np.array(counts)) ** 2).sum() * 3 / 2) / 4
        assert table.loc[n, "behind"] == pytest.approx(mean)
        assert table.loc[n, "behind_error"] == pytest.approx(error)
    assert table.loc[1, "behind"] < table.loc[1, "behind_error"]
    assert table.loc[0, "behind"] > table.loc[0, "behind_error"]
    assert f"embedding_dim={expected + 1}: " in found.says
    assert ("within one standard error" in found.says) == (rule != "best")
    assert found.says in repr(found)
    assert found.says in found._repr_html_()


WRONG = {
    "unknown": ({"dimension": [1]}, ValueError, "grid: unknown name 'dimension'; known: embedding_dim"),
    "no values": ({"embedding_dim": []}, ValueError, r"grid\['embedding_dim'\]: expected a list"),
    "one value": ({"embedding_dim": 5}, ValueError, r"grid\['embedding_dim'\]: expected a list"),
    "no grid": ([5], TypeError, "grid: expected a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_grids(log, case):
    grid, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        select(log, grid)


def test_wrong_arguments(log):
    with pytest.raises(TypeError, match="users, time: pass one of the two"):
        select(log, GRID, users=0.1, time=3)
    with pytest.raises(ValueError, match="rule: expected"):
        select(log, GRID, rule="worst")
