"""Covariates of events by name: from the table to the posterior, its coordinates, and the policies."""

import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.models import EventCovariates, UserCovariates
from blob_pyro.models.priors.covariates import COVARIATE_WEIGHT, EVENT_COVARIATE_WEIGHT
from blob_pyro.ope.folds import only_users
from blob_pyro.policies import Greedy, Softmax, ThompsonSampling

TERM = EventCovariates({"hour": None, "device": ["desktop", "phone"]})
QUICK = {"num_epochs": 4, "batch_size": 2048, "progress": False, "device": "cpu"}
SITES = {"kappa": 0.0, "zeta": 0.0, "w_a": -20.0, "w_b": -20.0, "w_c": -1.0}


def tables(num_users=300, seed=0):
    """Clicks that depend on the hour and the device, and on nothing else."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), 10)
    hour, phone = rng.normal(size=len(user)), rng.random(len(user)) < 0.3
    rate = 1 / (1 + np.exp(-(-1.0 + 0.8 * hour + 1.5 * phone)))
    impressions = pd.DataFrame(
        {
            "user": user, "time": np.tile(np.arange(10), num_users) + 1, "action": rng.integers(0, 6, len(user)),
            "reward": (rng.random(len(user)) < rate).astype(int), "hour": hour,
            "device": np.where(phone, "phone", "desktop"),
        }
    )  # fmt: skip
    when = np.where(np.arange(num_users) % 5, 0, 20)  # one user in five views nothing before the recommendations
    views = pd.DataFrame({"user": np.arange(num_users), "time": when, "item": rng.integers(0, 6, num_users)})
    return views, impressions


@pytest.fixture(scope="module")
def log():
    views, impressions = tables()
    return EventLog.from_tables(views, impressions, num_items=6, covariates=["hour", "device"])


@pytest.fixture(scope="module")
def blo(log):
    blo = BLO(6, embedding_dim=2)
    blo.fit(log, num_epochs=3, progress=False, device="cpu")
    return blo


@pytest.fixture(scope="module")
def blob(blo, log):
    blob = BLOB(blo, guide="laplace", priors=BanditPriors(**SITES, terms=(TERM,)))
    blob.fit(log, progress=False, device="cpu")
    return blob


def test_the_log_keeps_them_in_its_own_order(log):
    views, impressions = tables()
    shuffled = impressions.sample(frac=1.0, random_state=3)
    again = EventLog.from_tables(views, shuffled, num_items=6, covariates=["hour", "device"])
    for other in (log, again):
        assert torch.equal(other.covariates["hour"].values, torch.tensor(impressions["hour"].to_numpy()))
        assert other.covariates["device"].categories() == impressions["device"].tolist()
        assert other.covariates["device"].levels == ("desktop", "phone")


def test_parquet_brings_them_too(log, tmp_path):
    views, impressions = tables()
    views.to_parquet(tmp_path / "v.parquet")
    impressions.to_parquet(tmp_path / "i.parquet")
    files = {"views": tmp_path / "v.parquet", "impressions": tmp_path / "i.parquet"}
    again = EventLog.read_parquet(**files, num_items=6, covariates=["device", "hour"])
    assert torch.equal(again.covariates["device"].values, log.covariates["device"].values)


def test_every_event_is_decided_with_its_own(blob, log):
    batch = blob.batch(log)
    hour, phone = (
        log.covariates["hour"].values,
        torch.tensor([c == "phone" for c in log.covariates["device"].categories()]),
    )
    expected = torch.stack([hour, (~phone).double(), phone.double()], -1).float()
    assert torch.equal(batch.covariates[batch.context], expected)
    plain = BLOB(blob.blo).batch(log)  # embedded once per history, all the same
    assert torch.equal(batch.interest[batch.context], plain.interest[plain.context])
    assert len(batch.interest) == 3000  # no two events have the same hour


def test_events_that_share_all_share_a_context(blo):
    views, impressions = tables()
    log = EventLog.from_tables(views, impressions, num_items=6, covariates=["device"])
    batch = BLOB(blo, priors=BanditPriors(terms=(EventCovariates({"device": ["desktop", "phone"]}),))).batch(log)
    pairs = {(u, d) for u, d in zip(log.context.tolist(), log.covariates["device"].values.tolist())}
    assert len(batch.interest) == len(pairs)


def test_weights_are_those_of_a_logistic_regression(blob, log):
    """Against Newton's method by hand, with the priors that the model has."""
    batch = blob.batch(log)
    x = torch.cat([batch.covariates[batch.context].double()], -1)
    offset = torch.full((len(x),), -1.0).double()
    g = torch.zeros(3).double()
    for _ in range(30):
        p = torch.sigmoid(x @ g + offset)
        g = g + torch.linalg.solve((x.mT * (p * (1 - p))) @ x + torch.eye(3), x.mT @ (batch.reward.double() - p) - g)
    p = torch.sigmoid(x @ g + offset)
    scale = torch.linalg.inv((x.mT * (p * (1 - p))) @ x + torch.eye(3)).diagonal().sqrt()
    found = blob.posterior()[EVENT_COVARIATE_WEIGHT]
    assert torch.allclose(found.mean.double(), g, atol=0.02)
    assert torch.allclose(found.variance.double().sqrt(), scale, rtol=0.02)
    assert abs(g[0] - 0.8) < 0.2
    assert abs(g[2] - g[1] - 1.5) < 0.4


def test_click_logits_take_them_by_name_or_as_a_matrix(blob):
    named = {"hour": [0.5, -1.0], "device": ["phone", "desktop"]}
    matrix = torch.tensor([[0.5, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    by_name, by_column = blob.click_logits([[0], []], named), blob.click_logits([[0], []], matrix)
    assert torch.equal(by_name.mean, by_column.mean)
    assert torch.equal(blob.click_logits([[0], []], pd.DataFrame(named)).mean, by_name.mean)
    weight = blob.posterior()[EVENT_COVARIATE_WEIGHT].mean
    assert torch.allclose(by_name.mean[:, 0].double(), (matrix @ weight).double() - 1, atol=0.05)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (None, r"covariates: expected 2 x 3 \(the number of histories .*got None"),
        ({"hour": [0.0, 1.0]}, "covariates: has no covariate 'device'"),
        ({"hour": ["a", "b"], "device": ["phone"] * 2}, "covariates: covariate 'hour' should hold numbers"),
        ({"hour": [0.0, 1.0], "device": [1, 2]}, "covariates: covariate 'device' should hold categories"),
        (
            {"hour": [0.0, 1.0], "device": ["phone", "watch"]},
            "covariate 'device', row 1: 'watch' is none of the model's",
        ),
        ({"hour": [0.0], "device": ["phone"]}, "covariates: 'hour' has 1 values for 2 histories"),
        ({"hour": [0.0, np.nan], "device": ["phone"] * 2}, "covariates: column 'hour', row 1: a value is missing"),
        (torch.tensor([[0.0, 1.0, np.inf], [0.0, 0.0, 1.0]]), "covariates: row 0, column 2: expected a finite number"),
    ],
    ids=["none", "absent", "text for a number", "number for text", "unknown level", "short", "missing", "infinite"],
)
def test_bad_covariates_are_named(blob, covariates, message):
    with pytest.raises(ValueError, match=message):
        blob.click_logits([[0], []], covariates)


def test_covariates_that_nobody_asked_for(blo, log):
    blob = BLOB(blo)
    with pytest.raises(ValueError, match="covariates: came with histories, and no term of the model asks for any"):
        blob.prior_click_rates([[0]], covariates=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="covariates: came with log, and no term of the model asks for any"):
        blob.fit(log, covariates=torch.zeros(log.num_users, 2), progress=False)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["weather"], ValueError, r"impressions: missing column 'weather'"),
        ("hour", TypeError, r"covariates: expected names of columns"),
        ([3], TypeError, r"covariates: a name is text, got 3"),
        (["hour", "hour"], ValueError, r"covariates: 'hour' is named twice"),
        (["action"], ValueError, r"column 'action' cannot be both"),
    ],
)
def test_bad_names_are_named(names, error, message):
    with pytest.raises(error, match=message):
        EventLog.from_tables(*tables(), num_items=6, covariates=names)


def test_the_log_of_some_users_keeps_theirs(log):
    keep = torch.arange(log.num_users) % 3 == 0
    part = only_users(log, keep)
    assert torch.equal(part.covariates["hour"].values, log.covariates["hour"].values[keep[log.user]])
    assert part.covariates["device"].levels == log.covariates["device"].levels


def test_missing_values_name_their_row():
    views, impressions = tables()
    impressions.loc[7, "hour"] = np.nan
    with pytest.raises(ValueError, match=r"impressions: column 'hour' \(covariate hour\), row 7: a value is missing"):
        EventLog.from_tables(views, impressions, num_items=6, covariates=["hour"])


@pytest.mark.parametrize("levels", ["phone", ["phone"], ["phone", "phone"], []], ids=str)
def test_bad_levels_are_named(levels):
    with pytest.raises(ValueError, match=r"covariates\['device'\]: expected None, for a number, or two or more"):
        EventCovariates({"device": levels})


def test_a_log_without_them(blob):
    views, impressions = tables()
    log = EventLog.from_tables(views, impressions, num_items=6, covariates=["hour"])
    with pytest.raises(ValueError, match=r"log: has no covariate 'device', which the model asks for; it has 'hour'"):
        blob.batch(log)


def test_the_position_is_a_covariate_of_its_own_accord(blo):
    views, impressions = tables()
    impressions["position"] = np.arange(len(impressions)) % 3
    log = EventLog.from_tables(views, impressions, num_items=6)
    batch = BLOB(blo, priors=BanditPriors(terms=(EventCovariates({"position": None}),))).batch(log)
    assert torch.equal(batch.covariates[batch.context].squeeze(-1), log.position.float())


def test_users_and_events_together(blo, log):
    """Each term sees its own columns."""
    age = torch.arange(log.num_users, dtype=torch.float32).unsqueeze(-1) / 100
    blob = BLOB(blo, priors=BanditPriors(**SITES, terms=(UserCovariates(1), TERM)))
    blob.fit(log, covariates=age, **QUICK)
    batch = blob.batch(log, {"user": age})
    assert torch.equal(batch.covariates[batch.context][:, 0], age[log.user, 0])
    assert torch.equal(batch.covariates[batch.context][:, 1].double(), log.covariates["hour"].values.float().double())
    values = {name: d.mean for name, d in blob.posterior().items()}
    events = blob.model.logit(values, batch)
    by_hand = (
        -1
        + age[log.user] @ values[COVARIATE_WEIGHT]
        + batch.covariates[batch.context][:, 1:] @ values[EVENT_COVARIATE_WEIGHT]
    )
    assert torch.allclose(events, by_hand, atol=1e-4)
    given = {"user": torch.tensor([[0.5]]), "hour": [0.1], "device": ["phone"]}
    assert blob.click_logits([[1]], given).mean.shape == (1, 6)


def test_policies_play_without_them(blob, blo, log):
    """They move all items alike: order and propensities are those without them, whatever their values."""
    histories = [[0], [], [3, 3, 5]]
    some = {"hour": [2.0, -1.0, 0.0], "device": ["phone", "phone", "desktop"]}
    for policy in (Greedy(blob), Softmax(blob)):
        with_, without = policy.action_distribution(histories, some), policy.action_distribution(histories)
        assert torch.allclose(with_.probs, without.probs, atol=1e-5)
    user = BLOB(blo, priors=BanditPriors(terms=(UserCovariates(2),)))
    user.fit(log, covariates=torch.randn(log.num_users, 2), **QUICK)
    actions = ThompsonSampling(user).action_distribution(histories)
    assert type(actions).__name__ == "ThompsonActions"  # in closed form, though click logits are not
    assert torch.allclose(actions.probs.sum(-1), torch.ones(3).double(), atol=1e-6)
    drawn = ThompsonSampling(user).action_distribution(histories, torch.randn(3, 2))
    assert type(drawn).__name__ == "DrawnThompsonActions"
    error = (actions.probs * (1 - actions.probs) / drawn.num_draws).sqrt()
    assert ((drawn.probs - actions.probs).abs() < 5 * error + 0.01).all()


def test_saved_updated_and_labelled(blob, log, tmp_path):
    blob.save(tmp_path / "model")
    again = BLOB.load(tmp_path / "model", device="cpu")
    given = {"hour": [0.5], "device": ["phone"]}
    assert torch.equal(again.click_logits([[0]], given).mean, blob.click_logits([[0]], given).mean)
    again.update(log, progress=False)
    data = again.to_inference_data(num_draws=20)
    assert list(data["posterior"]["event_covariate"].values) == ["hour", "device=desktop", "device=phone"]
    assert data["posterior"][EVENT_COVARIATE_WEIGHT].dims == ("chain", "draw", "event_covariate")
