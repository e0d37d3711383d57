"""The clicks' curvature in its basis, against the Hessian of the log-likelihood."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from blob_pyro.infer.weights import expansion
from blob_pyro.infer.weights.expansion import Basis, diagonal_basis, item_moments
from blob_pyro.models import BanditBatch, BanditModel

ITEMS, SIZE, EVENTS = 5, 3, 80


def problem() -> tuple[BanditModel, dict[str, torch.Tensor], BanditBatch, torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(3)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers, dtype=torch.float64)

    model = BanditModel(some(ITEMS, SIZE) * torch.tensor([1.0, 2.0, 0.5]))
    means = {"w_a": some(), "w_b": some(), "w_c": some(), "kappa": some(ITEMS), "zeta": some(SIZE, SIZE)}
    context, action = (torch.randint(n, (EVENTS,), generator=numbers) for n in (20, ITEMS))
    reward = (torch.rand(EVENTS, generator=numbers) < 0.4).double()
    batch = BanditBatch(1 + some(20, SIZE), context, action, reward, EVENTS)
    return model, means, batch, 0.5 + some(ITEMS).abs(), 0.5 + some(SIZE, SIZE).abs()


def exact_curvature(
    model: BanditModel, means: dict[str, torch.Tensor], batch: BanditBatch, prior: torch.Tensor, scale: float = 0.0
) -> torch.Tensor:
    """Of ``Z``, with kappa eliminated, by automatic differentiation; averaged over logits of such a deviation."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    left, right = model.item_embedding[batch.action], batch.interest[batch.context] @ model.whitening
    start = model.logit(means, batch)

    def negative(both: torch.Tensor) -> torch.Tensor:
        z, kappa = both.split([SIZE**2, ITEMS])
        logits = start + ((left @ z.view(SIZE, SIZE)) * right).sum(-1) + kappa[batch.action]
        each = dist.Bernoulli(logits=logits + scale * nodes.unsqueeze(-1)).log_prob(batch.reward).sum(-1)
        return -(weights / weights.sum()) @ each + 0.5 * (prior * kappa.square()).sum()

    hessian = torch.func.hessian(negative)(torch.zeros(SIZE**2 + ITEMS, dtype=torch.float64))
    return torch.linalg.inv(torch.linalg.inv(hessian)[: SIZE**2, : SIZE**2])


def unit_points(basis: Basis) -> torch.Tensor:
    """The points of the basis, as columns of ``K^2`` numbers."""
    return basis.matrix(torch.eye(SIZE**2, dtype=torch.float64)).flatten(1).mT


def test_the_basis_of_eigenvectors_is_that_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_AT_ONCE", 9 * 1024)  # several parts
    model, means, batch, prior, scale = problem()
    moments = item_moments(model, means, batch)
    basis = diagonal_basis(model, means, batch, moments, moments.variance + prior, scale)
    points = unit_points(basis)
    curvature = points.mT @ exact_curvature(model, means, batch, prior) @ points
    torch.testing.assert_close(curvature, basis.curvature.diag(), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("doubt", [0.0, 1.2])
def test_the_basis_of_a_kronecker_product_has_the_diagonal_of_the_hessian(
    monkeypatch: pytest.MonkeyPatch, doubt: float
) -> None:
    """At the means, and averaged over a ``w_c`` that is in doubt."""
    monkeypatch.setattr(expansion, "MOST_DIMENSIONS", 2)
    model, means, batch, prior, scale = problem()
    scale = torch.outer(scale[0], scale[1])  # units of rows and of columns
    posterior = {"w_c": dist.Normal(means["w_c"], doubt)} if doubt else None
    moments = item_moments(model, means, batch, posterior=posterior)
    assert moments.second is None
    basis = diagonal_basis(model, means, batch, moments, moments.variance + prior, scale, posterior=posterior)
    points = unit_points(basis)
    curvature = points.mT @ exact_curvature(model, means, batch, prior, doubt) @ points
    torch.testing.assert_close(curvature.diagonal(), basis.curvature, atol=1e-5, rtol=1e-5)


def test_a_curvature_that_is_a_kronecker_product_is_diagonal_in_the_basis_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each item meets each context once, all clicks are as likely, and kappas are known: nothing is left out."""
    monkeypatch.setattr(expansion, "MOST_DIMENSIONS", 2)
    model, means, batch, _, scale = problem()
    scale = torch.outer(scale[0], scale[1])
    means = {**means, "w_a": torch.tensor(-60.0).double(), "w_b": torch.tensor(-60.0).double()}
    means["kappa"] = torch.zeros_like(means["kappa"])
    action, context = torch.cartesian_prod(torch.arange(ITEMS), torch.arange(20)).T
    batch = BanditBatch(batch.interest, context, action, torch.zeros(len(action)).double(), len(action))
    moments = item_moments(model, means, batch)
    known = torch.full((ITEMS,), torch.inf).double()
    points = unit_points(diagonal_basis(model, means, batch, moments, known, scale))
    curvature = points.mT @ exact_curvature(model, means, batch, torch.full((ITEMS,), 1e9).double()) @ points
    largest = curvature.diagonal().max()
    torch.testing.assert_close(curvature / largest, (curvature / largest).diagonal().diag(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("most", [2, 3])
def test_forms_and_points_are_of_one_basis(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(expansion, "MOST_DIMENSIONS", most)
    model, means, batch, prior, scale = problem()
    moments = item_moments(model, means, batch)
    basis = diagonal_basis(model, means, batch, moments, moments.variance + prior, scale)
    form, point = means["zeta"], means["zeta"].mT + 1
    torch.testing.assert_close(basis.matrix(basis.point(point)), point)
    torch.testing.assert_close(basis.form(form) @ basis.point(point), (form * point).sum())


def test_a_curvature_of_known_kappas_is_that_of_the_likelihood_alone() -> None:
    model, means, batch, _, scale = problem()
    moments = item_moments(model, means, batch)
    basis = diagonal_basis(model, means, batch, moments, torch.full((ITEMS,), torch.inf).double(), scale)
    points = unit_points(basis)
    almost_known = exact_curvature(model, means, batch, torch.full((ITEMS,), 1e7).double())
    torch.testing.assert_close(points.mT @ almost_known @ points, basis.curvature.diag(), atol=1e-4, rtol=1e-4)
