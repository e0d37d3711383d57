"""The log-normaliser against SciPy's, whole and in chunks, with its gradient by finite differences."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from blob_pyro.ops import row_chunks
from blob_pyro.ops.log_normalizer import log_normalizer


@pytest.mark.parametrize("max_elements", [1 << 22, 22], ids=["at once", "two rows at a time"])
def test_value_and_gradient(max_elements, monkeypatch):
    monkeypatch.setattr(row_chunks, "MAX_ELEMENTS", max_elements)
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (11, 3), (11,))
    omega, psi, rho = (torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    expected = logsumexp((omega @ psi.mT + rho).detach().numpy(), axis=1)
    np.testing.assert_allclose(log_normalizer(omega, psi, rho).detach().numpy(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(log_normalizer, (omega, psi, rho))


def test_large_logits_do_not_overflow():
    value = log_normalizer(torch.full((1, 1), 1e4), torch.ones(2, 1), torch.zeros(2))
    torch.testing.assert_close(value, torch.tensor([1e4 + np.log(2)], dtype=torch.float32))
