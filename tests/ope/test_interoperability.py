"""The Open Bandit Pipeline's own values, its dictionary, Vowpal Wabbit's text."""

import json
from pathlib import Path

import numpy as np
import pytest

from blob_pyro import EventLog, ope
from blob_pyro.ope import to_obp, to_vowpal_wabbit

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "obp_0_5_7.json").read_text())
BANDIT = {k: np.array(v) if isinstance(v, list) else v for k, v in FIXTURE["bandit"].items()}
SLATE = {k: np.array(v) for k, v in FIXTURE["slate"].items()}


def estimates():
    b, rows = BANDIT, np.arange(len(BANDIT["action"]))
    target, logging = (b[k][rows, b["action"]] for k in ("target_probs", "logging_probs"))
    plain = b["reward"], target, logging
    robust = (
        (b["reward"], b["target_probs"], logging),
        {
            "action": b["action"],
            "predicted_reward": b["predicted_reward"],
        },
    )
    yield "ips", ope.ips(*plain)
    yield "clipped_ips", ope.ips(*plain, clip=b["clip"])
    yield "snips", ope.snips(*plain)
    yield "direct_method", ope.direct_method(b["predicted_reward"], b["target_probs"])
    yield "doubly_robust", ope.doubly_robust(*robust[0], **robust[1])
    yield "clipped_doubly_robust", ope.doubly_robust(*robust[0], **robust[1], clip=b["clip"])
    yield "self_normalized_dr", ope.self_normalized_dr(*robust[0], **robust[1])
    yield "switch_dr", ope.switch_dr(*robust[0], **robust[1], threshold=b["threshold"])
    yield "dr_shrinkage", ope.dr_shrinkage(*robust[0], **robust[1], shrinkage=b["shrinkage"])
    yield "replay", ope.replay(b["reward"], b["action"], b["replayed_action"])
    embedding = {"embedding": b["embedding"], "embedding_probs": b["embedding_probs"]}
    yield "marginalized_ips", ope.marginalized_ips(b["reward"], b["target_probs"], b["logging_probs"], **embedding)
    s = SLATE
    slate = s["reward"], s["target_propensity"], s["logging_propensity"]
    yield "reward_interaction_ips", ope.reward_interaction_ips(*slate)
    normalised = ope.reward_interaction_ips(*slate, self_normalized=True)
    yield "self_normalized_reward_interaction_ips", normalised
    cascade = {"action": s["action"], "predicted_reward": s["predicted_reward"]}
    yield "cascade_dr", ope.cascade_dr(s["reward"], s["target_probs"], s["logging_propensity"], **cascade)


@pytest.mark.parametrize("name", FIXTURE["values"])
def test_values_of_the_open_bandit_pipeline(name):
    assert dict(estimates())[name].value == pytest.approx(FIXTURE["values"][name], rel=1e-12)


def test_every_stored_value_is_tested():
    assert FIXTURE["version"] == "0.5.7"
    assert {name for name, _ in estimates()} == set(FIXTURE["values"])


def test_bandit_feedback(log):
    feedback = to_obp(log)
    assert feedback["n_rounds"] == log.num_impressions == len(feedback["context"])
    assert feedback["n_actions"] == 12
    views = [np.bincount(h, minlength=12) for h in log.contexts.to_sequences()]
    assert (feedback["context"] == np.array(views)[log.context.numpy()]).all()
    assert (feedback["action_context"] == np.eye(12)).all()
    assert (log.to_obp()["context"] == feedback["context"]).all()
    assert log.to_obp(context=np.ones((log.num_impressions, 2)))["context"].shape[1] == 2
    assert feedback["position"] is None
    assert feedback["pi_b"] is None
    for name, ours in (("action", log.action), ("reward", log.reward), ("pscore", log.propensity)):
        assert (feedback[name] == ours.numpy()).all()
        assert isinstance(feedback[name], np.ndarray)
    assert feedback["pscore"].dtype == feedback["reward"].dtype == np.float64


def positioned():
    columns = {"user": [1, 2, 3], "time": [1, 2, 3], "action": [0, 1, 1], "reward": [1, 0, 1], "position": [3, 1, 3]}
    return EventLog.from_tables(impressions={**columns, "propensity": [0.5, 0.25, 1 / 3]}, num_items=2)


def test_positions_and_features_of_ones_own():
    probs = np.array([[0.5, 0.5], [0.75, 0.25], [2 / 3, 1 / 3]])
    feedback = to_obp(positioned(), context=np.ones((3, 4)), action_context=np.ones((2, 5)), logging_probs=probs)
    assert feedback["position"].tolist() == [1, 0, 1]
    assert feedback["context"].shape == (3, 4)
    assert feedback["action_context"].shape == (2, 5)
    assert (feedback["pi_b"][:, :, 0] == probs).all()


def test_vowpal_wabbit(log, tmp_path):
    path = tmp_path / "log.vw"
    lines = to_vowpal_wabbit(log, path)
    assert path.read_text().splitlines() == lines
    assert [float(line.split(":")[1]) for line in lines] == (-log.reward).tolist()
    sequences = log.contexts.to_sequences()
    for n in range(0, log.num_impressions, 97):
        label, _, features = lines[n].partition(" |")
        action, _, probability = label.split(":")
        assert int(action) - 1 == log.action[n]
        assert float(probability) == log.propensity[n]
        counts = np.bincount(sequences[log.context[n]], minlength=12)
        assert features.split() == [f"v{i}:{c}" for i, c in enumerate(counts) if c]


def test_bad_input(log):
    without = EventLog.from_tables(impressions={"user": [1], "time": [1], "action": [0], "reward": [1]}, num_items=2)
    for function in (to_obp, to_vowpal_wabbit):
        with pytest.raises(ValueError, match="log: has no column 'propensity'"):
            function(without)
    with pytest.raises(ValueError, match="context: has 2 rows, expected 3"):
        to_obp(positioned(), context=np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"logging_probs: has shape \(3, 3\), expected \(3, 2\)"):
        to_obp(positioned(), logging_probs=np.full((3, 3), 1 / 3))


def test_what_would_not_fit_is_refused(monkeypatch, log):
    monkeypatch.setattr("blob_pyro.ope.interoperability._LARGEST_DENSE", 1000)
    with pytest.raises(ValueError, match=r"context: the default would be .* x 12 numbers; pass features of your own"):
        to_obp(log)
