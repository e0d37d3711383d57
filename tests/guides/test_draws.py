"""A guide of draws plays whole draws, each as often as the others."""

import pytest
import torch
from pyro import poutine

from blob_pyro.guides.certainty import certain_sites, is_a_set_of_draws
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.models import BanditModel


@pytest.fixture
def guide():
    guide = DrawsGuide(BanditModel(torch.randn(5, 2)), num_draws=4)
    number = torch.arange(4.0)
    guide.fill({n: number.view(4, *[1] * len(shape)).expand(4, *shape) for n, shape in guide.shapes.items()})
    return guide


def test_all_sites_of_one_draw_together(guide):
    torch.manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(300):
        values = {float(v) for value in guide().values() for v in value.flatten()}
        assert len(values) == 1
        counts[int(values.pop())] += 1
    assert (counts > 45).all()


def test_it_has_no_density():
    model = BanditModel(torch.randn(5, 2))
    assert is_a_set_of_draws(DrawsGuide(model, num_draws=4), model)


def test_before_it_is_filled_it_is_a_point():
    model = BanditModel(torch.randn(5, 2))
    assert set(certain_sites(DrawsGuide(model, num_draws=4), model)) == set(model.site_priors())


def test_sites_are_the_models(guide):
    trace = poutine.trace(guide).get_trace(None)
    assert set(guide.shapes) <= set(trace.nodes)
