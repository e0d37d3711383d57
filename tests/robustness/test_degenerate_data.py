"""Data at the edge of what there is: the right answer by an oracle or an invariant, or a refusal by name."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.guides import make_guide
from blob_pyro.infer import FitRequest, Training, fit_guide, seeded
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.policies import Greedy, ThompsonSampling

FIXED = BanditPriors(w_b=-3.0, kappa_scale=1.0)  # nothing for Laplace to search


def made_log(num_items, action, reward, num_users=6):
    """Every user views each item in turn, as often as the user's number says; then come the recommendations."""
    views = [(u, p) for u in range(num_users) for p in [u % num_items] * (1 + u) + list(range(num_items))]
    view_user, view_item = (torch.tensor(column) for column in zip(*views))
    number = torch.arange(len(action))
    return EventLog.from_arrays(
        num_items,
        view_user,
        torch.arange(len(views)),
        view_item,
        number % num_users,
        len(views) + number,
        action,
        reward,
    )


def fitted(log, embedding_dim, guide="laplace", priors=FIXED, **settings):
    blo = BLO(log.num_items, embedding_dim)
    blo.fit(log, num_epochs=20, progress=False, device="cpu")
    blob = BLOB(blo, guide, priors)
    blob.fit(log, progress=False, device="cpu", **settings)
    return blob


# --- the organic model's items ----------------------------------------------------------------------------------------


def embeddings(kind):
    psi = torch.randn(6, 3, dtype=torch.float64) * torch.tensor([0.3, 1.0, 2.0])
    if kind == "equal-columns":
        psi[:, 2] = psi[:, 0]
    elif kind == "zero-column":
        psi[:, 1] = 0
    elif kind == "sum-of-columns":
        psi[:, 2] = 0.7 * psi[:, 0] - 2 * psi[:, 1]
    elif kind == "one-item-over-and-over":
        psi = psi[:1].expand(6, 3)
    elif kind == "more-columns-than-items":
        psi = psi[:2]
    elif kind == "nan":
        psi[1, 1] = torch.nan
    return psi


KINDS = ["equal-columns", "zero-column", "sum-of-columns", "one-item-over-and-over", "more-columns-than-items"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "nan"])
def test_a_psi_of_deficient_rank_is_refused(kind, dtype):
    with pytest.raises(ValueError, match=r"item_embedding: its 3 columns are linearly dependent .* jitter"):
        BanditModel(embeddings(kind).to(dtype))


@pytest.mark.parametrize("jitter", [1e-6, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_with_jitter_it_is_factored_all_the_same(kind, jitter):
    psi = embeddings(kind)
    factor = BanditModel(psi, jitter=jitter).whitening.numpy()
    gram = psi.numpy().T @ psi.numpy() / len(psi)
    np.testing.assert_allclose(factor @ factor.T, gram + jitter * np.trace(gram) / 3 * np.eye(3), rtol=1e-9, atol=1e-12)
    assert np.array_equal(factor, np.tril(factor))


def test_a_fit_through_a_psi_of_deficient_rank():
    log = made_log(4, torch.arange(80) % 4, torch.arange(80) % 7 == 0)
    blo = BLO(4, embedding_dim=3)
    blo.fit(log, num_epochs=3, progress=False, device="cpu")
    with torch.no_grad():
        blo.model.item_embedding[:, 2] = blo.model.item_embedding[:, 1]
    with pytest.raises(ValueError, match="linearly dependent"):
        BLOB(blo)
    blob = BLOB(blo, jitter=1e-4)
    history = blob.fit(log, num_epochs=30, progress=False, device="cpu")
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[0]
    assert torch.isfinite(blob.scores([[0, 1], []])).all()


@pytest.mark.parametrize("embedding_dim", [3, 4, 100])
def test_more_dimensions_than_items_are_refused(embedding_dim):
    with pytest.raises(ValueError, match=f"embedding_dim: must lie between 1 and num_items=2, got {embedding_dim}"):
        BLO(2, embedding_dim)


@pytest.mark.parametrize(("num_items", "embedding_dim"), [(2, 1), (2, 2), (3, 3)])
def test_few_items_and_as_many_dimensions(num_items, embedding_dim):
    """The first item is clicked three times as often as the others."""
    number = torch.arange(60 * num_items)
    action = number % num_items
    reward = (number // num_items % 12) < torch.where(action == 0, 6, 2)
    blob = fitted(made_log(num_items, action, reward), embedding_dim)
    histories = [[], [0], [1, 1, 0]]
    assert blob.scores(histories).argmax(-1).tolist() == [0, 0, 0]
    actions = ThompsonSampling(blob).action_distribution(histories)
    assert torch.allclose(actions.probs.sum(-1), torch.ones(3, dtype=actions.probs.dtype))
    played = actions.sample((4000,))
    frequency = torch.stack([(played == p).double().mean(0) for p in range(num_items)], -1)
    error = (actions.probs * (1 - actions.probs) / 4000).sqrt() + actions.error_estimate
    assert ((frequency - actions.probs).abs() < 5 * error + 1e-3).all()


# --- what is clicked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["normal", pytest.param("matrix_normal", marks=pytest.mark.slow), "laplace"])
def test_all_clicks_on_one_item(guide):
    action = torch.arange(300) % 5
    blob = fitted(made_log(5, action, action == 2), 2, guide)
    histories = [[], [0, 0], [4, 2, 1]]
    rates = blob.click_probabilities(histories)
    assert torch.isfinite(rates).all()
    assert (rates[:, 2] > 0.5).all()
    assert (rates[:, [0, 1, 3, 4]] < 0.2).all()
    assert Greedy(blob).action_distribution(histories).sample().tolist() == [2, 2, 2]
    assert (ThompsonSampling(blob).action_distribution(histories).probs[:, 2] > 0.9).all()


@pytest.mark.parametrize("reward", [0, 1])
def test_a_click_rate_of_nothing_or_all_is_refused(reward):
    log = made_log(3, torch.arange(30) % 3, torch.full((30,), reward))
    blo = BLO(3, 2)
    blo.fit(log, num_epochs=2, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"reward"):
        BLOB(blo).fit(log, progress=False, device="cpu")


def best_gaussian(num_clicks, num_events, loc, scale):
    """Mean and deviation of the Gaussian with the largest ELBO on the one logit of all events, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def loss(q):
        mean, sd = q[0], np.exp(q[1])
        logit = mean + sd * nodes
        log_likelihood = -num_clicks * np.logaddexp(0, -logit) - (num_events - num_clicks) * np.logaddexp(0, logit)
        divergence = np.log(scale / sd) + (sd**2 + (mean - loc) ** 2) / (2 * scale**2) - 0.5
        return divergence - weights @ log_likelihood

    rate = num_clicks / num_events
    start = [np.log(rate / (1 - rate)), -0.5 * np.log(num_events * rate * (1 - rate))]
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})
    return found.x[0], np.exp(found.x[1])


RATES = {"1e-6": (1, 10**6), "1e-4": (1, 10_000), "nearly-1": (9_999, 10_000), "all-but-one-of-20": (19, 20)}


@pytest.mark.parametrize(
    ("guide", "name"),
    # SVI starts at the prior and needs thousands of steps to the others
    [*(("laplace", name) for name in RATES), ("normal", "1e-4"), ("normal", "all-but-one-of-20")],
)
def test_extreme_click_rates(guide, name):
    """One logit for all events, of which the best Gaussian is known; Laplace's is its curvature at the mode."""
    num_clicks, num_events = RATES[name]
    prior = dist.Normal(-4.5, 10.0)
    model = BanditModel(torch.eye(2), BanditPriors(w_a=0.5, w_b=-6.0, w_c=prior, kappa=0.0, zeta=0.0))
    reward = (torch.arange(num_events) < num_clicks).float()
    zeros = torch.zeros(num_events, dtype=torch.int64)
    batch = BanditBatch(torch.zeros(1, 2), zeros, zeros, reward, num_events)
    q = make_guide(guide, model)
    with seeded(0, "cpu"):
        training = Training(800, num_events, 0.2, optimizer="rmsprop")
        with pyro.validation_enabled(False):
            fit_guide(q, FitRequest(model, batch, training, progress=False))
        draws = torch.stack([q(None)["w_c"] for _ in range(4000)]).detach().double()
    mean, sd = best_gaussian(num_clicks, num_events, -4.5, 10.0)
    if guide == "laplace":
        mean, sd = mode_and_deviation(num_clicks, num_events, -4.5, 10.0)
    assert abs(draws.mean() - mean) < 0.15 * sd
    assert 0.85 < draws.std() / sd < 1.15


def mode_and_deviation(num_clicks, num_events, loc, scale):
    """By Newton's method on one number."""
    x = np.log(num_clicks / (num_events - num_clicks))
    for _ in range(50):
        rate = 1 / (1 + np.exp(-x))
        curvature = num_events * rate * (1 - rate) + scale**-2
        x += (num_clicks - num_events * rate - (x - loc) / scale**2) / curvature
    return x, curvature**-0.5


# --- items that are one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["laplace", "full"])
def test_duplicated_items_are_exchangeable(guide):
    """Items 0 and 1 have the same embedding, as often been shown to the same users and been clicked."""
    number = torch.arange(240)
    action = number % 4
    reward = (number // 24 % 5) == torch.where(action < 2, 0, action)
    log = made_log(4, action, reward, num_users=1)
    blo = BLO(4, 2)
    blo.fit(log, num_epochs=5, progress=False, device="cpu")
    with torch.no_grad():
        blo.model.item_embedding[1] = blo.model.item_embedding[0]
        blo.model.item_intercept[1] = blo.model.item_intercept[0]
    blob = BLOB(blo, guide, FIXED)
    blob.fit(log, progress=False, device="cpu", num_epochs=None if guide == "laplace" else 40)
    tolerance = 1e-3 if guide == "laplace" else 0.1  # of SVI's noise, in the posterior's deviations
    logits = blob.click_logits([[], [3], [0, 1]])
    scale = logits.variance.sqrt()
    assert ((logits.mean[:, 0] - logits.mean[:, 1]).abs() < tolerance * scale[:, 0]).all()
    assert torch.allclose(scale[:, 0], scale[:, 1], rtol=tolerance)
    probs = ThompsonSampling(blob, num_points=128).action_distribution([[], [3], [0, 1]]).probs
    assert torch.allclose(probs[:, 0], probs[:, 1], atol=tolerance + 0.01)
