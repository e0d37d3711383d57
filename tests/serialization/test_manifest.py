"""The manifest: what is written is read, files are those that it names, and JSON is the standard's."""

import json

import pytest

from blob_pyro.serialization import SavedModelError
from blob_pyro.serialization.manifest import CONFIG, MANIFEST, STATE, FileEntry, Manifest, read_json

FILES = {CONFIG: b"{}", STATE: b"\x00" * 9}


def test_what_is_written_is_read():
    manifest = Manifest.of("BLO", {"organic": ["abc"]}, FILES)
    again = Manifest.parse(manifest.dump())
    assert again.class_name == "BLO"
    assert again.data == {"organic": ["abc"]}
    assert again.files == manifest.files
    assert again.files[STATE].size == 9


def test_an_entry_knows_its_contents():
    entry = FileEntry.of(b"abc")
    assert entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    assert entry.holds(b"abc")
    assert not entry.holds(b"abd")
    assert not entry.holds(b"abcd")


def test_a_changed_manifest_contradicts_its_own_digest():
    fields = json.loads(Manifest.of("BLO", {}, FILES).dump())
    fields["class"] = "BLOB"
    with pytest.raises(SavedModelError, match=f"{MANIFEST}, sha256"):
        Manifest.parse(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "content", [b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff", b"{"]
)
def test_json_beyond_the_standard_is_refused(content):
    with pytest.raises(SavedModelError, match="is damaged: it is no JSON"):
        read_json(content, MANIFEST)
    assert read_json(b'{"a": [1, 2.5, null]}', MANIFEST) == {"a": [1, 2.5, None]}
