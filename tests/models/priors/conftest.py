"""Fixtures of this folder."""

import pytest
import torch

from blob_pyro.models import (
    BanditBatch,
)
from tests.models.priors.term_problems import C, F, K, N, P


@pytest.fixture
def psi():
    return torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.5, 2.0])


@pytest.fixture
def rho():
    return torch.randn(P, dtype=torch.float64)


@pytest.fixture
def batch():
    return BanditBatch(
        interest=torch.randn(C, K, dtype=torch.float64),
        context=torch.randint(C, (N,)),
        action=torch.arange(N) % P,
        reward=(torch.rand(N) < 0.3).double(),
        num_events=N,
        covariates=torch.randn(C, F, dtype=torch.float64),
    )
