"""Parts that workers of Ray write are those that one process writes; what a worker refuses is said with its name."""

import os
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro import distributed
from blob_pyro.distributed import ray_data
from blob_pyro.distributed.answering import Answering
from blob_pyro.distributed.contexts import ContextFiles
from blob_pyro.distributed.ray_data import Worker
from blob_pyro.policies import EpsilonGreedy


class KilledOnce(EpsilonGreedy):
    """Kills the worker that it is in, the first time; where a file says that it is to."""

    FLAG = "BLOB_PYRO_TEST_KILLS"

    def slate_distribution(self, *args, **options):
        flag = Path(os.environ.get(self.FLAG, "/nowhere"))
        if flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().slate_distribution(*args, **options)


@pytest.fixture
def source(tmp_path):
    random = np.random.default_rng(102)
    user = np.sort(random.integers(0, 1000, 3000))
    views = pa.table({"user": user, "item": random.integers(0, 12, 3000)})
    pq.write_table(views, tmp_path / "views.parquet", row_group_size=100)
    return tmp_path / "views.parquet"


def read(done):
    return pd.concat([pd.read_parquet(path) for path in sorted(done.output.glob("part-*.parquet"))])


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_write_what_one_process_writes_even_if_one_is_killed(blob, source, tmp_path):
    ray = pytest.importorskip("ray")
    flag = tmp_path / "kill"
    environment = {KilledOnce.FLAG: str(flag), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    policy = KilledOnce(blob, epsilon=0.3)
    alone = distributed.decide(policy, source, tmp_path / "alone", seed=5, time=0, rows=256)
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, runtime_env={"env_vars": environment}
    )
    try:
        flag.touch()
        together = distributed.decide(policy, source, tmp_path / "ray", seed=5, time=0, rows=256, num_workers=2)
        assert not flag.exists(), "a worker was killed"
        assert together.num_new == together.num_parts == alone.num_parts == 4
        assert read(together).equals(read(alone))
        (together.output / "part-00000002.parquet").unlink()
        again = distributed.decide(policy, source, tmp_path / "ray", seed=5, time=0, rows=256, num_workers=2)
        assert again.num_new == 1
        assert read(again).equals(read(alone))
        best = distributed.recommend(blob, source, tmp_path / "best", k=2, rows=300, num_workers=2)
        one = read(distributed.recommend(blob, source, tmp_path / "one", k=2))
        pd.testing.assert_frame_equal(read(best).reset_index(drop=True), one.reset_index(drop=True), rtol=1e-6)
    finally:
        ray.shutdown()


def test_without_ray_the_extra_is_named_and_a_call_in_this_process_goes_on(blob, source, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'blob-pyro\[ray\]'"):
        distributed.recommend(blob, source, tmp_path / "out", num_workers=2)
    assert distributed.recommend(blob, source, tmp_path / "out").num_new == 1


@pytest.fixture
def asked(blob, source, monkeypatch, tmp_path):
    """What a worker is told, by a Ray that is not there."""
    said = SimpleNamespace(get_actor_id=lambda: "7")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda ref: ref, get_runtime_context=lambda: said))
    files = ContextFiles(source, None)
    return {
        "answering": Answering(blob, 2, None, None, None), "location": files.files.location, "history": None,
        "files": files.request, "folder": str(tmp_path), "run": "r", "contents": files.contents(),
        "version": ray_data.__version__,
    }  # fmt: skip


def test_a_worker_writes_a_part(asked, source, tmp_path):
    (part,) = ContextFiles(source, None).parts(10_000)
    assert Worker(asked)(asdict(part)) == {"kind": "", "said": ""}
    assert len(pd.read_parquet(tmp_path / "part-00000000.parquet")) == 2 * part.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "99"}, "has blob-pyro .*, and the caller 99; install the same on all machines"),
        ({"contents": "x"}, "views.parquet holds other files than the caller sees"),
        ({"location": "/nowhere"}, "contexts: /nowhere is not there"),
    ],
)
def test_what_a_worker_refuses_is_said_with_its_name(asked, source, change, message):
    (part,) = ContextFiles(source, None).parts(10_000)
    told = Worker({**asked, **change})(asdict(part))
    assert told["kind"] in ("ValueError", "OSError")
    assert re.match(f"worker 7 on .*: .*{message}", told["said"])
