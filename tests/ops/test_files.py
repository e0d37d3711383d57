"""Files that are written whole or not at all."""

import errno
import os

import pytest
import torch

from blob_pyro.infer.training.checkpoints import load_checkpoint, save_checkpoint
from blob_pyro.ops.files import new_folder, remove_abandoned, require_writable, staged
from blob_pyro.serialization import folder
from tests.workers import results


@pytest.fixture
def full_disk(monkeypatch):
    """What ends on the disk fails, as where there is no room; call it to begin."""

    def fails(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", fails)


def test_a_full_disk_is_said_with_the_file_and_the_old_one_stays(tmp_path, full_disk):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full_disk()
    told = r"file cannot be written \(No space left on device\); .* make room in"
    with pytest.raises(OSError, match=told) as caught, staged(path) as file:
        file.write(b"new")
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_checkpoints_and_models_survive_a_full_disk(tmp_path, full_disk):
    save_checkpoint(tmp_path / "checkpoint", {"step": 1})
    folder.save(tmp_path / "model", "BLO", {"n": 1}, {"x": torch.ones(2)})
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    full_disk()
    with pytest.raises(OSError, match=r"checkpoint cannot be written \(No space left"):
        save_checkpoint(tmp_path / "checkpoint", {"step": 2})
    for name in ("model", "new"):
        with pytest.raises(OSError, match=rf"{name} cannot be written \(No space left .* make room in"):
            folder.save(tmp_path / name, "BLO", {"n": 2}, {"x": torch.zeros(2)})
    assert load_checkpoint(tmp_path / "checkpoint") == {"step": 1}
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "model"]


def test_errors_that_are_no_write_s_are_left_as_they_are(tmp_path):
    with pytest.raises(OSError, match=r"^another$"), staged(tmp_path / "a"):
        raise OSError("another")


def test_a_block_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with staged(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_writers_of_one_path_do_not_take_each_other_s_files_for_abandoned(tmp_path):
    path = tmp_path / "file"

    def write(rank, world):
        for step in range(400):
            require_writable(path, "path")
            with staged(path) as file:
                file.write(bytes([rank]) * 100)
            with new_folder(path) as folder:
                (folder / "inside").touch()
            remove_abandoned(path)
            assert len(set(path.read_bytes())) == 1, step

    results(write, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
