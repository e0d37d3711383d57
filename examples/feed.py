"""A feed: yesterday's log becomes today's slates, with the propensity of every item in every position.

Run it with ``python examples/feed.py``: it simulates its users, so that it needs no data.
"""

import tempfile
from pathlib import Path

import pandas as pd

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.data import ViewHistory
from blob_pyro.ope import audit, evaluate
from blob_pyro.policies import Greedy, SessionPopularity, ThompsonSampling
from blob_pyro.simulation import RecoGym


def main(folder: Path, num_items: int = 50, num_users: int = 400, epochs: int = 200) -> pd.DataFrame:
    """Fit to yesterday, decide for today, and value a greedy feed from what today's Thompson sampling logged."""
    environment = RecoGym(num_items=num_items, num_flips=num_items // 4, seed=200)
    yesterday = environment.simulate(SessionPopularity(num_items, epsilon=0.3), num_users, num_organic_users=num_users)
    blo = BLO(num_items, embedding_dim=10)
    blo.fit(yesterday, num_epochs=epochs, progress=False)
    blob = BLOB(blo, guide="laplace")
    blob.fit(yesterday, progress=False)
    history = ViewHistory(yesterday)
    history.save(folder / "history.parquet")

    users = yesterday.users.ids[:100]  # those who open the feed today
    feed = ThompsonSampling(blob, shared_draws=16)
    shown = feed.decide(history.histories(users, blob.items), user=users, time=10**6, slots=3, seed=0)
    shown.to_parquet(folder / "shown.parquet")
    print(shown.head(6).to_string(index=False))

    # Clicks come back in the evening; here the environment answers for what it would have shown.
    today = environment.simulate(feed, num_users, first_user=10**5, propensities=True)
    report = audit(today)
    print(report)
    blob.update(today, progress=False)
    values = evaluate(today, Greedy(blob), baseline="logging")
    print(values)
    again = EventLog.read_parquet(
        impressions=_with_rewards(folder / "shown.parquet"),
        items=blob.items.ids,
        history=ViewHistory.load(folder / "history.parquet"),
    )
    print(again)
    return shown


def _with_rewards(path: Path) -> Path:
    """Put a column of rewards beside what was shown: here nobody clicks but the first."""
    shown = pd.read_parquet(path)
    shown["reward"] = (shown.index == 0).astype(int)
    shown.to_parquet(path)
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
