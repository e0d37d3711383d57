"""Workers that torchrun starts, and starts again: ``make test-distributed``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.infer.training.torchrun_worker import fit, small_log

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[3]


def torchrun(folder: Path, *options: str, workers: int = 2, program_options: tuple[str, ...] = ()) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    program = [str(Path(__file__).with_name("torchrun_worker.py")), str(folder), *program_options]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    done = subprocess.run([*launcher, *options, *program], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_a_worker_that_is_killed_is_started_again_and_nothing_is_lost(tmp_path):
    whole = fit(small_log(), tmp_path / "alone")
    torchrun(tmp_path, "--max-restarts=1", program_options=("--fall",))
    assert (tmp_path / "fell").exists()
    first, second = (torch.load(tmp_path / f"worker-{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    assert (first - whole).abs().max() < 1e-6 * whole.abs().max()
