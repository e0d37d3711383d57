"""Fits through Ray Train end where one process does, whatever happens to a worker: ``make test-distributed``."""

import json
import re
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.distributed import fit
from blob_pyro.distributed.ray_train import _all_refuse, _cause, _read_trace, _write_trace, work
from blob_pyro.infer import NotFiniteError
from tests.distributed.falls import FallsOnce

FIT = {"num_epochs": 4, "batch_size": 512}


def values(*modules):
    return torch.cat([value.flatten().double() for m in modules for value in m.state_dict().values()])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two CPUs of this machine."""
    ray = pytest.importorskip("ray")
    flag = tmp_path_factory.mktemp("flags") / "fall"
    environment = {FallsOnce.FLAG: str(flag), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, runtime_env={"env_vars": environment}
    )
    yield flag
    ray.shutdown()


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_both_models_end_where_one_process_does(log, cluster, tmp_path):
    alone, together = BLO(log.num_items, embedding_dim=3), BLO(log.num_items, embedding_dim=3)
    trace = alone.fit(log, progress=False, device="cpu", num_epochs=4, batch_size=64)
    found = fit(together, log, num_workers=2, storage=tmp_path / "blo", use_gpu=False, num_epochs=4, batch_size=64)
    assert found.attrs["num_workers"] == 2
    assert found["elbo"].tolist() == pytest.approx(trace["elbo"].tolist(), rel=1e-6)
    one, two = values(alone.model, alone.guide), values(together.model, together.guide)
    assert (one - two).abs().max() < 1e-6 * one.abs().max()
    assert together.fits[-1]["num_rows"] == len(log.sessions)
    with pytest.raises(ValueError, match="of another fit"):
        fit(together, log, num_workers=2, storage=tmp_path / "blo", use_gpu=False, num_epochs=5, batch_size=64)


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_is_killed_is_started_again_and_nothing_is_lost(log, blo, cluster, tmp_path):
    alone, together = BLOB(blo, guide=FallsOnce), BLOB(blo, guide=FallsOnce)
    alone.fit(log, progress=False, device="cpu", **FIT)
    cluster.touch()
    found = fit(together, log, num_workers=2, storage=tmp_path, use_gpu=False, max_failures=1, **FIT)
    assert not cluster.exists(), "a worker was killed"
    assert found.attrs["resumed_from_epoch"] > 0
    one, two = values(alone.guide), values(together.guide)
    assert (one - two).abs().max() < 1e-6 * one.abs().max()


def test_without_ray_the_extra_is_named(log, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'blob-pyro\[ray\]'"):
        fit(BLO(log.num_items, 3), log, num_workers=2, storage=tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"blob": 3}, TypeError, r"blob: expected a BLO or a BLOB, got 3"),
        ({"dataset": 3}, TypeError, r"dataset: expected an EventLog or the arguments of EventLog\.read_parquet"),
        ({"num_workers": 0}, ValueError, r"num_workers"),
        ({"num_workers": 10_000}, ValueError, r"leave worker 360 and those after it without an event"),
        ({"device": "cpu"}, TypeError, r"settings: device cannot be given here; see storage and use_gpu"),
        ({"max_failures": -1}, ValueError, r"max_failures"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_said_before_ray_starts(log, monkeypatch, tmp_path, change, kind, message):
    monkeypatch.setattr("blob_pyro.distributed.ray_train.require_ray", lambda: None)
    arguments = {"blob": BLO(log.num_items, 3), "dataset": log, "num_workers": 2, "storage": tmp_path, **change}
    with pytest.raises(kind, match=message):
        fit(arguments.pop("blob"), arguments.pop("dataset"), **arguments)


@pytest.fixture
def dated() -> EventLog:
    """A log whose item ids JSON has no kind of value for."""
    days = [date(2026, 1, day) for day in (1, 2, 3)]
    return EventLog.from_tables(
        views={"user": [1, 1, 2], "time": [0, 1, 0], "item": days},
        impressions={"user": [1, 2], "time": [2, 3], "action": days[:2], "reward": [1, 0]},
    )


ODD = r"items: id datetime\.date\(2026, 1, 1\) is a date; only strings and integers can be saved"


def test_ids_that_cannot_come_back_are_said_before_ray_starts(dated, monkeypatch, tmp_path):
    monkeypatch.setattr("blob_pyro.distributed.ray_train.require_ray", lambda: None)
    with pytest.raises(ValueError, match=ODD):
        fit(BLO(3, embedding_dim=1), dated, num_workers=2, storage=tmp_path)
    blo = BLO(3, embedding_dim=1)
    blo.fit(dated, num_epochs=1, progress=False, device="cpu")
    with pytest.raises(ValueError, match=ODD):
        fit(BLOB(blo), dated, num_workers=2, storage=tmp_path)


def test_ids_that_cannot_come_back_are_said_by_workers_before_they_train(dated, monkeypatch, tmp_path):
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    train = SimpleNamespace(get_context=lambda: context, report=lambda said: None)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(train=train))
    monkeypatch.setattr(EventLog, "read_parquet", lambda views: dated)
    monkeypatch.setattr(BLO, "fit", lambda *_, **__: pytest.fail("it was trained"))
    blo = BLO(3, embedding_dim=1)
    work({"blob": blo, "dataset": {"views": "a.parquet"}, "folder": str(tmp_path), "settings": {}})
    said = json.loads((tmp_path / "refused-0.json").read_text())
    assert said["kind"] == "ValueError"
    assert re.match(ODD, said["message"])


def test_all_refuse_or_none(tmp_path):
    error = NotFiniteError("worker 1 of 2: no")
    (tmp_path / "refused-1.json").write_text("{}")
    assert _all_refuse(error, tmp_path, 0, 2)
    said = json.loads((tmp_path / "refused-0.json").read_text())
    assert said == {"kind": "NotFiniteError", "message": "worker 1 of 2: no"}


def test_one_that_is_refused_alone_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr("blob_pyro.distributed.ray_train._PATIENCE", 0.2)
    assert not _all_refuse(ValueError("x"), tmp_path, 0, 2)
    assert not list(tmp_path.iterdir())


def test_what_a_worker_said_is_quoted():
    error = RuntimeError("something of Ray's\nlast line")
    assert _cause(error) == "last line"
    error.worker_failures = {1: OSError("Traceback\nOSError: [Errno 28] No space left on device")}
    assert _cause(error) == "worker 1: OSError: [Errno 28] No space left on device"


def test_a_trace_comes_back(blob, log, tmp_path):
    trace = BLOB(blob.blo).fit(log, num_epochs=2, progress=False, device="cpu")
    _write_trace(trace, tmp_path / "trace.json")
    found = _read_trace(tmp_path / "trace.json")
    assert found.to_dict("list") == trace.to_dict("list")
    assert found.attrs == trace.attrs
