"""Each baseline against an independent oracle, and on a toy where it must win."""

import builtins
import sys
import types

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from blob_pyro import EventLog
from blob_pyro.data import Histories
from blob_pyro.policies import Greedy, Policy, Scorer, Softmax, Uniform
from blob_pyro.policies.baselines import (
    ALS,
    BASELINES,
    EASE,
    ContextualBandit,
    FactorizationMachine,
    LinTS,
    LinUCB,
    LogisticRegression,
    MultiVAE,
    Popularity,
    ViewFactors,
    register_baseline,
)
from blob_pyro.policies.baselines import factorization_machine as fm
from blob_pyro.policies.baselines import multi_vae as mv

SESSIONS = [[0, 0, 1], [1, 2, 2, 2], [0, 1], [3], [2, 1, 2], [3, 4], [4, 3, 3]]


@pytest.fixture
def sessions():
    return Histories.from_sequences(SESSIONS, num_items=5)


@pytest.fixture(scope="module")
def clicks():
    """Four items; who has viewed item v clicks on item 3 - v, shown with unequal propensities."""
    rng = np.random.default_rng(0)
    rows, viewed = 6000, rng.integers(0, 4, 6000)
    probs = np.array([0.5, 0.2, 0.2, 0.1])
    action = rng.choice(4, rows, p=probs)
    reward = rng.random(rows) < np.where(action == 3 - viewed, 0.5, 0.1)
    views = {"user": np.repeat(np.arange(rows), 2), "time": np.tile([0, 1], rows), "item": np.repeat(viewed, 2)}
    views["item"][1::2] = np.where(rng.random(rows) < 0.8, viewed, rng.integers(0, 4, rows))
    views["time"][-2:] = [4, 5]  # the last user's come after the impression
    impressions = {"user": np.arange(rows), "time": np.full(rows, 2), "action": action, "reward": reward.astype(int)}
    return EventLog.from_tables(views=views, impressions={**impressions, "propensity": probs[action]}, num_items=4)


def crossed(log):
    counts = log.contexts.counts(torch.float64)[log.context].numpy()
    action = np.eye(4)[log.action.numpy()]
    return np.hstack([action, np.einsum("nv,na->nva", counts, action).reshape(len(action), -1)])


def test_ease_is_the_constrained_ridge_regression(sessions):
    """Column by column: a regression on all the other items (Steck 2019, eq. 1)."""
    counts, l2 = sessions.counts(torch.float64).numpy(), 0.7
    expected = np.zeros((5, 5))
    for item in range(5):
        others = [i for i in range(5) if i != item]
        x = counts[:, others]
        expected[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(4), x.T @ counts[:, item])
    assert np.allclose(EASE(sessions, l2).scores([[0], [1], [2], [3], [4]]), expected, atol=1e-6)
    assert EASE(sessions).scores([[]]).tolist() == [[0.0] * 5]


def test_logistic_regression_is_scikit_learn_s(clicks):
    model = LogisticRegression(4, l2=2.0)
    model.fit(clicks)
    reference = SklearnLogistic(C=0.5, tol=1e-8, max_iter=5000).fit(crossed(clicks), clicks.reward.numpy())
    for history in ([0, 0], [1], [], [2, 3]):
        counts = np.bincount(history, minlength=4)
        x = np.hstack([np.eye(4), np.einsum("v,ab->avb", counts, np.eye(4)).reshape(4, -1)])
        assert np.allclose(model.scores([history])[0], reference.decision_function(x), atol=5e-3)


def test_contextual_bandit_is_a_weighted_multinomial_regression(clicks):
    model = ContextualBandit(4, l2=2.0)
    model.fit(clicks)
    clicked = clicks.reward.numpy() > 0
    weight = 1 / clicks.propensity.numpy()[clicked]
    x = clicks.contexts.counts(torch.float64)[clicks.context].numpy()[clicked]
    x = np.hstack([np.ones((len(x), 1)), x])  # intercepts are penalised, too
    reference = SklearnLogistic(C=0.5, tol=1e-8, max_iter=5000, fit_intercept=False)
    reference.fit(x, clicks.action.numpy()[clicked], sample_weight=weight / weight.mean())
    histories = [[0, 0], [1], [], [2, 3]]
    counts = np.stack([np.r_[1, np.bincount(h, minlength=4)] for h in histories])
    assert np.allclose(Softmax(model).action_distribution(histories).probs, reference.predict_proba(counts), atol=5e-3)


@pytest.mark.parametrize("make", [LogisticRegression, ContextualBandit, FactorizationMachine], ids=lambda c: c.__name__)
def test_who_learns_from_clicks_turns_views_round(clicks, make):
    """Organic models recommend what was viewed, and popularity one item: here both are wrong."""
    model = make(4)
    model.fit(clicks)
    assert model.scores([[0, 0], [1, 1], [2, 2], [3, 3]]).argmax(-1).tolist() == [3, 2, 1, 0]


def test_factorization_machine_by_two_loops():
    generator = torch.Generator().manual_seed(3)
    shapes = {"bias": (), "view_weight": (5,), "action_weight": (5,), "view_factor": (5, 3), "action_factor": (5, 3)}
    q = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    model = FactorizationMachine(5, embedding_dim=3)
    model.parameters = q
    histories = [[0, 2, 2], [], [1], [4, 3, 3, 0, 4]]
    scores = model.scores(histories)
    for n, history in enumerate(histories):
        for action in range(5):
            x = np.concatenate([np.bincount(history, minlength=5) / max(len(history), 1), np.eye(5)[action]])
            w = torch.cat([q["view_weight"], q["action_weight"]]).numpy()
            factor = torch.cat([q["view_factor"], q["action_factor"]]).numpy()
            expected = float(q["bias"]) + x @ w
            for i in range(10):
                for j in range(i + 1, 10):
                    expected += x[i] * x[j] * factor[i] @ factor[j]
            assert float(scores[n, action]) == pytest.approx(expected, abs=1e-5)
    row, action = torch.tensor([3, 0, 3]), torch.tensor([1, 4, 2])
    logits = fm.click_logits(q, Histories.from_sequences(histories, 5), row, action)
    assert torch.allclose(logits, scores[row, action], atol=1e-5)


def constant_and_last(histories):
    """One, and whether item 0 was viewed."""
    viewed = (histories.counts()[:, :1] > 0).double()
    return torch.cat([torch.ones_like(viewed), viewed], -1)


def test_linear_bandits_by_brute_force(clicks):
    ucb = LinUCB(clicks.items, constant_and_last, 2, alpha=0.7, l2=0.5)
    ts = LinTS(clicks.items, constant_and_last, 2, noise=0.7, l2=0.5)
    for model in (ucb, ts):
        model.update(clicks)
    x = constant_and_last(clicks.contexts)[clicks.context].numpy()
    at = np.array([[1.0, 0.0], [1.0, 1.0]])
    mean, spread = np.zeros((2, 4)), np.zeros((2, 4))
    for item in range(4):
        rows = clicks.action.numpy() == item
        precision = 0.5 * np.eye(2)
        for row in x[rows]:
            precision += np.outer(row, row)
        theta = np.linalg.solve(precision, (x[rows] * clicks.reward.numpy()[rows, None]).sum(0))
        mean[:, item] = at @ theta
        spread[:, item] = np.sqrt(np.einsum("nd,de,ne->n", at, np.linalg.inv(precision), at))
    assert np.allclose(ucb.scores([[1], [0]]), mean + 0.7 * spread)
    assert np.allclose(ts.scores([[1], [0]]), mean)
    draws = dist.Normal(torch.tensor(mean), 0.7 * torch.tensor(spread)).sample((200_000,)).argmax(-1)
    probs = ts.action_distribution([[1], [0]]).probs
    for n in range(2):
        assert torch.allclose(torch.bincount(draws[:, n], minlength=4) / 2e5, probs[n].float(), atol=0.006)
    assert probs[1].argmax() == 3  # who has viewed item 0 clicks on item 3


def test_two_updates_are_one(clicks):
    from dataclasses import replace

    once, twice = (LinUCB(clicks.items, constant_and_last, 2) for _ in range(2))
    once.update(clicks)
    half = torch.arange(clicks.num_impressions) < 2500
    for rows in (half, ~half):
        some = {name: getattr(clicks, name)[rows] for name in ("user", "time", "action", "reward", "context")}
        twice.update(replace(clicks, propensity=None, **some))
    assert torch.allclose(once.scores([[0], [1]]), twice.scores([[0], [1]]))


def test_view_factors_are_the_singular_value_decomposition_s(sessions):
    counts = sessions.counts(torch.float64).numpy()
    scaled = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    features = ViewFactors(sessions, 3)(sessions).numpy()
    assert np.allclose(features[:, 0], 1)
    assert np.allclose((features[:, 1:] ** 2).mean(0), 1)
    u, _, _ = np.linalg.svd(scaled, full_matrices=False)
    assert np.allclose(np.abs(features[:, 1:]), np.abs(u[:, :3]) * len(counts) ** 0.5)
    assert ViewFactors(sessions, 3)(Histories.from_sequences([[]], 5)).tolist() == [[1, 0, 0, 0]]


def test_multi_vae_s_bound_by_hand():
    torch.manual_seed(0)
    networks = mv._networks(5, 7, 2)
    counts = torch.tensor([[2.0, 0, 1, 0, 0], [0, 0, 0, 3, 1]])
    networks.eval()
    draws = torch.stack([mv.negative_bound(networks, counts, 0.3) for _ in range(4000)])
    total = []
    for _ in range(4000):
        visible = counts / counts.norm(dim=1, keepdim=True) * (torch.rand(2, 5) < 0.5) * 2
        loc, log_variance = networks["encoder"](visible).chunk(2, -1)
        q = dist.Normal(loc, (log_variance / 2).exp())
        p = dist.Multinomial(total_count=10, logits=networks["decoder"](q.sample()), validate_args=False)
        log_likelihood = (counts * p.logits).sum(-1)
        kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1)
        total.append((0.3 * kl - log_likelihood).mean())
    total = torch.stack(total)
    assert abs(draws.mean() - total.mean()) < 4.5 * (draws.var() / 4000 + total.var() / 4000).sqrt()


def test_multi_vae_anneals_its_divergence(monkeypatch, sessions):
    betas = []
    real = mv.negative_bound
    monkeypatch.setattr(mv, "negative_bound", lambda n, c, beta: betas.append(beta) or real(n, c, beta))
    MultiVAE(5, 4, 2).fit(sessions, num_epochs=4, batch_size=7, max_beta=0.4, annealing=0.5)
    assert betas == pytest.approx([0.2, 0.4, 0.4, 0.4])


def test_multi_vae_sees_what_goes_together():
    """Two kinds of users: popularity knows one of them."""
    pairs = [[0, 1, 2]] * 60 + [[3, 4, 5]] * 30
    vae = MultiVAE(6, 24, 3)
    vae.fit(Histories.from_sequences(pairs, 6), num_epochs=150, batch_size=30)
    scores = vae.scores([[3], [0]])
    assert set(scores[0].topk(3).indices.tolist()) == {3, 4, 5}
    assert set(scores[1].topk(3).indices.tolist()) == {0, 1, 2}
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2))


def test_ease_sees_what_goes_together():
    """Three wins for EASE: rare pairs against one popular item."""
    sessions = Histories.from_sequences([[0, 1]] * 20 + [[2, 3]] * 4 + [[0]] * 30, 4)
    assert int(EASE(sessions, 1.0).scores([[2]]).argmax()) == 3
    assert int(Popularity(sessions).scores([[2]]).argmax()) == 0


class Solver:
    """Stands in for `implicit`: Hu, Koren & Volinsky (2008) by dense solves, with the library's conventions."""

    def __init__(self, factors, regularization, iterations, random_state, num_threads, use_cg):
        self.size, self.l2, self.sweeps = factors, regularization, iterations
        self.rng = np.random.default_rng(random_state)

    def _solve(self, confidence, factor):
        gram, rows = factor.T @ factor + self.l2 * np.eye(self.size), []
        for c in confidence:
            seen = c > 0
            a = gram + factor[seen].T @ ((c[seen] - 1)[:, None] * factor[seen])
            rows.append(np.linalg.solve(a, c[seen] @ factor[seen]))
        return np.array(rows)

    def fit(self, matrix, show_progress):
        dense = matrix.toarray()
        self.item_factors = self.rng.normal(size=(dense.shape[1], self.size)) * 0.1
        for _ in range(self.sweeps):
            self.item_factors = self._solve(dense.T, self._solve(dense, self.item_factors))

    def recalculate_user(self, users, matrix):
        assert len(users) == matrix.shape[0]
        return self._solve(matrix.toarray(), self.item_factors)


def test_als_asks_implicit_for_confidences(monkeypatch):
    module = types.ModuleType("implicit.cpu.als")
    module.AlternatingLeastSquares = Solver
    for name, part in (("implicit", types.ModuleType("implicit")), ("implicit.cpu", types.ModuleType("implicit.cpu")),
                       ("implicit.cpu.als", module)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, part)
    sessions = Histories.from_sequences([[0, 1, 2]] * 20 + [[3, 4, 4]] * 10, 5)
    als = ALS(sessions, 2, alpha=5.0)
    assert sorted(set(als._confidence(sessions).data.tolist())) == [6.0, 11.0]  # 1 + alpha count
    scores = als.scores([[3], [0], []])
    assert set(scores[0].topk(2).indices.tolist()) == {3, 4}
    assert set(scores[1].topk(3).indices.tolist()) == {0, 1, 2}
    assert scores[2].tolist() == [0.0] * 5
    assert als.scores([]).shape == (0, 5)


def test_als_without_implicit(monkeypatch, sessions):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("implicit"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"ALS needs implicit: pip install 'blob-pyro\[als\]'"):
        ALS(sessions)


UNFITTED = {
    "logistic": (lambda: LogisticRegression(4), "not fitted"),
    "contextual bandit": (lambda: ContextualBandit(4), "not fitted"),
    "factorisation machine": (lambda: FactorizationMachine(4), "not fitted"),
    "MultiVAE": (lambda: MultiVAE(4), "not fitted"),
    "LinUCB": (lambda: LinUCB(4, constant_and_last, 2), "nothing has been learned yet"),
    "LinTS": (lambda: LinTS(4, constant_and_last, 2), "nothing has been learned yet"),
}


@pytest.mark.parametrize(("make", "message"), UNFITTED.values(), ids=UNFITTED.keys())
def test_unfitted_models_refuse(make, message):
    with pytest.raises(ValueError, match=f"scores: .*{message}"):
        make().scores([[1]])


BAD = {
    "no log": (lambda log: LogisticRegression(4).fit([[1]]), TypeError, "log: expected an EventLog with impressions"),
    "another catalogue": (lambda log: ContextualBandit(3).fit(log), ValueError, "log: has 4 items, .* num_items=3"),
    "no sessions": (lambda log: EASE(Histories.from_sequences([], 3)), ValueError, "sessions: there are none"),
    "no penalty": (lambda log: EASE(log, l2=0.0), ValueError, "l2: "),
    "no features": (lambda log: LinUCB(4, None, 2), TypeError, "features: expected a function"),
    "features of another shape": (
        lambda log: LinTS(log.items, constant_and_last, 3).update(log), ValueError, r"features: expected a tensor \(",
    ),
    "too many factors": (lambda log: ViewFactors(log, 4), ValueError, "num_factors: must be between 1 and 3, got 4"),
    "other items": (lambda log: LinTS(5, constant_and_last, 2).update(log), ValueError, "log: has 4 items that"),
    "another VAE": (lambda log: MultiVAE(7).fit(log), ValueError, "sessions: have 4 items, .* num_items=7"),
    "no seed": (lambda log: FactorizationMachine(4).fit(log, seed=-1), ValueError, "seed: "),
    "a name taken": (lambda log: register_baseline("EASE", lambda log, seed: None), ValueError, "'EASE' is taken"),
    "no baseline": (lambda log: register_baseline("mine", 3), TypeError, "expected a name and a function"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(clicks, call, error, message):
    with pytest.raises(error, match=message):
        call(clicks)


def test_a_log_without_propensities_or_contrast(clicks):
    from dataclasses import replace

    with pytest.raises(ValueError, match="log: has no propensities"):
        ContextualBandit(4).fit(replace(clicks, propensity=None))
    with pytest.raises(ValueError, match="log: all 6,000 rewards are 0"):
        LogisticRegression(4).fit(replace(clicks, reward=torch.zeros_like(clicks.reward)))


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "ALS"])
def test_every_baseline_by_name(name, log):
    policy = BASELINES[name](log, 5)
    assert isinstance(policy, Policy)
    probs = policy.action_distribution(log.contexts[:6]).probs
    assert probs.shape == (6, 12)
    assert torch.allclose(probs.double().sum(-1), torch.ones(6).double())
    again = BASELINES[name](log, 5).action_distribution(log.contexts[:6]).probs
    assert torch.equal(probs, again)
    if isinstance(policy, Greedy):
        assert isinstance(policy.model, Scorer)


def test_one_s_own_baseline(log):
    register_baseline("mine", lambda log, seed: Uniform(log.items))
    try:
        assert BASELINES["mine"](log, 0).num_items == 12
    finally:
        del BASELINES["mine"]
