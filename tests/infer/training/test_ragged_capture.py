"""Captured steps of ragged rows: the floats of the steps they were recorded from, whatever the sizes."""

import copy

import pytest
import torch
from pyro.distributions import Normal
from torch import nn

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.infer import BOUNDS, CannotCapture, GuidedELBO, Reparameterized, Training, seeded, train
from blob_pyro.infer.training.ragged_capture import CapturedRaggedStep
from blob_pyro.models import OrganicPriors

P, K = 12, 3


@pytest.fixture
def sessions():
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 9, (200,), generator=draw)
    return Histories.from_ragged(torch.randint(P, (int(lengths.sum()),), generator=draw), lengths, P)


def fit(blo, sessions, capture, batch_size=32):
    blo = copy.deepcopy(blo)
    with seeded(3, "cpu"):
        modules = [blo.bound.module] if blo.bound.module else []
        settings = Training(4, batch_size, 0.03, capture=capture)
        elbo = GuidedELBO(blo.bound)
        trace = train(blo.model, blo.guide, elbo, blo.batch(sessions), settings, modules=modules, progress=False)
    return trace, [p.detach() for m in (blo.model, blo.guide) for p in m.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder": "linear"},
        {"encoder": "deep"},
        {"covariance": "full"},
        {"encoder": "linear", "covariance": "full"},
        {"priors": OrganicPriors(Normal(0.0, 0.5))},
        {"priors": OrganicPriors(Normal(0.0, 0.5), Normal(0.0, 2.0), inference="posterior")},
        {"bound": Reparameterized(num_samples=3)},
        {"bound": "log_concave"},
    ],
    ids=[
        "precision", "linear", "deep", "full covariance", "linear, full covariance", "priors", "posterior of items",
        "three draws", "log-concave",
    ],
)  # fmt: skip
def test_fit_is_the_same_to_the_float(sessions, options):
    blo = BLO(P, K, **options)
    (eager, expected), (captured, found) = (fit(blo, sessions, capture) for capture in (False, True))
    assert (eager.attrs["captured"], captured.attrs["captured"]) == (False, True)
    assert captured.elbo.tolist() == pytest.approx(eager.elbo.tolist(), rel=1e-6)
    for one, other, start in zip(expected, found, [*blo.model.parameters(), *blo.guide.parameters()]):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)
        assert not torch.equal(one, start)


def test_sizes_that_would_decide_otherwise_are_left_to_the_function():
    table = torch.arange(4.0)

    def function(views, row):
        factor = 1.0 if views.shape[0] > 3 else 10.0  # recorded as it is decided for five views
        return [factor * table[views].sum() + 0 * row.sum()]

    five, four = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([3, 3, 1, 0])
    step = CapturedRaggedStep(function, [five, five], [])
    assert step([four, four])[0].item() == 7
    assert step([four[:3], four[:3]]) is None
    assert step([five, four]) is None  # sizes that were the same when it was recorded
    assert step([four[:1], four[:1]]) is None


def test_a_size_that_becomes_a_number_binds():
    step = CapturedRaggedStep(lambda views: [views.sum() * int(views.shape[0])], [torch.arange(5)], [])
    assert step([torch.arange(5)])[0].item() == 50
    assert step([torch.arange(6)]) is None


class LooksAtLengths(nn.Module):
    """An encoder that decides by values: it cannot be recorded."""

    def __init__(self):
        super().__init__()
        self.item = nn.Parameter(0.1 * torch.ones(P, K))

    def forward(self, histories):
        loc = histories.sum_rows(self.item) / max(1, int(histories.lengths_on_host.max()))
        return loc, torch.ones_like(loc)


@pytest.mark.parametrize("options", [{"encoder": LooksAtLengths()}, {"bound": "bouchard"}], ids=["encoder", "bound"])
@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning")
def test_what_looks_at_values_is_refused_or_left_as_it_is(sessions, options):
    blo = BLO(P, K, **options)
    with pytest.raises(CannotCapture, match="cannot be recorded"):
        fit(blo, sessions, True)
    assert not fit(blo, sessions, "auto")[0].attrs["captured"]
    trace = blo.fit(sessions, num_epochs=60, batch_size=16, progress=False)
    assert not trace.attrs["captured"]


class Own(Reparameterized):
    """What it does from step to step is not known."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"encoder": "deep"}, True), ({"bound": Own()}, False), ({"encoder": LooksAtLengths()}, False)],
    ids=["default", "deep", "bound of one's own", "encoder of one's own"],
)
@pytest.mark.filterwarnings("ignore::blob_pyro.infer.ConvergenceWarning")
def test_blo_captures_what_is_known_to_be_the_same_every_step(sessions, options, expected):
    trace = BLO(P, K, **options).fit(sessions, num_epochs=40, batch_size=10, learning_rate=0.003, progress=False)
    assert trace.attrs["captured"] is expected


def test_bounds_do_not_say_so_by_themselves():
    assert BOUNDS["reparameterized"]().is_same_every_step
    assert not Own().is_same_every_step
