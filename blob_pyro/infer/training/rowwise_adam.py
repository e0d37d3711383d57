"""An optimiser for tables too large to visit: it touches the rows that a step has a gradient for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RowwiseAdam"]


class RowwiseAdam(torch.optim.Optimizer):
    r"""Adam's step length for sparse gradients, with one second moment per *row* and no first moment.

    For a row with gradient ``g`` at its ``n``-th visit, :math:`v \leftarrow \beta v + (1 - \beta)\,\overline{g^2}` and
    the step is :math:`\text{lr}\; g / (\sqrt{v / (1 - \beta^n)} + \epsilon)`. The state of a ``P x K`` table is ``2 P``
    numbers, where `torch.optim.SparseAdam` keeps ``2 P K``; a step costs what its rows cost. One accumulator per row
    is the usual economy for embedding tables (Mudigere et al., *Software-hardware co-design for fast and scalable
    training of deep learning recommendation models*, ISCA 2022, section 4.1.4).

    A row whose gradient is zero is not visited: workers that have no row of a step lend one, without weight.

    Args:
        params: parameters, or groups of them.
        lr: step length.
        beta: of the running mean of squares.
        eps: added to the denominator.

    Example:
        >>> table = nn.Parameter(torch.zeros(4, 2))
        >>> optimizer = RowwiseAdam([table], lr=0.1)
        >>> rows = nn.functional.embedding(torch.tensor([2, 2]), table, sparse=True)
        >>> rows.sum().backward()
        >>> optimizer.step()
        >>> table.data
        tensor([[ 0.0000,  0.0000],
                [ 0.0000,  0.0000],
                [-0.1000, -0.1000],
                [ 0.0000,  0.0000]])
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, beta: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step for every row with a gradient; gradients must be sparse."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad.coalesce(), group["lr"], group["beta"], group["eps"])

    def _step(self, parameter: Tensor, gradient: Tensor, lr: float, beta: float, eps: float) -> None:
        row, value = gradient.indices()[0], gradient.values()
        state = self.state[parameter]
        if not state:
            state["square"] = parameter.new_zeros(parameter.shape[0])
            state["visits"] = parameter.new_zeros(parameter.shape[0])
        square = value.square()
        while square.dim() > 1:
            square = square.mean(-1)
        visited = value.flatten(1).any(1) if value.dim() > 1 else value.bool()
        square = torch.where(visited, beta * state["square"][row] + (1 - beta) * square, state["square"][row])
        visits = state["visits"][row] + visited
        state["square"][row], state["visits"][row] = square, visits
        # One never visited has no mean square: zero by one, and a step of zero.
        scale = (square / (1 - beta ** visits.clamp(min=1))).sqrt_().add_(eps).reciprocal_()
        parameter.index_add_(0, row, value * scale.view(-1, *[1] * (value.dim() - 1)), alpha=-lr)
