"""A log on disk beside the same log in memory: memory, seconds, events per second and ELBO of both fits.

Run ``python benchmarks/streaming.py [events] [--no-memory-log] [--epochs 3]``; each half is a process of its own,
so that its peak is its own. Tables go to ``benchmarks/results/streaming``. Users have 100 events and 20 views each.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results" / "streaming"
NUM_ITEMS, DIM, VIEWS_PER_USER, EVENTS_PER_USER = 1000, 20, 20, 100
ROWS_OF_A_FILE, ROWS_OF_A_GROUP = 10_000_000, 500_000


def write(folder: Path, num_events: int, rng: np.random.Generator) -> None:
    """Views of users with tastes, and impressions in the order of time, of which tastes decide; files of 1e7 rows."""
    num_users = max(num_events // EVENTS_PER_USER, 1)
    taste = rng.integers(0, 10, num_users)
    quality = rng.normal(-3, 0.7, NUM_ITEMS)
    for name, size in (("views", num_users * VIEWS_PER_USER), ("impressions", num_events)):
        (folder / name).mkdir()
        for number, start in enumerate(range(0, size, ROWS_OF_A_FILE)):
            rows = min(ROWS_OF_A_FILE, size - start)
            user = rng.integers(0, num_users, rows)
            begin, end = (10**9 * at // size for at in (start, start + rows))
            when = np.sort(rng.integers(begin, end, rows))
            if name == "views":
                mine = taste[user] + 10 * rng.integers(0, NUM_ITEMS // 10, rows)
                item = np.where(rng.random(rows) < 0.7, mine, rng.integers(0, NUM_ITEMS, rows))
                table = {"user": user, "time": when, "item": item}
            else:
                action = rng.integers(0, NUM_ITEMS, rows)
                logit = quality[action] + 1.5 * (action % 10 == taste[user])
                clicked = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
                table = {"user": user, "time": when, "action": action, "reward": clicked}
            pq.write_table(pa.table(table), folder / name / f"{number:04d}.parquet", row_group_size=ROWS_OF_A_GROUP)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB


def cpu_seconds_of_epochs() -> list[float]:
    """Note the CPU seconds of each epoch from now on: on a machine that others use, wall clocks say little."""
    from blob_pyro.infer.training.run import Run

    epoch, noted = Run.epoch, []

    def timed(run: Run) -> None:
        start = time.process_time()
        epoch(run)
        noted.append(time.process_time() - start)

    Run.epoch = timed
    return noted


def half(kind: str, folder: Path, epochs: int, batch_size: int) -> None:
    """Read the log one way and fit it; print what was measured as JSON."""
    from blob_pyro import BLO, BLOB, EventLog

    warnings.simplefilter("ignore")
    before, start = peak(), time.perf_counter()
    read = EventLog.scan_parquet if kind == "scanned" else EventLog.read_parquet
    log = read(folder / "views", folder / "impressions", num_items=NUM_ITEMS)
    read_seconds, read_peak = time.perf_counter() - start, peak()
    blo = BLO.load(folder / "blo")
    blob = BLOB(blo)
    cpu = cpu_seconds_of_epochs()
    start = time.perf_counter()
    trace = blob.fit(log, num_epochs=epochs, batch_size=batch_size, seed=200, progress=False)
    fit_seconds = time.perf_counter() - start
    seconds = trace.seconds.diff().iloc[1:].min()  # the first has the start of everything in it
    elbo = blob.elbo(log, num_draws=10 if log.num_impressions < 10**8 else 2, seed=201)  # each a pass over all
    found = {
        "kind": kind, "log": repr(log), "GiB before": before, "seconds to read": read_seconds, "GiB read": read_peak,
        "seconds to fit": fit_seconds, "seconds of the fastest epoch": seconds,
        "CPU seconds of the median epoch": float(np.median(cpu[1:])),
        "events per second": log.num_impressions / seconds,
        "events per CPU second": log.num_impressions / float(np.median(cpu[1:])), "GiB fitted": peak(),
        "elbo": elbo.value,
        "standard error": elbo.standard_error, "bytes": log.num_bytes if kind == "scanned" else {},
    }  # fmt: skip
    print(json.dumps(found))


def organic(folder: Path) -> None:
    """Fit a small organic model to a part of the views: what is measured is BLOB's fit."""
    from blob_pyro import BLO, EventLog

    warnings.simplefilter("ignore")
    first = pq.ParquetFile(sorted((folder / "views").iterdir())[0]).read_row_group(0).slice(0, 200_000)
    blo = BLO(NUM_ITEMS, DIM)
    log = EventLog.from_tables(views=first, num_items=NUM_ITEMS)
    blo.fit(log, num_epochs=3, batch_size=512, seed=202, progress=False)
    blo.save(folder / "blo")


def in_a_process(*arguments: str) -> dict:
    command = [sys.executable, __file__, *arguments]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("events", nargs="?", type=float, default=1e6)
    parser.add_argument("--no-memory-log", action="store_true", help="only the log on disk")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=131_072)
    parser.add_argument("--half", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.half == "organic":
        return organic(given.folder)
    if given.half:
        return half(given.half, given.folder, given.epochs, given.batch_size)
    num_events = int(given.events)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, num_events, np.random.default_rng(200))
        in_a_process("--half", "organic", "--folder", name)
        settings = ["--folder", name, "--epochs", str(given.epochs), "--batch-size", str(given.batch_size)]
        kinds = ["scanned"] if given.no_memory_log else ["in memory", "scanned"]
        found = [in_a_process("--half", kind, *settings) for kind in kinds]
    lines = [
        f"python benchmarks/streaming.py {given.events:g} --epochs {given.epochs} --batch-size {given.batch_size}"
        + " --no-memory-log" * given.no_memory_log,
        f"{platform.machine()}, Python {platform.python_version()}",
        "",
    ]
    for one in found:
        lines += [one["log"]]
        lines += [
            f"  {name}: {value:,.4g}" if isinstance(value, float) else f"  {name}: {value}"
            for name, value in one.items()
            if name not in ("log", "elbo")
        ]
        lines += [f"  ELBO: {one['elbo']:.6f} +- {one['standard error']:.6f} nats per event", ""]
    if len(found) == 2:
        memory, scanned = found
        ratio = scanned["events per second"] / memory["events per second"]
        cpu_ratio = scanned["events per CPU second"] / memory["events per CPU second"]
        apart = abs(scanned["elbo"] - memory["elbo"])
        lines += [
            f"throughput on disk over in memory: {ratio:.2f} (asked: .5); by CPU time {cpu_ratio:.2f}",
            f"ELBOs apart: {apart:.2g} nats per event, {apart / abs(memory['elbo']):.2%} of it",
        ]
    scanned = found[-1]
    lines += [
        f"peak of the fit on disk: {scanned['GiB fitted']:.2f} GiB, {scanned['GiB before']:.2f} before reading "
        "(asked: under 6 GiB for 1e8 events of 1e6 users)"
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{num_events}.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
