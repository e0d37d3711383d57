"""The best of a million items, and Thompson sampling among them: contexts per second of one core, and what is missed.

    python benchmarks/retrieval.py                     # 1,000,000 items, K = 64
    python benchmarks/retrieval.py --items 100000      # fewer

Seconds are those of the process (`time.process_time`), on one thread: what other programs take of the machine is not in
them. The catalogue is made up: embeddings around ``--groups`` directions of falling strength, kappa with the posterior
of a fit: one item in ten was shown, and is known well. ``--groups 0`` makes one without any structure, the worst case
for an index.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import click
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.data import Histories
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.slates.contending import contending
from blob_pyro.recommenders.ranked_items import made_up_users


def catalogue(num_items: int, embedding_dim: int, groups: int, seed: int) -> BLOB:
    """A model as it comes out of a fit, without one."""
    source = torch.Generator().manual_seed(seed)
    psi = torch.randn(num_items, embedding_dim, generator=source)
    if groups:
        strength = torch.arange(1, embedding_dim + 1) ** -0.5
        centre = torch.randn(groups, embedding_dim, generator=source)
        psi.mul_(0.5).add_(centre[torch.randint(groups, (num_items,), generator=source)]).mul_(strength)
    psi /= psi.norm(dim=-1).mean()
    blo = BLO(num_items, embedding_dim)
    with torch.no_grad():
        blo.model.item_embedding.copy_(psi)
    blo.fits = [{"call": "none: a benchmark"}]
    blob = BLOB(blo)
    with torch.no_grad():
        shown = torch.rand(num_items, generator=source) < 0.1
        blob.guide.kappa_loc.copy_(0.3 * torch.randn(num_items, generator=source) * shown)
        blob.guide.kappa_scale = torch.where(shown, 0.1, 0.3)
        blob.guide.w_a_loc.fill_(0.54)  # softplus: 1
        blob.guide.w_a_scale = torch.tensor(0.05)
        blob.guide.zeta_scale = torch.full((embedding_dim, embedding_dim), 0.1)
    blob.fits = blo.fits

    def interest(_: object, histories: Histories) -> tuple[torch.Tensor, None]:
        """In the direction of what was viewed: no encoder has been trained that would say so."""
        item, row = histories.flatten()
        total = torch.zeros(len(histories), embedding_dim).index_add_(0, row, psi[item])
        return 6 * torch.nn.functional.normalize(total, dim=-1), None

    blob._interest = interest
    return blob


def timed(function: Callable[[], object], count: int) -> tuple[object, float]:
    """A result, and contexts per second of one core."""
    start = time.process_time()
    result = function()
    return result, count / (time.process_time() - start)


def sample(blob: BLOB, histories: Histories) -> torch.Tensor:
    """Draws of what items share, one a context."""
    logits = blob.ranking_logits(histories[:1])
    return torch.randn(len(histories), logits.num_factors, dtype=torch.float64, generator=torch.Generator())


@click.command(help=__doc__)
@click.option("--items", default=1_000_000, show_default=True)
@click.option("--embedding-dim", default=64, show_default=True)
@click.option("--groups", default=2000, show_default=True)
@click.option("--contexts", default=512, show_default=True)
@click.option("--decisions", default=16, show_default=True)
@click.option("--lists", type=int, help="Cells of the index; default twice the root of the items.")
@click.option("--seed", default=200, show_default=True)
def main(
    items: int, embedding_dim: int, groups: int, contexts: int, decisions: int, lists: int | None, seed: int
) -> None:
    torch.set_num_threads(1)
    blob = catalogue(items, embedding_dim, groups, seed)
    users = made_up_users(items, seed + 1)[:contexts]
    print(f"{items:,} items, K = {embedding_dim}, {groups:,} groups, seed {seed}, one core", flush=True)
    blob.recommend(users[:1], 100)
    exact, rate = timed(lambda: blob.recommend(users, 100), len(users))
    print(f"  recommend, k = 100, exact        {rate:8.1f} contexts/s", flush=True)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        index, seconds = timed(lambda: blob.item_index(num_lists=lists), 1)
        print(f"  {index}, made in {1 / seconds:.0f} s", flush=True)
        found, fast = timed(lambda: blob.recommend(users, 100, method="approximate"), len(users))
        both = exact.merge(found, on=["history", "item"])
        print(f"  recommend, k = 100, approximate  {fast:8.1f} contexts/s, {fast / rate:.1f} times the exact ones")
        print(f"  recall of the exact 100          {len(both) / len(exact):8.4f}", flush=True)
    else:
        print("  approximate: no faiss here, pip install 'blob-pyro[retrieval]'")
    logits = blob.ranking_logits(users[:4]).mean
    print(f"  spread of the items' mean logits {float(logits.std(-1).mean()):8.2f}, kappa's scale .1 (shown) and .3")
    policy = ThompsonSampling(blob, propensity="conditional", mass_left_out=1e-9)
    policy.decide(users[:1], seed=seed)
    frame, rate = timed(lambda: policy.decide(users[:decisions], seed=seed), decisions)
    few = users[: min(4, decisions)]
    kept = contending(blob.ranking_logits(few), sample(blob, few), 1e-9, 1, None)
    sizes = ", ".join(f"{size:,}" for size in kept.valid.sum(-1).tolist())
    print(f"  Thompson, mass_left_out = 1e-9   {rate:8.1f} contexts/s, propensities {frame.propensity.min():.1e} to")
    print(f"      {frame.propensity.max():.1e}; contenders {sizes}; bounds up to {float(kept.left_out.max()):.1e}")


if __name__ == "__main__":
    main()
