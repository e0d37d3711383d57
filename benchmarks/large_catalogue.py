"""BLO and BLOB over a million items: seconds of an epoch, and the peak of memory, stage by stage.

    python benchmarks/large_catalogue.py --items 100000
    python benchmarks/large_catalogue.py --items 1000000 --events 1000000

The log is made up: items as popular as Zipf's law has it, users with an interest in some of them, clicks by a rate of
the item's own and a gain where it is of interest. BLO learns from sampled negatives (`Bouchard`), with sparse rows of
Psi, rho and the encoder; a session meets all items that its batch has viewed, so small batches are cheaper. BLOB learns
from the events, with the default guide. Seconds are of the process (`time.process_time`), on one thread; an epoch's are
the difference of two fits of other lengths, so that what is done once is apart. Memory is the peak of the process up to
the end of the stage.
"""

from __future__ import annotations

import resource
import time
import warnings

import click
import numpy as np
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import Bouchard

INTERESTS = 1000


def zipf_log(num_items: int, num_events: int, num_views: int, seed: int) -> EventLog:
    """Five views a user, then events; half of both are of the user's interest."""
    rng = np.random.default_rng(seed)
    num_users = max(1, num_views // 5)
    shuffled = rng.permutation(num_items)
    cumulative = np.cumsum(1.0 / np.arange(1, num_items + 1) ** 0.8)
    cumulative /= cumulative[-1]
    interest_of_user = rng.integers(INTERESTS, size=num_users)

    def draw(user: np.ndarray) -> np.ndarray:
        """Items of some users: by popularity, and in half of the cases those of the user's interest."""
        rank = np.searchsorted(cumulative, rng.random(len(user))).clip(max=num_items - 1)
        own = (rank // INTERESTS * INTERESTS + interest_of_user[user]).clip(max=num_items - 1)
        return shuffled[np.where(rng.random(len(user)) < 0.5, own, rank)]

    view_user = np.arange(num_users).repeat(5)
    user = np.sort(rng.integers(num_users, size=num_events))
    action = draw(user)
    place = np.empty(num_items, dtype=np.int64)
    place[shuffled] = np.arange(num_items)
    wanted = place[action] % INTERESTS == interest_of_user[user]
    logit = -4.0 + 0.3 * rng.standard_normal(num_items)[action] + 1.5 * wanted
    arrays = (
        view_user, np.tile(np.arange(5), num_users), draw(view_user),
        user, 5 + np.arange(num_events), action, rng.random(num_events) < 1 / (1 + np.exp(-logit)),
    )  # fmt: skip
    return EventLog.from_arrays(num_items, *map(torch.from_numpy, arrays))


def peak() -> float:
    """Peak of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(what: str, seconds: float, asked: str = "") -> None:
    print(f"  {what:<44}{seconds:9.1f} s   peak {peak():5.2f} GiB   {asked}", flush=True)


@click.command(help=__doc__)
@click.option("--items", default=1_000_000, show_default=True)
@click.option("--embedding-dim", default=64, show_default=True)
@click.option("--events", default=1_000_000, show_default=True)
@click.option("--views", default=100_000, show_default=True)
@click.option("--negatives", default=200, show_default=True)
@click.option("--batch-size", default=512, show_default=True, help="Sessions of a step of BLO's.")
@click.option("--seed", default=200, show_default=True)
def main(items: int, embedding_dim: int, events: int, views: int, negatives: int, batch_size: int, seed: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # fits as short as these have not arrived
    print(f"{items:,} items, K = {embedding_dim}, {events:,} events, {views:,} views, one core", flush=True)
    start = time.process_time()
    log = zipf_log(items, events, views, seed)
    report(f"the log, {len(log.contexts):,} contexts", time.process_time() - start)

    def seconds_of(fit, *args: int) -> list[float]:
        found = []
        for num_epochs in args:
            start = time.process_time()
            trace = fit(num_epochs)
            found.append(time.process_time() - start)
            print(f"    {num_epochs} epochs: ELBO {trace.iloc[-1]['elbo']:.5f}, {found[-1]:.1f} s", flush=True)
        return found

    start = time.process_time()
    bound = Bouchard(num_negatives=negatives, offsets=OffsetNetwork(items, embedding_dim))
    blo = BLO(items, embedding_dim, bound=bound, sparse=True)
    report("BLO, made", time.process_time() - start)
    options = {"seed": seed, "progress": False, "device": "cpu"}
    one, three = seconds_of(lambda n: blo.fit(log, num_epochs=n, batch_size=batch_size, **options), 1, 3)
    report("BLO, an epoch", (three - one) / 2)
    report("BLO, beside epochs", one - (three - one) / 2)
    start = time.process_time()
    blob = BLOB(blo)
    report("BLOB, made", time.process_time() - start)
    one, three = seconds_of(lambda n: blob.fit(log, num_epochs=n, **options), 1, 3)
    report("BLOB, an epoch", (three - one) / 2, "asked: 60 s, 8 GiB" if items >= 10**6 else "")
    report("BLOB, beside epochs", one - (three - one) / 2)


if __name__ == "__main__":
    main()
