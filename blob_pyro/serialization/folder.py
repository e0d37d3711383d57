"""Models on disk: a folder with ``config.json`` and ``state.safetensors``. No pickle, no half-written folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blob_pyro._version import __version__
from blob_pyro.data import Vocabulary

__all__ = ["load", "restore", "save"]

SCHEMA_VERSION = 2
CONFIG, STATE = "config.json", "state.safetensors"


def save(path: str | Path, config: dict[str, Any], modules: dict[str, nn.Module]) -> None:
    """Write a folder in one move: a reader sees the old one or the new one."""
    path = Path(path)
    if path.exists() and not (path / CONFIG).exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path: {path} exists and is not a saved model; choose another folder")
    about = {
        "schema_version": SCHEMA_VERSION,
        "versions": {"blob-pyro": __version__, **{p: version(p) for p in ("torch", "pyro-ppl")}},
    }
    tensors = {f"{name}.{key}": value.cpu().contiguous() for name, m in modules.items() for key, value in _state(m)}
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        fresh = staging / "new"
        fresh.mkdir()
        (fresh / CONFIG).write_text(json.dumps({**about, **config}, indent=2) + "\n")
        save_file(tensors, fresh / STATE)
        if path.exists():
            path.rename(staging / "old")
        os.replace(fresh, path)
    finally:
        if not path.exists() and (staging / "old").exists():
            (staging / "old").rename(path)
        shutil.rmtree(staging, ignore_errors=True)


def load(path: str | Path, expected_class: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a folder's configuration and tensors, or say in a ValueError why not."""
    path = Path(path)
    if not (path / CONFIG).is_file() or not (path / STATE).is_file():
        raise ValueError(f"path: {path} is not a saved model; it needs {CONFIG} and {STATE}")
    try:
        config = json.loads((path / CONFIG).read_text())
        state = load_file(path / STATE)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"path: {path} is damaged: {error}. Restore it from a copy, or fit again") from error
    if config.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"path: {path} has schema version {config.get('schema_version')}, written by blob-pyro "
            f"{config.get('versions', {}).get('blob-pyro')}; this is {__version__}, which reads {SCHEMA_VERSION}"
        )
    if config.get("class") != expected_class:
        raise ValueError(f"path: {path} holds a {config.get('class')}; load it with {config.get('class')}.load")
    return config, state


def restore(modules: dict[str, nn.Module], state: dict[str, Tensor], path: str | Path) -> None:
    """Put saved tensors into fresh modules, all of them or none."""
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        expected = dict(_state(module))
        wrong = sorted(set(own) ^ set(expected)) or sorted(k for k in own if own[k].shape != expected[k].shape)
        if wrong:
            raise ValueError(f"path: {path} does not fit this {name}: {', '.join(wrong)} missing, extra or misshapen")
    for name, module in modules.items():
        module.load_state_dict({key: state[f"{name}.{key}"] for key, _ in _state(module)})


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.state_dict().items())


def vocabulary_to_json(items: Vocabulary) -> Any:
    """A count for numbered ids, else the list of ids."""
    if items.is_numbered:
        return len(items)
    odd = next((i for i in items.ids if type(i) not in (str, int)), None)
    if odd is not None:
        raise ValueError(f"items: id {odd!r} is a {type(odd).__name__}; only strings and integers can be saved")
    return list(items.ids)


def vocabulary_from_json(items: Any) -> Vocabulary:
    """The inverse of `vocabulary_to_json`."""
    return Vocabulary.numbered(items) if isinstance(items, int) else Vocabulary(items)


def distribution_to_json(d: TorchDistribution) -> dict[str, Any]:
    """A distribution's class and its parameters."""
    return {"name": type(d).__name__, **{name: getattr(d, name).tolist() for name in d.arg_constraints}}


def distribution_from_json(value: dict[str, Any]) -> TorchDistribution:
    """The inverse of `distribution_to_json`, for Pyro's own distributions."""
    arguments = {k: torch.tensor(v) for k, v in value.items() if k != "name"}
    return getattr(dist, value["name"])(**arguments)
