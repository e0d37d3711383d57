"""Fits to a log on disk: the floats of memory where the buffer holds all of it, the same posterior where not."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.data import event_store
from blob_pyro.infer import NotFiniteError
from blob_pyro.infer.training.buffers import WholeBuffer, buffer_of
from blob_pyro.models import UserCovariates, streamed_batch
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

QUICK = {"num_epochs": 3, "batch_size": 100, "progress": False}


@pytest.fixture(scope="module")
def log():
    """Some hundred impressions."""
    return RecoGym(num_items=12, num_flips=4, seed=3).simulate(SessionPopularity(12), num_users=6, num_organic_users=30)


@pytest.fixture(scope="module")
def blo(log):
    blo = BLO(12, embedding_dim=3)
    blo.fit(log, num_epochs=5, progress=False)
    return blo


@pytest.fixture(scope="module")
def files(log, tmp_path_factory):
    """The log's rows in its own order, in row groups."""
    folder = tmp_path_factory.mktemp("files")
    for name, frame in zip(("views", "impressions"), log.to_frames()):
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet", row_group_size=99)
    return folder / "views.parquet", folder / "impressions.parquet"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 events, so that a small log has many."""
    for module in (event_store, streamed_batch):
        monkeypatch.setattr(module, "BLOCK", 32)


def scan(files, **more):
    return EventLog.scan_parquet(*files, num_items=12, **more)


@pytest.mark.parametrize("omega", ["mean", "sample"])
def test_a_buffer_that_holds_all_fits_to_the_same_floats(blo, log, files, omega):
    fits = []
    for one in (log, scan(files)):
        blob = BLOB(blo, omega=omega)
        fits.append((blob.fit(one, seed=4, **QUICK).elbo.tolist(), blob.fingerprint(), blob.elbo(one, num_draws=3)))
    assert fits[0] == fits[1]


def test_the_organic_model_and_updates_take_it_too(blo, log, files):
    on_disk = scan(files)
    organic = [BLO(12, 2) for _ in range(2)]
    for model, one in zip(organic, (log, on_disk)):
        model.fit(one, num_epochs=2, progress=False)
    assert organic[0].fingerprint() == organic[1].fingerprint()
    found = []
    for one in (log, on_disk):
        updated = BLOB(blo)
        updated.fit(one, **QUICK)
        updated.update(one, forgetting=0.5, **QUICK)
        found.append(updated.fingerprint())
    assert found[0] == found[1]


def test_a_pass_has_every_event_once_in_an_order_of_the_seed(blo, files, small_blocks):
    blob = BLOB(blo)
    on_disk = scan(files, buffer_size=150)
    batch = blob._events(blob._parts, on_disk, None)
    whole = torch.stack([(b := batch[torch.arange(len(batch))]).context, b.action, b.reward.long()])

    def one_pass(seed):
        torch.manual_seed(seed)
        buffer, parts = batch.buffer(100), []
        for size in buffer.refills():
            rows = torch.arange(size)
            part = buffer.batch[rows]
            parts.append(torch.stack([part.context, part.action, part.reward.long()]))
        return [part.shape[1] for part in parts], torch.cat(parts, 1)

    sizes, events = one_pass(5)
    assert set(sizes[:-1]) == {200}, "whole steps, no fewer events than asked for"
    assert sum(sizes) == len(batch)
    for ours, theirs in zip(
        torch.unique(events, dim=1, return_counts=True), torch.unique(whole, dim=1, return_counts=True)
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(one_pass(5)[1], events)
    assert not torch.equal(one_pass(6)[1], events)
    assert "150 in the buffer" in repr(on_disk)
    assert "all in the buffer" in repr(scan(files))


def test_a_small_buffer_finds_the_same_posterior(blo, log, files, small_blocks, monkeypatch):
    """Steps are captured: they read what a refill has written, and nothing that it replaced."""
    monkeypatch.setattr("blob_pyro.infer.training.gradients.WORTH_CAPTURING", 1)
    on_disk, fits = scan(files, buffer_size=256), []
    for one in (log, on_disk):
        blob = BLOB(blo)
        trace = blob.fit(one, num_epochs=25, batch_size=256, progress=False)
        assert trace.attrs["captured"]
        fits.append(blob)
    in_memory, streamed = (blob.elbo(log, num_draws=50) for blob in fits)
    noise = 4 * (in_memory.standard_error + streamed.standard_error)
    assert abs(in_memory.value - streamed.value) < noise + 0.003


def test_a_fit_goes_on_from_its_checkpoint_to_the_same_floats(blo, files, small_blocks, tmp_path):
    on_disk = scan(files, buffer_size=150)
    whole = BLOB(blo)
    expected = whole.fit(on_disk, **QUICK)
    stopped = BLOB(blo)
    path = tmp_path / "checkpoint"

    class Kill(Exception):
        pass

    check, calls = on_disk.check, []

    def dies():
        calls.append(1)
        if len(calls) == 4:  # before the embedding, and at the start of three epochs
            raise Kill
        check()

    on_disk.check = dies
    with pytest.raises(Kill):
        stopped.fit(on_disk, checkpoint=path, **QUICK)
    on_disk.check = check
    found = stopped.fit(on_disk, checkpoint=path, **QUICK)
    assert found.attrs["resumed_from_epoch"] == 2
    assert found.elbo.tolist() == expected.elbo.tolist()
    assert stopped.fingerprint() == whole.fingerprint()
    other = scan(files, buffer_size=90)
    with pytest.raises(ValueError, match="is of another fit and is finished: data"):
        BLOB(blo).fit(other, checkpoint=path, **QUICK)


def test_a_file_that_changes_before_an_epoch_stops_the_fit(blo, log, files, tmp_path):
    for path in files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    on_disk = scan([tmp_path / path.name for path in files])
    (tmp_path / "views.parquet").unlink()
    blob = BLOB(blo)
    with pytest.raises(ValueError, match=r"views.parquet has vanished since the log was scanned"):
        blob.fit(on_disk, **QUICK)
    assert not blob.fitted


def test_what_cannot_be_learned_from_disk_is_refused_with_the_remedy(blo, log, files, tmp_path):
    on_disk = scan(files)
    for guide in ("laplace", "nuts"):
        with pytest.raises(ValueError, match=f"guide '{guide}' looks at all events .* use 'normal'"):
            BLOB(blo, guide).fit(on_disk, progress=False)
    assert BLOB(blo, "low_rank").fit(on_disk, **QUICK).attrs["start"].startswith("prior: events on disk")
    with pytest.raises(ValueError, match=r"log: its catalogue \(13 items\) is not the model's \(12\); scan the files"):
        BLOB(blo).fit(EventLog.scan_parquet(*files, num_items=13), **QUICK)
    with pytest.raises(ValueError, match="keeps no covariates"):
        BLOB(blo, priors=BanditPriors(terms=(UserCovariates(2),))).fit(on_disk, **QUICK)
    with pytest.raises(ValueError, match="covariates: a scanned log takes none"):
        BLOB(blo).fit(on_disk, covariates=torch.ones(3, 2), **QUICK)
    table = pq.read_table(files[1])
    slots = table.append_column("position", pa.array(np.arange(len(table)) % 3))
    pq.write_table(slots, tmp_path / "slots.parquet")
    slotted = EventLog.scan_parquet(files[0], tmp_path / "slots.parquet", num_items=12)
    with pytest.raises(ValueError, match=r"log: has 3 positions, .* columns=\{'position': None\}"):
        BLOB(blo).fit(slotted, **QUICK)
    with scan(files) as closed:
        pass
    with pytest.raises(ValueError, match="is gone: the scanned log was closed"):
        BLOB(blo).fit(closed, **QUICK)
    with pytest.raises(TypeError, match="log: expected an EventLog, got a ScannedLog"):
        BLOB(blo).batch(on_disk)


def test_a_loss_that_is_not_finite_names_its_step(blo, files, small_blocks):
    on_disk = scan(files, buffer_size=150)
    settings = {**QUICK, "learning_rate": 1e6}
    with pytest.raises(NotFiniteError, match=r"at epoch \d of 3, step \d+ of \d+"):
        BLOB(blo).fit(on_disk, **settings)


def test_batches_in_memory_are_their_own_buffer(blo, log):
    batch = BLOB(blo).batch(log)
    buffer = buffer_of(batch, 100, len(batch))
    assert isinstance(buffer, WholeBuffer)
    assert buffer.batch is batch
    assert list(buffer.refills()) == [len(batch)]
    assert buffer.num_steps == -(-len(batch) // 100)
