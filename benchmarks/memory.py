"""Peak memory of what is asked of large catalogues and many contexts, each in a process of its own.

    python benchmarks/memory.py                 # 100,000 and 1,000,000 items
    python benchmarks/memory.py --contexts 500  # fewer contexts: the peak is the same, the wait is not

A row says how much the process grew beyond model and histories, and for how many contexts; "refused" quotes the error
that came before anything was allocated.
"""

from __future__ import annotations

import multiprocessing
import resource
import time

import click
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.data import Histories
from blob_pyro.policies import EpsilonGreedy, Greedy, SessionPopularity, Softmax, ThompsonSampling, Uniform
from blob_pyro.propensity import ArgmaxNormal
from blob_pyro.simulation import RecoGym, ab_test

K = 20


def models(num_items: int) -> tuple[BLO, BLOB]:
    """Models as they come out of a fit, without one: memory depends on shapes alone."""
    torch.manual_seed(0)
    blo = BLO(num_items, embedding_dim=K)
    blo.fits = [{"call": "none: a benchmark of shapes"}]
    blob = BLOB(blo)
    blob.fits = blo.fits
    return blo, blob


def histories(num_contexts: int, num_items: int) -> Histories:
    return Histories.from_ragged(
        torch.randint(num_items, (5 * num_contexts,)), torch.full((num_contexts,), 5), num_items
    )


CASES = {
    "Uniform, sample and log_prob": lambda blo, blob, h: played(Uniform(h.num_items), h),
    "SessionPopularity, sample and log_prob": lambda blo, blob, h: played(SessionPopularity(h.num_items), h),
    "Greedy(BLO), sample and log_prob": lambda blo, blob, h: played(Greedy(blo), h),
    "Greedy(BLOB), sample and log_prob": lambda blo, blob, h: played(Greedy(blob), h),
    "EpsilonGreedy(BLOB), sample and log_prob": lambda blo, blob, h: played(EpsilonGreedy(blob), h),
    "Softmax(BLOB), sample and log_prob": lambda blo, blob, h: played(Softmax(blob), h),
    "ThompsonSampling(BLOB), sample": lambda blo, blob, h: ThompsonSampling(blob).action_distribution(h).sample(),
    "ArgmaxNormal, one context, probs": lambda blo, blob, h: argmax(h.num_items, 1).probs,
    "ArgmaxNormal, all contexts, probs": lambda blo, blob, h: argmax(h.num_items, 10 * len(h)).probs,
    "BLO.predict_next(top_k=10)": lambda blo, blob, h: blo.predict_next(h, top_k=10),
    "BLO.predict_next, all items": lambda blo, blob, h: blo.predict_next(many(h)),
    "BLO.scores": lambda blo, blob, h: blo.scores(many(h)),
    "BLOB.scores": lambda blo, blob, h: blob.scores(many(h)),
    "BLOB.click_logits(...).variance": lambda blo, blob, h: blob.click_logits(many(h)).variance,
    "BLOB.click_probabilities": lambda blo, blob, h: blob.click_probabilities(many(h)),
    "Greedy, probs": lambda blo, blob, h: Greedy(blob).action_distribution(many(h)).probs,
    "ThompsonSampling, probs": lambda blo, blob, h: ThompsonSampling(blob).action_distribution(many(h)).probs,
    "ab_test, 20 users": lambda blo, blob, h: ab_test(
        RecoGym(num_items=h.num_items), {"random": Uniform(h.num_items)}, num_users=20
    ),
}


def many(h: Histories) -> Histories:
    """A million contexts: an answer of contexts x items then fits nowhere."""
    return h[torch.zeros(10**6, dtype=torch.int64)]


def argmax(num_items: int, num_contexts: int) -> ArgmaxNormal:
    loc, scale = torch.randn(num_items), torch.rand(num_items) + 0.5
    return ArgmaxNormal(loc.expand(num_contexts, -1), scale.expand(num_contexts, -1))


def played(policy, h: Histories):
    d = policy.action_distribution(h)
    return d.log_prob(d.sample())


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, num_items: int, num_contexts: int, queue) -> None:
    blo, blob = models(num_items)
    h = histories(num_contexts, num_items)
    before, start, said = peak(), time.perf_counter(), ""
    try:
        with torch.no_grad():
            CASES[name](blo, blob, h)
    except MemoryError as error:
        said = f"refused: {str(error)[:90]}..."
    queue.put((before, peak() - before, time.perf_counter() - start, said))


@click.command(help=__doc__)
@click.option("--items", multiple=True, type=int, default=(100_000, 1_000_000), show_default=True)
@click.option("--contexts", type=int, default=100_000, show_default=True, help="Of the policies and predict_next.")
@click.option("--only", default="", help="Cases whose name contains this.")
def main(items: tuple[int, ...], contexts: int, only: str) -> None:
    context = multiprocessing.get_context("spawn")
    for num_items in items:
        # As many scores for every catalogue, so that the larger one does not take a day.
        num_contexts = max(1, contexts * items[0] // (num_items * (num_items // items[0])))
        print(f"\n{num_items:,} items, K = {K}, {num_contexts:,} contexts")
        for name in (n for n in CASES if only in n):
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, num_items, num_contexts, queue))
            process.start()
            process.join()
            if process.exitcode:
                print(f"  {name:42s} died with exit code {process.exitcode}")
                continue
            before, grown, seconds, said = queue.get()
            print(f"  {name:42s} +{grown:5.2f} GiB beside {before:4.2f} {seconds:7.1f} s  {said}", flush=True)


if __name__ == "__main__":
    main()
