"""Simulation-based calibration of shipped guides, on a model small enough to fit a hundred times.

    python benchmarks/calibration.py --guides normal laplace --simulations 100 --folder calibration-runs
    python benchmarks/calibration.py --guides laplace --own-betas --simulations 100 --folder calibration-runs

A run that was stopped goes on from the folder. `blob_pyro.diagnostics.known_widths` holds what it found.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pyro.distributions as dist
import torch

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.diagnostics import calibrate
from blob_pyro.models import ItemDeviations


def make(guide: str, own_betas: bool = False) -> BLOB:
    """Six items in two dimensions, of unequal lengths; nothing is fitted.

    With ``own_betas`` the prior is of the recommended form: items have betas of their own in place of zeta.
    """
    blo = BLO(6, embedding_dim=2)
    blo.fits = [{"call": "fit"}]
    numbers = torch.Generator().manual_seed(200)
    with torch.no_grad():
        blo.model.item_embedding.copy_(torch.randn(6, 2, generator=numbers) * torch.tensor([1.0, 1.5]))
    priors = BanditPriors(
        w_a=dist.Normal(-1.0, 1.0), w_b=dist.Normal(-2.0, 1.0), w_c=dist.Normal(-2.0, 1.0), kappa_scale=0.5
    )
    if own_betas:
        priors = replace(priors, w_b=-6.0, zeta=0.0, terms=(ItemDeviations(0.5),))
    return BLOB(blo, guide, priors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guides", nargs="+", default=["normal", "laplace"])
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("calibration-runs"))
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--own-betas", action="store_true", help="in place of zeta, as BanditPriors.recommended()")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    settings.folder.mkdir(exist_ok=True)
    for guide in settings.guides:
        path = settings.folder / f"{guide}{'-own-betas' if settings.own_betas else ''}.jsonl"
        blob = make(guide, settings.own_betas)
        print(calibrate(blob, num_simulations=settings.simulations, seed=settings.seed, checkpoint=path))


if __name__ == "__main__":
    main()
