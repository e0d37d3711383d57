"""The uncertainty of kappa's learned scale: its posterior, and what it does to items that were never shown."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.infer import kappa_scale
from blob_pyro.infer.kappa_scale import SCALE_OF_SCALE, kappa_scale_posterior, spread_kappa_scale
from blob_pyro.models import BanditBatch
from blob_pyro.models.priors.learned import Learned

ROOT = Path(__file__).parents[2]
CLICKS, SHOWN = [9, 2, 30, 0, 14, 0], [60, 40, 80, 25, 70, 0]  # the last item is never shown


def counted(clicks=CLICKS, shown=SHOWN, **priors):
    """Items that differ in their own click logits, and in nothing else."""
    blo = BLO(len(shown), embedding_dim=1)
    blo.fits = [{"call": "fit"}]
    blob = BLOB(blo, "normal", BanditPriors(w_a=-1.0, w_b=-6.0, zeta=0.0, **priors))
    action = torch.arange(len(shown)).repeat_interleave(torch.tensor(shown))
    reward = torch.cat([(torch.arange(n) < k).float() for k, n in zip(clicks, shown)])
    batch = BanditBatch(torch.zeros(1, 1), torch.zeros_like(action), action, reward, len(action))
    return blob, batch


def rms_by_quadrature(clicks, shown, base):
    """The root mean square of the scale, given the base rate: each item's kappa integrated on a grid of its own."""
    scales, z = np.exp(np.linspace(np.log(1e-3), np.log(4), 400)), np.linspace(-8, 8, 801)
    log = np.log(scales) + stats.halfnorm.logpdf(scales, scale=SCALE_OF_SCALE)
    for k, n in zip(clicks, shown):
        likelihood = np.exp(stats.binom.logpmf(k, n, 1 / (1 + np.exp(-base - scales[:, None] * z))))
        log += np.log((likelihood * stats.norm.pdf(z)).sum(1))
    weights = np.exp(log - log.max())
    return np.sqrt((weights * scales**2).sum() / weights.sum())


@pytest.mark.parametrize(
    ("clicks", "shown"), [(CLICKS, SHOWN), ([1, 0, 1], [300, 200, 100]), ([90, 400, 250], [500] * 3)], ids=str
)
def test_the_posterior_is_that_of_quadrature(clicks, shown):
    blob, batch = counted(clicks, shown, w_c=-1.5)
    scales, weights = kappa_scale_posterior(blob.model, blob.guide, batch)
    assert float(weights.sum()) == pytest.approx(1)
    found = float((weights * scales.square()).sum().sqrt())
    assert found == pytest.approx(rms_by_quadrature(clicks, shown, -1.5), rel=0.005)


@pytest.mark.parametrize("sd", [0.1, 0.3, 0.44])
@pytest.mark.parametrize("mode", [-2.0, -1.37, -0.8])  # in log s, at and between the nodes of the first grid
def test_the_grid_spans_a_posterior_of_any_width(monkeypatch, sd, mode):
    """The root mean square of a lognormal ``s`` is ``exp(mode + sd^2)``."""
    blob, batch = counted()

    def given(self, scale):  # the evidence under which the posterior of log s is N(mode, sd^2)
        x = np.log(scale)
        return SimpleNamespace(evidence=-0.5 * ((x - mode) / sd) ** 2 - x + 0.5 * (scale / SCALE_OF_SCALE) ** 2)

    monkeypatch.setattr(kappa_scale._ItemsOwnLogits, "given", given)
    scales, weights = kappa_scale_posterior(blob.model, blob.guide, batch)
    assert float((weights * scales.square()).sum().sqrt()) == pytest.approx(np.exp(mode + sd**2), rel=0.01)


def test_where_no_item_is_shown_much_the_prior_is_what_is_known():
    blob, batch = counted([0, 0, 0], [1, 1, 1])
    scales, weights = kappa_scale_posterior(blob.model, blob.guide, batch)
    assert float((weights * scales.square()).sum().sqrt()) == pytest.approx(SCALE_OF_SCALE, rel=0.01)


@pytest.mark.parametrize("rate", [5.0, 1000.0])
def test_a_rate_is_the_prior_in_place_of_the_half_normal(rate):
    """An exponential prior's root mean square is ``sqrt(2) / rate``."""
    blob, batch = counted([0, 0, 0], [1, 1, 1], kappa_scale=Learned(0.1, rate))
    scales, weights = kappa_scale_posterior(blob.model, blob.guide, batch)
    assert float((weights * scales.square()).sum().sqrt()) == pytest.approx(2**0.5 / rate, rel=0.01)


def test_where_many_items_are_shown_a_lot_it_is_their_spread():
    truth = np.random.default_rng(0).normal(0, 1.5, 150)
    clicks = np.round(4000 / (1 + np.exp(1.0 - truth))).astype(int).tolist()
    blob, batch = counted(clicks, [4000] * 150)
    scales, weights = kappa_scale_posterior(blob.model, blob.guide, batch)
    assert float((weights * scales.square()).sum().sqrt()) == pytest.approx(truth.std(ddof=1), rel=0.05)


def test_kappa_moves_with_its_scale():
    """To where it belongs under the new scale: conditional modes by SciPy, and variances by their curvature."""
    blob, batch = counted(w_c=-1.5, kappa_scale=Learned(0.1))
    model, guide = blob.model, blob.guide
    shown, clicks = torch.tensor(SHOWN).double(), torch.tensor(CLICKS).double()

    def given(scale):
        def mode(k, n):
            return minimize_scalar(
                lambda x: -stats.binom.logpmf(k, n, 1 / (1 + np.exp(1.5 - x))) - stats.norm.logpdf(x, scale=scale),
                bounds=(-4, 4), method="bounded",
            ).x  # fmt: skip

        loc = torch.tensor([mode(k, n) for k, n in zip(CLICKS, SHOWN)])
        p = torch.sigmoid(loc - 1.5)
        return loc, (shown * p * (1 - p) + scale**-2).rsqrt()

    assert clicks.sum() == batch.reward.sum()
    (loc, deviation), before = given(0.1), float(model.kappa_scale.detach())
    guide.kappa_loc, guide.kappa_scale = loc.float(), deviation.float()
    figures = spread_kappa_scale(model, guide, batch)
    assert figures == {"kappa_scale_mode": before, "kappa_scale": pytest.approx(float(model.kappa_scale.detach()))}
    assert figures["kappa_scale"] > 2 * before
    loc, deviation = given(figures["kappa_scale"])
    assert torch.allclose(guide.kappa_loc.detach().double(), loc, atol=2e-3)
    assert torch.allclose(guide.kappa_scale.detach().double(), deviation, rtol=2e-3)
    assert float(guide.kappa_scale[-1].detach()) == pytest.approx(figures["kappa_scale"], rel=1e-3)  # never shown


def test_what_is_left_alone(monkeypatch):
    for priors in ({"kappa_scale": 0.3}, {"kappa": dist.Normal(torch.zeros(6), 0.2).to_event(1)}, {"kappa": 0.0}):
        blob, batch = counted(**priors)
        assert spread_kappa_scale(blob.model, blob.guide, batch) == {}
    blob, batch = counted()
    monkeypatch.setattr(kappa_scale, "MOST_EVENTS", len(batch) - 1)
    assert spread_kappa_scale(blob.model, blob.guide, batch) == {}


@pytest.mark.parametrize(
    ("guide", "rate"),
    [
        ("arrowhead_normal", 0.001),
        ("arrowhead_normal", 0.15),
        ("laplace", 0.001),
        ("laplace", 0.15),
        pytest.param("arrowhead_normal", 0.01, marks=pytest.mark.slow),
        pytest.param("arrowhead_normal", 0.999, marks=pytest.mark.slow),
        pytest.param("normal", 0.01, marks=pytest.mark.slow),
        pytest.param("laplace", 0.01, marks=pytest.mark.slow),
        pytest.param("laplace", 0.999, marks=pytest.mark.slow),
    ],
)
def test_unshown_items_are_as_uncertain_as_under_nuts(guide, rate):
    """The study's problem: `python benchmarks/unshown_items.py --gold`, then without; tolerances are the study's."""
    spec = importlib.util.spec_from_file_location("unshown_items", ROOT / "benchmarks" / "unshown_items.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    gold = pd.read_csv(ROOT / "benchmarks" / "results" / "unshown_items" / "gold.csv")
    gold = gold[gold.rate == rate].set_index("items")
    blob = study.make(guide, 200)
    batch = study.events(blob, rate, 200)
    assert int(batch.reward.sum()) == gold.clicks["shown"]
    study.fit(blob, batch, 200)
    found = pd.DataFrame(study.described(blob, guide, rate, 200)).set_index("items")
    assert float(blob.model.kappa_scale.detach()) == pytest.approx(gold.kappa_scale["unshown"], rel=0.1)
    tolerances = {"logit_sd": study.TOLERANCE[guide][rate]}
    if rate == 0.15:
        tolerances.update(probability_sd=0.1, probability_mean=0.03)
    for items in ("shown", "unshown"):
        if guide in study.MEAN_TOLERANCE:
            away = abs(found.loc[items, "logit_mean"] - gold.loc[items, "logit_mean"])
            assert away < study.MEAN_TOLERANCE[guide] * gold.loc[items, "logit_sd"], items
        for column, tolerance in tolerances.items():
            assert found.loc[items, column] == pytest.approx(gold.loc[items, column], rel=tolerance), (items, column)
