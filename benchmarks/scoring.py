"""Bulk scoring of views on disk: peak memory, and contexts per CPU second, for more and more users.

Run ``python benchmarks/scoring.py [users ...]``; each size is a process of its own, so that its peak is its own. Users
have 20 views each of 1,000 items, in files of 1e6 rows; ten items are recommended, or one is decided by epsilon-greedy.
The table goes to ``benchmarks/results/scoring``.
"""

import argparse
import os
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

RESULTS = Path(__file__).parent / "results" / "scoring"
NUM_ITEMS, DIM, VIEWS = 1000, 20, 20
USERS_OF_A_FILE = 50_000


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB


def one(call: str, num_users: int) -> str:
    from blob_pyro import BLO, EventLog, distributed
    from blob_pyro.policies import EpsilonGreedy

    warnings.simplefilter("ignore")
    draw = np.random.default_rng(100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "views").mkdir()
        for number, start in enumerate(range(0, num_users, USERS_OF_A_FILE)):
            user = np.repeat(np.arange(start, min(start + USERS_OF_A_FILE, num_users)), VIEWS)
            table = pa.table({"user": user, "item": draw.integers(0, NUM_ITEMS, len(user))})
            pq.write_table(table, folder / "views" / f"{number:04d}.parquet", row_group_size=100_000)
        blo = BLO(NUM_ITEMS, DIM)
        users, items = np.arange(200) // 10, draw.integers(0, NUM_ITEMS, 200)
        views = {"user": users, "time": np.arange(200), "item": items}
        blo.fit(EventLog.from_tables(views=views, num_items=NUM_ITEMS), num_epochs=1, progress=False, device="cpu")
        before, start = peak(), time.process_time()
        if call == "recommend":
            done = distributed.recommend(blo, folder / "views", folder / "out", k=10)
        else:
            done = distributed.decide(EpsilonGreedy(blo, 0.1), folder / "views", folder / "out", seed=200)
        seconds = time.process_time() - start
        size = sum(path.stat().st_size for path in (folder / "views").iterdir()) / 2**20
    return (
        f"{call:10}{num_users:>12,}{done.num_parts:>7}{size:>12.1f}{before:>12.2f}{peak():>10.2f}"
        f"{num_users / seconds:>18,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("users", nargs="*", type=float, default=[1e5, 4e5, 1e6])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return print(one(given.one, int(given.users[0])))
    lines = [
        f"python benchmarks/scoring.py {' '.join(f'{users:g}' for users in given.users)}",
        f"{platform.machine()}, Python {platform.python_version()}, one core; a load of {os.getloadavg()[0]:.1f}",
        f"{'call':10}{'users':>12}{'parts':>7}{'MiB read':>12}{'GiB before':>12}{'GiB peak':>10}{'a CPU second':>18}",
    ]
    print("\n".join(lines), flush=True)
    for call in ("recommend", "decide"):
        for users in given.users:
            command = [sys.executable, __file__, str(users), "--one", call]
            lines.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
            print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "scoring.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
