"""A training run on disk: everything that the next step depends on, in one file that is never half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["generator_state", "load_checkpoint", "restore_generators", "save_checkpoint"]


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a nest of dicts, lists, numbers and tensors in one move: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU; runs no code that the file may hold.

    Raises:
        ValueError: if the file is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever zipfile, pickle or struct raised
        raise ValueError(
            f"checkpoint: {path} is not a checkpoint or is damaged ({error}); delete it to start afresh"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint: {path} is not a training checkpoint; choose another file")
    return state


def generator_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Torch's generators as they are now: the CPU's, and the device's own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_generators(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back to where `generator_state` saw them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
