"""A nested normal against Gaussians given the one number, put together by hand, and against draws."""

import pyro.distributions as dist
import pytest
import torch
from torch import Size
from torch.distributions import kl_divergence

from blob_pyro.distributions import MatrixNormal, MultivariatePart, NestedNormal, TabulatedDensity
from blob_pyro.distributions.insertion import Insertion, inserted
from blob_pyro.distributions.nested_normal import at_node
from blob_pyro.distributions.powers import log_normalizer, sharpened, widened
from blob_pyro.models import VectorPrior
from blob_pyro.serialization import codec, parts

NODES = torch.linspace(-4.0, 4.0, 9).double()
S, M = 4, 4
SHAPES = {"a": Size(()), "w": Size(()), "b": Size(()), "zeta": Size((1, 2)), "kappa": Size((4,))}


def nested(blocks=False):
    """``w`` is number 1; means bend with it, factors shrink."""
    torch.manual_seed(5)
    density = TabulatedDensity(NODES, -0.5 * torch.where(NODES < 0, 0.9, 1.5) * NODES.square())
    loc = torch.stack([torch.sin(0.4 * NODES + i) for i in range(S + M)], -1)
    scale = torch.tensor([0.2, 1.0, 3.0, 0.5]).double()
    base = 0.3 * torch.randn(S, S).double().tril(-1) + torch.eye(S).double()
    tril = torch.stack([torch.exp(-0.2 * node) * base * scale.unsqueeze(-1) for node in NODES])
    stretch = torch.stack([torch.exp(0.1 * i * NODES) for i in range(S)], -1)
    slope, own = 0.5 * torch.randn(M, S).double(), torch.tensor([0.1, 0.5, 1.0, 4.0]).double()
    if not blocks:
        return NestedNormal(1, density, loc, tril, stretch, slope, own)
    noise = torch.tensor([[[0.1, 0.0], [0.3, 0.6]], [[2.0, 0.0], [-1.0, 0.4]]]).double()
    return NestedNormal(1, density, loc, tril, stretch, slope.view(2, 2, S), noise, (1, 1))


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_density_and_moments(blocks):
    q = nested(blocks)
    torch.manual_seed(1)
    draws = q.sample((50_000,))
    few = draws[:20]
    w, others = q.without(few)
    given = [q.given(value) for value in w]
    expected = torch.stack(
        [dist.MultivariateNormal(g.loc, g.covariance_matrix).log_prob(x) for g, x in zip(given, others)]
    )
    assert torch.allclose(q.log_prob(few), expected + q.density.log_prob(w))
    assert ((draws.mean(0) - q.mean).abs() < 4.5 * (q.variance / 50_000).sqrt()).all()
    assert torch.allclose(draws.var(0), q.variance, rtol=0.06)
    assert torch.allclose(q.covariance_matrix.diagonal(), q.variance)
    deviation = q.variance.sqrt()
    correlation = q.covariance_matrix / torch.outer(deviation, deviation)
    assert torch.allclose(draws.mT.corrcoef(), correlation, atol=0.03)
    values = -q.log_prob(draws)
    assert abs(q.entropy() - values.mean()) < 4.5 * values.std() / 50_000**0.5
    assert q.expand((3, 1)).log_prob(few[:3].unsqueeze(1)).shape == (3, 1)


def test_means_are_had_without_variances(monkeypatch):
    """A prior's means are asked for in each SVI step; its variances cost a covariance at each point of quadrature."""
    q = nested()
    with monkeypatch.context() as patch:
        patch.setattr(NestedNormal, "_own_variance", lambda *_: pytest.fail("the variances were computed"))
        marginals = VectorPrior(q, SHAPES).marginals()
        assert torch.allclose(marginals["kappa"].mean, q.mean[5:])
    assert torch.allclose(marginals["kappa"].variance, q.variance[5:])
    monkeypatch.setattr(TabulatedDensity, "quadrature", lambda *_: pytest.fail("it was averaged again"))
    assert torch.equal(q.mean, q.mean)
    assert torch.equal(q.variance, q.variance)


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_at_nodes_it_is_what_it_was_given(blocks):
    q = nested(blocks)
    for number in (0, 3, 8):
        at, given = q.at_node(number), q.given(NODES[number])
        assert torch.allclose(given.loc, q.loc[number])
        assert torch.allclose(given.covariance_matrix, at.covariance_matrix)
    between = q.given((NODES[3] + NODES[4]) / 2)
    assert torch.allclose(between.loc, torch.sin(0.4 * (NODES[3] + NODES[4]) / 2 + torch.arange(S + M)), atol=1e-3)
    assert torch.equal(q.given(NODES[8] + 5).loc, q.given(NODES[8]).loc)
    assert float(q.node_weights.sum()) == pytest.approx(1)
    assert float(q.node_weights @ NODES) == pytest.approx(float(q.density.mean), abs=5e-3)


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_a_node_in_terms_of_a_common_slope(blocks):
    """As far along it as the node's own goes; a column that nothing follows keeps a stretch of 1."""
    q = nested(blocks)
    found = at_node(q.at_node(3), q.slope)
    assert torch.allclose(found.stretch, q.stretch[3])
    if not blocks:
        assert torch.allclose(found.own_precision, torch.tensor([100.0, 4.0, 1.0, 0.0625]).double())
    slope = q.slope.clone()
    slope[..., 2] = 0
    assert torch.allclose(at_node(q.at_node(3), slope).stretch, q.stretch[3].where(torch.arange(S) != 2, 1))


def test_where_a_spline_would_turn_a_factor_over_it_is_straight():
    scale = torch.tensor([1e3, 1e3, 1.0, 1.0, 1e3]).double().view(5, 1, 1)
    nodes, none = torch.arange(5.0).double(), torch.zeros(0, 1).double()
    density = TabulatedDensity(nodes, torch.zeros(5).double())
    q = NestedNormal(0, density, torch.zeros(5, 1).double(), scale, torch.ones(5, 1).double(), none, none[:, 0])
    assert q.given(torch.tensor(1.5).double()).shared_scale_tril.item() == pytest.approx(500.5)


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_its_gaussian_has_its_moments_where_it_is_one(blocks):
    q = nested(blocks)
    alike = {"shared_scale_tril": q.shared_scale_tril[:1].expand(9, -1, -1), "stretch": q.stretch[:1].expand(9, -1)}
    line = q.loc[:1] + NODES.unsqueeze(-1) * torch.linspace(-1, 1, S + M).double()
    straight = q.with_density(TabulatedDensity(NODES, -0.5 * NODES.square()), loc=line, **alike)
    found = straight.gaussian()
    assert torch.allclose(found.covariance_matrix, straight.covariance_matrix, rtol=5e-3, atol=5e-3)
    assert torch.allclose(found.loc, straight.mean, atol=1e-6)
    at, spread = torch.tensor(0.7).double(), torch.tensor(0.3).double()
    other = straight.gaussian(at, spread)
    place = int(straight.together(torch.ones(()).double(), torch.zeros(S + M).double()).argmax())
    assert other.loc[place] == pytest.approx(0.7)
    assert other.variance[place].sqrt() == pytest.approx(0.3)
    assert torch.allclose(other.loc, straight.together(at, straight.given(at).loc))


def test_cross_entropies_are_averages_over_draws():
    q = nested()
    torch.manual_seed(2)
    draws = q.sample((50_000,))
    zeta = MultivariatePart(q.mean, q, 3, Size((1, 2)))
    tril = torch.tensor([[0.7, 0.0], [0.4, 2.0]]).double()
    prior = MatrixNormal(torch.tensor([[0.3, -1.0]]).double(), torch.eye(1).double(), tril)
    values = -prior.log_prob(draws[:, 3:5].view(-1, 1, 2))
    assert abs(kl_divergence(zeta, prior) - values.mean()) < 4.5 * values.std() / 50_000**0.5
    normal = dist.Normal(torch.tensor(0.5).double(), 2.0)
    values = -normal.log_prob(draws[:, 1])
    part = MultivariatePart(q.mean, q, 1, Size(()))
    assert abs(kl_divergence(part, normal) - values.mean()) < 4.5 * values.std() / 50_000**0.5


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_a_product_is_one_at_its_nodes(blocks):
    """Up to one constant, which is the integral; a power too."""
    q = nested(blocks)
    precision, loc = torch.linspace(0.1, 2, 9).double(), torch.linspace(-1, 1, 9).double()
    product = sharpened(q, precision, loc)
    constant = log_normalizer(q, product, precision, loc)
    torch.manual_seed(3)
    for number in (2, 4, 6):
        point = q.together(NODES[number], torch.randn(S + M).double())
        tilt = -0.5 * (precision * (point - loc).square()).sum()
        assert float(q.log_prob(point) + tilt - product.log_prob(point)) == pytest.approx(float(constant), abs=1e-6)
    draws = q.sample((100_000,))
    integral = (-0.5 * (precision * (draws - loc).square()).sum(-1)).logsumexp(0) - torch.tensor(100_000.0).log()
    assert float(constant) == pytest.approx(float(integral), abs=0.1)
    power = widened(q, 0.6**-0.5)
    differences = []
    for number in (2, 4, 6):
        point = q.together(NODES[number], torch.randn(S + M).double())
        differences.append(float(0.6 * q.log_prob(point) - power.log_prob(point)))
    assert differences[1:] == pytest.approx([differences[0]] * 2, abs=1e-6)


@pytest.mark.parametrize("blocks", [False, True], ids=["numbers", "blocks"])
def test_new_numbers_come_in_between(blocks):
    """A number that is shared before the others, and a fifth of ``kappa``, or a third row of both of its arrays."""
    q = nested(blocks)
    before = {**SHAPES, "kappa": Size((4,))} if not blocks else {
        "a": Size(()), "w": Size(()), "b": Size(()), "zeta": Size((1, 2)), "beta": Size((2, 1)), "kappa": Size((2,))
    }  # fmt: skip
    before = {"a": Size(()), "empty": Size((0,)), **before}  # which begins where w does
    after = {"new": Size(()), **before, "kappa": Size((5,))}
    if blocks:
        after = {**after, "beta": Size((3, 1)), "kappa": Size((3,))}
    loc = {name: torch.full(shape, 0.5).double() for name, shape in after.items()}
    scale = {name: torch.full(shape, 3.0).double() for name, shape in after.items()}
    new = Insertion(before, after, loc, scale)
    longer = inserted(q, new)
    place, size = new.place, sum(shape.numel() for shape in after.values())
    others = [i for i in range(size) if i not in place.tolist()]
    assert torch.allclose(longer.mean[place], q.mean)
    assert torch.allclose(longer.covariance_matrix[place.unsqueeze(-1), place], q.covariance_matrix)
    assert torch.allclose(longer.variance[others], torch.tensor(9.0).double())
    assert longer.covariance_matrix[others][:, place].abs().max() < 1e-9
    apart = {"a": Size((2,)), **{name: shape for name, shape in before.items() if name not in ("a", "w")}}
    with pytest.raises(ValueError, match="number 1 is no site of its own in"):
        inserted(q, Insertion(apart, apart, loc, scale))


def test_it_is_saved_and_its_shapes_are_checked():
    assert parts
    q = nested(blocks=True)
    tensors = {}
    back = codec.decode(codec.encode(q, tensors), tensors)
    point = q.sample((3,))
    assert torch.equal(back.log_prob(point), q.log_prob(point))
    with pytest.raises(ValueError, match=r"for 9 nodes and a slope of \(4, 4\) expected loc"):
        NestedNormal(0, q.density, torch.zeros(9, 3), q.shared_scale_tril, q.stretch, torch.zeros(4, 4), torch.ones(4))
