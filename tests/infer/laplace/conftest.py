"""Fixtures of this folder."""

import pytest
import torch

from blob_pyro.models import (
    BanditBatch,
)
from tests.infer.laplace.laplace_problems import C, K, N, P


@pytest.fixture
def batch():
    return BanditBatch(
        interest=torch.randn(C, K, dtype=torch.float64) * torch.tensor([0.5, 2.0]),
        context=torch.randint(C, (N,)),
        action=torch.randint(P, (N,)),
        reward=(torch.rand(N) < 0.3).double(),
        num_events=N,
        covariates=torch.randn(C, 2, dtype=torch.float64),
    )
