"""Priors as JSON: distributions by class and parameters, terms by class and fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal
from blob_pyro.models.priors.bandit_priors import BanditPriors, Learned
from blob_pyro.models.priors.covariates import EventCovariates, UserCovariates
from blob_pyro.models.priors.heavy_tails import HorseshoeKappa, StudentTKappa
from blob_pyro.models.priors.items import ItemCategories, ItemDeviations, ItemFeatures, KappaOnPopularity
from blob_pyro.models.priors.vector import VectorPrior

__all__ = ["from_json", "to_json"]

_OWN = (
    BanditPriors, EventCovariates, HorseshoeKappa, ItemCategories, ItemDeviations, ItemFeatures, KappaOnPopularity,
    Learned, StudentTKappa, UserCovariates, VectorPrior,
)  # fmt: skip
_CLASSES: dict[str, Any] = {c.__name__: c for c in _OWN}
_OWN_DISTRIBUTIONS: dict[str, Any] = {c.__name__: c for c in (ArrowheadNormal, MatrixNormal)}


def to_json(value: Any) -> Any:
    """A prior, or a part of one, as JSON's own types.

    Raises:
        ValueError: for what JSON cannot hold, such as a function, naming it.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, Mapping):
        return {"mapping": {str(k): to_json(v) for k, v in value.items()}}
    if isinstance(value, Distribution):
        return _distribution_to_json(value)
    if type(value).__name__ in _CLASSES and type(value) is _CLASSES[type(value).__name__]:
        return {"class": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    if hasattr(value, "__iter__"):
        return [to_json(v) for v in value]
    raise ValueError(f"priors: {value!r} cannot be written as JSON")


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "mapping" in value:
        return {k: from_json(v) for k, v in value["mapping"].items()}
    if "class" in value:
        return _CLASSES[value["class"]](**{k: from_json(v) for k, v in value.items() if k != "class"})
    return _distribution_from_json(value)


def _distribution_to_json(d: Any) -> dict[str, Any]:
    if isinstance(d, dist.Independent):
        return {"distribution": "Independent", "base": to_json(d.base_dist), "dims": d.reinterpreted_batch_ndims}
    name = type(d).__name__
    if name not in _OWN_DISTRIBUTIONS and not hasattr(dist, name):
        raise ValueError(f"priors: {d!r} is a distribution of your own; it cannot be written as JSON")
    names = ("loc", "scale_tril") if name == "MultivariateNormal" else d.arg_constraints  # it takes one of three
    parameters = {key: torch.as_tensor(getattr(d, key)).tolist() for key in names}
    return {"distribution": name, "parameters": parameters}


def _distribution_from_json(value: dict[str, Any]) -> Any:
    if value["distribution"] == "Independent":
        return from_json(value["base"]).to_event(value["dims"])
    name = value["distribution"]
    cls: Any = _OWN_DISTRIBUTIONS[name] if name in _OWN_DISTRIBUTIONS else getattr(dist, name)
    return cls(**{key: torch.tensor(numbers) for key, numbers in value["parameters"].items()})
