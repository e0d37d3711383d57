"""How close posteriors of a user's interest are to the exact one: encoders, EM, Newton, over lengths of history.

    python benchmarks/interest.py

Organic models of RecoGym's environment 200; the first 1, 3, 10, 20 and 50 views of forty users each. Exact are mean and
standard deviation by importance sampling, 20,000 draws from a Student's t around Laplace's approximation; the table's
``gold`` is the least effective share of them. ``mean`` is the distance of means in exact standard deviations. Writes
``interest.csv`` into ``--folder``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from blob_pyro import BLO
from blob_pyro.data import Histories
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

LENGTHS = [1, 3, 10, 20, 50]
DRAWS = 20_000
FREEDOM = 8.0


def log_posterior(omega: Tensor, psi: Tensor, rho: Tensor, items: Tensor) -> Tensor:
    """Of the draws, ``S x K``, given one session's views, up to a constant."""
    likelihood = torch.cat([(part @ psi.T + rho).log_softmax(-1)[:, items].sum(-1) for part in omega.split(2000)])
    return likelihood - 0.5 * omega.square().sum(-1)


def exact(blo: BLO, histories: Histories) -> tuple[Tensor, Tensor, float]:
    """Means and standard deviations, and the least effective share of draws."""
    psi, rho = blo.model.item_embedding.detach().double(), blo.model.item_intercept.detach().double()
    start, found = blo.user_posterior(histories, "newton"), []
    for n, items in enumerate(histories.to_sequences()):
        noise = torch.randn(DRAWS, psi.shape[1], dtype=torch.float64)
        noise /= (torch.distributions.Chi2(FREEDOM).sample((DRAWS, 1)).double() / FREEDOM).sqrt()
        draws = start.mean[n].double() + 1.1 * noise @ start.scale_tril[n].double().T
        log_density = -(FREEDOM + psi.shape[1]) / 2 * torch.log1p(noise.square().sum(-1) / FREEDOM)
        weight = (log_posterior(draws, psi, rho, torch.tensor(items)) - log_density).softmax(0)
        mean = weight @ draws
        found.append((mean, (weight @ (draws - mean).square()).sqrt(), 1 / weight.square().sum() / DRAWS))
    mean, scale, share = (torch.stack(part) for part in zip(*found))
    return mean, scale, float(share.min())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/interest"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for num_items, embedding_dim in ((20, 2), (100, 10)):
        log = RecoGym(num_items=num_items, seed=200).simulate(
            SessionPopularity(num_items, epsilon=0.3), num_users=50, num_organic_users=3_000, seed=200
        )
        fitted = {}
        for covariance in ("diagonal", "full"):
            fitted[covariance] = BLO(num_items, embedding_dim, covariance=covariance)
            fitted[covariance].fit(log, progress=False, seed=200)
        methods = {"encoder": ("diagonal", "encoder"), "encoder, full": ("full", "encoder")}
        methods |= {"em": ("diagonal", "em"), "newton": ("diagonal", "newton")}
        for length in LENGTHS:
            some = (log.sessions.lengths >= length).nonzero().squeeze(-1)[:40]
            of = Histories(log.sessions.views, log.sessions.starts[some], torch.full_like(some, length), num_items)
            torch.manual_seed(200)
            gold = {covariance: exact(blo, of) for covariance, blo in fitted.items()}
            for name, (covariance, method) in methods.items():
                mean, scale, share = gold[covariance]
                began = time.perf_counter()
                q = fitted[covariance].user_posterior(of, method)
                seconds = time.perf_counter() - began
                ratio, off = q.stddev / scale, (q.mean - mean) / scale
                rows.append(
                    {
                        "items": num_items,
                        "K": embedding_dim,
                        "views": length,
                        "histories": len(of),
                        "posterior": name,
                        "sd ratio": float(ratio.median()),
                        "sd 5 %": float(ratio.quantile(0.05)),
                        "sd 95 %": float(ratio.quantile(0.95)),
                        "mean, rms": float(off.square().mean().sqrt()),
                        "mean, most": float(off.abs().max()),
                        "gold": share,
                        "ms each": 1e3 * seconds / len(of),
                    }
                )
    table = pd.DataFrame(rows)
    table.to_csv(settings.folder / "interest.csv", index=False, float_format="%.3g")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    main()
