"""One part of each kind as somebody outside the package writes it: what `test_extension` fits, saves and loads."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import blob_pyro
from blob_pyro.guides import TrainingDefaults
from blob_pyro.infer import Bound, register_bound
from blob_pyro.models.operations import LinearOperation, inner
from blob_pyro.ope import ips, register_estimator
from blob_pyro.ops.names import unique_name


@blob_pyro.register_guide("mine")
class MyGuide(PyroModule):
    """Independent normals that share one width for each site."""

    training_defaults = TrainingDefaults(num_steps=20, batch_size=1 << 16, learning_rate=0.1)

    def __init__(self, model):
        super().__init__(unique_name("mine"))
        self.shapes = {name: prior.event_shape for name, prior in model.site_priors().items()}
        for name, shape in self.shapes.items():
            setattr(self, f"{name}_loc", PyroParam(model.item_embedding.new_zeros(shape)))
            width = model.item_embedding.new_tensor(0.3)
            setattr(self, f"{name}_width", PyroParam(width, constraints.positive))

    def forward(self, batch=None):
        for name, shape in self.shapes.items():
            normal = dist.Normal(getattr(self, f"{name}_loc"), getattr(self, f"{name}_width"))
            pyro.sample(name, normal.to_event(len(shape)))


@blob_pyro.register_guide("mine_made")
def make_mine(model):
    """A factory."""
    return MyGuide(model)


def make_auto(model):
    """A factory of Pyro's own."""
    return AutoNormal(model, init_scale=0.2)


blob_pyro.register_guide(
    "mine_auto",
    make_auto,
    training_defaults=TrainingDefaults(num_steps=20, batch_size=1 << 16, learning_rate=0.1, start="prior"),
)


@blob_pyro.register_guide("mine_of_the_batch")
def of_the_batch(batch):
    """A function that samples the sites of a model with few."""
    for name, start in (("w_a", 0.0), ("w_c", -4.0)):
        loc = pyro.param(f"{name}_loc", torch.tensor(start))
        width = pyro.param(f"{name}_width", torch.tensor(0.3), constraint=constraints.positive)
        pyro.sample(name, dist.Normal(loc, width))


@blob_pyro.register_term
@dataclass(frozen=True)
class Waves:
    """Items differ by where they stand in the catalogue: ``sum_f g_f sin(f x)``, ``g ~ N(0, scale^2 I_F)``."""

    num_waves: int
    scale: float = 1.0

    def build(self, model):
        place = torch.arange(model.num_items).to(model.item_embedding) / model.num_items
        model.register_buffer("wave", torch.sin(torch.outer(place, 1.0 + torch.arange(self.num_waves))))

    def site_priors(self, model):
        zeros = model.item_embedding.new_zeros(self.num_waves)
        return {"wave_weight": dist.Normal(zeros, self.scale).to_event(1)}

    def logit(self, model, values, events):
        return inner("wave_weight", values["wave_weight"], model.wave[events.action])


class Contrast(LinearOperation):
    """``x[first_n] - x[second_n]``."""

    event_dim = 1

    def value(self, x, *coefficients):
        first, second = coefficients
        return x[..., first] - x[..., second]


contrast = Contrast()


@blob_pyro.register_term
@dataclass(frozen=True)
class Neighbours:
    """Items differ by a contrast with the next one in the catalogue."""

    scale: float = 0.5

    def build(self, model):
        pass

    def site_priors(self, model):
        return {"level": dist.Normal(model.item_embedding.new_zeros(model.num_items), self.scale).to_event(1)}

    def logit(self, model, values, events):
        return contrast("level", values["level"], events.action, (events.action + 1) % model.num_items)


@register_bound("mine")
@dataclass(frozen=True)
class AtTheMean(Bound):
    """The log-likelihood at the posterior's mean, less a penalty for its width."""

    penalty: float = 0.1

    def expected_log_prob(self, views, q, value):
        logits = q.mean @ views.item_embedding.mT + views.item_intercept
        normalizer = (value >= 0).sum(-1) * logits.logsumexp(-1)
        return views.linear(value, q.mean) - normalizer - self.penalty * q.variance.sum(-1)


def add_estimator():
    """Make an estimator known by name."""
    register_estimator("mine", lambda rows: ips(rows.reward, rows.target, rows.logging, groups=rows.groups, clip=2.0))


class FewestViews:
    """A baseline: what has been viewed least comes first."""

    def __init__(self, items):
        self.items = items

    def scores(self, histories):
        return -blob_pyro.data.as_histories(histories, self.items).counts().float()
