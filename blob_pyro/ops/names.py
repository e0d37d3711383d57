"""Names for Pyro modules that no other module of the process has."""

from __future__ import annotations

from itertools import count

__all__ = ["unique_name"]

_numbers = count()


def unique_name(prefix: str) -> str:
    """Number a prefix, each time anew: modules of one name share parameters in Pyro's global store."""
    return f"{prefix}_{next(_numbers)}"
