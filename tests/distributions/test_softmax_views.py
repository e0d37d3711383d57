"""The organic likelihood against torch's own Categorical, one view at a time."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.ops import row_chunks

K, P = 2, 5
VIEWS = torch.tensor([[4, 0, 0, -1], [2, -1, -1, -1], [-1, -1, -1, -1], [1, 3, 2, 4]])
LENGTHS = (VIEWS >= 0).sum(-1)


@pytest.fixture
def parameters():
    torch.manual_seed(1)
    scale = torch.tensor([0.3, 2.0], dtype=torch.float64)
    return (
        torch.randn(4, K, dtype=torch.float64),
        torch.randn(P, K, dtype=torch.float64) * scale,
        torch.randn(P).double(),
    )


def by_hand(interest, psi, rho):
    return torch.stack(
        [
            sum(
                (dist.Categorical(logits=psi @ w + rho).log_prob(v) for v in views if v >= 0),
                torch.tensor(0.0).double(),
            )
            for w, views in zip(interest, VIEWS)
        ]
    )


def test_log_prob_is_a_product_of_softmaxes(parameters):
    d = SoftmaxViews(*parameters, LENGTHS)
    assert d.batch_shape == (4,)
    assert d.event_shape == (4,)
    assert torch.allclose(d.log_prob(VIEWS), by_hand(*parameters), atol=1e-12)


def test_gradients(parameters):
    for parameter in parameters:
        parameter.requires_grad_()
    assert torch.autograd.gradcheck(lambda *p: SoftmaxViews(*p, LENGTHS).log_prob(VIEWS), parameters)


def test_in_chunks_the_same(parameters, monkeypatch):
    """Value and gradient of a log-normaliser computed one row at a time, and all at once."""
    for parameter in parameters:
        parameter.requires_grad_()
    results = []
    for max_elements in (1 << 22, P):
        monkeypatch.setattr(row_chunks, "MAX_ELEMENTS", max_elements)
        log_prob = SoftmaxViews(*parameters, LENGTHS).log_prob(VIEWS)
        weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
        results.append((log_prob, *torch.autograd.grad((weights * log_prob).sum(), parameters)))
    for whole, chunked in zip(*results):
        assert torch.allclose(whole, chunked, rtol=1e-12)


def test_sparse_gradients_are_the_dense_ones_where_there_are_any(parameters):
    interest, psi, rho = parameters
    gradients = []
    for sparse in (False, True):
        tables = psi.clone().requires_grad_(), rho.clone().requires_grad_()
        d = SoftmaxViews(interest, *tables, LENGTHS, sparse=sparse)
        rows = d.rows(torch.tensor([3, 3, 0]))
        gradients.append(torch.autograd.grad(d.linear(VIEWS, interest).sum() + sum((r**2).sum() for r in rows), tables))
    for dense, sparse in zip(*gradients):
        assert sparse.is_sparse
        assert torch.allclose(sparse.to_dense(), dense, rtol=1e-12)


def test_samples_have_the_right_lengths_and_frequencies(parameters):
    interest, psi, rho = parameters
    d = SoftmaxViews(interest, psi, rho, LENGTHS)
    draws = d.sample((20_000,))
    assert torch.equal((draws >= 0).sum(-1), LENGTHS.expand(20_000, -1))
    expected = (psi @ interest[3] + rho).softmax(0)
    observed = torch.bincount(draws[:, 3].flatten(), minlength=P) / draws[:, 3].numel()
    assert ((observed - expected).abs() < 4 * (expected * (1 - expected) / draws[:, 3].numel()).sqrt()).all()


def test_expand_inside_a_plate():
    d = SoftmaxViews(torch.zeros(K), torch.ones(P, K), torch.zeros(P), torch.tensor(3))

    def model():
        with pyro.plate("sessions", 7):
            return pyro.sample("views", d)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["views"]["value"].shape == (7, 3)
    assert torch.allclose(trace.nodes["views"]["log_prob"], torch.full((7,), -3 * torch.tensor(float(P)).log()))


def test_no_sessions_longer_than_zero():
    d = SoftmaxViews(torch.zeros(2, K), torch.ones(P, K), torch.zeros(P), torch.tensor([0, 0]))
    assert d.sample().shape == (2, 0)
    assert d.log_prob(d.sample()).tolist() == [0, 0]


def test_an_item_outside_the_catalogue_is_refused(parameters):
    with pytest.raises(ValueError, match="within the support"):
        SoftmaxViews(*parameters, LENGTHS, validate_args=True).log_prob(VIEWS + 1)
