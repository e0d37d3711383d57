"""BLO: it learns, it bounds, it predicts, it comes back from disk."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn

from blob_pyro import BLO, EventLog
from blob_pyro.data import Histories
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import BOUNDS, GuidedELBO, OneVsEach


def test_beats_popularity(blo, log):
    """Evidence of the sessions, by importance sampling, against one multinomial for everybody."""
    sessions = log.sessions
    popularity = torch.bincount(log.view_item, minlength=12).double()
    unigram = (sessions.counts(torch.float64) @ (popularity / popularity.sum()).log()).sum()
    with torch.no_grad():
        q, prior = blo.user_posterior(sessions), dist.Normal(torch.zeros(3), 1.0).to_event(1)
        draws = q.sample((400,))
        likelihood = SoftmaxViews(draws, blo.model.item_embedding, blo.model.item_intercept, sessions.lengths)
        weights = likelihood.log_prob(sessions.padded()) + prior.log_prob(draws) - q.log_prob(draws)
    evidence = (weights.logsumexp(0) - torch.tensor(400.0).log()).sum()
    assert evidence > unigram + 50
    assert weights.mean() * len(sessions) < evidence  # the ELBO is a lower bound


@pytest.mark.parametrize(("encoder", "gap"), [("precision", 0.15), ("linear", 0.4)])
def test_bound_is_below_the_exact_likelihood(encoder, gap, log):
    """K = 1: the evidence by quadrature. The bound lies below it for any parameters, near it once fitted.

    ``gap`` is in nats per session; the linear encoder cannot follow the posterior of a long session.
    """
    blo = BLO(12, embedding_dim=1, encoder=encoder)
    nodes = torch.linspace(-12, 12, 4001)
    step = nodes[1] - nodes[0]
    batch = blo.batch(log)
    gaps = []
    for num_epochs in (1, 40):
        blo.fit(log, num_epochs=num_epochs, batch_size=64, progress=False, device="cpu")
        with torch.no_grad():
            psi, rho = blo.model.item_embedding, blo.model.item_intercept
            at_nodes = (nodes[:, None] @ psi.T + rho).log_softmax(-1) @ log.sessions.counts().T
            exact = (at_nodes + dist.Normal(0.0, 1.0).log_prob(nodes)[:, None]).logsumexp(0) + step.log()
            elbo = GuidedELBO(BOUNDS["reparameterized"]())
            draws = torch.tensor([-elbo.differentiable_loss(blo.model, blo.guide, batch) for _ in range(50)])
        assert draws.mean() < exact.sum()
        gaps.append((exact.sum() - draws.mean()) / len(log.sessions))
    assert gaps[1] < gap


def test_prediction(blo):
    histories = [[0, 0, 1], [], [5] * 400]
    mean = blo.predict_next(histories)
    torch.manual_seed(0)
    monte_carlo = blo.predict_next(histories, method="monte_carlo", num_samples=2000)
    for probs in (mean, monte_carlo):
        assert torch.allclose(probs.sum(-1), torch.ones(3))
    posterior = blo.user_posterior(histories)
    assert posterior.batch_shape == (3,)
    assert posterior.event_shape == (3,)
    exact = (posterior.sample((4000,)) @ blo.model.item_embedding.T + blo.model.item_intercept).softmax(-1).mean(0)
    assert torch.allclose(monte_carlo, exact, atol=0.02)
    assert torch.equal(blo.scores(histories).argmax(-1), mean.argmax(-1))
    with pytest.raises(ValueError, match="method: expected 'mean' or 'monte_carlo'"):
        blo.predict_next(histories, method="median")


def test_more_views_less_uncertainty(blo):
    few, many = blo.user_posterior([[2], [2] * 50]).stddev
    assert (many < few).all()


def test_same_seed_same_model(log):
    fits = []
    for seed in (1, 1, 2):
        blo = BLO(12, embedding_dim=2)
        blo.fit(log, seed=seed, num_epochs=2, progress=False, device="cpu")
        fits.append(blo.model.item_embedding.detach().clone())
        blo.fit(log, seed=seed, num_epochs=2, progress=False, device="cpu")  # again, from a fresh start
        assert torch.equal(blo.model.item_embedding, fits[-1])
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])


def test_plain_pyro_runs_on_it(log):
    blo = BLO(12, embedding_dim=2)
    batch = blo.batch(log)
    svi = SVI(blo.model, blo.guide, Adam({"lr": 0.05}), TraceMeanField_ELBO())
    losses = [svi.step(batch) for _ in range(60)]
    assert losses[-1] < losses[0] - 100
    draws = Predictive(blo.model, guide=blo.guide, num_samples=5)(batch)
    assert draws["omega"].shape[0] == 5


def test_an_encoder_of_one_s_own(log):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(12, 2)

        def forward(self, histories):
            loc = histories.sum_rows(self.rows.weight) / histories.lengths.clamp(min=1).unsqueeze(-1)
            return loc, torch.full_like(loc, 0.5)

    blo = BLO(12, embedding_dim=2, encoder=Mean())
    history = blo.fit(log, num_epochs=5, progress=False, device="cpu")
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]


BAD = {
    "K > P": (lambda log: BLO(3, embedding_dim=4), "embedding_dim: must lie between 1 and num_items=3, got 4"),
    "bound": (lambda log: BLO(3, 2, bound="tight"), "bound: unknown name 'tight'; known: .*reparameterized"),
    "encoder": (lambda log: BLO(3, 2, encoder="gru"), "encoder: unknown name 'gru'; known: .*linear"),
    "other catalogue": (lambda log: BLO(3, 2).fit(log), "log: has 12 items, but this model was made with num_items=3"),
    "no views": (
        lambda log: BLO(3, 2).fit(
            EventLog.from_tables(impressions={"user": [1], "time": [1], "action": [0], "reward": [0]}, num_items=3)
        ),
        "log: has no organic views",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, message, log):
    with pytest.raises(ValueError, match=message):
        make(log)


@pytest.mark.cuda
def test_on_cuda(log):
    blo = BLO(12, embedding_dim=2)
    history = blo.fit(log, num_epochs=5, progress=False)
    assert blo.device.type == "cuda"
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]
    assert blo.predict_next([[1], []]).shape == (2, 12)


@pytest.mark.parametrize("encoder", ["precision", "linear", "deep"])
def test_the_first_sessions_of_a_sparse_fit_may_be_empty(encoder):
    """What gets a sparse gradient is told from the first two sessions: one of no row is one, too."""
    sessions = Histories.from_sequences([[], [], [1, 2], [3]], num_items=40)
    blo = BLO(40, embedding_dim=2, sparse=True, encoder=encoder, bound=OneVsEach(num_negatives=8))
    trace = blo.fit(sessions, num_epochs=2, batch_size=1, progress=False, device="cpu")
    assert trace["elbo"].notna().all()
