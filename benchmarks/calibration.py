"""Simulation-based calibration of shipped guides, on a model small enough to fit a hundred times.

    python benchmarks/calibration.py --guides normal laplace --simulations 100 --folder calibration-runs

A run that was stopped goes on from the folder. `blob_pyro.diagnostics.known_widths` holds what it found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyro.distributions as dist
import torch

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.diagnostics import calibrate


def make(guide: str) -> BLOB:
    """Six items in two dimensions, of unequal lengths; nothing is fitted."""
    blo = BLO(6, embedding_dim=2)
    blo.fits = [{"call": "fit"}]
    numbers = torch.Generator().manual_seed(200)
    with torch.no_grad():
        blo.model.item_embedding.copy_(torch.randn(6, 2, generator=numbers) * torch.tensor([1.0, 1.5]))
    priors = BanditPriors(
        w_a=dist.Normal(-1.0, 1.0), w_b=dist.Normal(-2.0, 1.0), w_c=dist.Normal(-2.0, 1.0), kappa_scale=0.5
    )
    return BLOB(blo, guide, priors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guides", nargs="+", default=["normal", "laplace"])
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("calibration-runs"))
    parser.add_argument("--seed", type=int, default=200)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    settings.folder.mkdir(exist_ok=True)
    for guide in settings.guides:
        path = settings.folder / f"{guide}.jsonl"
        print(calibrate(make(guide), num_simulations=settings.simulations, seed=settings.seed, checkpoint=path))


if __name__ == "__main__":
    main()
