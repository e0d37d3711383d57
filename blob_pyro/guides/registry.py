"""Guides by name: a registry that anybody may add to, and that the guides that ship are in by the same line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from torch import nn

from blob_pyro.guides.training_defaults import TrainingDefaults
from blob_pyro.ops.saved_classes import is_same

__all__ = ["GUIDES", "RegisteredGuide", "guide_name", "register_guide", "registered_guide", "registered_name"]

G = TypeVar("G", bound=Callable[..., Any])


@dataclass(frozen=True)
class RegisteredGuide:
    """A guide that has a name, and how it is made.

    Attributes:
        recipe: what `blob_pyro.guides.make_guide` makes a guide from.
        training_defaults: how it likes to be trained, where it does not say so itself.
    """

    recipe: Callable[..., Any]
    training_defaults: TrainingDefaults | None = None


GUIDES: dict[str, RegisteredGuide] = {}
"""Guides by name."""


@overload
def register_guide(name: str, *, training_defaults: TrainingDefaults | None = ...) -> Callable[[G], G]: ...


@overload
def register_guide(name: str, guide: G, *, training_defaults: TrainingDefaults | None = ...) -> G: ...


def register_guide(name: str, guide: Any = None, *, training_defaults: TrainingDefaults | None = None) -> Any:
    """Give a guide a name: ``BLOB(blo, guide=name)`` fits it, and a model that is saved with it is loaded by it.

    A saved model holds the name and the guide's parameters, no code: register it again, under the same name, before the
    model is loaded in another process.

    Args:
        name: not taken by another guide.
        guide: a class that is constructed from the model, as Pyro's AutoGuides are; a function whose first argument is
            called ``model`` and that returns a guide of it; or a function of the batch that samples the model's sites.
            See `blob_pyro.guides.bandit` for what it keeps to. Without one, this is a decorator.
        training_defaults: how it is started and trained where the caller of a fit says nothing. Default: its own
            attribute ``training_defaults``, or as suits its family.

    Returns:
        The guide, or a decorator.

    Raises:
        ValueError: for a name that another guide has, or that is not an identifier.
        TypeError: for what is neither a class nor a function, such as an instance: it belongs to one model.

    Example:
        >>> import blob_pyro
        >>> from pyro.infer.autoguide import AutoNormal
        >>> _ = blob_pyro.register_guide("auto_normal", AutoNormal)
        >>> @blob_pyro.register_guide("two_factors")
        ... def two_factors(model):
        ...     return blob_pyro.guides.LowRankGuide(model, rank=2)
        >>> _ = GUIDES.pop("auto_normal"), GUIDES.pop("two_factors")
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}; as a decorator it is @register_guide('mine')")
    if not name.isidentifier():
        raise ValueError(f"name: expected letters, digits and underscores, got {name!r}")
    if training_defaults is not None and not isinstance(training_defaults, TrainingDefaults):
        raise TypeError(f"training_defaults: expected a TrainingDefaults or None, got {training_defaults!r}")
    if guide is None:
        return lambda guide: register_guide(name, guide, training_defaults=training_defaults)
    if isinstance(guide, nn.Module) or not callable(guide):
        what = f"a {type(guide).__name__}" if isinstance(guide, nn.Module) else repr(guide)
        raise TypeError(
            f"guide: expected a class, or a function of the model or of the batch, got {what}; an instance belongs to "
            "one model: register its class, or a function that makes it"
        )
    known = GUIDES.get(name)
    if known is not None and not is_same(known.recipe, guide):
        raise ValueError(f"name: a guide {name!r} is known already, {known.recipe!r}; choose another name")
    GUIDES[name] = RegisteredGuide(guide, training_defaults)
    return guide


def registered_guide(name: str) -> RegisteredGuide:
    """Look up the guide that a name stands for.

    Raises:
        ValueError: for an unknown name, listing those that are known.
    """
    if name not in GUIDES:
        raise ValueError(
            f"guide: unknown name {name!r}; known: {', '.join(sorted(GUIDES))}. One of yours is known after "
            f"blob_pyro.register_guide({name!r}, ...)"
        )
    return GUIDES[name]


def registered_name(guide: Any) -> str | None:
    """Return the name of what `blob_pyro.BLOB` was given as a guide, a name or what was registered; or None."""
    if isinstance(guide, str):
        return guide
    return next((name for name, known in GUIDES.items() if known.recipe is guide), None)


def guide_name(guide: Any) -> str:
    """Name a guide as messages do: by its registered name in quotation marks, or else its class."""
    name = getattr(guide, "registered_name", None) or registered_name(type(guide))
    return repr(name) if name else type(guide).__name__
