"""Ctrl-C, kept waiting while something must not stop half way."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["to_the_end", "uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended: what it leaves is whole. Keep the block short.

    Only the main thread is ever interrupted by Ctrl-C; in others, and under a handler that is not Python's own, this
    does nothing.
    """
    came: list[Any] = []
    with _on_ctrl_c(came.append):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def to_the_end(what: str) -> Iterator[None]:
    """Let a block reach its end though Ctrl-C comes, and say so by a warning: what came before it is worth keeping.

    A second Ctrl-C ends it at once. Only in the main thread, as `uninterrupted`.

    Args:
        what: is at work, for the warning.
    """
    came: list[Any] = []

    def note(event: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(event)

    with _on_ctrl_c(note):
        yield
    if came:
        warnings.warn(f"{what}: interrupted at its end, which was near: it is whole", stacklevel=3)


@contextmanager
def _on_ctrl_c(handle: Callable[[Any], None]) -> Iterator[None]:
    """Have Ctrl-C handled by a function, in the main thread, and where the handler is Python's own."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: handle(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
