"""The guide contract: all guides that ship keep it, planted bad ones are caught, any kind of guide fits."""

import math
from functools import partial
from itertools import count

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from blob_pyro import BLOB, BanditPriors
from blob_pyro.guides import GUIDES, FullGuide, LowRankGuide, NormalGuide, make_guide
from blob_pyro.models import BanditModel
from blob_pyro.models.sites import KAPPA, MULTIVARIATE, W_A, W_B, W_C, ZETA
from blob_pyro.testing import check_guide

AUTOGUIDES = [AutoNormal, AutoDelta, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoIAFNormal]
_number = count()


@pytest.mark.parametrize("guide", [*sorted(GUIDES), *AUTOGUIDES], ids=lambda g: g if isinstance(g, str) else g.__name__)
def test_every_guide_keeps_the_contract(guide):
    check_guide(guide)


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


# --- planted: each breaks one point of the contract -------------------------------------------------------------------


class Extra(NormalGuide):
    def forward(self, batch=None):
        pyro.sample("w_d", dist.Normal(self.w_a_loc, 1.0))
        return super().forward(batch)


class Missing(NormalGuide):
    def forward(self, batch=None):
        return {n: pyro.sample(n, self.site_posterior(n)) for n in self._event_dims if n not in (ZETA, W_B)}


class Misshapen(NormalGuide):
    def site_posterior(self, name):
        if name != KAPPA:
            return super().site_posterior(name)
        return dist.Normal(self.kappa_loc[:-1], self.kappa_scale[:-1]).to_event(1)


class NoBatch(NormalGuide):
    def forward(self):
        return super().forward(None)


class TwoArguments(NormalGuide):
    def forward(self, batch, temperature):
        return super().forward(batch)


class NeedsEvents(NormalGuide):
    def forward(self, batch=None):
        assert len(batch.action) > 0
        return super().forward(batch)


class Lazy(NormalGuide):
    def forward(self, batch=None):
        if batch is not None and len(batch) > 1 and not hasattr(self, "late"):
            self.late = PyroParam(torch.tensor(0.0))
        return super().forward(batch)


class Loose(NormalGuide):
    def forward(self, batch=None):
        pyro.param("loose", torch.tensor(0.0))
        return super().forward(batch)


class Dead(NormalGuide):
    def __init__(self, model):
        super().__init__(model)
        self.unused = PyroParam(torch.tensor(1.0))


class NotFiniteGradient(NormalGuide):
    def site_posterior(self, name):
        if name != W_A:
            return super().site_posterior(name)
        return dist.Normal(self.w_a_loc + (self.w_a_loc * 0).abs().sqrt(), self.w_a_scale)


class NotFinite(NormalGuide):
    def site_posterior(self, name):
        return dist.Delta(torch.tensor(math.nan)) if name == W_C else super().site_posterior(name)


class Amnesiac(NormalGuide):
    """Holds a number that is not saved."""

    def __init__(self, model):
        super().__init__(model)
        self.offset = 0.1 * next(_number)

    def site_posterior(self, name):
        distribution = super().site_posterior(name)
        return dist.Normal(distribution.loc + self.offset, distribution.scale) if name == W_A else distribution


class Namesake(PyroModule):
    """All of them have one name, and so one set of parameters in Pyro's store."""

    def __init__(self, model):
        super().__init__("namesake")
        self.shapes = {name: prior.event_shape for name, prior in model.site_priors().items()}
        for name, shape in self.shapes.items():
            setattr(self, f"{name}_loc", PyroParam(torch.zeros(shape)))

    def forward(self, batch=None):
        for name, shape in self.shapes.items():
            pyro.sample(name, dist.Normal(getattr(self, f"{name}_loc"), 0.1).to_event(len(shape)))


BAD = {
    Extra: r"missing none, extra \['w_d'\]",
    Missing: r"missing \['w_b', 'zeta'\], extra none",
    Misshapen: r"site 'kappa' has draws of shape \(5,\), the model's prior \(6,\)",
    NoBatch: r"must be callable as guide\(batch\)",
    TwoArguments: r"must be callable as guide\(batch\).*temperature",
    NeedsEvents: "fails when it is called with NoneType",
    Lazy: "late appears only when it is called",
    Loose: "loose appears only when it is called",
    Dead: "unused never gets a gradient",
    NotFiniteGradient: "the gradient of w_a_loc is not finite",
    NotFinite: "site 'w_c' draws a value that is not finite",
    Amnesiac: "loaded from a saved state it draws another 'w_a'",
    Namesake: "read one another's parameters",
}


@pytest.mark.parametrize(("guide", "message"), BAD.items(), ids=[g.__name__ for g in BAD])
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_bad_guides_are_caught(guide, message):
    with pytest.raises(ValueError, match=message), pyro.validation_enabled(False):
        check_guide(guide)


# --- by name, class, instance, function -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guide", ["matrix_normal_full", "low_rank", "full", AutoNormal, AutoMultivariateNormal, AutoIAFNormal]
)
def test_any_guide_fits_and_answers(blo, log, guide):
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


def test_full_covariance_has_a_limit():
    with pytest.raises(ValueError, match="use 'low_rank' or 'laplace' beyond 5000 numbers"):
        FullGuide(BanditModel(torch.randn(5000, 1)))


def test_full_finds_the_correlation_that_normal_cannot(blo, log):
    """w_c and the kappas trade off against each other: mean-field is too sure of w_c."""
    priors = BanditPriors(kappa_scale=0.5)
    spread = {}
    for guide in ("normal", "full", "laplace"):
        blob = BLOB(blo, guide=guide, priors=priors)
        blob.fit(log, num_epochs=150, batch_size=4096, progress=False, device="cpu")
        spread[guide] = float(blob.posterior()[W_C].variance.sqrt())
    assert spread["normal"] < 0.85 * spread["laplace"]
    assert spread["full"] == pytest.approx(spread["laplace"], rel=0.3)


def test_the_multivariate_distribution_by_its_old_name():
    guide = FullGuide(BanditModel(torch.randn(4, 1)))
    with pytest.warns(DeprecationWarning, match="FullGuide: 'joint' is now called 'multivariate'"):
        old = guide.joint()
    assert torch.equal(old.covariance_matrix, guide.multivariate().covariance_matrix)
    with pytest.warns(DeprecationWarning, match="'JOINT' is now called 'MULTIVARIATE'"):
        from blob_pyro.models.sites import JOINT
    assert JOINT == MULTIVARIATE
