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


def test_a_row_with_a_gradient_of_zero_is_not_visited():
    """Of a table of rows and one of numbers: as if the gradient did not name it, before its first visit and after."""
    torch.manual_seed(0)
    for shape in ((4, 3), (4,)):
        start = torch.randn(shape)
        one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        optimizers = [RowwiseAdam([table], lr=0.1) for table in (one, other)]
        for row in (1, 3, 1):
            value = torch.randn(shape[1:])
            named = torch.stack([value, *[torch.zeros_like(value)] * 2])
            one.grad = torch.sparse_coo_tensor(torch.tensor([[row]]), value.unsqueeze(0), shape, check_invariants=True)
            other.grad = torch.sparse_coo_tensor(
                torch.tensor([[row, 0, (row + 2) % 4]]), named, shape, check_invariants=True
            )
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(one, other)
        assert not torch.equal(one, start)
        assert other.isfinite().all()
