"""Fixtures of this folder."""

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.distributions import SoftmaxViews
from tests.infer.em_problems import SCALES, SESSIONS, K, P


@pytest.fixture(scope="module")
def items():
    generator = torch.Generator().manual_seed(5)
    psi = torch.randn(P, K, generator=generator, dtype=torch.float64) * SCALES
    return psi, 1.5 * torch.randn(P, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def histories():
    return Histories.from_sequences(SESSIONS, num_items=P)


@pytest.fixture(scope="module")
def typical(items):
    """Sessions as the model tells them: of 1, 5, 20 and 200 views."""
    psi, rho = items
    torch.manual_seed(11)
    lengths = torch.tensor([1, 5, 20, 200]).repeat(3)
    views = SoftmaxViews(torch.randn(12, K).double(), psi, rho, lengths).sample()
    return Histories.from_sequences([v[v >= 0].tolist() for v in views], num_items=P)
