"""Speed and memory of the organic model, one core, beside the figures of the code published with the paper.

    python benchmarks/organic.py                 # all
    python benchmarks/organic.py epoch em        # some: epoch, fit, million, chunked, em
    python benchmarks/organic.py fit --published # and the published training, for the bound it reaches: minutes

Each runs in a process of its own, so that its peak memory is its own. Seconds are of the processor's time on one core,
which does not count what others use it for.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.data.splits import split_sessions
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import Bouchard, GuidedELBO, Reparameterized, RowwiseAdam, expectation_maximization
from blob_pyro.models import OrganicBatch
from blob_pyro.simulation import RecoGym

PUBLISHED_EPOCH, PUBLISHED_FIT = 3.4, 3600.0  # seconds, on one core of the two that these were written on


def organic_sessions(num_sessions: int = 20_000, num_items: int = 100) -> Histories:
    return RecoGym(num_items=num_items, seed=0).simulate(num_users=0, num_organic_users=num_sessions).sessions


def memory() -> float:
    """Peak of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def epoch() -> None:
    sessions = organic_sessions()
    print("epoch, 20,000 sessions, P = 100, K = 20, of 60, with all that is done once:")
    for fit in ("first fit of a process, which imports", "second fit"):
        start = time.process_time()
        trace = BLO(100, 20).fit(sessions, progress=False, device="cpu")
        seconds = (time.process_time() - start) / 60
        faster = PUBLISHED_EPOCH / seconds
        print(f"  {fit}: {seconds:.3f} s, {faster:.0f} times faster than the published {PUBLISHED_EPOCH} s (asked: 40)")
        print(f"    ELBO {trace.elbo.iloc[-1]:.5f} nats a session, steps captured: {trace.attrs['captured']}")


def fit(published: bool) -> None:
    train, test = split_sessions(organic_sessions(), 0.1)
    start = time.process_time()
    blo = BLO(100, 20)
    blo.fit(train, progress=False, device="cpu")
    seconds = time.process_time() - start
    print(
        f"fit, 18,000 sessions: {seconds:.1f} s, held-out ELBO {held_out(blo, test):.3f} nats a session (asked: 20 s)"
    )
    if published:  # its arithmetic: a linear encoder, the plain softmax, RMSProp at 1e-4, 1,000 epochs
        blo = BLO(100, 20, encoder="linear")
        start = time.process_time()
        blo.fit(
            train, num_epochs=1000, learning_rate=1e-4, schedule="constant", optimizer="rmsprop", progress=False,
            device="cpu",
        )  # fmt: skip
        print(
            f"  published training: held-out ELBO {held_out(blo, test):.3f}, {time.process_time() - start:.0f} s here"
        )


@torch.no_grad()
def held_out(blo: BLO, sessions: Histories) -> float:
    elbo = GuidedELBO(Reparameterized(num_samples=100))
    return -float(elbo.differentiable_loss(blo.model, blo.guide, blo.batch(sessions))) / len(sessions)


def million() -> None:
    num_items, embedding_dim, size = 1_000_000, 64, 1024
    bound = Bouchard(num_negatives=1000, offsets=OffsetNetwork(num_items, embedding_dim))
    blo = BLO(num_items, embedding_dim, bound=bound, sparse=True)
    modules = [blo.model, blo.guide, bound.module]
    parameters = [p for m in modules for p in m.parameters()]
    own = sum(p.numel() * p.element_size() for p in parameters) / 2**30
    tables = [p for p in parameters if p.shape and p.shape[0] == num_items]
    optimizers = (
        RowwiseAdam(tables, lr=0.03),
        torch.optim.Adam([p for p in parameters if p.dim() and p not in set(tables)]),
    )
    before, seconds = memory(), []
    for _ in range(6):
        lengths = torch.randint(1, 8, (size,))
        views = Histories.from_ragged(torch.randint(num_items, (int(lengths.sum()),)), lengths, num_items)
        start = time.process_time()
        for optimizer in optimizers:
            optimizer.zero_grad()
        elbo = GuidedELBO(bound)
        loss = elbo.differentiable_loss(blo.model, blo.guide, OrganicBatch(views, size)) / size
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.process_time() - start)
    print(f"step, P = 1,000,000, K = 64, 1,024 sessions: {sorted(seconds)[2]:.3f} s (asked: 1 s)")
    print(f"  memory: parameters {own:.2f} GiB, growth over them {memory() - before:.2f} GiB (asked: 1 GiB)")


def chunked() -> None:
    num_items, size = 100_000, 4096
    blo = BLO(num_items, 20)
    lengths = torch.randint(1, 8, (size,))
    views = Histories.from_ragged(torch.randint(num_items, (int(lengths.sum()),)), lengths, num_items)
    before, start = memory(), time.process_time()
    GuidedELBO(blo.bound).differentiable_loss(blo.model, blo.guide, OrganicBatch(views, size)).backward()
    seconds = time.process_time() - start
    print(f"full softmax and its gradient, P = 100,000, batch 4,096: {seconds:.1f} s")
    print(
        f"  memory {memory():.2f} GiB, of which {before:.2f} before (asked: 2 GiB; the batch times the items are 1.53)"
    )


def em() -> None:
    torch.manual_seed(0)
    num_items, embedding_dim = 1000, 20
    blo = BLO(num_items, embedding_dim)
    blo.fit(organic_sessions(10_000, num_items), num_epochs=10, progress=False, device="cpu")
    sessions = organic_sessions(10_000, num_items)
    items = blo.model.item_embedding.detach(), blo.model.item_intercept.detach()
    for tolerance, text in ((0.0, "all of 100 cycles"), (0.01, "until it has arrived, 100 cycles at most")):
        start = time.process_time()
        expectation_maximization(sessions, *items, num_cycles=100, tolerance=tolerance)
        print(f"EM, 10,000 sessions, P = 1,000, K = 20, {text}: {time.process_time() - start:.1f} s (asked: 60 s)")


BENCHMARKS = ("epoch", "fit", "million", "chunked", "em")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.which or BENCHMARKS:
        if not arguments.here:
            command = [sys.executable, __file__, name, "--here", *(["--published"] if arguments.published else [])]
            subprocess.run(command, check=True)
        elif name == "fit":
            fit(arguments.published)
        else:
            {"epoch": epoch, "million": million, "chunked": chunked, "em": em}[name]()


if __name__ == "__main__":
    main()
