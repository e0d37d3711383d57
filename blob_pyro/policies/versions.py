"""A policy's version: a fingerprint of all that its choices depend on."""

from __future__ import annotations

from typing import Any

from blob_pyro.ops.object_fingerprints import fingerprint

__all__ = ["version_of"]

_DIGITS = 16
_LABELS = frozenset({"_name", "_version"})


def version_of(policy: Any) -> str:
    """Return 16 hexadecimal digits of the fingerprint of a policy's class and attributes, its name apart.

    Raises:
        TypeError: naming the attribute that no fingerprint can be made of.
    """
    return fingerprint(policy, "version of policy", _LABELS)[:_DIGITS]
