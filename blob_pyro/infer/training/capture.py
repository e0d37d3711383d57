"""A training step as one list of tensor operations: recorded once, replayed without Python's part of it.

Running a Pyro model means running its handlers at every sample statement. For the small tensors of a minibatch this
takes longer than the arithmetic, and on a GPU much longer. What the tensors go through is the same at every step, so it
is recorded (`torch.fx`), rid of what does not change from step to step, and replayed; on CUDA as one CUDA graph, a
single launch. The random numbers are drawn anew at each replay, in the order in which the model would have drawn them.

Recording needs a step that is the same for every batch of its size: no ``if`` on a tensor's value, no shape that
depends on one. A step that is not like that is found out and refused. One that counts its own calls may not be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

__all__ = ["CannotCapture", "CapturedStep", "Step", "fold_constants", "record", "require_same"]

Step = Callable[..., Sequence[Any]]


class CannotCapture(RuntimeError):
    """The step depends on values in a way that a recording cannot."""


class CapturedStep:
    """A function of row numbers, recorded.

    Args:
        function: of an int64 tensor of rows; returns tensors. What else it reads (parameters, data) it reads anew at
            each replay, from the tensors that it read when it was recorded: change those in place.
        rows: an example; later calls must have as many.
        changing: tensors that change from call to call: the parameters. All others are taken to be constants.
        same_rows: whether all calls are for these very rows, so that what depends on nothing else is a constant, too.

    Raises:
        CannotCapture: naming the operation that stands against it; or if the recording computes something else.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0])
        >>> step = CapturedStep(lambda rows: [weight[rows].exp().sum()], torch.tensor([0, 1]), [weight])
        >>> weight.zero_()
        tensor([0., 0., 0.])
        >>> step(torch.tensor([1, 2]))
        [tensor(2.)]
    """

    def __init__(self, function: Step, rows: Tensor, changing: Sequence[Tensor], *, same_rows: bool = False) -> None:
        self.module = record(function, rows)
        try:
            fold_constants(self.module, changing, rows if same_rows else None)
            require_same(function, self.module.forward, rows)
        except CannotCapture:
            raise
        except RuntimeError as error:
            raise CannotCapture(f"the recorded step cannot be replayed: {error}") from error
        self._rows, self._same_rows = rows, same_rows
        self._replay: Step = self.module.forward
        if rows.is_cuda:
            _drop_checks(self.module)
            self._replay = _CudaGraph(self.module.forward, rows)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Sequence[Any]:
        """The function's results; on CUDA the same tensors at each call, overwritten."""
        return self._replay(self._rows if self._same_rows else rows.to(self._rows.device))


@torch.no_grad()
def require_same(function: Step, recorded: Step, *inputs: Tensor, tolerance: float = 1e-3) -> None:
    """Compare a recording with what it records, on the same random numbers; the caller's are left as they were.

    Args:
        function: what was recorded.
        recorded: its recording.
        inputs: for both.
        tolerance: of a result, relative to its largest number.

    Raises:
        CannotCapture: if they differ.
    """
    results: list[list[Any]] = []
    for step, grad in ((function, torch.enable_grad()), (recorded, torch.no_grad())):
        with torch.random.fork_rng(devices=[inputs[0].device] if inputs[0].is_cuda else []), grad:
            results.append([None if r is None else r.detach().clone() for r in step(*inputs)])
    for number, (expected, found) in enumerate(zip(*results)):
        if expected is None or found is None:
            same = expected is found
        else:
            same = (
                not torch.isfinite(expected).all() or (expected - found).abs().max() <= tolerance * expected.abs().max()
            )
        if not same:
            raise CannotCapture(
                f"the recorded step computes something else (result {number}): it depends on more than tensors that "
                "are changed in place"
            )


def record(function: Step, *inputs: Tensor, mode: Literal["fake", "symbolic"] = "fake") -> fx.GraphModule:
    """Return the graph of a function's tensor operations.

    Args:
        function: of the inputs; see `CapturedStep`.
        inputs: an example.
        mode: "fake" takes the sizes of all tensors for constants, "symbolic" leaves those of the inputs open.

    Raises:
        CannotCapture: naming the operation that stands against it.
    """

    def pure(*inputs: Tensor) -> Sequence[Any]:
        with pyro.validation_enabled(False):  # checks look at values; eager steps have made them
            return function(*inputs)

    try:
        # Fake tensors have shapes and no values: whatever would look at a value fails here.
        module = make_fx(pure, tracing_mode=mode, _allow_non_fake_inputs=True)(*inputs)
    except Exception as error:  # torch raises many kinds
        raise CannotCapture(f"the step cannot be recorded: {error}") from error
    for node in module.graph.nodes:
        result = node.meta.get("val")
        sizes = result.shape if torch.is_tensor(result) else [result]
        if any(isinstance(s, torch.SymInt) and (mode == "fake" or free_unbacked_symbols(s)) for s in sizes):
            raise CannotCapture(f"the step cannot be recorded: the shape of {node.target}'s result depends on values")
    return module


def fold_constants(module: fx.GraphModule, changing: Sequence[Tensor], rows: Tensor | None = None) -> None:
    """Compute once, now, whatever depends on neither inputs, nor ``changing`` tensors, nor random numbers; in place.

    Args:
        module: a graph of torch's own operations.
        changing: which of the tensors that it holds are not constants.
        rows: the input, where it is one.
    """
    graph, known, written = module.graph, {id(t) for t in changing}, _written(module.graph)
    constants: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if node in written:
            continue
        if node.op == "placeholder" and rows is not None:
            constants[node] = rows
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(module)
            if torch.is_tensor(value) and id(value) not in known:
                constants[node] = value
        elif _is_deterministic(node) and all(n in constants for n in node.all_input_nodes):
            arguments, options = fx.map_arg((node.args, node.kwargs), constants.__getitem__)
            with torch.no_grad():
                constants[node] = node.target(*arguments, **options)
    for number, (node, value) in enumerate(constants.items()):
        if node.op == "call_function" and torch.is_tensor(value):
            name = f"folded_{number}"
            module.register_buffer(name, value, persistent=False)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _drop_checks(module: fx.GraphModule) -> None:
    """Take out what only reads a status off the device to raise an error; a loss that is not finite tells as much."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten._linalg_check_errors.default):
        module.graph.erase_node(node)
    module.recompile()


def _is_deterministic(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    return node.target is operator.getitem or (
        isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Results that an operation writes to, and whatever they may be views of."""
    written: set[fx.Node] = set()
    for node in graph.nodes:
        target: Any = node.target
        if isinstance(target, OpOverload) and target._schema.is_mutable:
            base: Any = node
            while isinstance(base, fx.Node) and base not in written:
                written.add(base)
                base = base.args[0] if base.args else None
    return written


class _CudaGraph:
    """A function's kernels, launched as one."""

    def __init__(self, function: Step, rows: Tensor) -> None:
        self.rows = rows.clone()
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(rows.device)
        # Warming up draws random numbers, and training is to go on as if it had not.
        with torch.no_grad(), torch.random.fork_rng(devices=[rows.device]):
            stream.wait_stream(torch.cuda.current_stream(rows.device))
            with torch.cuda.stream(stream):  # libraries allocate and choose their kernels here, not in the graph
                for _ in range(3):
                    function(self.rows)
            torch.cuda.current_stream(rows.device).wait_stream(stream)
            try:
                with torch.cuda.graph(self.graph):
                    self.results = function(self.rows)
            except RuntimeError as error:
                raise CannotCapture(f"the step cannot be a CUDA graph: {error}") from error

    def __call__(self, rows: Tensor) -> Sequence[Any]:
        self.rows.copy_(rows)
        self.graph.replay()
        return self.results
