"""Encoders: their formulas one history at a time, sparse and dense alike, with every head and every bound."""

import pytest
import torch

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.guides import ENCODERS, OffsetNetwork
from blob_pyro.infer import BOUNDS, Bouchard, GuidedELBO, LogConcave, OneVsEach
from blob_pyro.models import OrganicBatch
from tests.guides.encoded import K, P

SESSIONS = [[0, 3, 3, 7], [], [11], [2] * 30]


NAMES = list(ENCODERS)


@pytest.fixture
def histories():
    return Histories.from_sequences(SESSIONS, num_items=P)


def perturbed(encoder):
    """Away from a start at which some weights are zero."""
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder.double()


def softplus(x):
    return (1 + x.exp()).log()


def linear(e, h):
    return h @ e.loc_weight + e.loc_bias, (1 + softplus(h @ e.precision_weight + e.precision_bias)) ** -0.5


def precision(e, h):
    total = h.sum(-1, keepdim=True)
    loc = (h @ e.weight + e.bias) / (1 + total * softplus(e.shrinkage))
    return loc, (1 + h @ softplus(e.evidence)) ** -0.5


def deep(e, h):
    x = (h @ e.item_weight + e.item_bias).clamp(min=0)
    for layer in e.layers:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    scale = (1 + softplus(x @ e.precision.weight.T + e.precision.bias)) ** -0.5
    return x @ e.loc.weight.T + e.loc.bias, scale


@pytest.mark.parametrize("formula", [linear, precision, deep], ids=lambda f: f.__name__)
def test_formula_on_a_count_matrix(formula, histories):
    encoder = perturbed(ENCODERS[formula.__name__](P, K))
    loc, scale = encoder(histories)
    expected_loc, expected_scale = formula(encoder, histories.counts(torch.float64))
    assert torch.allclose(loc, expected_loc, rtol=1e-10)
    assert torch.allclose(scale, expected_scale, rtol=1e-10)


def test_a_full_precision_adds_up_over_views(histories):
    encoder = perturbed(ENCODERS["precision"](P, K, covariance="full"))
    loc, factor = encoder(histories)
    for n, views in enumerate(SESSIONS):
        expected, natural = torch.eye(K).double(), encoder.bias.clone()
        for v in views:
            direction = encoder.direction[v]
            expected = expected + softplus(encoder.evidence[v]).diag() + torch.outer(direction, direction)
            natural = natural + encoder.weight[v]
        assert torch.allclose((factor[n] @ factor[n].T).inverse(), expected, rtol=1e-8)
        assert torch.allclose(expected @ loc[n], natural, rtol=1e-8)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_contract(name, covariance, histories):
    """Shapes, a proper factor, and a history alone is encoded as among others."""
    encoder = perturbed(ENCODERS[name](P, K, covariance=covariance))
    loc, scale = encoder(histories)
    assert loc.shape == (4, K)
    assert scale.shape == ((4, K) if covariance == "diagonal" else (4, K, K))
    diagonal = scale if covariance == "diagonal" else scale.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0).all()
    if covariance == "full":
        assert torch.equal(scale, scale.tril())
        assert (scale.tril(-1).abs() > 1e-6).any()
    for n in range(4):
        alone = encoder(histories[n : n + 1])
        assert torch.allclose(alone[0][0], loc[n], rtol=1e-10)
        assert torch.allclose(alone[1][0], scale[n], rtol=1e-10)
    assert encoder(histories[:0])[0].shape == (0, K)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_are_the_dense_ones(name, covariance, histories):
    dense = perturbed(ENCODERS[name](P, K, covariance=covariance))
    sparse = ENCODERS[name](P, K, covariance=covariance, sparse=True).double()
    sparse.load_state_dict(dense.state_dict())
    weights = torch.randn(4, K).double()
    for encoder in (dense, sparse):
        loc, scale = encoder(histories)
        ((loc * weights).sum() + scale.square().sum()).backward()
    tables = 0
    for one, other in zip(dense.parameters(), sparse.parameters()):
        gradient = other.grad
        if one.shape[0] == P:
            assert gradient.is_sparse
            tables, gradient = tables + 1, gradient.to_dense()
        assert torch.allclose(one.grad, gradient, rtol=1e-10)
    assert tables >= 1


BOUND_CASES = {
    **{name: make() for name, make in BOUNDS.items()},
    "bouchard, sampled": Bouchard(num_negatives=5),
    "log_concave, sampled, amortised": LogConcave(num_negatives=5, offsets=OffsetNetwork(P, K)),
    "one_vs_each, sampled": OneVsEach(num_negatives=5),
}


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("bound", BOUND_CASES.values(), ids=BOUND_CASES.keys())
@pytest.mark.parametrize("encoder", NAMES)
def test_every_parameter_learns(encoder, bound, covariance, histories):
    """Any encoder, either head, any bound: all gradients finite and not zero."""
    torch.manual_seed(1)
    blo = BLO(P, K, encoder, bound, covariance=covariance)
    perturbed(blo.guide.encoder)
    batch = OrganicBatch(histories, 4)
    blo.model.double()
    modules = [m.double() for m in (blo.model, blo.guide, bound.module) if m is not None]
    loss = GuidedELBO(blo.bound).differentiable_loss(blo.model, blo.guide, batch)
    loss.backward()
    gradients = {name: p.grad for m in modules for name, p in m.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    if encoder != "deep":  # a layer of rectifiers can be off for four sessions
        silent = [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0]
        assert silent in ([], ["offset.weight", "hidden.weight", "hidden.bias"], ["hidden.weight", "hidden.bias"])


def test_unknown_head():
    with pytest.raises(ValueError, match="covariance: expected 'diagonal' or 'full', got 'banded'"):
        BLO(P, K, covariance="banded")
