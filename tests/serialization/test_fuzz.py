"""Saved models, damaged and forged: the identical model or a `SavedModelError`, and no other end."""

import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from blob_pyro import BLOB
from blob_pyro.serialization import SavedModelError
from blob_pyro.serialization.manifest import CONFIG, FILES, MANIFEST, SCHEMA_VERSION, STATE, Manifest
from tests.fuzzing import fuzz
from tests.serialization.make_fixtures import HISTORIES

FIXTURE = Path(__file__).parent / "fixtures" / f"schema_{SCHEMA_VERSION}" / "blob_normal"


@functools.cache
def original() -> tuple[dict[str, bytes], torch.Tensor]:
    files = {name: (FIXTURE / name).read_bytes() for name in (*FILES, MANIFEST)}
    return files, BLOB.load(FIXTURE, device="cpu").scores(HISTORIES)


def load(changed: dict[str, bytes]) -> BLOB | SavedModelError:
    """A model with some of its files changed; or the error."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model"
        shutil.copytree(FIXTURE, path)
        for name, content in changed.items():
            (path / name).write_bytes(content)
        try:
            return BLOB.load(path, device="cpu")
        except SavedModelError as error:
            found = error
    assert found.file in (*FILES, MANIFEST) or "load it with" in str(found), found
    return found


def check_identical_or_refused(changed: dict[str, bytes]) -> None:
    found = load(changed)
    if isinstance(found, BLOB):
        assert torch.equal(found.scores(HISTORIES), original()[1])


FILE = st.sampled_from([*FILES, MANIFEST])


@fuzz(name=FILE, place=st.integers(0, 2**20), bit=st.integers(0, 7), ordinary=200)
def test_a_flipped_bit(name, place, bit):
    content = bytearray(original()[0][name])
    content[place % len(content)] ^= 1 << bit
    check_identical_or_refused({name: bytes(content)})


@fuzz(name=FILE, start=st.integers(0, 2**20), length=st.integers(0, 200), new=st.binary(max_size=200), ordinary=200)
def test_bytes_lost_or_replaced(name, start, length, new):
    content = original()[0][name]
    start %= len(content) + 1
    check_identical_or_refused({name: content[:start] + new + content[start + length :]})


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a nest of JSON."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def put(value: Any, path: tuple, new: Any) -> Any:
    """The nest with another value at a place; the key goes where the value is REMOVE."""
    if not path:
        return new
    value = copy.deepcopy(value)
    *way, key = path
    inner = functools.reduce(lambda held, step: held[step], way, value)
    if new is REMOVE:
        del inner[key]
    else:
        inner[key] = new
    return value


REMOVE = object()
DEEP = functools.reduce(lambda nest, _: [nest], range(300), 0)
NAMES = st.sampled_from(["Normal", "BanditPriors", "Learned", "UserCovariates", "Independent", "Bouchard", "full"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHAPED = st.dictionaries(st.sampled_from(["class", "fields", "tensor", "dtype", "mapping"]), st.integers() | NAMES)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(-(2**70), 2**70), FLOATS, st.text(max_size=8), NAMES,
    st.sampled_from([1e308, -1e-320, 10**30, "", "\0", "é"]), st.lists(st.integers(-1, 9), max_size=5), SHAPED,
    st.just({}), st.just(DEEP), st.just(REMOVE),
)  # fmt: skip


@fuzz(name=st.sampled_from([CONFIG, MANIFEST]), which=st.integers(0, 2**20), new=VALUES, ordinary=200)
def test_a_replaced_value(name, which, new):
    """By somebody who does not know of the checksums."""
    held = json.loads(original()[0][name])
    everywhere = list(places(held))
    path = everywhere[which % len(everywhere)]
    assume(path or new is not REMOVE)
    check_identical_or_refused({name: json.dumps(put(held, path, new), indent=2).encode() + b"\n"})


@fuzz(which=st.integers(0, 2**20), new=VALUES, ordinary=100)
def test_a_forged_configuration(which, new):
    """By somebody who does: it is a model, if another one, or a SavedModelError."""
    files, _ = original()
    held = json.loads(files[CONFIG])
    everywhere = list(places(held))
    path = everywhere[which % len(everywhere)]
    assume(path or new is not REMOVE)
    config = json.dumps(put(held, path, new)).encode()
    manifest = Manifest.of("BLOB", {}, {CONFIG: config, STATE: files[STATE]}).dump()
    found = load({CONFIG: config, MANIFEST: manifest})
    if isinstance(found, BLOB) and found.fitted:  # or it says so
        assert torch.isfinite(found.scores([[]])).all()


@fuzz(place=st.integers(0, 2**20), new=st.binary(min_size=1, max_size=8), ordinary=100)
def test_a_forged_state(place, new):
    files, _ = original()
    content = files[STATE]
    place %= len(content)
    state = content[:place] + new + content[place + len(new) :]
    manifest = Manifest.of("BLOB", {}, {CONFIG: files[CONFIG], STATE: state}).dump()
    check_answers_or_refused(load({STATE: state, MANIFEST: manifest}))


def check_answers_or_refused(found):
    if isinstance(found, BLOB):
        for histories in ([[]], HISTORIES):
            logits = found.click_logits(histories)
            assert torch.isfinite(logits.mean).all()
            assert torch.isfinite(logits.variance).all()


LARGE = st.sampled_from([3e38, -3e38, 1e30, 1e25, -1e20, 1e15, 1e-44, -1e-44, 0.0])


@fuzz(which=st.integers(0, 2**20), row=st.none() | st.integers(0, 2**20), value=LARGE, times=st.booleans(), ordinary=60)
def test_forged_numbers(which, row, value, times):
    """Finite, of the right shape, signed, and nonsense: what the model answers is finite, or it is refused."""
    files, _ = original()
    tensors = {name: tensor.clone() for name, tensor in load_tensors(files[STATE]).items()}
    name = sorted(tensors)[which % len(tensors)]
    flat = tensors[name].view(-1)
    if not flat.is_floating_point():
        return
    part = slice(None) if row is None else slice(row % len(flat), row % len(flat) + 1)
    flat[part] = (flat[part] * value if times else torch.full_like(flat[part], value)).clamp(-3.4e38, 3.4e38)
    state = save_tensors(tensors)
    manifest = Manifest.of("BLOB", {}, {CONFIG: files[CONFIG], STATE: state}).dump()
    check_answers_or_refused(load({STATE: state, MANIFEST: manifest}))


@fuzz(name=st.text(max_size=12) | st.sampled_from(["BLO", "JointBLOB", "Popen", "os.system", "Fields"]), ordinary=50)
def test_a_forged_class(name):
    files, _ = original()
    contents = {CONFIG: files[CONFIG], STATE: files[STATE]}
    found = load({MANIFEST: Manifest.of(name, {}, contents).dump()})
    if isinstance(found, BLOB):
        assert name in ("BLOB", "JointBLOB")
    else:
        assert "load it with" in str(found) or "manifest" in str(found), found


def test_a_model_that_cannot_be_asked_here_is_loaded(monkeypatch):
    """Its answers do not fit in memory: that is said by what asks for them, and not by what loads it."""

    def refuse(*arguments, **options):
        raise MemoryError("scores would take too much")

    monkeypatch.setattr(BLOB, "click_logits", refuse)
    assert BLOB.load(FIXTURE, device="cpu").fitted
