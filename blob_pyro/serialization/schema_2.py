"""Models of schema version 2, which had no manifest: read, with a warning, as if this version had written them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from blob_pyro.infer import BOUNDS
from blob_pyro.serialization.codec import shorten
from blob_pyro.serialization.errors import SavedModelError
from blob_pyro.serialization.manifest import CONFIG, MANIFEST, STATE, read_json
from blob_pyro.serialization.reading import NotThere, read_file, read_tensors

__all__ = ["is_one", "load"]


def is_one(folder: Path) -> bool:
    """Say whether a folder without a manifest is a saved model of schema version 2."""
    try:
        return bool(_config(folder))
    except SavedModelError:
        return False


def load(folder: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Load class, configuration in today's form, and tensors.

    Raises:
        SavedModelError: naming the file, if it cannot be read.

    Warns:
        UserWarning: that damage cannot be seen.
    """
    config, state = _config(folder), read_tensors(read_file(folder, STATE)[1])
    warnings.warn(
        f"path: {folder} is of schema version 2, which has no checksums: what has happened to it since it was written "
        "cannot be seen. Save it again to have them",
        stacklevel=6,
    )
    name = config.pop("class", None)
    if not isinstance(name, str):
        raise SavedModelError(f"expected a name, got {shorten(name)}", file=CONFIG, field="class")
    for key in ("schema_version", "versions"):
        config.pop(key, None)
    return name, _upgrade(config), state


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(read_file(folder, CONFIG)[1], CONFIG)
    except NotThere:
        problem = f"is not a saved model; it needs {MANIFEST}, {CONFIG} and {STATE}"
        raise SavedModelError(problem) from None
    if not isinstance(config, dict) or config.get("schema_version") != 2:
        raise SavedModelError("is missing; restore it from a copy, or fit again", file=MANIFEST)
    return config


def _upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Today's form of a configuration."""
    today = {key: _upgrade_value(value) if key == "priors" else value for key, value in config.items()}
    if isinstance(today.get("blo"), dict):
        today["blo"] = _upgrade({key: value for key, value in today["blo"].items() if key != "class"})
    if "bound" in today:
        today["bound"] = _upgrade_bound(today["bound"])
    if isinstance(config.get("priors"), dict) and "class" not in config["priors"]:  # the organic model's
        today["priors"] = {"class": "OrganicPriors", "fields": today["priors"]}
    return today


def _upgrade_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_upgrade_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "mapping" in value and isinstance(value["mapping"], dict):
        return {"mapping": {key: _upgrade_value(item) for key, item in value["mapping"].items()}}
    if "class" in value:
        fields = {key: _upgrade_value(item) for key, item in value.items() if key != "class"}
        return {"class": value["class"], "fields": fields}
    if value.get("distribution") == "Independent":
        fields = {"base_dist": _upgrade_value(value.get("base")), "reinterpreted_batch_ndims": value.get("dims")}
        return {"class": "Independent", "fields": fields}
    if "distribution" in value and isinstance(value.get("parameters"), dict):
        return {"class": value["distribution"], "fields": _tensors(value["parameters"])}
    if "name" in value:
        return {"class": value["name"], "fields": _tensors({k: v for k, v in value.items() if k != "name"})}
    return {key: _upgrade_value(item) for key, item in value.items()}


def _upgrade_bound(value: Any) -> Any:
    if not isinstance(value, dict) or value.get("name") not in [*BOUNDS]:
        return value
    cls: Any = BOUNDS[value["name"]]
    fields = {"offsets": None} if "offsets" in cls.__dataclass_fields__ else {}
    return {"class": cls.__name__, "fields": {**fields, **{k: v for k, v in value.items() if k != "name"}}}


def _tensors(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: {"tensor": numbers, "dtype": "float32"} for name, numbers in parameters.items()}
