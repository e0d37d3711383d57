"""Captured steps of ragged rows: recorded with sizes left open, such as how many views a step's sessions have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import sympy
import torch
from torch import Tensor
from torch.utils._sympy.functions import FloorDiv, Mod

from blob_pyro.infer.training.buffers import Batch
from blob_pyro.infer.training.capture import CannotCapture, Step, fold_constants, record, require_same

__all__ = ["CapturedRaggedStep", "Ragged"]


@runtime_checkable
class Ragged(Protocol):
    """A batch whose rows are of different sizes, all of which are those of some tensors."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the rows as tensors: no other one of the batch is looked at, and their sizes may be any."""
        ...

    def of_tensors(self, *tensors: Tensor) -> Batch:
        """Make a batch of what `tensors` returns."""
        ...


class CapturedRaggedStep:
    """A function of tensors, recorded for tensors of (nearly) any size.

    Sizes are symbols while it is recorded (`torch.fx`), and what is decided by them is kept: a call whose sizes would
    decide otherwise is left to the function itself.

    Args:
        function: see `CapturedStep`, of as many tensors as there are in ``inputs``.
        inputs: an example.
        changing: see `CapturedStep`.

    Raises:
        CannotCapture: naming the operation that stands against it; or if the recording computes something else.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0])
        >>> step = CapturedRaggedStep(lambda views: [weight[views].sum()], [torch.tensor([0, 1])], [weight])
        >>> step([torch.tensor([2, 2, 1, 0])])
        [tensor(9.)]
    """

    def __init__(self, function: Step, inputs: Sequence[Tensor], changing: Sequence[Tensor]) -> None:
        self.module = record(function, *inputs, mode="symbolic")
        try:
            found = [node.meta["val"].shape for node in self.module.graph.find_nodes(op="placeholder")]
            self._sizes = [size for shape in found for size in map(_expression, shape)]
            names = [sympy.Symbol(f"size_{number}") for number in range(len(self._sizes))]
            shapes: Any = self.module.shape_env
            guards = [guard.expr.subs(shapes.replacements) for guard in shapes.guards]
            first: dict[Any, sympy.Symbol] = {}
            rules = [sympy.Ge(n, 2) for n, s in zip(names, self._sizes) if not s.is_number]  # 0 and 1 broadcast
            for name, size in zip(names, self._sizes):
                rules.append(sympy.Eq(name, size if size.is_number else first.setdefault(size, name)))
            rules += [guard.subs(first) for guard in guards]
            self._allows = sympy.lambdify(names, sympy.And(*rules), [{"FloorDiv": FloorDiv, "Mod": Mod}, "math"])
            fold_constants(self.module, changing)
            require_same(function, self.module.forward, *inputs)
            if not self.allows(inputs):
                raise CannotCapture("the recorded step does not allow the sizes that it was recorded for")
        except CannotCapture:
            raise
        except Exception as error:  # torch and SymPy raise many kinds
            raise CannotCapture(f"the recorded step cannot be replayed: {error}") from error

    def allows(self, inputs: Sequence[Tensor]) -> bool:
        """Say whether the function would do for these what was recorded."""
        return bool(self._allows(*(size for tensor in inputs for size in tensor.shape)))

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Any] | None:
        """Compute the function's results; None where the sizes are not such as were recorded."""
        result: Sequence[Any] | None = self.module.forward(*inputs) if self.allows(inputs) else None
        return result


def _expression(size: int | torch.SymInt) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)
