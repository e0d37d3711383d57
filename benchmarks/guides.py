"""The shipped guides on one log, by `compare_guides`: README's table and figure.

    python benchmarks/guides.py

RecoGym's environment 200, 30 items of which 15 pairs are swapped, 100 logged users; the log score, of which higher is
better, is on events of 100 other users. Each guide is compared with the first; a row is written when it is done, and a
run that was stopped goes on with those that are missing. Writes ``guides.csv``, ``guides.md`` and ``guides.png`` into
``--folder``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.diagnostics import Comparison, compare_guides
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym


def readable(table: pd.DataFrame) -> str:
    """The table as README has it."""
    lines = [
        "| guide | ELBO, nats per event | k-hat | held-out log score | Thompson's decisions that change | "
        "best items that change |",
        "|---|---|---|---|---|---|",
    ]
    for number, (name, row) in enumerate(table.iterrows()):
        elbo = "none" if pd.isna(row.elbo) else f"{row.elbo:.5f} ± {row.elbo_error:.5f}"
        changes = "" if not number else f"{100 * row.total_variation:.0f} %"
        best = "" if not number else f"{100 * row.greedy_changes:.0f} %"
        k_hat = "none" if pd.isna(row.k_hat) else f"{row.k_hat:.2f}"
        lines.append(f"| `{name}` | {elbo} | {k_hat} | {row.log_score:.5f} | {changes} | {best} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--guides",
        nargs="+",
        default=["arrowhead_normal", "normal", "matrix_normal", "matrix_normal_full", "laplace", "low_rank", "full"],
    )
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/guides"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings.folder.mkdir(parents=True, exist_ok=True)
    environment = RecoGym(num_items=30, num_flips=15, seed=200)
    logging = SessionPopularity(30, epsilon=0.3)
    log = environment.simulate(logging, num_users=settings.users, num_organic_users=1_000, seed=200)
    held_out = environment.simulate(logging, num_users=100, num_organic_users=0, seed=201)
    blo = BLO(30, embedding_dim=5)
    blo.fit(log, progress=False, seed=200)
    path, first = settings.folder / "guides.csv", settings.guides[0]
    for guide in settings.guides[1:]:
        known = pd.read_csv(path, index_col="guide") if path.exists() else pd.DataFrame()
        if guide in known.index:
            continue
        found = compare_guides(
            BLOB(blo),
            [first, guide],
            log,
            held_out=held_out,
            num_contexts=50,
            num_draws=200,
            max_events=2_000,
            seed=200,
        )
        new = found.table if known.empty else found.table.drop(index=first)
        new.to_csv(path, mode="a", header=known.empty, float_format="%.6g")
        print(new.to_string(), flush=True)
    table = pd.read_csv(path, index_col="guide").loc[settings.guides]
    (settings.folder / "guides.md").write_text(readable(table))
    Comparison(table, first, 50, {}).plot().figure.savefig(settings.folder / "guides.png", dpi=100)


if __name__ == "__main__":
    main()
