"""What a fit finds: the truth it was simulated from, a posterior near the exact one, priors that hold."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.data.splits import split_sessions
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import BOUNDS, Bouchard, GuidedELBO, Reparameterized
from blob_pyro.models import OrganicPriors

P, K = 15, 2


@pytest.fixture(scope="module")
def truth():
    """Known items, and 1,500 sessions of 30 views told by them."""
    torch.manual_seed(3)
    psi, rho = torch.randn(P, K) * torch.tensor([1.5, 0.7]), torch.randn(P)
    interest = torch.randn(1500, K)
    views = SoftmaxViews(interest, psi, rho, torch.full((1500,), 30)).sample()
    return psi, rho, interest, Histories.from_ragged(views.flatten(), torch.full((1500,), 30), P)


def fit(truth, bound="reparameterized", num_epochs=40, **options):
    blo = BLO(P, K, bound=bound, **options)
    blo.fit(truth[3], num_epochs=num_epochs, batch_size=256, progress=False, device="cpu")
    return blo


@pytest.fixture(scope="module")
def usual(truth):
    """Fitted by default; do not change it."""
    return fit(truth)


def covariance_of_logits(psi):
    """What of Psi the data can tell: it is free to rotate, and to move by a common vector."""
    centered = psi - psi.mean(0)
    return centered @ centered.T


@pytest.mark.parametrize("bound", list(BOUNDS))
def test_recovers_the_items(bound, truth, usual):
    psi, rho, interest, sessions = truth
    blo = usual if bound == "reparameterized" else fit(truth, bound)
    found = covariance_of_logits(blo.model.item_embedding.detach())
    agreement = torch.corrcoef(torch.stack([found.flatten(), covariance_of_logits(psi).flatten()]))[0, 1]
    assert agreement > 0.9
    predicted, exact = blo.predict_next(sessions), (interest @ psi.T + rho).softmax(-1)
    distance = 0.5 * (predicted - exact).abs().sum(-1).mean()
    unigram = sessions.counts().sum(0) / sessions.counts().sum()
    assert distance < (0.3 if bound in ("bouchard", "one_vs_each") else 0.15)
    assert distance < 0.5 * 0.5 * (unigram - exact).abs().sum(-1).mean()


def test_amortised_posterior_against_em(truth):
    """Of an encoder trained on the same bound: as good on the bound within a few percent of a nat per view."""
    sessions = truth[3][:200]
    blo = fit(truth, "bouchard", covariance="full", num_epochs=40)
    likelihood = SoftmaxViews(torch.zeros(200, K), blo.model.item_embedding, blo.model.item_intercept, sessions.lengths)
    prior = dist.Normal(torch.zeros(K), 1.0).to_event(1)
    values = {}
    with torch.no_grad():
        for method in ("encoder", "em"):
            q = blo.user_posterior(sessions, method)
            assert q.event_shape == (K,)
            expected = Bouchard().expected_log_prob(likelihood, q, sessions.padded())
            values[method] = (expected - kl_divergence(q, prior)).mean()
    assert values["encoder"] < values["em"]
    assert values["em"] - values["encoder"] < 0.6  # nats a session, of 30 views
    assert torch.corrcoef(torch.stack([blo.embed(sessions)[:, 0], blo.embed(sessions, method="em")[:, 0]]))[0, 1] > 0.95


def test_em_predicts_as_well_as_the_encoder_where_it_was_trained(truth, usual):
    psi, rho, interest, sessions = truth
    blo, some = usual, slice(0, 200)
    exact = (interest[some] @ psi.T + rho).softmax(-1)
    error = {
        name: 0.5 * (blo.predict_next(sessions[some], posterior=name) - exact).abs().sum(-1).mean()
        for name in ("encoder", "em", "online_em", "newton")
    }
    assert error["em"] < 1.3 * error["encoder"]
    assert error["online_em"] < 1.3 * error["encoder"]
    assert error["newton"] < 1.05 * error["encoder"]


def test_map_shrinks_and_scores_its_prior(truth):
    """The MAP objective is the other objective plus the log prior of the items: once, not once a session."""
    sessions = truth[3][:50]
    free = BLO(P, K)
    held = BLO(P, K, priors=OrganicPriors(dist.Normal(0.0, 0.05), dist.Normal(1.0, 2.0)))
    held.model.load_state_dict(free.model.state_dict())
    held.guide.load_state_dict(free.guide.state_dict())
    losses = []
    for blo in (free, held):
        torch.manual_seed(0)
        losses.append(
            GuidedELBO(blo.bound).differentiable_loss(blo.model, blo.guide, blo.batch(sessions)[torch.arange(9)])
        )
    psi, rho = free.model.item_embedding, free.model.item_intercept
    log_prior = dist.Normal(0.0, 0.05).log_prob(psi).sum() + dist.Normal(1.0, 2.0).log_prob(rho).sum()
    assert (losses[0] - losses[1]).item() == pytest.approx(log_prior.item(), rel=1e-4)
    for blo in (free, held):
        blo.fit(sessions, num_epochs=80, batch_size=50, progress=False, device="cpu")
    assert held.model.item_embedding.square().mean() < 0.1 * free.model.item_embedding.square().mean()


def test_a_posterior_over_items_is_narrower_where_there_are_more_views(truth):
    priors = OrganicPriors(dist.Normal(0.0, 1.0), dist.Normal(0.0, 3.0), inference="posterior")
    blo = fit(truth, priors=priors, num_epochs=40)
    found = covariance_of_logits(blo.model.item_embedding.detach())
    assert torch.corrcoef(torch.stack([found.flatten(), covariance_of_logits(truth[0]).flatten()]))[0, 1] > 0.95
    scale, views = blo.guide.items.item_intercept_scale.detach(), truth[3].counts().sum(0)
    rare, common = views.argsort()[:3], views.argsort()[-3:]
    assert scale[rare].mean() > 1.2 * scale[common].mean()
    assert (scale < 3).all()


def test_a_posterior_of_items_alone_is_the_conjugate_one():
    """No interest (Psi held at zero by its prior), two items: the posterior of the log-odds by quadrature."""
    sessions = Histories.from_sequences([[0, 0, 1]] * 4, num_items=2)
    priors = OrganicPriors(dist.Normal(0.0, 0.03), dist.Normal(0.0, 1.0), inference="posterior")
    blo = BLO(2, 1, priors=priors)
    blo.fit(sessions, num_epochs=900, batch_size=4, learning_rate=0.02, progress=False, device="cpu")
    odds = torch.linspace(-8, 8, 4001)
    weight = (
        dist.Normal(0.0, 2**0.5).log_prob(odds) + 8 * -torch.log1p((-odds).exp()) + 4 * -torch.log1p(odds.exp())
    ).exp()
    mean = (odds * weight).sum() / weight.sum()
    rho = blo.model.item_intercept.detach()
    assert (rho[0] - rho[1]).item() == pytest.approx(mean.item(), abs=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"covariance": "full"},
        {"encoder": "deep", "bound": Bouchard(num_negatives=4)},
        {"priors": OrganicPriors(dist.Normal(0.0, 1.0), inference="posterior")},
        {"bound": Reparameterized(num_samples=3), "sparse": True},
    ],
    ids=["full", "deep, sampled", "items", "sparse"],
)
def test_comes_back_from_disk(options, truth, tmp_path):
    blo = fit(truth, num_epochs=1, **options)
    blo.save(tmp_path / "model")
    again = BLO.load(tmp_path / "model", device="cpu")
    assert torch.equal(again.predict_next([[1, 2], []]), blo.predict_next([[1, 2], []]))
    again.save(tmp_path / "again")
    for file in ("config.json", "state.safetensors", "manifest.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    again.fit(truth[3], num_epochs=1, batch_size=256, progress=False, device="cpu")


def test_a_bound_with_a_network_is_not_saved_and_says_so(truth, tmp_path):
    blo = fit(truth, Bouchard(num_negatives=4, offsets=OffsetNetwork(P, K)), num_epochs=1)
    blo.save(tmp_path / "model")
    again = BLO.load(tmp_path / "model", device="cpu")
    assert torch.equal(again.predict_next([[1, 2]]), blo.predict_next([[1, 2]]))
    with pytest.raises(ValueError, match=r"bound: this model was saved with a bound of your own; set blo\.bound"):
        again.fit(truth[3])
    again.bound = Bouchard()
    again.fit(truth[3], num_epochs=1, progress=False, device="cpu")


def test_a_network_of_the_bound_is_trained_with_the_rest(truth):
    network = OffsetNetwork(P, K)
    blo = fit(truth, Bouchard(num_negatives=8, offsets=network), num_epochs=3)
    assert blo.bound.offsets.offset.weight.abs().max() > 0.01
    assert network.offset.weight.abs().max() == 0  # a copy is trained


def test_sparse_and_sampled_learns_like_dense():
    """Row-wise steps on sampled items, most of them in no batch: the held-out likelihood nears the full softmax's."""
    torch.manual_seed(0)
    num_items, lengths = 60, torch.full((600,), 10)
    distribution = SoftmaxViews(torch.randn(600, K), 1.5 * torch.randn(num_items, K), torch.zeros(num_items), lengths)
    train, test = split_sessions(Histories.from_ragged(distribution.sample().flatten(), lengths, num_items), 0.2)
    values = {}
    for name, options in {
        "dense": {"bound": Bouchard()},
        "sparse": {"bound": Bouchard(num_negatives=20, offsets=OffsetNetwork(num_items, K)), "sparse": True},
    }.items():
        blo = BLO(num_items, K, **options)
        blo.fit(train, num_epochs=20, batch_size=32, progress=False, device="cpu")
        values[name] = (blo.predict_next(test).log() * test.counts()).sum(-1).mean() / 10
    unigram = (train.counts().sum(0) / train.counts().sum()).log()
    baseline = (unigram * test.counts()).sum(-1).mean() / 10
    assert values["dense"] - baseline > 0.3
    assert values["sparse"] - baseline > 0.8 * (values["dense"] - baseline)


def test_sessions_of_no_view_one_view_and_ten_thousand(truth):
    sessions = Histories.from_sequences([[], [3], list(range(P)) * 667], num_items=P)
    for bound in BOUNDS:
        blo = BLO(P, K, bound=bound)
        blo.fit(sessions, num_epochs=2, progress=False, device="cpu")
        for method in ("encoder", "em", "online_em", "newton"):
            q = blo.user_posterior(sessions, method)
            assert q.mean.isfinite().all()
            assert (q.stddev[2] < q.stddev[0]).all()


BAD = {
    "prior": (
        lambda: OrganicPriors(dist.Laplace(0.0, 1.0)),
        r"item_embedding: expected None or a Normal .* got Laplace",
    ),
    "vector prior": (
        lambda: OrganicPriors(item_intercept=dist.Normal(torch.zeros(3), 1.0)),
        "item_intercept: expected None or a Normal over one number",
    ),
    "inference": (
        lambda: OrganicPriors(dist.Normal(0.0, 1.0), inference="mcmc"),
        "inference: expected 'map' or 'posterior', got 'mcmc'",
    ),
    "posterior of nothing": (lambda: OrganicPriors(inference="posterior"), "inference: 'posterior' needs a prior"),
    "sparse prior": (
        lambda: BLO(P, K, priors=OrganicPriors(dist.Normal(0.0, 1.0)), sparse=True),
        "sparse: a prior of Psi or rho looks at every item",
    ),
    "method": (
        lambda: BLO(P, K).user_posterior([[1]], "vb"),
        "method: expected 'encoder', 'em', 'online_em' or 'newton', got 'vb'",
    ),
    "no sessions": (
        lambda: BLO(P, K).fit(Histories.from_sequences([], num_items=P)),
        "log: has no sessions; the organic model needs some",
    ),
    "validation": (
        lambda: BLO(P, K).fit(
            Histories.from_sequences([[0]], num_items=P), validation=Histories.from_sequences([[0]], num_items=P + 1)
        ),
        "validation: has 16 items, but this model was made with num_items=15",
    ),
    "top_k": (lambda: BLO(P, K).predict_next([[1]], top_k=16), "top_k: must lie between 1 and num_items=15, got 16"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_for_an_encoder_are_refused():
    with pytest.raises(TypeError, match="options: method='encoder' takes none, got num_cycles"):
        BLO(P, K).user_posterior([[1]], num_cycles=3)
