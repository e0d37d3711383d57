"""``blob-pyro doctor``: what is installed, and what would be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import click
import torch

from blob_pyro._version import __version__
from blob_pyro.cli.session import Command
from blob_pyro.ops.device import default_device

__all__ = ["doctor"]

_LIBRARIES = (
    "torch",
    "pyro-ppl",
    "numpy",
    "scipy",
    "arviz",
    "xarray",
    "pandas",
    "pyarrow",
    "safetensors",
    "matplotlib",
)
_RECOGYM = "pip install 'blob-pyro[recogym]' && pip install --no-deps recogym==0.1.3.0"


@click.command(cls=Command)
def doctor() -> None:
    """Say which versions are installed, which device would train, and how to get what is missing.

    \b
    Example:
      blob-pyro doctor
    """
    rows = [("blob-pyro", __version__), ("Python", platform.python_version())]
    rows += [(name, _version(name) or "not installed") for name in _LIBRARIES]
    rows.append(("device", _device()))
    rows.append(("threads", f"{torch.get_num_threads()} of torch"))
    found = importlib.util.find_spec("recogym") is not None
    rows.append(("RecoGym", (_version("recogym") or "installed") if found else f"not installed: {_RECOGYM}"))
    rows.append(("implicit (ALS)", _version("implicit") or "not installed: pip install 'blob-pyro[als]'"))
    width = max(len(name) for name, _ in rows)
    for name, what in rows:
        click.echo(f"{name:<{width}}  {what}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    device = default_device(None)
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}: fits train there unless told otherwise"
    built = torch.version.cuda
    return f"{device}: " + (
        f"this torch is built for CUDA {built}, and finds no GPU" if built else "this torch has no CUDA"
    )
