"""A program for torchrun: fits both models to a shard, and is killed once if it is told to."""

import os
import signal
import sys
from pathlib import Path

import torch

import blob_pyro.infer.training.run as run_module
from blob_pyro import BLO, BLOB
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

FIT = {"num_epochs": 4, "batch_size": 256, "progress": False, "device": "cpu"}


def small_log():
    return RecoGym(num_items=12, num_flips=4, seed=3).simulate(
        SessionPopularity(12, epsilon=0.3), num_users=30, num_organic_users=50
    )


def fit(log, folder: Path) -> torch.Tensor:
    """Both models, with checkpoints."""
    blo = BLO(log.num_items, embedding_dim=3)
    blo.fit(log, checkpoint=folder / "blo", **FIT)
    blob = BLOB(blo)
    blob.fit(log, checkpoint=folder / "blob", **FIT)
    modules = (blo.model, blo.guide, blob.model, blob.guide)
    return torch.cat([value.flatten().double() for m in modules for value in m.state_dict().values()])


def fall_once(folder: Path) -> None:
    """Let worker 1 be killed in BLOB's third epoch, the first time that it gets there."""
    epoch = run_module.Run.epoch

    def falls(run):
        if hasattr(run.model, "num_covariates") and len(run.rows) == 2 and not (folder / "fell").exists():
            (folder / "fell").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        epoch(run)

    run_module.Run.epoch = falls


if __name__ == "__main__":
    folder, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if rank == 1 and sys.argv[2:] == ["--fall"]:
        fall_once(folder)
    learned = fit(small_log().shard(rank, world), folder)
    torch.save(learned, folder / f"worker-{rank}.pt")
