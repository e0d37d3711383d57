"""Models on disk: a folder with ``manifest.json``, ``config.json`` and ``state.safetensors``. No pickle.

The manifest has the SHA-256 of the other two, so that a reader sees any change of them. A new folder is written beside
and renamed, so that a folder that is there is whole. Over an older model the new files are first written beside the old
ones, under names with their hashes; then the manifest is replaced, in one move, which is when the new model is there;
then they take the old ones' places. A reader that finds another file than its manifest says reads the manifest again:
it sees the old model or the new one. A writer that is killed leaves the one or the other and, at most, files whose
names start with a dot; the next save finishes or removes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from blob_pyro.ops.arguments import path_of
from blob_pyro.ops.files import locked, naming_what_failed, new_folder, remove_abandoned, staged, sync
from blob_pyro.serialization import schema_2
from blob_pyro.serialization.errors import SavedModelError
from blob_pyro.serialization.manifest import CONFIG, FILES, MANIFEST, SCHEMA_VERSION, STATE, Manifest, read_json
from blob_pyro.serialization.reading import NotThere, read_file, read_tensors

__all__ = ["CONFIG", "MANIFEST", "SCHEMA_VERSION", "STATE", "Saved", "load", "require_finite"]
__all__ += ["require_replaceable", "restore", "save"]

_ATTEMPTS = 100  # at reading a folder that others write to
_MOST_MANIFEST = 2**24  # bytes
_LEFT = (".tmp", ".new")


@dataclass(frozen=True)
class Saved:
    """The contents of a folder, read and known to be what was written.

    Attributes:
        path: the folder.
        class_name: of what was saved.
        config: the contents of ``config.json``.
        state: the tensors of ``state.safetensors``, on the CPU.
    """

    path: Path
    class_name: str
    config: dict[str, Any]
    state: dict[str, Tensor]


def save(
    path: str | Path,
    class_name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder, or replace what it holds: a reader sees the old model or the new one.

    A link to a folder is followed. Files in the folder that are not the model's stay where they are.

    Args:
        path: of the folder.
        class_name: of what is saved.
        config: JSON.
        tensors: by name.
        data: fingerprints of what it was fitted to.

    Raises:
        TypeError: if ``path`` is no path.
        ValueError: if something else is there, or a tensor holds a number that is not finite.
        OSError: if it cannot be written; an older model is then still there.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"save: {name} holds numbers that are not finite; fit the model again before you save it")
    target = Path(os.path.realpath(path_of(path, "path", "a folder")))
    require_replaceable(path)
    contents = {
        CONFIG: (json.dumps(config, indent=2, allow_nan=False) + "\n").encode(),
        STATE: tensors_to_bytes(_apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})),
    }
    manifest = Manifest.of(class_name, data or {}, contents)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    with naming_what_failed(target):
        if target.is_dir() or not _create(target, manifest, contents):
            _replace(target, manifest, contents)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory with one before them: the file holds each by itself."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return apart


def load(path: str | Path) -> Saved:
    """Read a folder, every byte of it checked against its manifest.

    A folder of schema version 2, which has no manifest, is read with a warning.

    Raises:
        SavedModelError: naming the file, if the folder does not hold a model that this version can read.
        TypeError: if ``path`` is no path.
        ValueError: if no file can have such a name.
    """
    path = path_of(path, "path", "a saved model")
    try:
        return _load(path)
    except SavedModelError as error:
        error.path = path
        raise
    except OSError as error:
        raise SavedModelError(f"cannot be read: {error.strerror or error}", path=path) from error


def restore(modules: Mapping[str, nn.Module], saved: Saved) -> None:
    """Put saved tensors into fresh modules, all of them or none; a module takes the saved precision.

    Raises:
        SavedModelError: naming the tensor, for one that is missing, unknown, misshapen or of another kind.
    """
    for name, module in modules.items():
        own = {k.removeprefix(f"{name}."): v for k, v in saved.state.items() if k.startswith(f"{name}.")}
        expected = module.state_dict()
        wrong = sorted(set(own) ^ set(expected)) or sorted(k for k in own if own[k].shape != expected[k].shape)
        if wrong:
            raise SavedModelError(
                f"does not fit this {name}: {', '.join(wrong[:5])} missing, extra or misshapen",
                path=saved.path,
                file=STATE,
                field=f"{name}.{wrong[0]}",
            )
        for key, value in own.items():
            if value.dtype != expected[key].dtype and not (
                value.is_floating_point() and expected[key].is_floating_point()
            ):
                problem = f"expected {expected[key].dtype}, got {value.dtype}"
                raise SavedModelError(problem, path=saved.path, file=STATE, field=f"{name}.{key}")
    for name, module in modules.items():
        own = {key: saved.state[f"{name}.{key}"] for key in module.state_dict()}
        precisions = {value.dtype for value in own.values() if value.is_floating_point()}
        if len(precisions) == 1:
            module.to(dtype=precisions.pop())
        module.load_state_dict(own)


def require_finite(saved: Saved, own: Callable[[str], bool]) -> None:
    """Refuse numbers that are not finite.

    Args:
        saved: what was read.
        own: of a tensor's name, whether it is in a module of the user's, which may mean something by them.

    Raises:
        SavedModelError: naming the tensor.
    """
    for name, value in saved.state.items():
        if value.is_floating_point() and not own(name) and not torch.isfinite(value).all():
            raise SavedModelError("holds numbers that are not finite", path=saved.path, file=STATE, field=name)


def _load(path: Path) -> Saved:
    if not path.is_dir():
        raise SavedModelError("is not a saved model; there is no such folder")
    for _ in range(_ATTEMPTS):
        if not (path / MANIFEST).exists():
            return Saved(path, *schema_2.load(path))
        before, content = read_file(path, MANIFEST, most=_MOST_MANIFEST)
        manifest = Manifest.parse(content)
        contents = {name: _find(path, name, manifest) for name in FILES}
        missing = [name for name, found in contents.items() if found is None]
        if not missing:
            return _parse(path, manifest, {name: found for name, found in contents.items() if found is not None})
        if read_file(path, MANIFEST, most=_MOST_MANIFEST)[0] == before:
            raise SavedModelError(
                f"is not the file that {MANIFEST} says: it is missing or damaged. Restore it from a copy, or fit again",
                file=missing[0],
            )
    raise SavedModelError("was replaced every time that it was read; stop whatever keeps saving to it, and try again")


def _parse(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Saved:
    config = read_json(contents[CONFIG], CONFIG)
    if not isinstance(config, dict):
        raise SavedModelError("expected an object", file=CONFIG)
    return Saved(path, manifest.class_name, config, read_tensors(contents[STATE]))


def _find(path: Path, name: str, manifest: Manifest) -> bytes | None:
    """A file's contents, wherever a writer may have got to; None if they are nowhere."""
    entry = manifest.files[name]
    for candidate in (_pending(name, manifest), name):
        try:
            _, content = read_file(path, candidate, size=entry.size)
        except NotThere:
            continue
        if entry.holds(content):
            return content
    return None


def _create(target: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> bool:
    """Write a new folder beside and rename it; False if another process has made one meanwhile."""
    with new_folder(target) as stage:
        for name, content in {**contents, MANIFEST: manifest.dump()}.items():
            _write(stage / name, content)
        sync(stage)
        try:
            os.rename(stage, target)
        except OSError:
            if target.is_dir():
                return False
            raise
    sync(target.parent)
    return True


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace(target: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Put a model in the place of whatever the folder holds; other writers wait."""
    with locked(target):
        _tidy(target)
        try:
            for name, content in contents.items():
                _write(target / _pending(name, manifest), content)
            with staged(target / MANIFEST) as file:
                file.write(manifest.dump())
        finally:
            _tidy(target)


def _tidy(folder: Path) -> None:
    """Finish what a writer has decided, and remove what it has not: what the manifest does not speak of."""
    try:
        manifest = Manifest.parse(read_file(folder, MANIFEST, most=_MOST_MANIFEST)[1])
    except SavedModelError:
        manifest = None
    wanted = {} if manifest is None else {_pending(name, manifest): name for name in FILES}
    for file in list(folder.iterdir()):
        if file.name in wanted:
            os.replace(file, folder / wanted[file.name])
        elif _is_temporary(file.name):
            with suppress(FileNotFoundError):
                file.unlink()
    sync(folder)


def _is_temporary(name: str) -> bool:
    return name.startswith(tuple(f".{file}." for file in (*FILES, MANIFEST))) and name.endswith(_LEFT)


def _pending(name: str, manifest: Manifest) -> str:
    return f".{name}.{manifest.files[name].sha256[:16]}.new"


def require_replaceable(path: str | Path) -> None:
    """Refuse to write where something else is than a model.

    Raises:
        ValueError: naming ``path``.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        return
    refusal = ValueError(f"path: {path} exists and is not a saved model; choose another folder")
    if not target.is_dir():
        raise refusal
    names = {file.name for file in target.iterdir()}
    others = {name for name in names if name not in (*FILES, MANIFEST) and not _is_temporary(name)}
    if others and MANIFEST not in names and not schema_2.is_one(target):
        raise refusal
    if others and MANIFEST in names:
        try:
            Manifest.parse(read_file(target, MANIFEST, most=_MOST_MANIFEST)[1])
        except SavedModelError:
            raise refusal from None
