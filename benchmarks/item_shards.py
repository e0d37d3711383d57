"""Tables of items dealt out to workers: what one holds and sends, measured, and sized for catalogues larger than this.

    python benchmarks/item_shards.py                          # 100,000 items, 1 and 2 workers of this machine
    python benchmarks/item_shards.py --sized 10000000         # the catalogue that is sized on paper

Held are the rows of Psi, rho and the encoder, what the optimiser knows of them, and the two copies that a fit keeps, as
counted in the workers. Sent, over gloo, are item numbers, rows and their gradients: how many depends on the sessions of
a step and on the negatives, not on the catalogue. At its start and end each worker has the whole model besides, as it
would be saved: the tables of one worker.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import warnings
from typing import Any

import click
import torch

import blob_pyro.infer.training.loop as loop_module
from blob_pyro import BLO, EventLog
from blob_pyro.infer import OneVsEach, RowwiseAdam
from blob_pyro.infer.training.run import Run

NEGATIVES, SESSIONS = 200, 512


def random_views(num_items: int, num_views: int) -> EventLog:
    """Four views a user, of any item: what is held and sent does not depend on what they say."""
    draw = torch.Generator().manual_seed(100)
    none = dict.fromkeys(("user", "time", "action", "reward"), torch.zeros(0, dtype=torch.int64))
    return EventLog.from_arrays(
        num_items, view_user=torch.arange(num_views) // 4, view_time=torch.arange(num_views),
        view_item=torch.randint(num_items, (num_views,), generator=draw), **none,
    )  # fmt: skip


def work(rank: int, world: int, log: EventLog, embedding_dim: int, folder: str, pipe: Any) -> None:
    """Fit a shard of views for one epoch with a share of the items, and tell what it took."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=world)
    held: dict[str, int] = {}

    class Watched(Run):
        def epoch(self) -> None:
            super().epoch()
            tables = [p for p in self.parameters if p.dim() and len(p) > 1024]
            known = [o.state.values() for o in self.optimizers if isinstance(o, RowwiseAdam)]
            held["tables"] = sum(t.nbytes for t in tables)
            held["optimiser"] = sum(t.nbytes for states in known for state in states for t in state.values())
            held["copies"] = sum(t.nbytes for t in (*self.last, *self.before))

    loop_module.Run = Watched
    blo = BLO(log.num_items, embedding_dim, sparse=True, bound=OneVsEach(num_negatives=NEGATIVES))
    trace = blo.fit(
        log.shard(rank, world), shard_items=True, num_epochs=1, batch_size=SESSIONS, progress=False, device="cpu"
    )
    steps = -(-len(log.sessions) // SESSIONS)
    pipe.send((held, trace.attrs["traffic"]["num_bytes"] / steps, trace["elbo"].iloc[-1]))


def measured(world: int, log: EventLog, embedding_dim: int) -> tuple[dict[str, int], float, float]:
    """Of the worker that holds most."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        workers = [
            context.Process(target=work, args=(rank, world, log, embedding_dim, folder, pipes[rank][1]))
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        found = [mine.recv() for mine, _ in pipes]
        for worker in workers:
            worker.join()
    return max(found, key=lambda f: sum(f[0].values()))


@click.command(help=__doc__)
@click.option("--items", default=100_000, show_default=True)
@click.option("--embedding-dim", default=64, show_default=True)
@click.option("--views", default=8_192, show_default=True)
@click.option("--sized", default=10_000_000, show_default=True, help="Items of the catalogue that is sized.")
def main(items: int, embedding_dim: int, views: int, sized: int) -> None:
    log = random_views(items, views)
    print(f"{items:,} items, K = {embedding_dim}, {SESSIONS} sessions and {NEGATIVES} negatives a step; GiB a worker")
    print(f"{'items':>12}{'workers':>9}{'':>10}{'tables':>9}{'optimiser':>11}{'copies':>9}{'in all':>9}{'MB/step':>9}")

    def show(items: int, world: int, how: str, held: dict[str, Any], sent: str = "") -> None:
        gib = [held[name] / 2**30 for name in ("tables", "optimiser", "copies")]
        print(f"{items:>12,}{world:>9}{how:>10}{gib[0]:>9.3f}{gib[1]:>11.3f}{gib[2]:>9.3f}{sum(gib):>9.3f}{sent:>9}")

    found = {world: measured(world, log, embedding_dim) for world in (1, 2)}
    for world, (held, sent, _) in found.items():
        show(items, world, "measured", held, f"{sent / 1e6:.2f}")
    print(f"{'':12}the ELBO is {found[1][2]:.6f} by one and {found[2][2]:.6f} by two")
    for world in (1, 4, 16, 64):
        show(sized, world, "sized", {name: n * sized / items / world for name, n in found[1][0].items()})


if __name__ == "__main__":
    main()
