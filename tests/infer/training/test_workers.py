"""Fits of several workers: they end where one does, together, and say who is to blame where they cannot."""

import dataclasses
import os
import re
import signal
import time

import pytest
import torch
from torch import nn

import blob_pyro.infer.training.run as run_module
from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.diagnostics import diagnose
from blob_pyro.infer import CannotCapture, NotFiniteError, OneVsEach, Training
from blob_pyro.infer.training.shares import Share
from blob_pyro.infer.training.workers import Workers
from tests.workers import outcomes, received, results, started

FIT = {"num_epochs": 2, "batch_size": 1024, "progress": False, "device": "cpu"}


def values(*modules: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for m in modules for value in m.state_dict().values()])


def fit_blo(rank, world, log, options, kind):
    blo = BLO(log.num_items, embedding_dim=3, **kind)
    trace = blo.fit(log if rank is None else log.shard(rank, world), **{"batch_size": 64, **options})
    return values(blo.model, blo.guide), trace


def fit_blob(rank, world, log, blo, options, kind):
    blob = BLOB(blo, **kind)
    trace = blob.fit(log if rank is None else log.shard(rank, world), **options)
    return values(blob.model, blob.guide), trace


def require_equal(found, whole):
    """Bit for bit among workers, and to 1e-6 with the fit of one process that has the whole log."""
    for learned, trace in found:
        assert torch.equal(learned, found[0][0])
        assert trace["elbo"].tolist() == found[0][1]["elbo"].tolist()
        assert (learned - whole[0]).abs().max() < 1e-6 * max(1.0, float(whole[0].abs().max()))
        assert trace["elbo"].tolist() == pytest.approx(whole[1]["elbo"].tolist(), rel=1e-6)
        assert trace.attrs["converged"] == whole[1].attrs["converged"]


@pytest.mark.parametrize(
    ("world", "kind"),
    [(2, {}), (3, {"guide": "matrix_normal", "omega": "sample"})],
)
def test_workers_fit_clicks_as_one_does(log, blo, world, kind):
    whole = fit_blob(None, None, log, blo, FIT, kind)
    require_equal(results(fit_blob, world, log, blo, FIT, kind), whole)


@pytest.mark.distributed  # a step is short, and waits for the others two hundred times
def test_a_recorded_step_is_one_of_all_workers(log, blo):
    options = {**FIT, "num_epochs": 200, "batch_size": 10_000}
    whole = fit_blob(None, None, log, blo, options, {})
    found = results(fit_blob, 2, log, blo, options, {})
    assert found[0][1].attrs["captured"]
    assert whole[1].attrs["captured"]
    require_equal(found, whole)
    traffic = found[0][1].attrs["traffic"]
    parameters = sum(p.numel() for p in BLOB(blo).guide.parameters())
    per_step = traffic["num_bytes"] / traffic["num_sums"]
    assert per_step == 4 * (parameters + 2), "one sum a step, of gradients and two numbers"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"patience": 1, "num_epochs": 6}, {}),
        ({}, {"sparse": True, "bound": "one_vs_each"}),
        ({"batch_size": 3, "learning_rate": 0.01}, {"sparse": True, "bound": OneVsEach(num_negatives=8)}),
    ],
    ids=["stopped early", "sparse", "steps of which a worker has no row"],
)
def test_workers_fit_views_as_one_does(log, options, kind):
    train, held_out = log.split(users=0.3)
    options = {**FIT, "batch_size": 64, "schedule": "constant", "learning_rate": 0.1, **options}
    if "patience" in options:
        options["validation"] = held_out
    whole = fit_blo(None, None, train, options, kind)
    found = results(fit_blo, 2, train, options, kind)
    require_equal(found, whole)
    if "patience" in options:
        assert found[0][1]["validation_elbo"].tolist() == pytest.approx(whole[1]["validation_elbo"].tolist(), rel=1e-6)


def test_unequal_shards_take_as_many_steps():
    """One user has nearly all events: of most steps the other worker has not one row."""
    busy, quiet = 60, 2
    user = [0] * busy + [1] * quiet
    log = EventLog.from_tables(
        views={"user": [0, 1, 1], "time": [-1, -1, -1], "item": list("abc")},
        impressions={
            "user": user, "time": list(range(len(user))), "action": [*"abc"] * 20 + [*"ab"],
            "reward": [1, 0] * 31,
        },
    )  # fmt: skip
    blo = BLO(3, embedding_dim=1)
    blo.fit(log, num_epochs=1, progress=False, device="cpu")
    options = {**FIT, "num_epochs": 1, "batch_size": 4}
    whole = fit_blob(None, None, log, blo, options, {})
    require_equal(results(fit_blob, 2, log, blo, options, {}), whole)


def test_a_checkpoint_of_two_goes_on_with_three_and_with_one(log, blo, tmp_path):
    options = {**FIT, "num_epochs": 4, "checkpoint": tmp_path / "run"}
    whole = fit_blob(None, None, log, blo, {**options, "checkpoint": None}, {})
    begun = outcomes(_fit_and_fall, 2, log, blo, options)
    assert [error[0] for error, _ in begun] == ["KeyError", "WorkerLost"]
    assert "worker 1 of 2: cannot reach the others, one of which has ended" in begun[1][0][1]
    assert "with checkpoint=... a fit goes on where it was" in begun[1][0][1]
    kept = (tmp_path / "run").read_bytes()
    for world in (3, 1):
        (tmp_path / "run").write_bytes(kept)
        found = results(fit_blob, world, log, blo, options, {})
        assert found[0][1].attrs["resumed_from_epoch"] == 2
        require_equal(found, whole)


def _fit_and_fall(rank, world, log, blo, options):
    """Worker 0 ends in the third epoch, as one that is killed does."""
    epoch = run_module.Run.epoch

    def falls(run):
        if rank == 0 and len(run.rows) == 2:
            raise KeyError("killed")
        epoch(run)

    run_module.Run.epoch = falls
    return fit_blob(rank, world, log, blo, options, {})


def test_ctrl_c_at_one_worker_stops_all_at_one_epoch(log, blo, tmp_path):
    begun = tmp_path / "begun"
    with started(_fit_until_told, 2, log, blo, begun) as (workers, ends):
        deadline = time.monotonic() + 120
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(workers[1].pid, signal.SIGINT)
        found = [received(end) for end in ends]
    for error, _ in found:
        assert error is None, error[2]
    (first, epochs, stopped), (second, *same) = (result for _, result in found)
    assert torch.equal(first, second)
    assert [epochs, stopped] == same
    assert stopped
    assert 0 < epochs < 100_000


def test_ctrl_c_after_the_last_step_stops_all(log, blo):
    for error, stopped in outcomes(_fit_and_press, 2, log, blo):
        assert error is None, error[2]
        assert stopped


def _fit_and_press(rank, world, log, blo):
    epoch = run_module.Run.epoch

    def presses(run):
        epoch(run)
        if rank == 1 and len(run.rows) == 2:
            signal.raise_signal(signal.SIGINT)

    run_module.Run.epoch = presses
    with pytest.warns(UserWarning, match="interrupted; the model is as it was after epoch 2 of 2"):
        return BLOB(blo).fit(log.shard(rank, world), **FIT).attrs["interrupted"]


def test_ctrl_c_that_nobody_was_told_of_is_not_lost():
    workers = Workers(0, 1, Share(torch.arange(2), 2), "")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _press_twice(workers)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not workers.asked_to_stop
        with workers.listening():
            workers.stop_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)


def _press_twice(workers):
    """A second one of the same moment is a launcher's, who passes on what the terminal has sent."""
    with workers.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert workers.asked_to_stop


def _fit_until_told(rank, world, log, blo, begun):
    epoch = run_module.Run.epoch

    def tells(run):
        epoch(run)
        if rank == 1:
            begun.touch()

    run_module.Run.epoch = tells
    blob = BLOB(blo)
    with pytest.warns(UserWarning, match="interrupted; the model is as it was after epoch"):
        trace = blob.fit(log.shard(rank, world), **{**FIT, "num_epochs": 100_000})
    return values(blob.model, blob.guide), len(trace), trace.attrs["interrupted"]


def test_nobody_leaves_before_all_know():
    """Worker 1 reads late what was last sent; worker 0 waits for it. One that has gone already is not waited for."""
    (error, waited), _ = outcomes(_leave_together, 2, 0.5)
    assert error is None, error[2]
    assert waited > 0.4
    (error, waited), (gone, _) = outcomes(_leave_together, 2, None)
    assert error is None, error[2]
    assert gone[0] == "KeyError"


def _leave_together(rank, world, late):
    workers = Workers(rank, world, Share(torch.arange(rank, 4, world), 4), "")
    workers.gather("the last words")
    if rank == 1 and late is None:
        raise KeyError("gone")
    if rank == 1:
        time.sleep(late)
    began = time.monotonic()
    workers.leave_together()
    return time.monotonic() - began


def test_who_cannot_take_part_is_named(log, blo, tmp_path):
    other = dataclasses.replace(log, reward=1 - log.reward)
    found = outcomes(_fit_one_of, 2, [log, other], blo, None)
    for (kind, message, _), _ in found:
        assert kind == "WorkersDiffer"
        assert message.startswith("worker 1 of 2: is not at one with worker 0 (there): log: ")
        assert "Give all workers one log, one version of everything" in message
    (kind, message, _), _ = outcomes(_fit_one_of, 2, [log, log], blo, "9.9")[0]
    assert kind == "WorkersDiffer"
    assert "worker 1 of 2: is not at one with worker 0 (there): versions.blob_pyro: " in message
    assert "'9.9' here" in message
    found = outcomes(_fit_one_of, 2, [log, log], blo, "a full disk", tmp_path / "run")
    full = ("OSError", "worker 0 of 2: OSError: [Errno 28] No space left on device")
    assert [error[:2] for error, _ in found] == [full, full], found


def _fit_one_of(rank, world, logs, blo, version, checkpoint=None):
    if rank == 1 and version:
        run_module.__version__ = version
    if checkpoint is not None:
        run_module.__version__ = "1"

        def full(*anything):
            raise OSError(28, "No space left on device")

        import blob_pyro.infer.training.checkpoints as module

        module.save_checkpoint = full
    return fit_blob(rank, world, logs[rank], blo, {**FIT, "checkpoint": checkpoint}, {})


def test_a_shard_without_events_is_named(log, blo):
    views, impressions = log.to_frames()
    few = impressions[impressions["user"] == impressions["user"].iloc[0]]
    lopsided = EventLog.from_tables(views=views, impressions=few, items=log.items.ids)
    lacking = 1 - int(lopsided.user[0]) % 2
    for (kind, message, _), _ in outcomes(fit_blob, 2, lopsided, blo, FIT, {}):
        assert kind == "ValueError"
        assert message == f"worker {lacking} of 2: its shard has no bandit events; use fewer workers"


def test_a_loss_that_is_not_finite_ends_all_fits(log, blo):
    for (kind, message, _), _ in outcomes(_fit_broken, 2, log, blo):
        assert kind == NotFiniteError.__name__
        assert "epoch 1 of 2, step 1 of" in message
        assert "of worker" in message


def _fit_broken(rank, world, log, blo):
    """Only worker 1 has the row that breaks the loss."""
    shard = log.shard(rank, world)
    if rank == 1:
        whole = BLOB._batch

        def broken(self, *arguments):
            batch = whole(self, *arguments)
            batch.interest[batch.context[-1]] = torch.nan
            return batch

        BLOB._batch = broken
    return fit_blob(None, None, shard, blo, {**FIT, "batch_size": 10_000}, {})


def test_a_shard_needs_its_workers(log, blo, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"log: is a shard, and there are no other workers: RANK, .*torchrun"):
        BLOB(blo).fit(log.shard(0, 2), **FIT)
    with pytest.raises(ValueError, match="guide 'laplace' is fitted to all events at once, not by SVI; fit the whole"):
        BLOB(blo, guide="laplace").fit(log.shard(0, 2), progress=False)
    blob = BLOB(blo)
    blob.fit(log, **{**FIT, "num_epochs": 1})
    organic = BLO(log.num_items, 3)
    organic.fit(log, num_epochs=1, progress=False, device="cpu")
    for name, call in {
        "BLOB.update": blob.update,
        "BLOB.elbo": blob.elbo,
        "BLOB.extend": lambda part: blob.extend([log.num_items], log=part),
        "BLO.extend": lambda part: organic.extend([log.num_items], log=part),
        "BLOB.to_inference_data": blob.to_inference_data,
        "diagnose": lambda part: diagnose(blob, part),
    }.items():
        message = f"log: is shard 0 of 2, which {re.escape(name)} would take for all that there is; pass the whole log"
        with pytest.raises(ValueError, match=message):
            call(log.shard(0, 2))
    with pytest.raises(ValueError, match="validation: is a shard; pass the whole log"):
        BLO(log.num_items, 3).fit(log.shard(0, 1), validation=log.shard(1, 2), progress=False)
    for (kind, message, _), _ in outcomes(_fit_the_other, 2, log, blo):
        assert kind == "ValueError"
        assert "and this process is worker" in message
        assert "use log.shard(" in message


def _fit_the_other(rank, world, log, blo):
    return fit_blob(1 - rank, world, log, blo, FIT, {})


def test_one_shard_of_one_is_the_log(log, blo):
    require_equal([fit_blob(0, 1, log, blo, FIT, {})], fit_blob(None, None, log, blo, FIT, {}))


def test_one_worker_alone():
    share = Share(torch.tensor([1, 4, 5]), 8)
    alone = Workers(0, 1, share, "")
    with pytest.raises(CannotCapture, match='use capture="auto", or a batch_size of all rows'):
        alone.can_capture(Training(1, 4, 0.1, capture=True), 2)
    rows, mine = alone.deal(torch.arange(3))
    assert (rows.tolist(), mine.num_rows) == ([0, 1, 2], 3)
    rows, mine = Workers.deal(type("Third", (), {"rank": 2, "world": 3})(), torch.arange(2))
    assert (len(rows), len(mine.rows)) == (1, 0), "one row, that does not count"
