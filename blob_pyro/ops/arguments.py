"""Checks of the arguments that many functions take: each names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "instance_of",
    "number_between",
    "number_of_at_least",
    "one_of",
    "path_of",
    "positive_number",
    "true_or_false",
    "whole_number",
]


Kind = TypeVar("Kind")


def whole_number(value: Any, argument: str, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return ``value`` as an int.

    Args:
        value: an int, or NumPy's or torch's kin of one.
        argument: what the caller calls it.
        at_least: the smallest that is taken.
        at_most: the largest; None for none.

    Raises:
        TypeError: for anything that is no whole number by its type: fractions, floats, strings, booleans.
        ValueError: for one out of range.

    Example:
        >>> whole_number(2.5, "num_epochs")
        Traceback (most recent call last):
        ...
        TypeError: num_epochs: expected a whole number, got 2.5 (a float)
    """
    try:
        if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b":
            raise TypeError
        found = operator.index(value)
    except (TypeError, ValueError):  # of torch: a tensor of several numbers
        raise TypeError(f"{argument}: expected a whole number, got {_shown(value)}") from None
    if found < at_least or (at_most is not None and found > at_most):
        limits = f"{at_least} or more" if at_most is None else f"between {at_least} and {at_most}"
        raise ValueError(f"{argument}: must be {limits}, got {found}")
    return found


def positive_number(value: Any, argument: str) -> float:
    """Return ``value`` as a float.

    Raises:
        TypeError: for anything but a real number.
        ValueError: unless it is positive and finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument}: expected a number, got {_shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (found > 0 and math.isfinite(found)):
        raise ValueError(f"{argument}: must be positive and finite, got {_shortened(value)}")
    return found


def instance_of(value: Any, argument: str, kind: type[Kind]) -> Kind:
    """Return ``value``, an instance of ``kind``.

    Raises:
        TypeError: for anything else, also for the class itself.
    """
    if not isinstance(value, kind):
        got = f"the class {value.__name__}; pass an instance" if isinstance(value, type) else _shown(value)
        raise TypeError(f"{argument}: expected {kind.__name__}, got {got}")
    return value


def number_between(value: Any, argument: str, low: float, high: float) -> float:
    """Return ``value`` as a float.

    Raises:
        TypeError: for anything but a real number.
        ValueError: unless it lies between ``low`` and ``high``, both included.

    Example:
        >>> number_between(float("nan"), "epsilon", 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: epsilon: must lie between 0 and 1, got nan
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument}: expected a number, got {_shown(value)}")
    if not low <= float(value) <= high:
        raise ValueError(f"{argument}: must lie between {low:g} and {high:g}, got {value}")
    return float(value)


def number_of_at_least(value: Any, argument: str, low: float) -> float:
    """Return ``value`` as a float.

    Raises:
        TypeError: for anything but a real number.
        ValueError: unless it is finite, as a float too, and ``low`` or more.

    Example:
        >>> number_of_at_least(-1, "jitter", 0)
        Traceback (most recent call last):
        ...
        ValueError: jitter: must be finite and 0 or more, got -1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument}: expected a number, got {_shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (found >= low and math.isfinite(found)):
        raise ValueError(f"{argument}: must be finite and {low:g} or more, got {_shortened(value)}")
    return found


def path_of(value: Any, argument: str, what: str) -> Path:
    """Return ``value`` as a path that a file system can be asked for.

    Args:
        value: text, or anything that stands for a path of text (`os.PathLike`).
        argument: what the caller calls it.
        what: the path is of: "a folder".

    Raises:
        TypeError: for anything else.
        ValueError: for text that is empty, holds a null character, or cannot be a name on this system.

    Example:
        >>> path_of(None, "path", "a folder")
        Traceback (most recent call last):
        ...
        TypeError: path: expected the path of a folder, got None (a NoneType)
    """
    try:
        found = None if isinstance(value, bytes) else os.fspath(value)
    except TypeError:
        found = None
    if not isinstance(found, str):
        raise TypeError(f"{argument}: expected the path of {what}, got {_shown(value)}")
    try:
        if not found or b"\0" in os.fsencode(found):
            raise ValueError
    except ValueError:  # UnicodeEncodeError is one
        problem = "cannot be a path: it holds a null character or a half of a pair" if found else "is empty"
        raise ValueError(f"{argument}: {_shortened(found)} {problem}; give the path of {what}") from None
    return Path(found)


def true_or_false(value: Any, argument: str) -> bool:
    """Return ``value``, a bool.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument}: expected True or False, got {_shown(value)}")
    return value


def one_of(value: Any, argument: str, known: Collection[str]) -> str:
    """Return ``value``, one of the ``known`` names.

    Raises:
        TypeError: if it is no string.
        ValueError: for an unknown one, listing the known.
    """
    names = " or ".join([", ".join(repr(name) for name in [*known][:-1]), repr([*known][-1])])
    if not isinstance(value, str):
        raise TypeError(f"{argument}: expected {names}, got {_shown(value)}")
    if value not in known:
        raise ValueError(f"{argument}: expected {names}, got {value!r}")
    return value


def _shown(value: Any) -> str:
    """A value and its type, however long."""
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    return f"{_shortened(value)} ({article} {kind})"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
