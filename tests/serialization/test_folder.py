"""Saved models: what was saved comes back, or an error that names file and field; one move; the neighbours' rights."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.ops.files import staged
from blob_pyro.serialization import SavedModelError, folder
from blob_pyro.serialization.manifest import CONFIG, MANIFEST, STATE, Manifest
from blob_pyro.serialization.reading import read_file
from tests.serialization.make_fixtures import HISTORIES, make_log

SETTINGS = {"progress": False, "device": "cpu"}


def fitted(seed: int = 0) -> BLO:
    blo = BLO(5, embedding_dim=2)
    blo.fit(make_log(), num_epochs=2, seed=seed, **SETTINGS)
    return blo


@pytest.fixture(scope="module")
def organic() -> BLO:
    return fitted()


@pytest.fixture(scope="module")
def bandit(organic) -> BLOB:
    blob = BLOB(organic)
    blob.fit(make_log(), num_epochs=3, **SETTINGS)
    return blob


@pytest.fixture
def saved(bandit, tmp_path) -> Path:
    bandit.save(tmp_path / "model")
    return tmp_path / "model"


def signed(path: Path, change=lambda config: None, tensors=lambda state: None) -> None:
    """Change a saved model as somebody would who writes the manifest, too."""
    read = folder.load(path)
    change(read.config)
    tensors(read.state)
    config, state = json.dumps(read.config).encode(), folder.tensors_to_bytes(read.state)
    (path / CONFIG).write_bytes(config)
    (path / STATE).write_bytes(state)
    (path / MANIFEST).write_bytes(Manifest.of(read.class_name, {}, {CONFIG: config, STATE: state}).dump())


def test_the_manifest_says_what_it_is_and_was_fitted_to(saved, bandit):
    manifest = json.loads((saved / MANIFEST).read_bytes())
    assert manifest["class"] == "BLOB"
    assert manifest["schema_version"] == 3
    assert set(manifest["versions"]) == {"blob-pyro", "torch", "pyro-ppl", "safetensors"}
    assert manifest["data"]["bandit"] == [bandit.fits[0]["data"]]
    assert manifest["data"]["organic"] == [bandit.blo.fits[0]["data"]]
    again = BLOB(bandit.blo)
    again.fit(make_log(), num_epochs=1, **SETTINGS)
    assert again.fits[0]["data"] == bandit.fits[0]["data"]


def test_permissions_are_those_of_other_new_files(saved):
    (saved.parent / "plain").touch()
    (saved.parent / "folder").mkdir()
    mode = stat.S_IMODE((saved.parent / "plain").stat().st_mode)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in saved.iterdir()} == dict.fromkeys(
        (MANIFEST, CONFIG, STATE), mode
    )
    assert saved.stat().st_mode == (saved.parent / "folder").stat().st_mode


def test_saved_again_it_keeps_what_else_is_in_the_folder(saved, organic):
    (saved / "NOTES.txt").write_text("of mine")
    fitted(seed=1).save(saved)
    assert (saved / "NOTES.txt").read_text() == "of mine"
    assert sorted(p.name for p in saved.iterdir()) == ["NOTES.txt", CONFIG, MANIFEST, STATE]
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), fitted(seed=1).scores(HISTORIES))


@pytest.mark.parametrize(
    "names", [["photo.png"], [CONFIG, "model.safetensors"], [MANIFEST, "index.html"], [CONFIG, STATE, "notes"]], ids=str
)
def test_something_else_is_not_overwritten(names, organic, tmp_path):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"path: .* exists and is not a saved model; choose another folder"):
        organic.save(tmp_path)
    with pytest.raises(ValueError, match=r"path: .* exists and is not a saved model; choose another folder"):
        organic.save(tmp_path / names[0])
    assert all((tmp_path / name).read_text() == "{}" for name in names)


@pytest.mark.parametrize("damage", [MANIFEST, CONFIG, STATE])
def test_a_damaged_model_may_be_replaced(damage, saved, organic):
    (saved / damage).write_bytes(b"nonsense")
    organic.save(saved)
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), organic.scores(HISTORIES))


DAMAGE = {
    "no folder": (lambda p: [f.unlink() for f in p.iterdir()] and p.rmdir(), "there is no such folder"),
    "empty": (lambda p: [f.unlink() for f in p.iterdir()], f"is not a saved model; it needs {MANIFEST}, {CONFIG}"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), f"{MANIFEST}: is missing"),
    "no config": (lambda p: (p / CONFIG).unlink(), f"{CONFIG}: is not the file that {MANIFEST} says"),
    "no state": (lambda p: (p / STATE).unlink(), f"{STATE}: is not the file that {MANIFEST} says"),
    "manifest cut": (lambda p: (p / MANIFEST).write_bytes(b'{"form'), f"{MANIFEST}: is damaged: it is no JSON"),
    "manifest of others": (lambda p: (p / MANIFEST).write_text('{"name": "app"}'), f"{MANIFEST}, format: expected"),
    "not text": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST}: is damaged: it is no JSON"),
    "deep": (lambda p: (p / MANIFEST).write_text("[" * 100_000), f"{MANIFEST}: is damaged: it is no JSON"),
    "later schema": (
        lambda p: (p / MANIFEST).write_bytes(
            (p / MANIFEST).read_bytes().replace(b'"schema_version": 3', b'"schema_version": 4')
        ),
        f"{MANIFEST}, schema_version: is 4, written by blob-pyro '0.* which reads 3 and 2",
    ),
    "a value": (
        lambda p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes().replace(b'"BLOB"', b'"BLO" ')),
        f"{MANIFEST}, sha256: its contents have another SHA-256 than it says",
    ),
    "swapped": (
        lambda p: (p / CONFIG).rename(p / "c") and (p / STATE).rename(p / CONFIG) and (p / "c").rename(p / STATE),
        f"{CONFIG}: is not the file that {MANIFEST} says",
    ),
    "a folder": (lambda p: ((p / STATE).unlink(), (p / STATE).mkdir()), f"{STATE}: is not a regular file"),
    "a pipe": (lambda p: ((p / STATE).unlink(), os.mkfifo(p / STATE)), f"{STATE}: is not a regular file"),
    "huge manifest": (lambda p: os.truncate(p / MANIFEST, 2**40), f"{MANIFEST}: has 1099511627776 bytes"),
    "huge state": (lambda p: os.truncate(p / STATE, 2**40), f"{STATE}: is not the file that {MANIFEST} says"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(spoil, message, saved):
    spoil(saved)
    with pytest.raises(SavedModelError, match=f"path: {saved}.*{message}") as caught:
        BLOB.load(saved)
    assert caught.value.path == saved
    assert caught.value.file is None or caught.value.file in str(caught.value)


def test_another_models_state_is_refused(saved, organic, tmp_path):
    other = BLOB(organic)
    other.fit(make_log(), num_epochs=3, seed=1, **SETTINGS)
    other.save(tmp_path / "other")
    (saved / STATE).write_bytes((tmp_path / "other" / STATE).read_bytes())
    with pytest.raises(SavedModelError, match=STATE):
        BLOB.load(saved)


def at(*keys, value):
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


TERMS = ("priors", "fields", "terms")
HOSTILE = {
    "class": (at("priors", "fields", "w_a", "class", value="Popen"), "priors.w_a: its class 'Popen' is not known"),
    "catalogue": (at("blo", "num_items", value=10**12), r"blo.num_items: expected num_items x .*\(5, 2\)"),
    "dimension": (at("blo", "embedding_dim", value=10**12), "blo.num_items: expected num_items x embedding_dim"),
    "text": (at("blo", "num_items", value="5"), "blo.num_items: expected an integer of at least 1, got '5'"),
    "boolean": (at("blo", "embedding_dim", value=True), "blo.embedding_dim: expected an integer .* got True"),
    "encoder": (at("blo", "encoder", value="gru"), "blo.encoder: expected one of .*linear"),
    "guide": (at("guide", value="../evil"), "guide: expected one of delta, full, laplace"),
    "guide's type": (at("guide", value=["normal"]), "guide: expected one of"),
    "draws": (at("num_draws", value=10**15), "num_draws: expected an integer of at most 1000"),
    "omega": (at("omega", value="median"), "omega: expected one of mean, sample"),
    "jitter": (at("jitter", value=-1.0), "jitter: expected a number that is not negative"),
    "ids": (at("blo", "items", value=[1, 2, 3]), "blo.items: expected 5 strings or integers"),
    "same ids": (at("blo", "items", value=[1] * 5), "blo.items: expected distinct ids"),
    "fits": (at("fits", value=[{"call": {"deep": 1}}]), "fits: expected a list of flat objects"),
    "unknown": (at("extra", value=1), "extra: is not known to this version"),
    "missing": (lambda config: config.pop("omega"), "omega: is missing"),
    "covariance": (at("blo", "covariance", value="banded"), "blo.covariance: expected one of diagonal, full"),
    "sparse": (at("blo", "sparse", value=1), "blo.sparse: expected true or false"),
    "bound": (at("blo", "bound", value={"class": "Learned", "fields": {"start": 1.0}}), "blo.bound: expected a Bound"),
    "no priors": (at("priors", value=7), "priors: expected a BanditPriors"),
    "categories": (
        at(
            "priors", "fields", "terms",
            value=[{"class": "ItemCategories", "fields": {
                "categories": [10**12] * 5, "kappa_scale": 0.1, "beta_scale": 0.1,
            }}],
        ),
        r"priors.fields.terms\[0\].fields.categories\[0\]: expected an integer of at most 1000",
    ),
    "term": (
        at("priors", "fields", "terms", value=[{"class": "KappaOnPopularity", "fields": {"scale": "wide"}}]),
        "priors: makes no model",
    ),
    "wide": (
        at(*TERMS, value=[{"class": "UserCovariates", "fields": {"num_covariates": 3, "scale": 1}}]),
        f"{STATE}, guide.covariate_weight.*does not fit this guide",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_that_agrees_does_not_help(change, message, saved):
    signed(saved, change)
    with pytest.raises(SavedModelError, match=message) as caught:
        BLOB.load(saved)
    assert caught.value.path == saved
    assert caught.value.file in (CONFIG, STATE)


TENSORS = {
    "NaN": (lambda s: s["guide.w_c_loc_unconstrained"].fill_(torch.nan), "guide.w_c_loc_unconstrained: holds numbers"),
    "infinity": (lambda s: s["organic_model.item_embedding"].fill_(torch.inf), "are not finite"),
    "kind": (
        lambda s: s.update({"guide.w_c_loc_unconstrained": torch.tensor(3)}),
        "guide.w_c_loc_unconstrained: expected torch.float32, got torch.int64",
    ),
    "missing": (
        lambda s: s.pop("guide.w_c_loc_unconstrained"),
        "does not fit this guide: w_c_loc_unconstrained missing",
    ),
    "shape": (lambda s: s.update({"guide.w_c_loc_unconstrained": torch.zeros(2)}), "does not fit this guide"),
    "dependent": (lambda s: s["organic_model.item_embedding"].fill_(1.0), "priors: makes no model: .*dependent"),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_are_checked(change, message, saved):
    signed(saved, tensors=change)
    with pytest.raises(SavedModelError, match=message):
        BLOB.load(saved)


def test_a_model_that_is_not_finite_is_not_saved(organic, tmp_path):
    broken = BLOB(organic)
    broken.fit(make_log(), num_epochs=1, **SETTINGS)
    with torch.no_grad():
        next(broken.guide.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"save: guide\..* holds numbers that are not finite"):
        broken.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_double_precision_comes_back_as_it_was(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        blob = BLOB(fitted())
        blob.fit(make_log(), num_epochs=2, **SETTINGS)
        blob.save(tmp_path / "model")
    finally:
        torch.set_default_dtype(torch.float32)
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert back.scores(HISTORIES).dtype == torch.float64
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))


GUIDES = ["normal", "matrix_normal", "matrix_normal_full", "low_rank", "full", "laplace", "delta", AutoNormal]


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_a_loaded_model_is_fitted_to_the_same_floats(guide, organic, tmp_path):
    """A fit starts from the seed, not from what was saved."""
    blob = BLOB(organic, guide, BanditPriors(kappa_scale=0.3))
    blob.fit(make_log(), num_epochs=3, **SETTINGS)
    expected = blob.scores(HISTORIES)
    blob.fit(make_log(), num_epochs=2, seed=5, **SETTINGS)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", guide=None if isinstance(guide, str) else guide, device="cpu")
    back.fit(make_log(), num_epochs=3, **SETTINGS)
    assert torch.equal(back.scores(HISTORIES), expected)


@pytest.mark.parametrize("call", range(1, 12))
def test_a_full_disk_leaves_the_old_model_and_nothing_else(call, saved, bandit, organic, monkeypatch):
    """Whichever write it is that finds the disk full."""
    calls = iter(range(1, 100))
    original = os.fsync

    def full(handle):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    other = BLOB(organic)
    other.fit(make_log(), num_epochs=3, seed=1, **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            other.save(saved)
            told = False
        except OSError as error:
            told = error.errno == errno.ENOSPC
    scores = BLOB.load(saved, device="cpu").scores(HISTORIES)
    written = torch.equal(scores, other.scores(HISTORIES))
    assert written or torch.equal(scores, bandit.scores(HISTORIES))
    assert written or told
    if call in (2, 3, 4):  # the files, of which the manifest is last
        assert told
        assert not written
    assert sorted(p.name for p in saved.iterdir()) == [CONFIG, MANIFEST, STATE]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_first_save_that_fails_leaves_nothing(organic, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        organic.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_folder_is_followed(organic, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    organic.save(tmp_path / "link")
    organic.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == [CONFIG, MANIFEST, STATE]
    assert BLO.load(tmp_path / "link", device="cpu").num_items == 5
    (tmp_path / "soon").symlink_to(tmp_path / "new" / "disk")
    organic.save(tmp_path / "soon")
    assert (tmp_path / "new" / "disk" / STATE).is_file()


def test_a_linked_file_is_read_and_never_written_through(saved, organic, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (saved / STATE).rename(elsewhere)
    (saved / STATE).symlink_to(elsewhere)
    assert BLOB.load(saved, device="cpu").num_items == 5
    before = elsewhere.read_bytes()
    organic.save(saved)
    assert elsewhere.read_bytes() == before
    assert not (saved / STATE).is_symlink()


def test_what_a_killed_save_has_left_is_removed_or_finished(saved, organic, bandit):
    """Killed before the manifest was replaced, and after."""
    expected = organic.scores(HISTORIES)
    organic.save(saved.parent / "other")
    manifest = Manifest.parse(read_file(saved.parent / "other", MANIFEST)[1])
    (saved.parent / ".model.0123abcd.tmp").mkdir()
    (saved / f".{STATE}.0123456789abcdef.new").write_bytes(b"half")
    (saved / f".{MANIFEST}.0123abcd.tmp").write_bytes(b"half")
    for name in (CONFIG, STATE):
        (saved / folder._pending(name, manifest)).write_bytes((saved.parent / "other" / name).read_bytes())
    assert torch.equal(BLOB.load(saved, device="cpu").scores(HISTORIES), bandit.scores(HISTORIES))
    (saved / MANIFEST).write_bytes(manifest.dump())
    (saved / folder._pending(CONFIG, manifest)).rename(saved / CONFIG)
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), expected)
    bandit.save(saved)
    assert sorted(p.name for p in saved.iterdir()) == [CONFIG, MANIFEST, STATE]
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model", "other"]


def test_a_reader_takes_the_new_model_when_the_old_goes_meanwhile(saved, organic, monkeypatch):
    """Replaced between the manifest and the other files."""
    original = folder._find
    calls = iter(range(100))

    def slow(path, name, manifest):
        if next(calls) == 0:
            organic.save(path)
        return original(path, name, manifest)

    monkeypatch.setattr(folder, "_find", slow)
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), organic.scores(HISTORIES))


def test_writers_wait_for_each_other(saved, organic):
    import threading

    from blob_pyro.ops.files import locked

    writer = threading.Thread(target=organic.save, args=(saved,))
    with locked(saved):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        BLOB.load(saved, device="cpu")  # readers do not wait
    writer.join(10)
    assert torch.equal(BLO.load(saved, device="cpu").scores(HISTORIES), organic.scores(HISTORIES))


def test_a_folder_that_nobody_may_write_in(saved, bandit, monkeypatch):
    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return os_open(path, flags, *args, **kwargs)

    os_open = os.open
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        bandit.save(saved)
    assert BLOB.load(saved, device="cpu").num_items == 5


def test_a_file_that_nobody_may_read_is_named(saved, monkeypatch):
    def refuse(path, flags, *args, **kwargs):
        if Path(path).name == STATE:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return os_open(path, flags, *args, **kwargs)

    os_open = os.open
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SavedModelError, match=f"{STATE}: cannot be read: Permission denied"):
        BLOB.load(saved)


def test_a_block_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
