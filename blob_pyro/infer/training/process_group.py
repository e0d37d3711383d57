"""The process group that workers talk in, as a launcher such as torchrun describes it."""

from __future__ import annotations

import atexit
import os

import torch
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

__all__ = ["join_workers"]


def join_workers() -> None:
    """Join the process group that a launcher such as torchrun has told this process of, unless it is in one.

    NCCL where every worker has a CUDA device of its own, the one that ``LOCAL_RANK`` says; gloo elsewhere, also where
    some of them share a device, which NCCL refuses.

    Raises:
        ValueError: if there is none to join.
    """
    if dist.is_initialized():
        return
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(
            f"log: is a shard, and there are no other workers: {', '.join(missing)} not set. Start the program with "
            "torchrun --nproc-per-node=2 (or torch.distributed.init_process_group), use blob_pyro.distributed.fit, or "
            "fit the whole log"
        )
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_devices:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % num_devices)
    # torchrun keeps one store for all its attempts, where addresses of workers that have ended are still to be read.
    store, rank, world = next(rendezvous("env://"))
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # who does not say may have all on one machine
    store.set(f"a device of its own {rank}", str(num_here <= num_devices))
    said = [store.get(f"a device of its own {other}") for other in range(world)]
    dist.init_process_group("nccl" if set(said) == {b"True"} else "gloo", store=store, rank=rank, world_size=world)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
