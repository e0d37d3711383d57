"""The guide contract: all guides that ship keep it, planted bad ones are caught, any kind of guide fits."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch.distributions import constraints

from blob_pyro import BLOB, BanditPriors
from blob_pyro.guides import LowRankGuide, NormalGuide, make_guide
from blob_pyro.models import BanditModel
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.testing import check_guide


def plain_function(batch):
    """A user's guide, without a class."""
    for name, event_dim in ((W_A, 0), (W_B, 0), (W_C, 0), (KAPPA, 1), (ZETA, 2)):
        shape = {0: (), 1: (6,), 2: (2, 2)}[event_dim]
        loc = pyro.param(f"{name}_mean", torch.zeros(shape))
        scale = pyro.param(f"{name}_sd", 0.1 * torch.ones(shape), constraint=constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale).to_event(event_dim))


def test_a_function_is_a_guide():
    check_guide(plain_function)
    model = BanditModel(torch.randn(6, 2))
    first, second = make_guide(plain_function, model), make_guide(plain_function, model)
    with torch.no_grad():
        first.parameter_0_unconstrained.fill_(3.0)
    trace = pyro.poutine.trace(first).get_trace(None)
    assert trace.nodes[W_A]["fn"].mean == 3.0
    assert pyro.poutine.trace(second).get_trace(None).nodes[W_A]["fn"].mean == 0.0


@pytest.mark.parametrize(
    "guide", ["matrix_normal_full", "low_rank", "full", AutoNormal, AutoMultivariateNormal, AutoIAFNormal]
)
def test_any_guide_fits_and_answers(blo, log, guide, short_starts):
    blob = BLOB(blo, guide=guide, priors=BanditPriors(kappa_scale=0.3))
    rate = 0.003 if guide is AutoIAFNormal else None  # it starts near the prior, where large steps only shake it
    history = blob.fit(log, num_epochs=25, batch_size=1024, learning_rate=rate, progress=False, device="cpu")
    from_the_mode = 0.01 if guide in ("full", "low_rank") else 0.0  # which it can only shake about
    assert history.elbo.iloc[-5:].mean() > history.elbo.iloc[0] - from_the_mode
    logits = blob.click_logits([[0, 0, 1], []])
    draws = logits.sample((4000,))
    assert draws.shape == (4000, 2, 12)
    assert ((draws.mean(0) - logits.mean).abs() < 5 * logits.variance.sqrt() / 4000**0.5).all()
    q = blob.posterior()
    assert q[KAPPA].mean.shape == (12,)
    assert torch.allclose(q[KAPPA].variance, blob.sample(4000)[KAPPA].var(0), rtol=0.25)


def test_an_instance(blo, log):
    model = BLOB(blo).model
    blob = BLOB(blo, guide=LowRankGuide(model, rank=2))
    assert blob.guide.factor.shape == (12 + 9 + 3, 2)
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    with pytest.raises(ValueError, match="rank: must lie between 1 and 24, got 40"):
        LowRankGuide(model, rank=40)


def test_map_needs_scales():
    with pytest.raises(ValueError, match="the model learns kappa_scale, and a density has no mode"):
        make_guide("delta", BanditModel(torch.randn(4, 2)))


def test_pyro_s_guides_that_are_not_what_they_seem(blo):
    fixed, learned = BanditModel(torch.randn(4, 2), BanditPriors(kappa_scale=0.3)), BanditModel(torch.randn(4, 2))
    for guide in (AutoLaplaceApproximation, AutoLaplaceApproximation(fixed)):
        with pytest.raises(ValueError, match=r"guide: AutoLaplaceApproximation is a point mass .* use guide='laplace'"):
            make_guide(guide, fixed)
    with pytest.raises(ValueError, match="guide AutoDelta: the model learns kappa_scale"):
        make_guide(AutoDelta, learned)
    assert isinstance(make_guide(AutoDelta, fixed), AutoDelta)
    with pytest.raises(ValueError, match="AutoLaplaceApproximation"):
        BLOB(blo, guide=AutoLaplaceApproximation)


def test_a_function_of_the_model_makes_a_guide(blo, log):
    blob = BLOB(blo, guide=lambda model: LowRankGuide(model, rank=2))
    blob.fit(log, num_epochs=3, batch_size=1024, progress=False, device="cpu")
    assert isinstance(blob.guide, LowRankGuide)
    assert isinstance(make_guide(partial(LowRankGuide, rank=1), blob.model), LowRankGuide)
    with pytest.raises(ValueError, match=r"guide: the function fails when it is called with a batch.*argument 'model'"):
        BLOB(blo, guide=lambda m: NormalGuide(m))
    with pytest.raises(ValueError, match=r"guide: the function of the batch returned a NormalGuide.*argument 'model'"):
        BLOB(blo, guide=lambda batch: NormalGuide(blob.model))
