"""What `BLO` is made of as JSON: its bound and its priors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from blob_pyro.infer import BOUNDS, Bound
from blob_pyro.models import OrganicPriors
from blob_pyro.serialization import folder

__all__ = ["bound_from_json", "bound_to_json", "priors_from_json", "priors_to_json"]

_NORMALS = ("item_embedding", "item_intercept")


def bound_to_json(bound: Bound | None) -> dict[str, Any] | None:
    """Name and settings of one of the library's bounds; None for one of the user's, or with a network of its own."""
    name = next((name for name, known in BOUNDS.items() if type(bound) is known), None)
    if bound is None or name is None or bound.module is not None:
        return None
    return {"name": name, **{k: v for k, v in asdict(bound).items() if k != "offsets"}}  # type: ignore[call-overload]


def bound_from_json(value: dict[str, Any] | None) -> Bound | None:
    """The inverse of `bound_to_json`."""
    return None if value is None else BOUNDS[value["name"]](**{k: v for k, v in value.items() if k != "name"})


def priors_to_json(priors: OrganicPriors) -> dict[str, Any]:
    """The two normals, None where there is none, and how they are used."""
    normals = {name: getattr(priors, name) for name in _NORMALS}
    saved = {name: None if normal is None else folder.distribution_to_json(normal) for name, normal in normals.items()}
    return {**saved, "inference": priors.inference}


def priors_from_json(value: dict[str, Any]) -> OrganicPriors:
    """The inverse of `priors_to_json`."""
    saved = {name: value[name] for name in _NORMALS}
    normals = {n: None if normal is None else folder.distribution_from_json(normal) for n, normal in saved.items()}
    return OrganicPriors(**normals, inference=value["inference"])
