"""Reading a saved model's files: regular ones, of the size that is expected, and nothing in them is run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from blob_pyro.serialization.errors import SavedModelError
from blob_pyro.serialization.manifest import STATE

__all__ = ["NotThere", "read_file", "read_tensors"]

Identity = tuple[int, int, int]


class NotThere(SavedModelError):
    """A file is missing, or has another size."""


def read_file(folder: Path, name: str, *, size: int | None = None, most: int | None = None) -> tuple[Identity, bytes]:
    """Read a file's contents, and its identity, which changes when it is replaced.

    Links are followed; nothing is read of what is no regular file, or of another size.

    Args:
        folder: it is in.
        name: of the file.
        size: how many bytes there must be.
        most: how many there may be.

    Raises:
        NotThere: if it is missing or of another size.
        SavedModelError: if it cannot be read, or is no file.
    """
    try:
        handle = os.open(folder / name, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise NotThere("is missing", file=name) from error
    except OSError as error:
        raise SavedModelError(f"cannot be read: {error.strerror or error}", file=name) from error
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise SavedModelError("is not a regular file", file=name)
    with os.fdopen(handle, "rb") as file:
        if size is not None and about.st_size != size:
            raise NotThere(f"has {about.st_size} bytes where {size} were written", file=name)
        if most is not None and about.st_size > most:
            raise SavedModelError(f"has {about.st_size} bytes; {most} are the most that it may have", file=name)
        try:
            return (about.st_ino, about.st_mtime_ns, about.st_size), file.read(about.st_size + 1)
        except (OSError, MemoryError) as error:
            raise SavedModelError(f"cannot be read: {error!r}", file=name) from error


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a state file.

    Raises:
        SavedModelError: if it is none.
    """
    try:
        return load(content)
    except (SafetensorError, AssertionError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise SavedModelError(f"is damaged: {error}. Restore it from a copy, or fit again", file=STATE) from error
