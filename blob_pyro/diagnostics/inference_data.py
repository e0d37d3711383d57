"""Draws to ArviZ: one converter for its 0.x and 1.x containers."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any

import xarray as xr
from torch import Tensor

from blob_pyro.models.sites import KAPPA, ZETA

__all__ = ["to_inference_data"]

DIMS: dict[str, tuple[str, ...]] = {KAPPA: ("item",), ZETA: ("factor", "interest_factor")}


def to_inference_data(
    groups: dict[str, dict[str, Tensor]],
    item_ids: Sequence[Hashable],
    coordinates: Mapping[str, Mapping[str, Sequence[Hashable]]] | None = None,
) -> Any:
    """Label draws and put them into the installed ArviZ's container.

    Draws of a guide are independent: they lie along one ``sample`` dimension, not along chains, and statistics that
    compare chains do not apply to them. Pass ``sample_dims="sample"`` (ArviZ 1.x) where a function asks.

    Args:
        groups: per group ("posterior", "prior") draws of each site, ``num_samples x shape``.
        item_ids: labels of the item dimension.
        coordinates: for other sites their dimensions, and the labels of each: ``{site: {dimension: labels}}``.

    Returns:
        ``arviz.InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x. Both have ``to_netcdf``.
    """
    az = import_arviz()
    known = {} if coordinates is None else coordinates
    datasets = {name: _dataset(draws, item_ids, known) for name, draws in groups.items()}
    if az.__version__.startswith("0."):
        return az.InferenceData(**datasets)
    return xr.DataTree.from_dict(datasets)


def import_arviz() -> ModuleType:
    """Import the installed ArviZ when it is first needed: it takes longer to import than all the rest together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.x announces 1.x
        import arviz
    module: ModuleType = arviz
    return module


def _dataset(
    draws: dict[str, Tensor],
    item_ids: Sequence[Hashable],
    coordinates: Mapping[str, Mapping[str, Sequence[Hashable]]],
) -> xr.Dataset:
    variables = {}
    labels: dict[str, Sequence[Hashable]] = {"item": item_ids}
    for name, value in draws.items():
        for dimension, ids in coordinates.get(name, {}).items():
            if list(labels.setdefault(dimension, ids)) != list(ids):
                raise ValueError(
                    f"coordinates: {name!r} labels the dimension {dimension!r} otherwise than another site; give the "
                    "dimension another name, or give their terms names"
                )
        known = DIMS.get(name, tuple(coordinates.get(name, ())))
        dims = known if len(known) == value.dim() - 1 else tuple(f"{name}_dim_{i}" for i in range(value.dim() - 1))
        variables[name] = (("sample", *dims), value.cpu().numpy())
    data = xr.Dataset(variables)
    return data.assign_coords({dim: list(ids) for dim, ids in labels.items() if dim in data.dims})
