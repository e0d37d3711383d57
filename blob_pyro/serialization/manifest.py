"""The manifest of a saved model: what its files are, so that any change of them is seen."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from blob_pyro._version import __version__
from blob_pyro.serialization.codec import shorten
from blob_pyro.serialization.errors import SavedModelError

__all__ = ["CONFIG", "FILES", "MANIFEST", "SCHEMA_VERSION", "STATE", "FileEntry", "Manifest", "read_json"]

SCHEMA_VERSION = 3
MANIFEST, CONFIG, STATE = "manifest.json", "config.json", "state.safetensors"
FILES = (CONFIG, STATE)
_FORMAT = "blob-pyro saved model"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """A file's contents.

    Attributes:
        sha256: 64 hexadecimal digits.
        size: bytes.
    """

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> FileEntry:
        """Make the entry of a file that is about to be written."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))

    def holds(self, content: bytes) -> bool:
        """Say whether these are the file's contents."""
        return len(content) == self.size and hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        class_name: of what was saved.
        data: fingerprints of the data that it was fitted to, by part and call: see `blob_pyro.ops.fingerprints`.
        files: by name, every one of `FILES`.
        versions: of the packages that wrote it.
    """

    class_name: str
    data: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, class_name: str, data: Mapping[str, Any], contents: Mapping[str, bytes]) -> Manifest:
        """Make the manifest of files that are about to be written."""
        versions = {"blob-pyro": __version__, **{name: version(name) for name in ("torch", "pyro-ppl", "safetensors")}}
        return cls(class_name, data, {name: FileEntry.of(content) for name, content in contents.items()}, versions)

    def dump(self) -> bytes:
        """Write the manifest as JSON, with a SHA-256 of the rest of it in its last field."""
        fields = {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            "class": self.class_name,
            "versions": dict(self.versions),
            "data": dict(self.data),
            "files": {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()},
        }
        return (json.dumps({**fields, "sha256": _digest(fields)}, indent=2) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Read what `dump` wrote.

        Raises:
            SavedModelError: if the contents are not what `dump` writes, or another schema's.
        """
        fields = read_json(content, MANIFEST)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise SavedModelError(f"expected {_FORMAT!r}; this is no saved model", file=MANIFEST, field="format")
        found = fields.get("schema_version")
        if found != SCHEMA_VERSION or type(found) is not int:
            versions = fields.get("versions")
            writer = versions.get("blob-pyro") if isinstance(versions, dict) else None
            raise SavedModelError(
                f"is {shorten(found)}, written by blob-pyro {shorten(writer)}; this is {__version__}, which reads "
                f"{SCHEMA_VERSION} and 2. Load it with a version that reads it, and save it again",
                file=MANIFEST,
                field="schema_version",
            )
        if fields.pop("sha256", None) != _digest(fields):
            raise SavedModelError(
                "its contents have another SHA-256 than it says: it is damaged. Restore it from a copy, or fit again",
                file=MANIFEST,
                field="sha256",
            )
        return cls._checked(fields)

    @classmethod
    def _checked(cls, fields: dict[str, Any]) -> Manifest:
        for name in ("versions", "data", "files"):
            if not isinstance(fields.get(name), dict):
                raise SavedModelError(f"expected an object, got {shorten(fields.get(name))}", file=MANIFEST, field=name)
        if not isinstance(fields.get("class"), str):
            raise SavedModelError(f"expected a name, got {shorten(fields.get('class'))}", file=MANIFEST, field="class")
        if set(fields["files"]) != set(FILES):
            raise SavedModelError(
                f"expected {' and '.join(FILES)}, got {shorten(list(fields['files']))}", file=MANIFEST, field="files"
            )
        files = {name: _file_entry(name, value) for name, value in fields["files"].items()}
        return cls(fields["class"], fields["data"], files, fields["versions"])


def read_json(content: bytes, file: str) -> Any:
    """Read JSON as the standard has it: no NaN, no infinity, no key twice, no nest too deep.

    Raises:
        SavedModelError: for anything else, with the place.
    """
    try:
        return json.loads(
            content.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        raise SavedModelError(
            f"is damaged: it is no JSON ({error}). Restore it from a copy, or fit again", file=file
        ) from error


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _file_entry(name: str, value: Any) -> FileEntry:
    where = f"files.{name}"
    if not isinstance(value, dict) or set(value) != {"sha256", "size"}:
        raise SavedModelError(f"expected sha256 and size, got {shorten(value)}", file=MANIFEST, field=where)
    if not isinstance(value["sha256"], str) or not _SHA256.fullmatch(value["sha256"]):
        raise SavedModelError("expected 64 hexadecimal digits", file=MANIFEST, field=f"{where}.sha256")
    if type(value["size"]) is not int or value["size"] < 0:
        raise SavedModelError("expected a number of bytes", file=MANIFEST, field=f"{where}.size")
    return FileEntry(**value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) < len(pairs):
        raise ValueError("a key occurs twice")
    return distinct
