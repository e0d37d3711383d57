"""Files that are never half written, and what a killed process leaves of one.

A new file is written beside the one it replaces, under a name of its own (``.<name>.<token>.tmp``), and becomes it in
one move (POSIX ``rename``): a reader opens the old file or the new one, and a process that dies in between leaves the
old one. What it leaves beside it is found by the next writer: as long as its writer lives a temporary is locked
(``flock``), and one that nobody holds is nobody's. Where there are no such locks (Windows, some network file systems)
temporaries of the last day are left alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked", "naming_what_failed", "new_folder", "remove_abandoned", "require_writable", "staged", "sync"]

_DAY = 86_400.0
_OF_WRITES = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO") if hasattr(errno, name)}


@contextmanager
def naming_what_failed(path: Path) -> Iterator[None]:
    """Say in an error of a write, such as to a full disk, of which file it was and what to do: systems do not.

    Args:
        path: of what is written, in one move: what was there before is as it was.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_WRITES or error.filename is not None or str(path) in (error.strerror or ""):
            raise
        raise OSError(
            error.errno,
            f"{path} cannot be written ({error.strerror}); nothing of it is left, and what was there before is as it "
            f"was: make room in {path.parent}, or choose another path, and try again",
        ) from error


@contextmanager
def staged(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that becomes ``path`` when the block ends, in one move, and vanishes if it raises.

    It is on the disk before it is in place. Its permissions are those of any new file (the umask's).

    Raises:
        OSError: if it cannot be written, naming it, and saying what to do about a full disk.
    """
    stage, handle = _new_file(path)
    try:
        with naming_what_failed(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            if fcntl is not None:
                os.replace(stage, path)  # while it is still locked: nobody takes it for abandoned
        if fcntl is None:
            os.replace(stage, path)  # Windows does not move open files
    except BaseException:
        stage.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a locked temporary folder beside ``path``, to be renamed to it; whatever is still there goes at the end."""
    with ExitStack() as stack:
        while True:
            stage = _temporary(path)
            stage.mkdir()
            with suppress(FileNotFoundError):  # taken for abandoned before it was held; or, below, while it waited
                stack.enter_context(_holding(stage))
                if stage.is_dir():
                    break
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: others who ask for it wait, in this process and in others."""
    with _holding(folder):
        yield


def remove_abandoned(path: Path) -> None:
    """Remove the temporaries that killed writers of ``path`` have left beside it."""
    start, end = f".{path.name}.", ".tmp"
    for stage in path.parent.iterdir() if path.parent.is_dir() else ():
        if not (stage.name.startswith(start) and stage.name.endswith(end)):
            continue
        with suppress(OSError), _unless_held(stage) as abandoned:  # gone already, or another user's
            if abandoned and stage.is_dir():
                shutil.rmtree(stage)
            elif abandoned:
                stage.unlink()


def require_writable(path: Path, argument: str) -> None:
    """Find out now whether ``path`` can be written later, by writing a file beside it.

    Args:
        path: of a file; its folder is made if need be.
        argument: what to call it in an error message.

    Raises:
        ValueError: if it is a folder or read-only, or nothing can be written there, saying why.
    """
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a folder; give the path of a file, such as {path / 'checkpoint'}")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{argument}: {path} is read-only; choose another path, or make it writable")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage, handle = _new_file(path)
        if fcntl is not None:
            stage.unlink()  # while it is still locked: another process that looks for abandoned files lets it be
        os.close(handle)
        stage.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"{argument}: {path} cannot be written ({reason}); choose another path, or mend the folder's permissions"
        ) from error


def sync(folder: Path) -> None:
    """Have the folder's entries on the disk, where the system knows how."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems cannot
                os.fsync(handle)
        finally:
            os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _new_file(path: Path) -> tuple[Path, int]:
    while True:
        stage = _temporary(path)
        handle = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return stage, handle
        os.close(handle)  # taken for abandoned before it was locked


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)


@contextmanager
def _unless_held(stage: Path) -> Iterator[bool]:
    """Hold a temporary while it is removed, so that nobody takes it for theirs in between; False if it is held."""
    if fcntl is None:
        yield time.time() - stage.stat().st_mtime >= _DAY
        return
    handle = os.open(stage, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            abandoned = True
        except BlockingIOError:
            abandoned = False
        except OSError:  # a file system without locks
            abandoned = time.time() - os.fstat(handle).st_mtime >= _DAY
        yield abandoned
    finally:
        os.close(handle)
