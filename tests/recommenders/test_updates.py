"""What one fit leaves to the next: a power prior, and scales that are learned from all events."""

from dataclasses import replace
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro import BLOB, BanditPriors, EventLog
from blob_pyro.distributions import BlockArrowheadNormal, NestedNormal
from blob_pyro.models import HorseshoeKappa, ItemDeviations
from blob_pyro.models.sites import EARLIER, KAPPA, MULTIVARIATE
from blob_pyro.posteriors.next_priors import next_priors

QUICK = {"num_epochs": 3, "batch_size": 1024, "progress": False}
GUIDES = ["normal", "arrowhead_normal", "matrix_normal", "laplace", "low_rank", "full"]


def some(log, keep, reward=None):
    """Some of the impressions, after the same views."""
    reward = log.reward if reward is None else reward
    arrays = (log.user[keep], log.time[keep], log.action[keep], reward[keep])
    return EventLog.from_arrays(12, log.view_user, log.view_time, log.view_item, *arrays)


def dense(priors, model):
    """Mean and precision of all numbers under the priors, in the order of the model's sites."""
    names = list(model.site_priors())
    if priors.vector is None:
        means = [priors.sites[n].mean.flatten() for n in names]
        variances = [priors.sites[n].variance.flatten() for n in names]
        return torch.cat(means).double(), (1 / torch.cat(variances).double()).diag()
    start, places = 0, {}
    for name, shape in priors.vector.shapes.items():
        places[name] = torch.arange(start, start := start + torch.Size(shape).numel())
    order = torch.cat([places[name] for name in names])
    law = priors.vector.distribution
    covariance = law.covariance_matrix.double()[order][:, order]
    return law.mean.double()[order], torch.linalg.inv(covariance)


@pytest.mark.parametrize("guide", GUIDES)
def test_forgetting_averages_natural_parameters(blo, log, guide):
    blob = BLOB(blo, guide, BanditPriors(w_b=-5.0) if guide == "laplace" else None)
    blob.fit(log, device="cpu", **QUICK)
    posterior = blob.posterior()
    kept, faded = (next_priors(blob.model, posterior, f) for f in (1.0, 0.3))
    (mean, precision), (faded_mean, faded_precision) = (dense(priors, blob.model) for priors in (kept, faded))
    initial = blob.model.initial_site_priors()
    initial_mean = torch.cat([law.mean.detach().flatten() for law in initial.values()]).double()
    initial_precision = torch.cat([1 / law.variance.detach().flatten() for law in initial.values()]).double().diag()
    expected = 0.3 * precision + 0.7 * initial_precision
    shift = 0.3 * precision @ mean + 0.7 * initial_precision @ initial_mean
    scale = expected.diagonal().sqrt()
    assert torch.allclose(faded_precision / scale / scale[:, None], expected / scale / scale[:, None], atol=1e-3)
    assert torch.allclose(faded_mean, torch.linalg.solve(expected, shift), atol=1e-3)
    assert kept.scales == faded.scales == {"kappa_scale": pytest.approx(blob.model.kappa_scale.item())}
    assert kept.initial is blob.model.priors


WITHOUT_MOMENTS = {
    "a weight": BanditPriors(w_a=dist.Cauchy(-1.0, 1.0)),
    "a scale": BanditPriors(kappa=0.0, terms=(HorseshoeKappa(),)),
}


@pytest.mark.parametrize("priors", WITHOUT_MOMENTS.values(), ids=WITHOUT_MOMENTS)
def test_without_forgetting_the_first_prior_needs_no_moments(blo, log, priors):
    blob = BLOB(blo, priors=priors)
    blob.fit(log, device="cpu", **QUICK)
    after = next_priors(blob.model, before := blob.posterior())
    assert after.vector.distribution.mean.tolist() == before["w_a"].multivariate.mean.tolist()
    assert after.vector.distribution.variance.tolist() == before["w_a"].multivariate.variance.tolist()


@pytest.mark.parametrize("guide", ["normal", "laplace"])
def test_doubt_does_not_outgrow_the_initial_prior(blo, log, guide):
    """An item that is never shown, through three updates and more that each forget a fifth."""
    blob = BLOB(blo, guide, BanditPriors(kappa_scale=0.5))
    log = some(log, log.action != 3)
    fit = {"progress": False} if guide == "laplace" else {"num_epochs": 30, "progress": False}
    with pytest.warns(UserWarning, match="never shown"):
        blob.fit(log, device="cpu", **fit)
    for _ in range(5 if guide == "laplace" else 3):
        blob.update(log, forgetting=0.8, **fit)
    prior = blob.model.site_priors()[KAPPA].variance.sqrt()
    least = 0.48 if guide == "laplace" else 0.35  # from a start at 0.3, SVI is on its way
    assert least < float(prior[3]) < 0.501
    assert (prior < 0.501).all()
    assert least < float(blob.posterior()[KAPPA].variance[3].sqrt()) < 0.501


@pytest.mark.parametrize(
    "terms",
    [pytest.param((), marks=pytest.mark.slow), (ItemDeviations(),)],
    ids=["kappa", "kappa and deviations"],
)
@pytest.mark.filterwarnings("ignore:BLOB. guide 'normal' takes the numbers of an item's own beta")
@pytest.mark.parametrize("guide", ["normal", "laplace", "low_rank", "full"])
def test_at_another_scale_the_prior_is_exchanged(blo, log, guide, terms):
    """The joint density is what the posterior says the events said, times the initial prior at the scale.

    After "laplace" at the nodes of ``w_b``: between them it is interpolated, at each scale anew.
    """
    known = {"w_b": -3.0} if guide in ("low_rank", "full") else {}  # they start from Laplace's, which would seek it
    blob = BLOB(blo, guide, BanditPriors(terms=terms, **known))
    blob.fit(log, device="cpu", **QUICK)
    blob.update(some(log, log.action != 2), **QUICK)
    model = blob.model.double()
    assert set(model.learned) == {"kappa_scale", *(["beta_deviation_scale"] if terms else [])}
    theta = {n: (0.2 * torch.randn(law.event_shape)).double() for n, law in model.site_priors().items()}
    vector = model.priors.vector
    if vector is not None and isinstance(vector.distribution, NestedNormal):
        theta["w_b"] = vector.distribution.density.nodes[3].double()
    point = None if vector is None else torch.cat([theta[n].flatten() for n in vector.shapes])

    def joint():
        evidence = model.earlier_evidence()
        if vector is not None:
            return evidence + model.vector_prior.distribution.log_prob(point)
        return evidence + sum(law.log_prob(theta[n]) for n, law in model.site_priors().items())

    def initial():
        return sum(law.log_prob(theta[n]) for n, law in model.initial_site_priors().items())

    values = []
    for factor in (1.0, 0.4, 1.1):
        for name, start in model.priors.scales.items():
            setattr(model, name, torch.tensor(factor * start, dtype=torch.float64))
        values.append(((joint() - initial()).item(), model.earlier_evidence().item()))
    assert values[0][0] == pytest.approx(values[1][0], abs=2e-3)
    assert values[0][0] == pytest.approx(values[2][0], abs=2e-3)
    assert values[0][1] == pytest.approx(0.0, abs=1e-3)
    trace = poutine.trace(model).get_trace(model.example_batch())
    trace.compute_log_prob()
    assert float(trace.nodes[EARLIER]["log_prob"].detach()) == pytest.approx(values[2][1], abs=1e-6)
    assert (MULTIVARIATE in trace.nodes) == (vector is not None)


def uneven(log, seed):
    """Rewards of items whose click logits differ by much more than the first third of events can tell."""
    noise = torch.Generator().manual_seed(seed)
    logit = -2 + 1.2 * torch.randn(12, generator=noise)
    return torch.bernoulli(logit.sigmoid()[log.action], generator=noise)


@pytest.mark.parametrize("guide", ["normal", "laplace"])
def test_scales_are_learned_from_all_events(blo, log, guide):
    reward = uneven(log, seed=3)
    turns = torch.arange(log.num_impressions) % 2
    priors = BanditPriors(w_a=-20.0, w_b=-20.0, zeta=0.0, w_c=-2.0)
    fit = {"progress": False} if guide == "laplace" else {"num_epochs": 120, "batch_size": 8192, "progress": False}
    whole, parts = BLOB(blo, guide, priors), BLOB(blo, guide, priors)
    whole.fit(some(log, turns >= 0, reward), device="cpu", **fit)
    few = torch.arange(log.num_impressions) % 20 == 0
    parts.fit(some(log, few, reward), device="cpu", **fit)
    first = parts.model.kappa_scale.item()
    for turn in range(2):
        parts.update(some(log, (turns == turn) & ~few, reward), **fit)
    expected, found = whole.model.kappa_scale.item(), parts.model.kappa_scale.item()
    assert abs(first / expected - 1) > 0.15  # the first events mislead
    assert abs(found / expected - 1) < 0.05
    exact, reached = whole.posterior()[KAPPA], parts.posterior()[KAPPA]
    # SVI has noise of its own; Laplace's curvature of earlier events is that at the modes of then.
    near, alike = (0.3, 0.2) if guide == "laplace" else (0.5, 0.25)
    assert ((reached.mean - exact.mean).abs() < near * exact.variance.sqrt()).all()
    assert torch.allclose(reached.variance.sqrt(), exact.variance.sqrt(), rtol=alike)


def own_betas(blo, log, size) -> torch.Tensor:
    """Clicks of items that have betas of their own, of standard deviation ``size``."""
    noise = torch.Generator().manual_seed(5)
    slopes = size * torch.randn(12, blo.embedding_dim, generator=noise)
    interest = blo.embed(log.contexts).detach()[log.context]
    return torch.bernoulli((-2 + (slopes[log.action] * interest).sum(-1)).sigmoid(), generator=noise)


def by_quarters(blob, log, reward) -> list[float]:
    """Fit, and update three times; the scale of the items' own betas after each."""
    turns, scales = torch.arange(log.num_impressions) % 4, []
    for turn in range(4):
        learn = blob.update if turn else partial(blob.fit, device="cpu")
        learn(some(log, turns == turn, reward), progress=False)
        scales.append(blob.model.beta_deviation_scale.item())
    return scales


def test_recommended_priors_learn_by_updates_what_a_refit_learns(blo, log, tmp_path):
    """Items' own betas, with learned scales: no product of unknown numbers, and so no second mode.

    Without the exponential prior of a scale, which twelve items cannot outweigh.
    """
    reward = own_betas(blo, log, 1.5)
    priors = replace(BanditPriors.recommended(), terms=(ItemDeviations(),))
    whole, parts = (BLOB(blo, "laplace", priors) for _ in range(2))
    whole.fit(some(log, slice(None), reward), device="cpu", progress=False)
    by_quarters(parts, log, reward)
    for name in ("kappa_scale", "beta_deviation_scale"):
        expected, found = (getattr(blob.model, name).item() for blob in (whole, parts))
        assert expected > 0.05
        assert abs(found / expected - 1) < 0.1, name
    histories = [[], [1, 2, 3], [7], [0, 0, 11, 5]]
    exact, reached = (blob.drawn_click_logits(histories, num_draws=4000) for blob in (whole, parts))
    deviation = exact.variance.sqrt()
    distance = (reached.mean - exact.mean).abs() / deviation
    assert distance.mean() < 0.15
    assert distance.max() < 0.5
    assert torch.allclose(reached.variance.sqrt(), deviation, rtol=0.2)
    parts.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert isinstance(back.model.vector_prior.distribution, BlockArrowheadNormal)
    assert torch.equal(back.scores(histories), parts.scores(histories))
    assert back.model.learned == parts.model.learned


def test_noise_of_svi_is_no_reason_for_a_scale_of_any_size(blo, log):
    """Deviations that seem less certain than before any event would count as evidence for whatever scale."""
    blob = BLOB(blo, "arrowhead_normal", BanditPriors.recommended())
    with pytest.warns(UserWarning, match=r"beta_deviation_scale, near its start .* Guide 'laplace' finds it"):
        scales = by_quarters(blob, log, own_betas(blo, log, 0.4))
    assert max(scales) < 1  # it was 600


def test_a_scale_that_few_events_left_at_nothing_is_found_by_more(blo, log):
    """Under its exponential prior nothing is a maximum, too; an update that began there would stay, whatever it saw."""
    reward = own_betas(blo, log, 0.4)
    whole, parts = (BLOB(blo, "laplace", BanditPriors.recommended()) for _ in range(2))
    whole.fit(some(log, slice(None), reward), device="cpu", progress=False)
    first, *_, last = by_quarters(parts, log, reward)
    assert first < 0.002
    assert last == pytest.approx(whole.model.beta_deviation_scale.item(), rel=0.1)


def test_updates_of_updates_keep_their_beginning(blo, log, tmp_path):
    blob = BLOB(blo, "laplace", BanditPriors(kappa_scale=BanditPriors().kappa_scale, w_c=dist.Normal(-3.0, 2.0)))
    blob.fit(log, device="cpu", progress=False)
    before = blob.model.priors
    blob.update(log, forgetting=0.5, progress=False)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    for one in (blob, back):
        one.update(log, forgetting=0.5, progress=False)
    assert blob.model.priors.initial is before
    first = back.model.priors.initial
    assert (float(first.w_c.loc), float(first.w_c.scale), first.initial) == (-3.0, 2.0, None)
    assert back.model.kappa_scale.item() == pytest.approx(blob.model.kappa_scale.item(), rel=1e-4)
    assert torch.allclose(back.posterior()[KAPPA].mean, blob.posterior()[KAPPA].mean, atol=1e-4)


def test_a_scale_of_heavy_tails_stays(blo, log):
    """What the events said is a Gaussian divided by the initial prior: of heavy tails it is none."""
    blob = BLOB(
        blo, "normal", BanditPriors(kappa=lambda m: dist.StudentT(4.0, torch.zeros(12), m.kappa_scale).to_event(1))
    )
    blob.fit(log, device="cpu", **QUICK)
    blob.update(log, **QUICK)
    assert blob.model.learned == {}
    assert blob.model.priors.scales == {}
    blob.update(log, forgetting=0.5, **QUICK)  # its variance is finite: doubt returns to that


UNFORGETTABLE = {
    "no variance": (BanditPriors(w_a=dist.Cauchy(-1.0, 1.0)), r"forgetting: the initial prior of 'w_a'.*has no mean"),
    "correlated": (
        BanditPriors(kappa=dist.MultivariateNormal(torch.zeros(12), torch.eye(12) + 0.5)),
        "forgetting: the initial prior of 'kappa' correlates its numbers",
    ),
}


@pytest.mark.parametrize("case", UNFORGETTABLE)
def test_priors_that_nothing_can_fade_towards(blo, log, case):
    priors, match = UNFORGETTABLE[case]
    blob = BLOB(blo, "normal", priors)
    blob.fit(log, device="cpu", **QUICK)
    with pytest.raises(ValueError, match=match):
        blob.update(log, forgetting=0.5, **QUICK)
    blob.update(log, **QUICK)


def test_what_scales_must_be(blo):
    with pytest.raises(ValueError, match=r"scales\['kappa_scale'\]: must be positive and finite, got -1"):
        BanditPriors(scales={"kappa_scale": -1.0})
    with pytest.raises(ValueError, match=r"scales: \['other'\] are not learned here; learned are \['kappa_scale'\]"):
        BLOB(blo, priors=BanditPriors(scales={"other": 1.0}))
