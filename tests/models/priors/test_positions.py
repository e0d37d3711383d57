"""Effects of positions: known ones are found, and items are not blamed for where they were shown."""

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.models import EventCovariates, PositionEffects
from blob_pyro.policies import Greedy

EFFECTS = {1: 0.0, 2: -0.8, 3: -1.7}
LOGITS = np.array([-0.2, -0.6, -1.0, -1.4, -1.8, -2.2])
HISTORIES = [[0, 1], [], [5]]


def tables(num_events, seed):
    """The best items are shown at the bottom most of the time, so that raw click rates mislead."""
    noise = np.random.default_rng(seed)
    users = np.arange(60)
    views = pd.DataFrame({"user": np.repeat(users, 4), "time": np.tile(1500 * np.arange(4), 60)})
    views["item"] = noise.integers(0, 6, len(views))
    action = noise.integers(0, 6, num_events)
    usual = np.array([3, 3, 2, 2, 1, 1])[action]
    position = np.where(noise.random(num_events) < 0.7, usual, noise.integers(1, 4, num_events))
    logit = LOGITS[action] + np.vectorize(EFFECTS.get)(position)
    impressions = pd.DataFrame({"user": noise.choice(users, num_events), "time": 10 + np.arange(num_events)})
    clicked = (noise.random(num_events) < 1 / (1 + np.exp(-logit))).astype(int)
    return views, impressions.assign(action=action, reward=clicked, position=position)


@pytest.fixture(scope="module")
def log():
    return EventLog.from_tables(*tables(6000, 200), num_items=6)


@pytest.fixture(scope="module")
def blo(log):
    blo = BLO(6, embedding_dim=1)
    blo.fit(log, num_epochs=3, progress=False, device="cpu")
    return blo


def fitted(blo, log, guide="laplace", **priors):
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=1.0, **priors))
    more = {} if guide == "laplace" else {"num_epochs": 2, "batch_size": 4096}
    blob.fit(log, progress=False, device="cpu", **more)
    return blob


@pytest.fixture(scope="module")
def blob(blo, log):
    return fitted(blo, log)


def test_known_effects_are_found(blo, log, blob):
    effect = blob.posterior()["position_effect"]
    away = (effect.mean - torch.tensor([-0.8, -1.7])) / effect.variance.sqrt()
    assert effect.variance.sqrt().max() < 0.2
    assert away.abs().max() < 3
    rates = {}
    for name, one in (("with", blob), ("without", fitted(blo, log, positions=None))):
        logits = one.click_logits([[]]).mean[0].numpy()
        rates[name] = logits - logits.mean()
    wrong = {name: np.abs(found - (LOGITS - LOGITS.mean())).max() for name, found in rates.items()}
    assert wrong["with"] < 0.35
    assert wrong["without"] > 2 * wrong["with"]
    assert rates["with"].argmax() == 0


def test_held_out_logs_with_positions_use_them(blo, log, blob):
    later = EventLog.from_tables(*tables(3000, 201), num_items=6)
    p = blob.event_probabilities(later)
    batch, draws = blob.batch(later), blob._parts.known.draws(500, 0)
    base = blob.model.coefficients
    assert batch.covariates.shape[1] == 2
    rows = [0, 7, 91]
    for row in rows:
        item, place = int(later.action[row]), int(later.position[row])
        history = later.contexts[later.context[row : row + 1]]
        interest = torch.cat([blob.blo.embed(history)[0], torch.ones(1)])
        logits = []
        for d in range(0, 500):
            values = {name: v[d] for name, v in draws.items()}
            effect = torch.cat([torch.zeros(1), values["position_effect"]])[place - 1]
            logits.append(base(values)[item, :2] @ interest + effect)
        assert float(p[row]) == pytest.approx(float(torch.stack(logits).sigmoid().mean()), rel=1e-4)
    without = fitted(blo, log, positions=None).evaluate(later).table().loc["log_score", "value"]
    assert blob.evaluate(later).table().loc["log_score", "value"] > without + 0.002


def test_scores_are_those_of_the_first_position(blob):
    logits = blob.click_logits(HISTORIES)
    assert type(logits).__name__ == "MixedClickLogits"  # in closed form, over the nodes of w_b
    drawn = blob.click_logits(HISTORIES, {"position": [1, 2, 3]}, num_draws=2000)
    effect = blob.posterior()["position_effect"].mean
    expected = logits.mean + torch.tensor([0.0, *effect]).unsqueeze(-1)
    assert torch.allclose(drawn.mean, expected, atol=0.05)
    assert torch.equal(blob.scores(HISTORIES), blob.ranking_logits(HISTORIES).mean)
    assert Greedy(blob).decide(HISTORIES, slots=3, seed=0)["position"].tolist() == [1, 2, 3] * 3
    with pytest.raises(ValueError, match="position, row 1: 9 is none of"):
        blob.click_logits(HISTORIES, {"position": [1, 9, 2]})
    with pytest.raises(ValueError, match="covariates: came with histories, and no term of the model asks for any"):
        blob.click_logits(HISTORIES, {"position": [1, 1, 2], "hour": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize("position", [None, 2], ids=["absent", "constant"])
def test_nothing_changes_where_positions_do_not_vary(blo, position):
    views, impressions = tables(1500, 202)
    impressions = impressions.drop(columns="position") if position is None else impressions.assign(position=position)
    log = EventLog.from_tables(views, impressions, num_items=6)
    on, off = fitted(blo, log), fitted(blo, log, positions=None)
    assert list(on.posterior()) == list(off.posterior())
    for name, distribution in on.posterior().items():
        assert torch.equal(distribution.mean, off.posterior()[name].mean)
        assert torch.equal(distribution.variance, off.posterior()[name].variance)
    assert torch.equal(on.event_probabilities(log), off.event_probabilities(log))


@pytest.mark.parametrize("guide", ["normal", "laplace"])
def test_updates_and_saved_models(blo, guide, tmp_path):
    """Two positions, then a third: the first effect goes on, and the new one starts from its prior."""
    views, impressions = tables(2000, 203)
    two = EventLog.from_tables(views, impressions[impressions["position"] < 3], num_items=6)
    three = EventLog.from_tables(
        *(table.assign(user=table["user"] + 100) for table in (views, impressions)), num_items=6
    )
    one = EventLog.from_tables(views, impressions.assign(position=1), num_items=6)
    blob = fitted(blo, one, guide, positions=PositionEffects(scale=0.7))
    more = {} if guide == "laplace" else {"num_epochs": 2, "batch_size": 4096}
    assert "position_effect" not in blob.posterior()
    blob.fit(two, progress=False, device="cpu", **more)  # a fresh start reads them from its own log
    assert blob.model.priors.positions.positions == (1, 2)
    before = blob.posterior()["position_effect"]
    blob.update(three, progress=False, **more)
    prior = blob.model.site_priors()["position_effect"]
    assert prior.mean.tolist() == pytest.approx([float(before.mean[0]), 0.0])
    assert prior.variance.sqrt().tolist() == pytest.approx([float(before.variance[0].sqrt()), 0.7], rel=1e-5)
    assert blob.model.priors.positions.positions == (1, 2, 3)
    blob.save(tmp_path / "model")
    loaded = BLOB.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint() == blob.fingerprint()
    assert torch.equal(loaded.event_probabilities(three), blob.event_probabilities(three))
    with pytest.raises(ValueError, match=r"log: has no positions.*BanditPriors\(positions=None\)"):
        blob.update(EventLog.from_tables(views, impressions.drop(columns="position"), num_items=6), progress=False)


def test_a_term_of_ones_own_takes_their_place(blo):
    log = EventLog.from_tables(*tables(1500, 204), num_items=6)
    blob = fitted(blo, log, terms=(EventCovariates({"position": None}),))
    assert "position_effect" not in blob.posterior()
    assert blob.posterior()["event_covariate_weight"].mean[0] < -0.3


def test_coordinates(blob, log):
    data = blob.to_inference_data(log, num_draws=10, num_events=20)
    assert data.posterior["position_effect"].coords["position"].values.tolist() == [2, 3]
    assert data.constant_data["position"].sizes["event"] == 20


def test_wrong_arguments():
    with pytest.raises(TypeError, match="positions: expected PositionEffects"):
        BanditPriors(positions=True)
    with pytest.raises(ValueError, match="scale"):
        PositionEffects(scale=0.0)
    assert PositionEffects().of(torch.tensor([3, 1, 3])).with_more(torch.tensor([0, 1])).positions == (1, 3, 0)


def test_a_column_that_is_no_position_is_refused(log):
    """Row numbers, for example: each would have an effect of its own."""
    few, many = (log.position.new_tensor(range(size)) for size in (1000, 1001))
    assert PositionEffects().of(few).num_covariates == 999
    with pytest.raises(ValueError, match=r"log\.position: has 1,001 different positions, .*positions=None"):
        PositionEffects().of(many)
