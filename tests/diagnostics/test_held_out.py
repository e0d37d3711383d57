"""Figures of held-out events against textbook formulas, and their errors against what repeats of them do."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from blob_pyro import BLOB, EventLog
from blob_pyro.data import ViewHistory
from blob_pyro.diagnostics import ClickEvaluation, evaluate_clicks, evaluate_views


def clicks(size=400, users=40, seed=0):
    random = np.random.default_rng(seed)
    p = random.beta(1, 4, size).round(2)  # with ties
    return ClickEvaluation(
        torch.from_numpy(np.clip(p, 0.01, 0.99)), torch.from_numpy((random.random(size) < p).astype(np.float32)),
        torch.from_numpy(random.integers(0, users, size)),
    )  # fmt: skip


def test_figures_are_the_textbooks():
    found = clicks()
    p, r = found.probability.numpy(), found.reward.numpy()
    value = found.table()["value"]
    assert value["log_score"] == pytest.approx(-log_loss(r, p))
    assert value["brier_score"] == pytest.approx(brier_score_loss(r, p))
    assert value["auc"] == pytest.approx(roc_auc_score(r, p))
    assert value["normalised_entropy"] == pytest.approx(log_loss(r, p) / log_loss(r, np.full_like(p, r.mean())))
    assert value["calibration"] == pytest.approx(p.mean() / r.mean())
    constant = ClickEvaluation(torch.full((400,), float(r.mean())), found.reward, found.user).table()
    assert constant["value"].to_numpy() == pytest.approx(found.table()["constant_rate"].to_numpy(), rel=1e-6)


def test_standard_errors_are_those_of_repeats():
    """Users' clicks are correlated: each user has all their impressions at one level of interest."""
    random = np.random.default_rng(1)
    tables = []
    for _ in range(300):
        level, size = random.beta(1, 3, 60), random.integers(1, 20, 60)
        user = np.repeat(np.arange(60), size)
        p = 0.5 * level[user] + 0.1
        r = random.random(len(user)) < np.where(random.random(60)[user] < 0.5, p, p / 2)
        one = ClickEvaluation(torch.from_numpy(p), torch.from_numpy(r.astype(float)), torch.from_numpy(user))
        tables.append(one.table())
    value = pd.concat([t["value"] for t in tables], axis=1)
    error = pd.concat([t["standard_error"] for t in tables], axis=1)
    for name in value.index:
        assert error.loc[name].mean() == pytest.approx(value.loc[name].std(), rel=0.15), name


def test_a_model_is_judged_by_its_own_probabilities(blob, log):
    probability = blob.event_probabilities(log)
    whole = blob.click_probabilities(log.contexts)
    assert torch.allclose(probability, whole[log.context, log.action])
    found = blob.evaluate(log)
    assert found.probability.equal(probability)
    assert found.table()["value"]["log_score"] == pytest.approx(-log_loss(log.reward, probability.double()), rel=1e-6)
    assert "impressions of" in repr(found)


def test_a_log_of_fewer_items_is_numbered_as_the_model(blob, log):
    _, impressions = log.to_frames()
    some = impressions[impressions["action"].isin([1, 4, 7])]
    views = log.to_frames()[0]
    views = views[views["item"].isin([1, 4, 7])]
    few = EventLog.from_tables(views, some)
    assert few.num_items == 3
    wide = EventLog.from_tables(views, some, num_items=log.num_items)
    assert torch.equal(blob.event_probabilities(few), blob.event_probabilities(wide))
    assert blob.evaluate(few).table().equals(blob.evaluate(wide).table())
    assert torch.equal(blob.batch(few).action, blob.batch(wide).action)
    assert float(blob.elbo(few).value) == float(blob.elbo(wide).value)
    strange = dataclasses.replace(few, items=type(few.items)(["a", 4, 7]))
    with pytest.raises(ValueError, match="1 of its 3 items are not among the 12"):
        blob.event_probabilities(strange)


def test_views_by_time(blo, log):
    last_out = evaluate_views(blo, log, k=3)
    held_out = log.split(time=float(log.view_time.double().quantile(0.8)))[1]
    found = blo.evaluate(held_out, k=3)
    users = held_out.users.decode(held_out.session_user)
    histories = ViewHistory(held_out).histories(users, log.items).to_sequences()
    scores = blo.scores([history[:-1] for history in histories])
    hit = [history[-1] in row.topk(3).indices for history, row in zip(histories, scores)]
    assert float(found.recall.mean()) == pytest.approx(np.mean(hit), abs=0.02)
    assert found.table().loc["recall@3", "standard_error"] > 0
    assert len(last_out.recall) == len(log.sessions)


@pytest.mark.parametrize(
    ("probability", "message"),
    [(torch.zeros(3), "expected .* values"), (torch.tensor(float("nan")), "is nan"), (torch.tensor(1.5), "is 1.5")],
)
def test_probabilities_that_are_none(probability, message, log):
    given = probability if probability.dim() else probability.expand(log.num_impressions)
    with pytest.raises(ValueError, match=message):
        evaluate_clicks(log, given)


def test_rewards_that_do_not_differ(blob, log):
    _, impressions = log.to_frames()
    same = EventLog.from_tables(impressions=impressions.assign(reward=0), num_items=log.num_items)
    with pytest.raises(ValueError, match="all rewards are equal"):
        blob.evaluate(same)


def test_what_objects_say_of_themselves(blo, blob, log):
    assert repr(blo) == "BLO(12 items, embedding_dim=3, fitted)"
    impressions = f"{log.num_impressions:,} impressions"
    assert repr(blob) == f"BLOB(12 items, embedding_dim=3, guide 'arrowhead_normal', fitted to {impressions})"
    assert repr(BLOB(blo, "laplace")) == "BLOB(12 items, embedding_dim=3, guide 'laplace', not fitted)"
    assert repr(blob.click_logits([[1], []])) == "ClickLogits(2 contexts, 12 items)"
    assert "distinct contexts" in log._repr_html_()
    for thing, says in (
        (blo, ("<th>embedding_dim</th>", "<td>3</td>", f"<td>{len(log.sessions)}</td>")),
        (blob, ("<td>arrowhead_normal</td>", "w_a, w_b, w_c, kappa, zeta", f"<td>{log.num_impressions}</td>")),
        (blob.click_logits([[1], []]), ("<th>contexts</th>", "<td>2</td>", "<td>12</td>", "<td>yes</td>")),
    ):
        shown = thing._repr_html_()
        assert all(words in shown for words in says), shown
