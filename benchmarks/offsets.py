"""What an offset from sampled items costs: nats a session below the bound over all items, over lengths of session.

    python benchmarks/offsets.py

Items, intercepts and sessions are drawn from the model: K = 10, logits of a session spread over items with a standard
deviation of about 2, and about 4 ("steep"); posteriors are Newton's. Batches of 32 sessions, 64 sampled items, 20
draws. An estimate from sampled items is unbiased for the bound at the offset that it is given, so what it loses is that
bound less the one at the best offset, both over all items; ``most`` is the largest of a session. ``before`` has the
offset from 64 items, too. Writes ``offsets.csv`` into ``--folder``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pyro.distributions as dist
import torch

from blob_pyro.data import Histories
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import Bouchard, LogConcave, newton_posterior
from blob_pyro.infer.bounds import sum_over_items

DIMENSIONS, SESSIONS, NEGATIVES, DRAWS = 10, 32, 64, 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/offsets"))
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    now, rows = sum_over_items.OFFSET_ITEMS, []
    for num_items in (100, 10_000):
        for story, spread in (("usual", 2.0), ("steep", 4.0)):
            torch.manual_seed(200)
            psi = torch.randn(num_items, DIMENSIONS) * spread / DIMENSIONS**0.5
            rho = torch.randn(num_items)
            for length in (1, 3, 10):
                views = SoftmaxViews(
                    torch.randn(SESSIONS, DIMENSIONS), psi, rho, torch.full((SESSIONS,), length), validate_args=False
                )
                value = views.sample()
                found = newton_posterior(Histories.from_sequences(value.tolist(), num_items), psi, rho)
                q = dist.Normal(found.mean, found.stddev).to_event(1)
                for bound in (Bouchard, LogConcave):
                    best, lost = bound().expected_log_prob(views, q, value), {}
                    for name, number in (("before", 1), ("now", now)):
                        sum_over_items.OFFSET_ITEMS = number
                        draws = []
                        for _ in range(DRAWS):
                            offset = bound(num_negatives=NEGATIVES)._given_offset(views, q, value)
                            at = bound(offsets=lambda mean, variance, offset=offset: offset)
                            draws.append(best - at.expected_log_prob(views, q, value))
                        lost[name] = float(torch.stack(draws).mean())
                        lost[f"{name}, most"] = float(torch.stack(draws).mean(0).max())
                    sum_over_items.OFFSET_ITEMS = now
                    rows.append({"items": num_items, "story": story, "views": length, "bound": bound.__name__, **lost})
    table = pd.DataFrame(rows)
    table.to_csv(settings.folder / "offsets.csv", index=False, float_format="%.3g")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))


if __name__ == "__main__":
    main()
