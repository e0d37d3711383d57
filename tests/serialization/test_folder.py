"""Saved models: what was saved comes back, or an error that names file and field; one move; the neighbours' rights."""

import errno
import json
import os
import stat

import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.distributions import NestedNormal
from blob_pyro.models import ItemDeviations
from blob_pyro.serialization import folder
from blob_pyro.serialization.manifest import CONFIG, MANIFEST, STATE, Manifest
from blob_pyro.serialization.reading import read_file
from tests.serialization.make_fixtures import HISTORIES, make_log
from tests.serialization.saved_models import SETTINGS, fitted


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
def test_a_loaded_model_is_fitted_to_the_same_floats(guide, organic, tmp_path, short_starts):
    """A fit starts from the seed, not from what was saved."""
    blob = BLOB(organic, guide, BanditPriors(kappa_scale=0.3))
    blob.fit(make_log(), num_epochs=3, **SETTINGS)
    expected = blob.scores(HISTORIES)
    blob.fit(make_log(), num_epochs=2, seed=5, **SETTINGS)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", guide=None if isinstance(guide, str) else guide, device="cpu")
    back.fit(make_log(), num_epochs=3, **SETTINGS)
    assert torch.equal(back.scores(HISTORIES), expected)


OF_LAPLACE = {
    "items have betas of their own": BanditPriors(kappa_scale=0.3, terms=(ItemDeviations(0.4),)),
    "items have nothing of their own": BanditPriors(kappa=0.0),
}


@pytest.mark.parametrize("is_updated", [False, True], ids=["fitted", "updated"])
@pytest.mark.parametrize("priors", OF_LAPLACE.values(), ids=OF_LAPLACE)
def test_a_nested_posterior_comes_back(priors, is_updated, organic, tmp_path):
    """And as a prior, where the model has been updated."""
    blob = BLOB(organic, "laplace", priors)
    blob.fit(make_log(), **SETTINGS)
    if is_updated:
        blob.update(make_log(), progress=False)
    assert isinstance(blob.guide.multivariate(), NestedNormal)
    blob.save(tmp_path / "model")
    back = BLOB.load(tmp_path / "model", device="cpu")
    assert back.fingerprint() == blob.fingerprint()
    assert torch.equal(back.click_logits(HISTORIES).variance, blob.click_logits(HISTORIES).variance)
    for model in (blob, back):
        model.update(make_log(), progress=False)
    assert torch.equal(back.scores(HISTORIES), blob.scores(HISTORIES))


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
