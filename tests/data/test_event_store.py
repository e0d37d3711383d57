"""Numbered events come back as they were written, in runs, in parts of a pass, or picked; their file goes with them."""

import errno
import gc
import shutil

import numpy as np
import pytest

from blob_pyro.data import event_store
from blob_pyro.data.event_store import BLOCK, EventStore


@pytest.fixture
def store(tmp_path):
    num_events = 3 * BLOCK + 17
    store = EventStore(num_events, 1000, tmp_path)
    context, action = np.arange(num_events) % 1000, np.arange(num_events) % 77
    for part in np.array_split(np.arange(num_events), 4):
        store.append(context[part], action[part], action[part] % 2)
    store.finish(np.arange(1000)[::-1])
    return store


def test_events_come_back(store):
    rows = np.array([5, BLOCK + 3, 0, len(store) - 1, 5])
    events = store.pick(rows)
    np.testing.assert_array_equal(events["context"], 999 - rows % 1000)
    np.testing.assert_array_equal(events["action"], rows % 77)
    np.testing.assert_array_equal(events["reward"], rows % 77 % 2)
    np.testing.assert_array_equal(store.pick(np.arange(7, 40)), store.pick(np.arange(40))[7:])
    assert len(store.pick(np.zeros(0, dtype=np.int64))) == 0
    assert store.path.stat().st_size == len(store) * 9


@pytest.mark.parametrize("num_rows", [1000, BLOCK, BLOCK + 1, 10**6])
def test_a_pass_has_every_event_once(store, num_rows):
    parts = list(store.parts(num_rows, np.array([3, 1, 0, 2])))
    sizes = [sum(stop - start for start, stop in runs) for runs in parts]
    assert sizes[:-1] == [min(num_rows, len(store))] * (len(sizes) - 1)
    rows = np.concatenate([np.arange(start, stop) for runs in parts for start, stop in runs])
    assert sorted(rows) == list(range(len(store)))
    events = np.concatenate([_filled(store, runs) for runs in parts])
    np.testing.assert_array_equal(events, store.pick(rows))
    assert rows[0] == 3 * BLOCK, "blocks come in the order asked for"


def _filled(store, runs):
    events = np.empty(sum(stop - start for start, stop in runs), dtype=store.dtype)
    store.fill(events, runs)
    return events


def test_the_fingerprint_is_of_the_events(store, tmp_path):
    other = EventStore(1, 1000, tmp_path)
    other.append(np.array([0]), np.array([1]), np.array([1]))
    other.finish(np.arange(1000))
    assert len({store.fingerprint, other.fingerprint}) == 2


def test_the_file_goes_with_the_object(tmp_path):
    store = EventStore(1, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    del store
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_what_is_gone_is_said(store):
    store.close()
    with pytest.raises(ValueError, match=r"scratch: .* is gone: the scanned log was closed"):
        store.pick(np.array([0]))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    store = EventStore(10, 1, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(store.path), "open", full)
    with pytest.raises(OSError, match="scratch: 10 numbered events take 90 bytes, and the disk is full; name another"):
        store.append(np.array([0]), np.array([0]), np.array([0]))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(event_store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match="scratch: 10 numbered events take 90 bytes, and 0 are free"):
        EventStore(10, 1, tmp_path)
