"""Fixtures of this folder."""

import pytest
import torch

from tests.infer.training.conjugate import Rows


@pytest.fixture
def rows():
    return Rows(torch.randn(40).double() * 2 + 5)
