"""Row-wise Adam, by hand."""

import torch
from torch import nn

from blob_pyro.infer import RowwiseAdam


def test_rowwise_adam_by_hand():
    """Three steps of unequal rows, against the formula in a loop; what is never visited never moves."""
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(6, 3, dtype=torch.float64))
    expected = table.detach().clone()
    square, visits = torch.zeros(6).double(), torch.zeros(6).double()
    optimizer = RowwiseAdam([table], lr=0.1, beta=0.9)
    for rows in ([0, 2], [2, 2, 5], [0]):
        weights = torch.randn(len(rows), 3, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1])
        optimizer.zero_grad()
        (nn.functional.embedding(torch.tensor(rows), table, sparse=True) * weights).sum().backward()
        optimizer.step()
        for row in set(rows):
            g = sum(w for r, w in zip(rows, weights) if r == row)
            square[row] = 0.9 * square[row] + 0.1 * (g**2).mean()
            visits[row] += 1
            expected[row] -= 0.1 * g / ((square[row] / (1 - 0.9 ** visits[row])).sqrt() + 1e-8)
    assert torch.allclose(table.detach(), expected, rtol=1e-9)
    assert (visits == 0).sum() == 3
