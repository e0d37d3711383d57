"""Ten million events from Parquet to tensors: seconds and peak memory of the whole process.

Run ``python benchmarks/data.py [events]``.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from blob_pyro import EventLog


def write(folder: Path, num_events: int, rng: np.random.Generator) -> None:
    """Unsorted events of num_events / 100 users over 10,000 text item ids: one view to four impressions."""
    ids = np.array([f"sku-{i:05d}" for i in range(10_000)])
    num_views = num_events // 5
    for name, size, item in (("views", num_views, "item"), ("impressions", num_events - num_views, "action")):
        columns = {
            "user": rng.integers(0, num_events // 100, size),
            "time": rng.integers(1_700_000_000, 1_710_000_000, size),
            item: pa.DictionaryArray.from_arrays(rng.integers(0, 10_000, size).astype(np.int32), ids),
        }
        if name == "impressions":
            columns["reward"] = rng.integers(0, 2, size).astype(np.int8)
            columns["propensity"] = rng.uniform(0.001, 1, size)
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def main() -> None:
    num_events = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), num_events, np.random.default_rng(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        log = EventLog.read_parquet(Path(folder) / "views.parquet", Path(folder) / "impressions.parquet")
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(log)
    print(f"{num_events:,} events from Parquet to tensors: {seconds:.1f} s (asked: 30 s for 10,000,000)")
    print(f"peak memory {peak / 2**20:.2f} GiB, of which {before / 2**20:.2f} before reading (asked: 3 GiB)")


if __name__ == "__main__":
    main()
