"""What it costs to take a step together: bytes, and the share of time in communication, for 1 and 2 workers and more.

    python benchmarks/distributed.py                    # 1,000 items, 200,000 events, 1 and 2 workers of this machine
    python benchmarks/distributed.py --gigabits 100     # the network that 16 and 128 workers are priced on

One and two workers are processes of this machine, over gloo, and are measured: seconds per step, of which in sums
(waiting for the other included). 16 and 128 are priced by a model with stated assumptions, and no measurement: a worker
has ``1 / n`` of the arithmetic of one, draws the noise of all rows of a step, and takes part in one ring all-reduce of
the gradient, which takes ``2 (n - 1) / n`` times its bytes over the bandwidth and ``2 (n - 1)`` latencies (Patarasuk
and Yuan 2009, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, section 3).
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import warnings
from typing import Any

import click
import torch

from blob_pyro import BLO, BLOB, EventLog

K = 20


def random_log(num_items: int, num_events: int) -> EventLog:
    """Events at random: what a step costs does not depend on what they say."""
    draw = torch.Generator().manual_seed(100)
    num_users = max(2, num_events // 20)

    def numbers(most: int, size: int) -> torch.Tensor:
        return torch.randint(most, (size,), generator=draw)

    views = num_events // 2
    return EventLog.from_arrays(
        num_items,
        view_user=numbers(num_users, views),
        view_time=numbers(1000, views),
        view_item=numbers(num_items, views),
        user=numbers(num_users, num_events),
        time=numbers(1000, num_events),
        action=numbers(num_items, num_events),
        reward=numbers(2, num_events),
    )


def work(rank: int, world: int, log: EventLog, model: str, batch_size: int, epochs: int, folder: str) -> dict[str, Any]:
    """Fit a shard; seconds of the epochs but the first, and the traffic of all."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if world > 1:
        store = f"file://{folder}/{model}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    blo = BLO(log.num_items, embedding_dim=K)
    options: dict[str, Any] = {"num_epochs": epochs, "batch_size": batch_size, "progress": False, "device": "cpu"}
    part = log.shard(rank, world)
    if model == "BLO":
        trace, rows = blo.fit(part, **options), len(log.sessions)
    else:
        blo.fits = [{"call": "none: a benchmark of shapes"}]
        trace, rows = BLOB(blo).fit(part, **options), log.num_impressions
    steps = -(-rows // batch_size)
    traffic = trace.attrs["traffic"]
    seconds = (trace["seconds"].iloc[-1] - trace["seconds"].iloc[0]) / (steps * (epochs - 1))
    sums = max(traffic["num_sums"], 1)
    return {
        "rows": min(batch_size, rows),
        "bytes": traffic["num_bytes"] / sums,
        "step": seconds,
        "sum": traffic["seconds"] / sums,
    }


def _into(pipe: Any, *arguments: Any) -> None:
    pipe.send(work(*arguments))


def measured(world: int, *arguments: Any) -> dict[str, Any]:
    """Of the slowest worker."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        workers = [
            context.Process(target=_into, args=(pipes[rank][1], rank, world, *arguments, folder))
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        found = [mine.recv() for mine, _ in pipes]
        for worker in workers:
            worker.join()
    return max(found, key=lambda f: f["step"])


def noise_seconds(model: str, rows: int) -> float:
    """To draw what one step needs for all its rows: four numbers an event for BLOB, K a session for BLO."""
    shape = (rows, K) if model == "BLO" else (4, rows)
    start = time.perf_counter()
    for _ in range(10):
        torch.empty(shape).normal_()
    return (time.perf_counter() - start) / 10


def priced(
    one: dict[str, Any], num_bytes: float, noise: float, world: int, gigabits: float, latency: float
) -> tuple[float, float]:
    """Seconds of a step of many workers, and of its sum."""
    arithmetic = (one["step"] - noise) / world + noise
    communication = 2 * (world - 1) / world * num_bytes / (gigabits * 1e9 / 8) + 2 * (world - 1) * latency
    return arithmetic + communication, communication


@click.command(help=__doc__)
@click.option("--items", default=1000, help="P.")
@click.option("--events", default=200_000, help="Impressions; half as many views.")
@click.option("--epochs", default=3)
@click.option("--gigabits", default=10.0, help="Bandwidth between machines, Gbit/s.")
@click.option("--microseconds", default=50.0, help="Latency of a message between machines.")
def main(items: int, events: int, epochs: int, gigabits: float, microseconds: float) -> None:
    log = random_log(items, events)
    print(f"{log}, K = {K}; priced rows assume {gigabits:g} Gbit/s and {microseconds:g} us a message")
    heads = ("rows/step", "workers", "", "bytes/step", "ms/step", "in sums", "speed-up")
    print(f"{'model':6}" + "".join(f"{head:>{width}}" for head, width in zip(heads, (10, 9, 10, 12, 10, 9, 10))))
    for model, batch_size in (("BLO", 1024), ("BLOB", 65_536)):
        one, two = (measured(world, log, model, batch_size, epochs) for world in (1, 2))
        noise = noise_seconds(model, one["rows"])
        rows = [(1, "measured", one["step"], 0.0), (2, "measured", two["step"], two["sum"])]
        for world in (2, 16, 128):
            rows.append((world, "priced", *priced(one, two["bytes"], noise, world, gigabits, microseconds * 1e-6)))
        for world, how, step, in_sum in rows:
            sent = 0 if world == 1 else two["bytes"]
            print(
                f"{model:6}{one['rows']:>10,}{world:>9}{how:>10}{sent:>12,.0f}{1e3 * step:>10.2f}"
                f"{in_sum / step:>9.1%}{one['step'] / step:>10.2f}"
            )
        print(f"{model:6}noise of all rows: {1e3 * noise:.2f} ms of a step, which every worker draws")


if __name__ == "__main__":
    main()
