"""The contract of a guide: kept by ours, and planted faults are caught."""

import math
from itertools import count

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam

from blob_pyro.guides import GUIDES, NormalGuide
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.testing import check_guide

AUTOGUIDES = [AutoNormal, AutoDelta, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoIAFNormal]


_number = count()


@pytest.mark.parametrize("guide", [*sorted(GUIDES), *AUTOGUIDES], ids=lambda g: g if isinstance(g, str) else g.__name__)
def test_every_guide_keeps_the_contract(guide):
    check_guide(guide)


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
