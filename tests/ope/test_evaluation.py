"""`evaluate`: against whole matrices, cross-fitting without leaks, intervals that cover the truth on RecoGym's logs."""

import dataclasses
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from blob_pyro import BLOB, EventLog, ope
from blob_pyro.data.covariates import Covariate
from blob_pyro.ope import LoggedRows, MissingSupportWarning, OffPolicyWarning, evaluate, register_estimator
from blob_pyro.ope.folds import fold_of_users, only_users
from blob_pyro.ope.logged_rows import read_rows
from blob_pyro.ope.registry import ESTIMATORS
from blob_pyro.policies import EpsilonGreedy, Policy, SessionPopularity, Uniform
from blob_pyro.policies.base import categorical
from blob_pyro.simulation import RecoGym

matplotlib.use("Agg")
ITEMS = 12


class FirstItems(Policy):
    """Plays three items only, whatever the history."""

    def action_distribution(self, histories):
        row = torch.zeros(self.num_items).index_fill_(0, torch.arange(3), 1 / 3)
        return categorical(row.expand(len(self.histories(histories)), -1))


def popular_rates(histories):
    """A reward model that is a function: more views, more clicks."""
    counts = histories.counts(torch.float64)
    return 0.01 + 0.02 * counts / counts.sum(-1, keepdim=True).clamp(min=1)


def matrices(log, policy):
    """All impressions times all items, in the order of time."""
    order = torch.argsort(log.time, stable=True)
    context = log.context[order]
    target = policy.action_distribution(log.contexts).probs.double()[context]
    return order, context, target / target.sum(-1, keepdim=True)


@pytest.mark.parametrize("at_once", [1 << 22, 60], ids=["one chunk", "many chunks"])
def test_values_are_those_of_whole_matrices(log, at_once, monkeypatch):
    target, baseline = SessionPopularity(ITEMS, 0.6), Uniform(ITEMS)
    monkeypatch.setattr("blob_pyro.ope.policy_evaluation.read_rows", lambda *a: read_rows(*a, at_once=at_once))
    found = evaluate(log, target, popular_rates, baseline=baseline, folds=3)
    order, context, probs = matrices(log, target)
    predicted = popular_rates(log.contexts)[context]
    reward, action = log.reward[order].double(), log.action[order]
    of_action = probs.gather(-1, action[:, None]).squeeze(-1)
    plain = (reward, of_action, log.propensity[order])
    robust = (reward, probs, log.propensity[order])
    others = {"action": action, "predicted_reward": predicted, "groups": log.user[order]}
    uniform = torch.full_like(reward, 1 / ITEMS)
    groups = {"groups": log.user[order]}
    expected = {
        "ips": ope.ips(*plain, **groups),
        "snips": ope.snips(*plain, **groups),
        "beta_ips": ope.beta_ips(*plain, **groups, cross_fit=3),
        "direct_method": ope.direct_method(predicted, probs, **groups),
        "doubly_robust": ope.doubly_robust(*robust, **others),
        "self_normalized_dr": ope.self_normalized_dr(*robust, **others),
        "delta_ips": ope.delta_ips(plain[0], plain[1], uniform, plain[2], **groups),
        "delta_snips": ope.delta_snips(plain[0], plain[1], uniform, plain[2], **groups),
        "delta_beta_ips": ope.delta_beta_ips(plain[0], plain[1], uniform, plain[2], **groups, cross_fit=3),
    }
    assert list(found.estimates) == list(expected)
    for name, estimate in expected.items():
        assert float(found[name].value) == pytest.approx(float(estimate.value), rel=1e-7), name
        assert found[name].standard_error == pytest.approx(estimate.standard_error, rel=1e-6), name
        assert found[name].num_groups == len(log.user.unique())


def test_against_the_logging_policy(log):
    found = evaluate(log, SessionPopularity(ITEMS, 0.6), baseline="logging", estimators=["delta_ips", "ips"])
    assert float(found["delta_ips"].value) == pytest.approx(
        float(found["ips"].value) - log.reward.double().mean().item()
    )
    assert "delta_snips" not in found.estimates


def test_its_own_policy_has_the_value_of_the_log(log):
    found = evaluate(log, SessionPopularity(ITEMS, 0.3))
    for name in ("ips", "snips", "beta_ips"):
        assert float(found[name].value) == pytest.approx(log.reward.double().mean().item(), rel=1e-4)
    assert found["snips"].effective_sample_size == pytest.approx(log.num_impressions, rel=1e-5)


REWARD_MODELS = {
    "function": lambda log: popular_rates,
    "per context": lambda log: popular_rates(log.contexts),
    "per impression, NumPy": lambda log: popular_rates(log.contexts)[log.context].numpy(),
    "cross-fitted": lambda log: None,
}


@pytest.mark.parametrize("make", REWARD_MODELS.values(), ids=REWARD_MODELS.keys())
def test_reward_models_of_all_kinds(make, log):
    model = make(log)
    options = {"fit": lambda train: popular_rates} if model is None else {}
    found = evaluate(log, Uniform(ITEMS), model, estimators=["direct_method"], **options)
    expected = popular_rates(log.contexts).mean(-1)[log.context].mean()
    assert float(found["direct_method"].value) == pytest.approx(expected.item(), rel=1e-6)


def test_a_fitted_blob_predicts_and_is_warned_of(log, blob):
    with pytest.warns(OffPolicyWarning, match="reward_model: was fitted before.*Pass fit="):
        found = evaluate(log, EpsilonGreedy(blob, 0.2), blob, estimators=["direct_method", "doubly_robust"])
    rates = blob.click_probabilities(log.contexts).double()
    probs = EpsilonGreedy(blob, 0.2).action_distribution(log.contexts).probs.double()
    expected = (rates * probs).sum(-1)[log.context].mean().item()
    assert float(found["direct_method"].value) == pytest.approx(expected, rel=1e-4)


def test_cross_fitting_never_shows_a_model_the_users_it_predicts(log):
    seen = []

    def fit(train):
        users = set(train.user.tolist()) | set(train.view_user.tolist())
        seen.append(users)

        def predict(histories):
            predict.asked.append(histories.to_sequences())
            return torch.full((len(histories), ITEMS), float(len(seen)))

        predict.asked = []
        return predict

    found = evaluate(log, Uniform(ITEMS), fit=fit, estimators=["direct_method"], folds=4, seed=1)
    fold = fold_of_users(log.num_users, 4, 1)
    for k, users in enumerate(seen):
        held_out = set((fold == k).nonzero().squeeze(-1).tolist())
        assert not users & held_out
        assert users | held_out >= set(log.user.tolist())
    # All four closures answer 4 by now: each row was predicted once.
    assert float(found["direct_method"].value) == pytest.approx(4.0)


LOGGED = ("row", "propensity_error", "position", "score", "policy", "policy_version")


def test_the_log_of_some_users_is_that_built_from_their_rows(log):
    keep = torch.arange(log.num_users) % 3 == 0
    part = only_users(log, keep)
    viewed, shown = keep[log.view_user].numpy(), keep[log.user].numpy()
    users = np.array(log.users.decode(torch.arange(log.num_users)))
    views = {"user": users[log.view_user][viewed], "time": log.view_time[viewed], "item": log.view_item[viewed]}
    impressions = {name: getattr(log, name).numpy()[shown] for name in ("time", "action", "reward", "propensity")} | {
        "user": users[log.user][shown]
    }
    views = {name: np.asarray(column) for name, column in views.items()}
    again = EventLog.from_tables(views=pd.DataFrame(views), impressions=pd.DataFrame(impressions), num_items=ITEMS)
    assert part.contexts.to_sequences() == again.contexts.to_sequences()
    assert part.sessions.to_sequences() == again.sessions.to_sequences()
    for name in ("action", "reward", "propensity", "time", "context", "view_item", "view_time"):
        assert torch.equal(getattr(part, name), getattr(again, name)), name
    named = dataclasses.replace(log, covariates={"hour": Covariate(torch.arange(log.num_impressions).double())})
    assert torch.equal(only_users(named, keep).covariates["hour"].values, torch.from_numpy(shown.nonzero()[0]).double())
    _, later = log.split(time=float(log.view_time.double().median()))
    kept = torch.arange(later.num_users) % 3 == 0
    assert only_users(later, kept).earlier.view_user.equal(later.earlier.view_user[kept[later.earlier.view_user]])
    logged = dataclasses.replace(log, **{name: torch.arange(log.num_impressions) for name in LOGGED})
    for name in LOGGED:
        assert torch.equal(getattr(only_users(logged, keep), name), torch.from_numpy(shown.nonzero()[0])), name
    known = {
        *LOGGED, "policy_versions",
        "items", "users", "view_user", "view_time", "view_item", "user", "time", "action", "reward", "propensity",
        "policies", "context", "contexts", "sessions", "covariates", "clock", "earlier", "part_of",
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(log)} == known, "does only_users keep the new field of these users only?"


def test_blob_is_cross_fitted(log, blo):
    def fit(train):
        model = BLOB(blo)
        model.fit(train, num_epochs=2, progress=False, device="cpu")
        return model

    found = evaluate(log, Uniform(ITEMS), fit=fit, estimators=["doubly_robust"], folds=2)
    assert 0 < float(found["doubly_robust"].value) < 0.1


def test_support_is_known_from_the_logging_policy(log):
    narrow = FirstItems(ITEMS)
    played = log.action < 3
    rows = only_rows(log, played)
    rows = dataclasses.replace(rows, propensity=torch.full((int(played.sum()),), 1 / 3, dtype=torch.float64))
    with pytest.warns(MissingSupportWarning, match="ips: 75.000% of the target's mass"):
        found = evaluate(rows, Uniform(ITEMS), logging_policy=narrow, estimators=["ips"])
    assert found["ips"].support == pytest.approx(0.75)
    assert "75.00% of the target's mass" in repr(found)
    assert "support unknown" in repr(evaluate(log, Uniform(ITEMS)))
    known = evaluate(log, Uniform(ITEMS), logging_policy=SessionPopularity(ITEMS, 0.3))
    assert known["snips"].support == 0
    assert "support unknown" not in repr(known["snips"])
    with pytest.raises(ValueError, match="logging_policy, row 0: differs by over 1 %"):
        evaluate(log, Uniform(ITEMS), logging_policy=SessionPopularity(ITEMS, 0.5))


def only_rows(log, keep):
    columns = {name: getattr(log, name)[keep] for name in ("user", "time", "action", "reward", "propensity", "context")}
    return dataclasses.replace(log, **columns)


def test_groups(log):
    rows = evaluate(log, Uniform(ITEMS), estimators=["snips"], groups=None)["snips"]
    halves = (np.arange(log.num_impressions) % 60).astype(str)
    named = evaluate(log, Uniform(ITEMS), estimators=["snips"], groups=halves)["snips"]
    assert rows.num_groups is None
    assert named.num_groups == 60
    order = torch.argsort(log.time, stable=True)
    weight = (1 / ITEMS / log.propensity)[order]
    plain = ope.snips(log.reward[order], weight * 0.05, torch.full_like(weight, 0.05), groups=halves[order])
    assert named.standard_error == pytest.approx(plain.standard_error, rel=1e-6)


def test_estimators_from_outside(log, monkeypatch):
    def clipped(rows: LoggedRows):
        return ope.ips(rows.reward, rows.target, rows.logging, groups=rows.groups, clip=2.0)

    monkeypatch.setattr("blob_pyro.ope.registry.ESTIMATORS", ESTIMATORS)
    monkeypatch.delitem(ESTIMATORS, "mine", raising=False)
    register_estimator("mine", clipped)
    found = evaluate(log, Uniform(ITEMS), estimators=["mine", clipped])
    assert list(found.estimates) == ["mine", "clipped"]
    assert found["mine"].clip == 2.0
    with pytest.raises(ValueError, match="an estimator 'mine' is known already"):
        register_estimator("mine", clipped)
    del ESTIMATORS["mine"]


def test_report(log):
    found = evaluate(log, Uniform(ITEMS), baseline="logging")
    table = found.table(0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OffPolicyWarning)
        low, high = found["snips"].interval(0.9)
    assert table.loc["snips", "low"] == low
    assert table.loc["snips", "high"] == high
    assert table.loc["snips", "value"] == float(found["snips"].value)
    anytime = found.table(method="anytime")
    assert np.isnan(anytime.loc["snips", "low"])
    assert anytime.loc["ips", "low"] < anytime.loc["ips", "value"]
    text = repr(found)
    assert text.startswith(f"evaluation of Uniform(12 items) against logging from {log.num_impressions:,} impressions")
    assert all(name in text for name in found.estimates)
    assert f"warning: {found.warnings[0]}" in text
    ax = found.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == list(found.estimates)
    assert ax.lines[0].get_xdata() == pytest.approx(found.table().loc["ips", ["low", "high"]].tolist())
    assert ax.get_xlabel() == "reward per impression, 95 % normal intervals"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "value", "gain on logging", "warned of: see .warnings",
    ]  # fmt: skip
    matplotlib.pyplot.close(ax.figure)
    with pytest.raises(KeyError, match="no estimate 'dr' in this evaluation; there are ips"):
        found["dr"]


class Unnormalised(Policy):
    def action_distribution(self, histories):
        class Wrong:
            probs = torch.full((len(histories), ITEMS), 0.5)

        return Wrong()


BAD = {
    "catalogue": (lambda log: evaluate(log, Uniform(5)), "policy: chooses among 5 items, the log has 12"),
    "baseline": (lambda log: evaluate(log, Uniform(12), baseline="log"), "baseline: expected a policy, 'logging' or"),
    "unknown": (lambda log: evaluate(log, Uniform(12), estimators=["dr"]), "unknown 'dr'; there are ips, snips"),
    "a string": (lambda log: evaluate(log, Uniform(12), estimators="ips"), "expected a sequence of names"),
    "no model": (lambda log: evaluate(log, Uniform(12), estimators=["doubly_robust"]), "reward_model: is needed"),
    "no baseline": (lambda log: evaluate(log, Uniform(12), estimators=["delta_ips"]), "baseline: is needed"),
    "both": (lambda log: evaluate(log, Uniform(12), popular_rates, fit=popular_rates), "either a reward_model or fit"),
    "shape": (lambda log: evaluate(log, Uniform(12), np.zeros((3, 12))), r"has shape \(3, 12\), expected one row per"),
    "width": (
        lambda log: evaluate(log, Uniform(12), lambda h: torch.zeros(len(h), 2)),
        r"reward_model: gave \(\d+, 2\)",
    ),
    "folds": (lambda log: evaluate(log, Uniform(12), fit=lambda t: popular_rates, folds=1), "folds: expected 2 to 360"),
    "sums": (lambda log: evaluate(log, Unnormalised(12)), "policy's probabilities, row 0: .*sum to one, got 6"),
    "no propensity": (
        lambda log: evaluate(dataclasses.replace(log, propensity=None), Uniform(12)),
        "log: has no column 'propensity'",
    ),
    "contradiction": (
        lambda log: evaluate(log, Uniform(12), np.random.default_rng(0).random((log.num_impressions, 12))),
        r"reward_model, row \d+: differs from the prediction of an earlier row of the same context",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(call, message, log):
    with pytest.raises(ValueError, match=message):
        call(log)


def test_a_reward_model_of_another_kind(log):
    with pytest.raises(TypeError, match=r"reward_model: expected a model with click_probabilities, .* got int"):
        evaluate(log, Uniform(12), 3)


@pytest.mark.slow
def test_clustered_intervals_cover_on_recogym():
    """Of the target's own click rate, acting by itself; what its clicks change in later contexts is small here."""
    environment = RecoGym(num_items=5, num_flips=2, seed=0)
    target = SessionPopularity(5, epsilon=0.8)
    acting = environment.simulate(target, num_users=60_000, seed=10_000)
    truth = acting.reward.double().mean().item()
    inside = 0
    for seed in range(100):
        log = environment.simulate(SessionPopularity(5, epsilon=0.5), num_users=400, seed=seed)
        estimate = evaluate(log, target, estimators=["snips"])["snips"]
        low, high = estimate.interval()
        inside += low <= truth <= high
    assert inside / 100 >= 0.88
