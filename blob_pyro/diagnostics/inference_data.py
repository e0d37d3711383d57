"""Labelled arrays, and the container of the installed ArviZ: one converter for its 0.x and 1.x lines."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from blob_pyro.models.sites import KAPPA, ZETA

__all__ = ["container", "draws_dataset", "import_arviz", "labels_of", "to_inference_data"]

DIMS: dict[str, tuple[str, ...]] = {KAPPA: ("item",), ZETA: ("factor", "interest_factor")}
SAMPLE_DIMS = ("chain", "draw")

Coordinates = Mapping[str, Mapping[str, Sequence[Hashable]]]


def to_inference_data(
    groups: dict[str, dict[str, Tensor]],
    item_ids: Sequence[Hashable],
    coordinates: Coordinates | None = None,
    num_chains: int = 1,
) -> Any:
    """Label draws and put them into the installed ArviZ's container.

    Draws of a guide are independent. They lie along one chain, because that is the shape that every function of ArviZ
    takes; statistics that compare chains do not apply to them: see `blob_pyro.diagnostics.summary`.

    Args:
        groups: per group ("posterior", "prior") draws of each site, ``num_samples x shape``.
        item_ids: labels of the item dimension.
        coordinates: for other sites their dimensions, and the labels of each: ``{site: {dimension: labels}}``.
        num_chains: of the draws, chain after chain.

    Returns:
        ``arviz.InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x. Both have ``to_netcdf``.

    Raises:
        ValueError: if two sites label one dimension differently.
    """
    known = {} if coordinates is None else coordinates
    arrays = {name: {n: v.cpu().numpy() for n, v in draws.items()} for name, draws in groups.items()}
    return container(
        {name: draws_dataset(draws, item_ids, known, num_chains=num_chains) for name, draws in arrays.items()}
    )


def container(datasets: Mapping[str, xr.Dataset]) -> Any:
    """Put data sets by group into ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x)."""
    az = import_arviz()
    if az.__version__.startswith("0."):
        return az.InferenceData(**datasets)
    return xr.DataTree.from_dict(dict(datasets))


def import_arviz() -> ModuleType:
    """Import the installed ArviZ when it is first needed: it takes longer to import than all the rest together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.x announces 1.x
        import arviz
    module: ModuleType = arviz
    return module


def labels_of(ids: Sequence[Hashable]) -> np.ndarray:
    """Label a dimension: integers and text as they are, anything else as its text, so that NetCDF can hold them."""
    kinds = {type(id_) for id_ in ids}
    if kinds <= {int}:
        return np.array(ids, dtype=np.int64)
    return np.array([id_ if isinstance(id_, str) else str(id_) for id_ in ids], dtype=str)


def draws_dataset(
    draws: Mapping[str, np.ndarray],
    item_ids: Sequence[Hashable],
    coordinates: Coordinates,
    *,
    num_chains: int = 1,
    item_sites: Sequence[str] = (),
) -> xr.Dataset:
    """Label draws by chain, draw, and the dimensions of their sites.

    Args:
        draws: of each site, ``num_draws x shape``, chain after chain.
        item_ids: labels of the item dimension.
        coordinates: for other sites their dimensions, and the labels of each: ``{site: {dimension: labels}}``.
        num_chains: of the draws.
        item_sites: sites, beside kappa, whose first dimension is the items.

    Returns:
        Dimensions ``chain``, ``draw`` and those of the sites.

    Raises:
        ValueError: if two sites label one dimension differently.
    """
    variables: dict[str, xr.Variable] = {}
    labels: dict[str, Sequence[Hashable]] = {"item": item_ids}
    for name, value in draws.items():
        for dimension, ids in coordinates.get(name, {}).items():
            if list(labels.setdefault(dimension, ids)) != list(ids):
                raise ValueError(
                    f"coordinates: {name!r} labels the dimension {dimension!r} otherwise than another site; give the "
                    "dimension another name, or give their terms names"
                )
        known = DIMS.get(name, tuple(coordinates.get(name, ())))
        own = [f"{name}_dim_{i}" for i in range(value.ndim - 1)]
        if name in item_sites:
            own[0] = "item"
        dims = known if known and len(known) == value.ndim - 1 else tuple(own)
        shape = (num_chains, len(value) // num_chains, *value.shape[1:])
        variables[name] = xr.Variable((*SAMPLE_DIMS, *dims), value.reshape(shape))
    data = xr.Dataset(variables)
    ranges = {dim: np.arange(data.sizes[dim]) for dim in SAMPLE_DIMS if dim in data.sizes}
    return data.assign_coords(ranges | {dim: labels_of(ids) for dim, ids in labels.items() if dim in data.dims})
