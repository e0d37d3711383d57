"""Old names of what has been renamed work for one version more, with a `DeprecationWarning` that gives the new one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

__all__ = ["renamed_argument", "renamed_attribute", "renamed_in_module", "warn_renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def warn_renamed(owner: str, old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn the caller's caller that a name is an old one.

    Args:
        owner: the class, function or module that the name belongs to.
        old: what was typed.
        new: what to type instead.
        stacklevel: as of `warnings.warn`, counted from this function.
    """
    message = f"{owner}: {old!r} is now called {new!r}; the old name goes in the next version"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take a keyword argument by its old name.

    Raises:
        TypeError: from the function, if both names are given.

    Example:
        >>> @renamed_argument("law", "distribution")
        ... def mean(distribution):
        ...     return sum(distribution)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     mean(law=[1, 2])
        3
        >>> print(caught[0].message)
        mean: 'law' is now called 'distribution'; the old name goes in the next version
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        owner = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{owner}: {old!r} is the old name of {new!r}; give one of them")
                warn_renamed(owner, old, new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper

    return decorate


def renamed_attribute(old: str, new: str) -> Any:
    """Return a property, read-only, that gives an attribute or method under its old name."""

    def read(self: Any) -> Any:
        warn_renamed(type(self).__name__, old, new)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def renamed_in_module(module: str, names: Mapping[str, str], values: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that knows old names.

    Args:
        module: its ``__name__``.
        names: new names by old ones.
        values: the module's ``globals()``.
    """

    def read(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(module, name, names[name])
        return values[names[name]]

    return read
