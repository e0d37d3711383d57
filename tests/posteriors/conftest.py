"""Fixtures of this folder."""

import pytest
import torch

from tests.posteriors.posteriors import K, P


@pytest.fixture
def problem():
    torch.manual_seed(2)
    psi = torch.randn(P, K).double() * torch.tensor([0.5, 1.5])
    return psi, torch.linalg.cholesky(psi.mT @ psi / P), torch.randn(3, K).double()
