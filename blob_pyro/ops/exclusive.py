"""One thread at a time for what torch and Pyro keep once per process.

Torch's default generators, and Pyro's parameter store, stack of handlers and validation flags, belong to the process,
not to a thread: two threads that run Pyro, or seed a generator, change one another's numbers. So everything in this
package that does either holds one lock: fits wait for each other, and for whatever else samples under a seed. Whatever
answers from a fitted model without a seed of its own does neither and does not wait.

The lock can only stop code that takes it. Pyro run by hand beside a fit takes it thus::

    with exclusive():
        svi.step(batch)

and what *draws* from torch's default generator in another thread during a fit, as sampling from a policy does, is not
stopped: its draws then come from the fit's stream, and the fit's from what it has left of it. Both are random numbers
as good as any, and neither is what the same seed gives alone. A fit that has to be repeated to the bit shares its
process with nothing that samples.

A process that forks waits until no other thread holds the lock: the child would have half of a fit that nobody carries
on. In the child the lock is free, or held by the thread that forked, as it was in the parent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyro

__all__ = ["exclusive", "own_parameter_store"]

_lock = threading.RLock()

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the process's one lock around Pyro and torch's default generators; may be nested."""
    with _lock:
        yield


@contextmanager
def own_parameter_store() -> Iterator[None]:
    """Hold the lock, with an empty parameter store: nothing is read from Pyro's global one, and nothing left in it."""
    with exclusive(), pyro.get_param_store().scope():
        yield
