"""A device that is not there, to test device code on machines without one.

Its tensors (`PretendTensor`) say that they are on ``pretend:0`` and hold a CPU tensor that computes for them. As on a
real device, an operation on tensors of both devices raises, and a value has to come to the host before Python can look
at it. On a GPU each such read waits for all kernels before it; here each is noted, with the line of the library that
asked for it. Random numbers are the CPU's, so a computation gives the same numbers on both devices.

Torch knows the device through its registration of backends written in Python, which is global to a process and cannot
be undone. It happens when the first `pretend_device` is entered, and leaves tensors on other devices alone: outside of
``with pretend_device()`` nothing is dispatched differently, and torch is told that no such device is available. (Its
autograd engine starts a thread per device when it is first used, which may be before the registration; inside,
gradients are computed in the caller's thread.)
"""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # see conftest.py

import blob_pyro

__all__ = ["PretendTensor", "Read", "Reads", "pretend_device"]

_NAME = "pretend"
_LIBRARY = str(Path(blob_pyro.__file__).parent)
_aten = torch.ops.aten

# The result is a number for Python, or a shape that depends on values.
_READING = {
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten.bincount.default,
    _aten.isin.Tensor_Tensor,
    _aten._linalg_check_errors.default,
}
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_COPYING = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# Not pointwise, and yet a zero-dimensional tensor of the host may take part.
_TAKING_NUMBERS = {_aten.fill_.Tensor, _aten.masked_fill.Tensor, _aten.masked_fill_.Tensor, *_INDEXING}


class Read(NamedTuple):
    """A value that came to the host.

    Attributes:
        operation: what brought it there.
        where: file, line and text of the innermost statement of the library that asked for it.
    """

    operation: str
    where: str


class Reads(list[Read]):
    """All reads so far, the latest last."""

    def note(self, operation: str) -> None:
        """Add one, with the place that the library is at."""
        frame, where = sys._getframe(), "?"
        while frame is not None and not frame.f_code.co_filename.startswith(_LIBRARY):
            frame = frame.f_back
        if frame is not None:
            file, number = frame.f_code.co_filename, frame.f_lineno
            where = f"{file[len(_LIBRARY) + 1 :]}:{number} {linecache.getline(file, number).strip()}"
        self.append(Read(operation, where))

    def __str__(self) -> str:
        return "\n".join(f"{count:5d} x {read.operation} at {read.where}" for read, count in Counter(self).items())


_reads = Reads()


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device.

    Attributes:
        host: the CPU tensor that computes for it.
    """

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> PretendTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(_NAME, 0),
        )

    def __init__(self, host: torch.Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: str | None = None) -> str:
        return f"PretendTensor({self.host})"

    def __deepcopy__(self, memo: dict[int, Any]) -> PretendTensor:
        new = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            new = memo[id(self)] = torch.nn.Parameter(new, self.requires_grad)
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        _reads.note("pickle")
        return self.host.__reduce_ex__(protocol)


def _compute(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the host for tensors of either device, or refuse to for tensors of both."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())] if kwargs else _tensors(args)
    here = [t for t in tensors if isinstance(t, PretendTensor)]
    stays = bool(here)
    if not here and torch.device(kwargs.get("device") or "cpu").type != _NAME:
        return func(*args, **kwargs)  # nothing of the device takes part
    if here:
        _require_one_device(func, args, tensors)
        if func in _READING or _depends_on_values(func, args, kwargs):
            _reads.note(str(func))
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]).type == _NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is _aten.copy_.default:
        stays = isinstance(args[0], PretendTensor)
    if here and not stays:
        _reads.note(f"{func} to the host")
    hosts, options = _on_host(args), {name: _on_host(value) for name, value in kwargs.items()}
    result = func(*hosts, **{name: value for name, value in options.items() if name != "pin_memory"})
    if not stays:
        return result
    if torch.Tag.inplace_view in func.tags:
        _change_shape(func, args, kwargs)
    known = {id(t.host): t for t in here}  # operations in place return what they were given
    return _on_device(result, known)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """All tensors among an operation's arguments: in lists, too, which is as deep as its schema goes."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(v for v in value if isinstance(v, torch.Tensor))
    return found


def _on_host(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.host
    return type(value)(map(_on_host, value)) if type(value) in (list, tuple) else value


def _on_device(value: Any, known: dict[int, PretendTensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return known[id(value)] if id(value) in known else PretendTensor(value)
    if isinstance(value, tuple):  # of an operation with several results; named tuples too, whose names no one asks for
        return tuple(_on_device(v, known) for v in value)
    return [_on_device(v, known) for v in value] if isinstance(value, list) else value


def _change_shape(func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Let an operation like ``squeeze_`` change what the wrapper says of itself, as torch's own subclasses do."""
    before = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


def _require_one_device(func: Any, args: tuple, tensors: Sequence[torch.Tensor]) -> None:
    """As CUDA does: numbers in tensors without dimensions may come from the host, and so may indices."""
    others = [t for t in tensors if not isinstance(t, PretendTensor)]
    if torch.Tag.pointwise in func.tags or func in _TAKING_NUMBERS or "foreach" in func.__name__:
        others = [t for t in others if t.dim() > 0]
    if func in _INDEXING and isinstance(args[0], PretendTensor):
        indices = {id(i) for i in args[1]}
        others = [t for t in others if id(t) not in indices]
    if others and func not in _COPYING:
        shapes = ", ".join(f"{t.device} {tuple(t.shape)}" for t in tensors)
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {shapes}")


def _depends_on_values(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the result's shape has to be read, by arguments."""
    if func is _aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    masks = (torch.bool, torch.uint8)
    return func in _INDEXING and any(isinstance(i, PretendTensor) and i.dtype in masks for i in args[1])


class _Dispatch(TorchDispatchMode):
    """Sees the operations that have no tensor of the device among their arguments: what creates them."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Sees the functions that move Python's numbers to tensors and back, below which nothing is dispatched."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor", "scalar_tensor", "asarray"):
            if isinstance(args[0], torch.Tensor):
                options = {k: v for k, v in kwargs.items() if k in ("device", "dtype") and v is not None}
                result = args[0].to(**options) if options else args[0]
                return result.detach().clone() if name == "tensor" else result
            device = kwargs.pop("device", None)
            with torch._C.DisableTorchFunction():
                result = func(*args, **kwargs)
            return result if device is None else result.to(device)
        if name == "new_tensor" and isinstance(args[0], PretendTensor):
            device = kwargs.pop("device", None) or args[0].device
            with torch._C.DisableTorchFunction():
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(device)
        if func == _SET_DATA and isinstance(args[0], PretendTensor):
            args[0].host = args[1].host
        if name == "tolist" and isinstance(args[0], PretendTensor):
            _reads.note("tolist")
            return args[0].host.tolist()
        if name in ("numpy", "__array__") and isinstance(args[0], PretendTensor):
            raise TypeError(f"can't convert {_NAME}:0 device type tensor to numpy; use Tensor.cpu() first")
        return func(*args, **kwargs)


class _Backend:
    """What torch asks of a device's module, ``torch.pretend``. Its random numbers are the CPU's."""

    inside = False  # `pretend_device`: outside, torch is told that there is no such device
    is_initialized = is_available = staticmethod(lambda: _Backend.inside)
    get_amp_supported_dtype = staticmethod(lambda: [])
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(_NAME, backend_module=_Backend)


@contextmanager
def pretend_device() -> Iterator[Reads]:
    """Inside, ``"pretend"`` is a device; yields the reads that have happened inside so far."""
    _register()
    _reads.clear()
    with ExitStack() as stack:
        _Backend.inside = True
        stack.callback(setattr, _Backend, "inside", False)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Functions())
        stack.enter_context(_Dispatch())
        yield _reads
