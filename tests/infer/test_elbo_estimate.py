"""`BLOB.elbo`: one quantity for every guide, with a standard error that is one."""

import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from blob_pyro import BLOB, BanditPriors
from blob_pyro.guides import DrawsGuide, make_guide
from blob_pyro.infer import GuidedELBO, HasNoELBO, estimate_elbo, fit_nuts
from blob_pyro.infer.training.trace import axes_of
from blob_pyro.models import BanditBatch, BanditModel, ItemDeviations

P, K, N = 6, 2, 400
GUIDES = ["normal", "matrix_normal", "matrix_normal_full", "low_rank", "full", "laplace", AutoNormal]
FIXED = BanditPriors(kappa_scale=0.3)


def name_of(guide):
    return guide if isinstance(guide, str) else guide.__name__


@pytest.fixture
def model():
    return BanditModel(torch.randn(P, K) * torch.tensor([0.4, 1.5]), BanditPriors(w_b=dist.Normal(-1.0, 1.0)))


@pytest.fixture
def batch(model):
    rows = torch.arange(N)
    return BanditBatch(torch.randn(N, K), rows, rows % P, (torch.rand(N) < 0.2).float(), N)


def off_the_start(guide):
    """Somewhere where nothing is special."""
    with torch.no_grad():
        for tensor in (*guide.parameters(), *(b for n, b in guide.named_buffers() if n == "loc")):
            tensor.add_(0.2 * torch.rand_like(tensor))
    return guide


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_it_is_the_elbo_by_definition(guide, model, batch):
    """Against log p - log q of whole draws, by traces alone: no formula, no projection, nothing of ours."""
    guide = off_the_start(make_guide(guide, model))
    found = estimate_elbo(model, guide, batch, num_draws=100)
    values = by_definition(guide, model, batch)
    error = math.hypot(values.std() / len(values) ** 0.5, found.standard_error)
    assert abs(found.value - values.mean()) < 4 * error
    assert found.standard_error < 0.5 * values.std() / 100**0.5  # the projections and the KLs are of use


def test_it_is_the_elbo_where_items_have_several_numbers_of_their_own(batch):
    """A vector of blocks, the sites of which are drawn: parts of it have other factors than what is shared."""
    priors = BanditPriors(w_b=-6.0, zeta=0.0, kappa_scale=0.3, terms=(ItemDeviations(0.4),))
    model = BanditModel(torch.randn(P, K) * torch.tensor([0.4, 1.5]), priors)
    guide = off_the_start(make_guide("laplace", model))
    guide.loading.normal_().mul_(0.3)  # items' numbers follow what they share, and one another
    guide.own_scale.add_(torch.rand_like(guide.own_scale).tril(-1))
    found = estimate_elbo(model, guide, batch, num_draws=400)
    values = by_definition(guide, model, batch, num_draws=400)
    error = math.hypot(values.std() / len(values) ** 0.5, found.standard_error)
    assert abs(found.value - values.mean()) < 4 * error
    assert error < 0.02 * abs(found.value)


def by_definition(guide, model, batch, num_draws=120):
    """``log p - log q`` of whole draws, nats per event, by traces."""
    values = []
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(num_draws):
            drawn = poutine.trace(guide).get_trace(batch)
            replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
            values.append(replayed.log_prob_sum() - density(drawn))
    return torch.stack(values) / N


def density(trace):
    """log q of the numbers that were drawn; parts of one vector are dealt out, and no more random."""
    sites = [s for s in trace.nodes.values() if s["type"] == "sample"]
    if "multivariate" in trace.nodes:
        distribution = trace.nodes["multivariate"]["fn"]
        return getattr(distribution, "distribution", distribution).log_prob(trace.nodes["multivariate"]["value"])
    return sum(s["fn"].log_prob(s["value"]) for s in sites if not isinstance(s["fn"], dist.Delta))


@pytest.mark.parametrize("guide", [*GUIDES, AutoMultivariateNormal], ids=name_of)
def test_local_reparameterisation_and_plain_sampling_agree(guide, model, batch):
    guide = off_the_start(make_guide(guide, model))
    local = estimate_elbo(model, guide, batch, num_draws=50)
    plain = estimate_elbo(model, guide, batch, num_draws=50, seed=1, elbo=GuidedELBO())
    assert abs(local.value - plain.value) < 4 * math.hypot(local.standard_error, plain.standard_error)


def test_chunks_are_the_whole(model, batch, monkeypatch):
    guide = off_the_start(make_guide("normal", model))
    whole = estimate_elbo(model, guide, batch, num_draws=60)
    monkeypatch.setattr("blob_pyro.infer.elbo_estimate._ROWS", 150)
    chunks = estimate_elbo(model, guide, batch, num_draws=60)
    assert abs(whole.value - chunks.value) < 4 * math.hypot(whole.standard_error, chunks.standard_error)


def test_the_standard_error_is_the_estimate_s_spread(model, batch):
    guide = off_the_start(make_guide("normal", model))
    found = [estimate_elbo(model, guide, batch, num_draws=6, seed=seed) for seed in range(30)]
    spread = torch.tensor([f.value for f in found]).std()
    assert 0.6 < torch.tensor([f.standard_error for f in found]).mean() / spread < 1.6
    assert found[3] == estimate_elbo(model, guide, batch, num_draws=6, seed=3)


def test_a_bound_that_is_known(batch):
    """A guide that is the prior: no divergence, and the expectation of the log-likelihood under it."""
    model = BanditModel(torch.eye(P)[:, :K] + 0.1 * torch.randn(P, K), FIXED)
    guide = make_guide("full", model)
    with torch.no_grad():
        moments = [(p.mean.flatten(), p.variance.sqrt().flatten()) for p in
                   (model.site_priors()[n] for n in guide.shapes)]  # fmt: skip
        guide.loc.copy_(torch.cat([loc for loc, _ in moments]))
        guide.scale = torch.cat([scale for _, scale in moments])
    certain = BanditBatch(batch.interest[:1], torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1), 1)
    with torch.no_grad():
        draws = torch.vmap(lambda v: model.logit(v, certain))(model.prior_draws(10_000))
        expected = torch.nn.functional.logsigmoid(-draws)
    found = estimate_elbo(model, guide, certain, num_draws=200)
    error = math.hypot(found.standard_error, expected.std() / 100)
    assert abs(found.value - expected.mean()) < 4 * error


def test_nothing_is_left_behind(model, batch):
    guide = make_guide("normal", model)
    before, state = set(pyro.get_param_store()), torch.get_rng_state()
    estimate_elbo(model, guide, batch, num_draws=2)
    assert set(pyro.get_param_store()) == before
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r"num_draws: must be at least 2.*got 1"):
        estimate_elbo(model, guide, batch, num_draws=1)


# --- through BLOB -----------------------------------------------------------------------------------------------------


def test_of_a_fitted_model(blob, blo, log):
    found = blob.elbo(log, num_draws=50)
    trained = Trace_ELBO(num_particles=1)
    batch = blob.batch(log)
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        plain = torch.tensor([-trained.loss(blob.model, blob.guide, batch) for _ in range(100)]) / len(batch)
    assert abs(found.value - plain.mean()) < 4 * math.hypot(found.standard_error, plain.std() / 100**0.5)
    with pytest.raises(ValueError, match="elbo: the model is not fitted"):
        BLOB(blo).elbo(log)


@pytest.mark.parametrize("guide", ["delta", AutoDelta], ids=name_of)
def test_a_point_mass_has_none_and_its_trace_does_not_say_so(guide, blo, log):
    blob = BLOB(blo, guide, FIXED)
    trace = blob.fit(log, num_epochs=3, progress=False, device="cpu")
    assert list(trace.columns) == ["epoch", "log_joint", "seconds", "learning_rate"]
    with pytest.raises(HasNoELBO, match=r"is a point mass at w_a, w_b, w_c, kappa, zeta.*Use guide 'laplace'"):
        blob.elbo(log)


@pytest.mark.filterwarnings("ignore:guide 'nuts'.*R-hat")  # of twenty draws
def test_draws_have_none(blo, log, monkeypatch):
    monkeypatch.setitem(fit_nuts.__kwdefaults__, "warmup_steps", 20)
    priors = BanditPriors(w_b=-6.0, zeta=0.0, kappa=0.0)
    blob = BLOB(blo, DrawsGuide(BLOB(blo, priors=priors).model, num_draws=20), priors)
    trace = blob.fit(log, progress=False, device="cpu")
    assert list(trace.columns) == ["draw", "log_joint", "seconds", "step_size"]
    assert trace.draw.tolist() == list(range(1, 21))
    batch, draws = blob.batch(log), blob.guide.draws
    for number in (0, 19):
        values = {name: value[number] for name, value in draws.items()}
        joint = poutine.trace(poutine.condition(blob.model, data=values)).get_trace(batch).log_prob_sum()
        assert trace.log_joint[number] == pytest.approx(joint.item() / len(batch), rel=1e-5)
    with pytest.raises(HasNoELBO, match="guide 'nuts' is a set of draws"):
        blob.elbo(log)


def test_laplace_s_trace_is_no_elbo(blo, log):
    blob = BLOB(blo, "laplace", FIXED)
    trace = blob.fit(log, progress=False, device="cpu")
    assert list(trace.columns) == ["step", "log_joint", "seconds", "damping"]
    assert axes_of(trace) == ("step", "log_joint")
    found = blob.elbo(log)
    assert abs(trace.log_joint.iloc[-1] - found.value) > 10 * found.standard_error


def test_what_is_no_trace():
    with pytest.raises(ValueError, match=r"trace: expected what a fit returns.*got \['user'\]"):
        axes_of(pd.DataFrame({"user": []}))
