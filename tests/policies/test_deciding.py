"""What policies decide can be logged, read back, evaluated and audited; what is wrong is said with argument and row."""

import datetime as dt
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.data import Vocabulary
from blob_pyro.ope import audit, evaluate
from blob_pyro.ops.exclusive import exclusive
from blob_pyro.policies import (
    POLICIES,
    EpsilonGreedy,
    Greedy,
    Mixture,
    Policy,
    SessionPopularity,
    Softmax,
    ThompsonSampling,
    Uniform,
    deciding,
)

ITEMS = ["tea", "mug", "pot", "cup", "jar"]
HISTORIES = [["tea", "mug", "mug"], [], ["pot"]]


class Scores:
    """A model of views, over text ids."""

    items = Vocabulary(ITEMS)
    shift = torch.tensor([0.1, 0.2, 0.3, 0.0, -0.3])

    def scores(self, histories):
        return histories.counts() + self.shift


COLUMNS = ["user", "time", "action", "position", "score", "propensity", "propensity_error", "policy", "policy_version"]


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_decided_is_logged_read_back_evaluated_and_audited(name, blob, tmp_path):
    policy = POLICIES[name](blob)
    source = np.random.default_rng(0)
    users = np.repeat([f"user-{n}" for n in range(60)], 5)
    histories = [history for n in range(60) for history in [source.integers(0, 12, n % 4).tolist()] * 5]
    views = [(f"user-{n}", -1.0 + k / 9, item) for n in range(60) for k, item in enumerate(histories[5 * n])]
    views += [(f"user-{n}", 9.0, 0) for n in range(60)]  # afterwards
    frame = policy.decide(histories, user=users, time=np.tile(np.arange(5.0), 60), seed=1)
    assert list(frame.columns) == COLUMNS
    frame["reward"] = (source.random(len(frame)) < 0.3).astype(int)
    frame.to_parquet(tmp_path / "impressions.parquet")
    pd.DataFrame(views, columns=["user", "time", "item"]).to_parquet(tmp_path / "views.parquet")
    log = EventLog.read_parquet(tmp_path / "views.parquet", tmp_path / "impressions.parquet", num_items=12)
    order = frame.sort_values(["user", "time"], kind="stable")
    for column in ("action", "position", "propensity", "propensity_error", "score"):
        np.testing.assert_array_equal(getattr(log, column).numpy(), order[column].to_numpy(), err_msg=column)
    assert log.policies.decode(log.policy) == [policy.name] * 300
    assert log.policy_versions.decode(log.policy_version) == [policy.version] * 300
    assert log.contexts[log.context].to_sequences() == [histories[n] for n in order.index]
    if name == "thompson_conditional":  # what it logs is the probability given a draw
        again = evaluate(log, policy, estimators=["snips"])["snips"]
        assert abs(float(again.value) - frame.reward.mean()) < 5 * again.standard_error
    else:
        again = evaluate(log, policy, logging_policy=policy, estimators=["ips"])["ips"]
        assert float(again.value) == pytest.approx(frame.reward.mean(), abs=1e-6)  # all weights are 1
    report = audit(log)
    assert not report["range"].flagged
    if name in ("softmax", "mixture", "session_popularity"):  # 1/p of the others is a constant, or of heavy tails
        assert not report.flagged, report


def test_slates_are_rows_of_one_user_at_one_time(tmp_path):
    policy = Softmax(Scores(), 0.5)
    frame = policy.decide(HISTORIES, user=["a", "b", "c"], time=[7, 8, 9], slots=3, seed=2)
    assert frame.user.tolist() == list("aaabbbccc")
    assert frame.time.tolist() == [7] * 3 + [8] * 3 + [9] * 3
    assert frame.position.tolist() == [1, 2, 3] * 3
    assert frame.groupby("user").action.nunique().tolist() == [3, 3, 3]
    probs = policy.slate_distribution(HISTORIES, 3).probs
    slates = frame.action.to_numpy().reshape(3, 3).tolist()
    numbers = torch.from_numpy(np.stack([Scores.items.encode(slate) for slate in slates]))
    expected = probs.gather(1, numbers.unsqueeze(-1).expand(-1, -1, 3)).diagonal(dim1=1, dim2=2)
    np.testing.assert_allclose(frame.propensity, expected.flatten(), rtol=1e-12)
    np.testing.assert_allclose(policy.slate_distribution(HISTORIES, 3).propensities(slates), expected, rtol=1e-12)
    some = torch.tensor([[4, 0], [1, 1], [2, 3]])
    of_some = policy.slate_distribution(HISTORIES, 3).rank_probs(some)
    np.testing.assert_allclose(of_some, probs[torch.arange(3)[:, None], some], rtol=1e-12)
    scores = Scores().scores(policy.histories(HISTORIES)).gather(1, numbers)
    np.testing.assert_allclose(frame.score, scores.flatten(), rtol=1e-6)
    pa.parquet.write_table(pa.Table.from_pandas(frame.assign(reward=0)), tmp_path / "slates.parquet")
    log = EventLog.read_parquet(impressions=tmp_path / "slates.parquet", items=ITEMS)
    assert log.position.tolist() == frame.position.tolist()
    assert log.propensity.tolist() == frame.propensity.tolist()


def test_slates_are_evaluated_position_by_position():
    policy, target = Softmax(Scores(), 0.5), EpsilonGreedy(Scores(), 0.5)
    source = np.random.default_rng(3)
    histories = [source.choice(ITEMS, n % 3).tolist() for n in range(80)]
    frame = policy.decide(histories, time=9, slots=3, seed=4)
    frame["reward"] = (source.random(240) < 0.4).astype(int)
    views = [(n, k, item) for n, history in enumerate(histories) for k, item in enumerate(history)]
    views += [(n, 10, "tea") for n in range(80)]
    log = EventLog.from_tables(pd.DataFrame(views, columns=["user", "time", "item"]), frame, items=ITEMS)
    itself = evaluate(log, policy, logging_policy=policy, estimators=["ips"])["ips"]
    assert float(itself.value) == pytest.approx(frame.reward.mean(), abs=1e-12)
    slates = frame.action.to_numpy().reshape(80, 3)
    wanted = target.slate_distribution(histories, 3).propensities(slates).flatten().numpy()
    model = torch.rand(5, generator=torch.Generator().manual_seed(0)).double()
    found = evaluate(log, target, lambda h: model.expand(len(h), -1), estimators=["ips", "direct_method"])
    assert float(found["ips"].value) == pytest.approx((wanted / frame.propensity * frame.reward).mean(), rel=1e-9)
    expected = (target.slate_distribution(histories, 3).probs * model[:, None]).sum(1).mean()
    assert float(found["direct_method"].value) == pytest.approx(float(expected), rel=1e-9)


IDS = {
    "text": ITEMS,
    "numbers": [10, 20, 30, 2**40, 5],
    "bytes": [b"a", b"b", b"c", b"d", b"e"],
    "tuples": [(n, "x") for n in range(5)],
    "UUIDs": [uuid.UUID(int=n) for n in range(5)],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_items_keep_their_ids(ids):
    policy = Uniform(Vocabulary(ids))
    frame = policy.decide([[ids[0]], []] * 50, candidates=[ids[1], ids[3]], time=0, seed=0)
    assert set(frame.action) == {ids[1], ids[3]}
    log = EventLog.from_tables(impressions=frame.assign(reward=1), items=ids)
    assert log.items.decode(log.action) == frame.action.tolist()


TIMES = {
    "one number": (3, [3, 3, 3]),
    "one timestamp": (pd.Timestamp("2026-01-02", tz="UTC"), [pd.Timestamp("2026-01-02", tz="UTC")] * 3),
    "a datetime": (dt.datetime(2026, 1, 2), [pd.Timestamp("2026-01-02")] * 3),
    "an array": (np.array([1.5, 2.5, 2.0]), [1.5, 2.5, 2.0]),
    "a tensor": (torch.tensor([3, 1, 2]), [3, 1, 2]),
    "a Series with an index of its own": (pd.Series([3, 1, 2], index=[7, 7, 9]), [3, 1, 2]),
    "polars": (pl.Series([3, 1, 2]), [3, 1, 2]),
    "Arrow": (pa.array([3, 1, 2]), [3, 1, 2]),
}


@pytest.mark.parametrize(("time", "expected"), TIMES.values(), ids=TIMES.keys())
def test_times_and_users_come_in_any_library(time, expected):
    frame = Uniform(Scores.items).decide(HISTORIES, time=time, slots=2, seed=0)
    assert frame.time.tolist() == [t for t in expected for _ in range(2)]
    assert frame.user.tolist() == [0, 0, 1, 1, 2, 2]


def test_without_a_time_it_is_now():
    before = pd.Timestamp.now(tz="UTC")
    frame = Uniform(Scores.items).decide(HISTORIES, seed=0)
    assert ((frame.time >= before) & (frame.time <= pd.Timestamp.now(tz="UTC"))).all()
    assert EventLog.from_tables(impressions=frame.assign(reward=0)).clock == "timestamp[UTC]"


MAKE = {
    "uniform": lambda: Uniform(Scores.items),
    "session popularity": lambda: SessionPopularity(Scores.items, 0.4),
    "greedy": lambda: Greedy(Scores()),
    "epsilon greedy": lambda: EpsilonGreedy(Scores(), 0.2),
    "softmax": lambda: Softmax(Scores(), 0.5),
    "mixture": lambda: Mixture([Softmax(Scores()), Uniform(Scores.items)], [0.9, 0.1]),
}


@pytest.mark.parametrize("candidates", [None, ["tea", "cup", "jar"]], ids=["all", "some"])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_chunks_decide_as_the_whole(make, candidates, monkeypatch):
    histories = [["tea"], [], ["pot", "pot"], ["jar", "tea"], ["mug"]] * 3

    def decide():
        return make().decide(histories, candidates=candidates, slots=2, time=0, seed=5)

    whole = decide()
    monkeypatch.setattr(deciding, "_CONTEXTS_AT_ONCE", 2)
    parts = decide()
    if not isinstance(make(), Mixture):  # which draws for each of its policies, a chunk at a time
        assert parts.action.tolist() == whole.action.tolist()
        np.testing.assert_allclose(parts.propensity, whole.propensity, rtol=1e-12)
    assert decide().equals(parts)
    torch.testing.assert_close(
        make().slate_distribution(histories, 2, candidates=candidates).propensities(parts.action.to_numpy()),
        torch.tensor(parts.propensity.to_numpy()).view(-1, 2),
    )


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_but_the_seed_draws(name, blob):
    policy, state = POLICIES[name](blob), torch.get_rng_state()
    frames = [policy.decide([[1], []] * 40, time=0, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert frames[0].equals(frames[1])
    assert name == "greedy" or not frames[0].action.equals(frames[2].action)


@pytest.mark.parametrize("name", POLICIES)
def test_deciding_waits_for_no_fit(name, blob):
    policy = POLICIES[name](blob)
    policy.decide([[1]], seed=0)  # the guide has been asked what it knows
    with ThreadPoolExecutor(1) as pool, exclusive():  # as a fit in this thread would hold it
        assert len(pool.submit(policy.decide, [[1], []], seed=0).result(timeout=60)) == 2


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_no_contexts(make):
    frame = make().decide([], seed=0, slots=2, candidates=["tea", "cup"])
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 0
    assert make().slate_distribution([], 2).probs.shape == (0, 5, 2)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("name", list(POLICIES))
def test_single_actions_are_the_action_distribution(name, slots, blob):
    policy = POLICIES[name](blob)
    if name in ("thompson_sampling", "thompson_conditional"):
        slots = 1  # of more there are no marginal propensities
    first = policy.slate_distribution([[0, 0, 1], []], slots).probs[..., 0]
    torch.testing.assert_close(first, policy.action_distribution([[0, 0, 1], []]).probs.double(), rtol=1e-5, atol=1e-6)
    some = policy.action_distribution([[0, 0, 1], []], candidates=[[1, 4], [2, 3, 5]]).probs.double()
    first = policy.slate_distribution([[0, 0, 1], []], 1, candidates=[[1, 4], [2, 3, 5]]).probs[..., 0]
    torch.testing.assert_close(first, some, rtol=1e-5, atol=1e-6)
    assert some[0].nonzero().flatten().tolist() in ([1, 4], [1], [4])


def test_errors_of_estimated_propensities_are_logged(blob):
    policy = ThompsonSampling(blob)
    frame = policy.decide([[1], [], [4, 4]], time=0, seed=0)
    actions = policy.action_distribution([[1], [], [4, 4]])
    picked = torch.tensor(frame.action.to_numpy())[:, None]
    np.testing.assert_allclose(frame.propensity_error, actions.error_estimate.gather(1, picked).squeeze(1), rtol=1e-4)
    assert (frame.propensity_error > 0).all()
    assert (ThompsonSampling(blob, shared_draws=8).decide([[1]], seed=0).propensity_error == 0).all()


class Numbers(Policy):
    """Somebody's own policy, that plays some items only."""

    def action_distribution(self, histories):
        size = len(self.histories(histories))
        return torch.distributions.Categorical(torch.tensor([0.5, 0.5, 0, 0, 0]).expand(size, -1))


class OneRow(Numbers):
    def action_distribution(self, histories):
        return super().action_distribution(histories[:1])


class NoSlates(Numbers):
    def _slates(self, contexts, num_slots):
        return super().action_distribution(contexts.histories)


class Sold(Scores):
    def scores(self, histories):
        return super().scores(histories).index_fill(1, torch.tensor([0, 1, 2, 3]), -float("inf"))


class Short(Scores):
    def scores(self, histories):
        return super().scores(histories)[:, :3]


UNIFORM = Uniform(Scores.items)
ONE_EACH = UNIFORM.slate_distribution(HISTORIES, candidates=[["tea"], ["mug"], ["pot"]])
BAD = {
    "a history": (lambda: UNIFORM.decide([["tea"], ["beer"]], seed=0), r"histories\[1\]\[0\]: unknown id, got 'beer'"),
    "no seed's value": (lambda: UNIFORM.decide(HISTORIES, seed=-1), "seed: must be between 0"),
    "seed's type": (lambda: UNIFORM.decide(HISTORIES, seed=None), "seed: expected a whole number, got None"),
    "slots' type": (lambda: UNIFORM.decide(HISTORIES, slots=1.5, seed=0), "slots: expected a whole number, got 1.5"),
    "no slots": (lambda: UNIFORM.decide(HISTORIES, slots=0, seed=0), "slots: must be 1 or more, got 0"),
    "too many slots": (lambda: UNIFORM.decide(HISTORIES, slots=6, seed=0), "slots: must lie between 1 and num_items=5"),
    "users' number": (lambda: UNIFORM.decide(HISTORIES, user=[1, 2], seed=0), "user: has 2 values for 3 histories"),
    "a missing user": (lambda: UNIFORM.decide(HISTORIES, user=["a", None, "b"], seed=0), r"user\[1\]: a value is"),
    "one user": (lambda: UNIFORM.decide(HISTORIES, user="ann", seed=0), "user: expected a column"),
    "times' number": (lambda: UNIFORM.decide(HISTORIES, time=[1, 2], seed=0), "time: has 2 values for 3 histories"),
    "a missing time": (lambda: UNIFORM.decide(HISTORIES, time=[1, 2, np.nan], seed=0), r"time\[2\]: a value is"),
    "no time at all": (lambda: UNIFORM.decide(HISTORIES, time=float("nan"), seed=0), "time: a value is missing"),
    "a time that is none": (lambda: UNIFORM.decide(HISTORIES, time=["a", "b", "c"], seed=0), "time"),
    "ragged times": (lambda: UNIFORM.decide(HISTORIES, time=[1, [], 2], seed=0), r"time"),
    "a boolean time": (lambda: UNIFORM.decide(HISTORIES, time=True, seed=0), "time"),
    "users that are fractions": (lambda: UNIFORM.decide(HISTORIES, user=[0.5, 1, 2], seed=0), r"user\[0\]: an id"),
    "candidates' number": (
        lambda: UNIFORM.decide(HISTORIES, candidates=[["tea"]], seed=0), r"candidates: there are 1 sets of them for 3",
    ),
    "an empty set": (
        lambda: UNIFORM.decide(HISTORIES, candidates=[["tea"], [], ["mug"]], seed=0), r"candidates\[1\]: is empty",
    ),
    "fewer candidates than slots": (
        lambda: UNIFORM.decide(HISTORIES, candidates=[["tea", "mug"], ["tea", "tea"], ["pot", "mug"]], slots=2, seed=0),
        r"slots: 2 different items are asked for, and candidates\[1\] holds 1",
    ),
    "shared candidates, fewer than slots": (
        lambda: UNIFORM.decide(HISTORIES, candidates=["tea"], slots=2, seed=0), "and the candidates are 1",
    ),
    "candidates that are not played": (
        lambda: Numbers(5).decide([[], [], []], candidates=[[0], [2, 3], [1]], seed=0),
        r"candidates\[1\]: the policy plays none of them",
    ),
    "more slots than the policy plays": (
        lambda: Numbers(5).decide([[], []], slots=3, seed=0),
        r"slots: 3 cannot be filled after histories\[0\]: .* plays 2",
    ),
    "another batch": (lambda: OneRow(5).decide([[0], [1]], seed=0), r"action_distribution: must have batch_shape \(2"),
    "no slates": (lambda: NoSlates(5).decide([[]], seed=0), "_slates: NoSlates must return Slates, got a Categorical"),
    "scores' shape": (lambda: Greedy(Short()).decide(HISTORIES, seed=0), r"scores: Short.scores gave shape \(3, 3\)"),
    "nothing to play": (
        lambda: Softmax(Sold()).decide(HISTORIES, candidates=[["jar"], ["tea"], ["jar"]], seed=0),
        "scores: Sold.scores gave -inf for all items that may be played after history 1",
    ),
    "fewer items to play than slots": (
        lambda: EpsilonGreedy(Sold()).decide(HISTORIES, slots=2, seed=0),
        r"slots: 2 cannot be filled after histories\[0\]",
    ),
    "what was shown, not a candidate": (
        lambda: ONE_EACH.propensities(["tea", "pot", "pot"]),
        r"items\[1\], position 1: 'pot' is not among the candidates",
    ),
    "what was shown, unknown": (
        lambda: UNIFORM.slate_distribution(HISTORIES).propensities(["tea", "pot", "beer"]), r"items\[2\]: unknown id",
    ),
    "slates' width": (
        lambda: UNIFORM.slate_distribution(HISTORIES, 2).propensities([["tea", "mug"], ["tea"], ["mug", "pot"]]),
        r"items\[1\]: expected 2 ids",
    ),
    "slates' number": (
        lambda: UNIFORM.slate_distribution(HISTORIES, 2).propensities(["tea", "mug"]), "items: expected 3 slates of 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(ask, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ask()


@pytest.mark.parametrize("name", POLICIES)
def test_an_action_outside_its_candidates_is_an_error(name, blob):
    actions = POLICIES[name](blob).action_distribution([[1], [], [2, 2]], candidates=[[1, 2], [3, 4, 5], [0, 2]])
    assert torch.isfinite(actions.log_prob(actions.sample())).all()
    assert actions.sample((7,)).shape == (7, 3)
    with pytest.raises(ValueError, match=re.escape("value: item number 1 is not among the candidates of context 1")):
        actions.log_prob(torch.tensor([1, 1, 2]))


def test_a_model_with_another_catalogue_since(blo, log):
    class Refitted(Scores):
        pass

    model = Refitted()
    policy = Greedy(model)
    model.items = Vocabulary(ITEMS[::-1])
    with pytest.raises(ValueError, match="model: Refitted has another catalogue than when this policy was made"):
        policy.decide(HISTORIES, seed=0)
