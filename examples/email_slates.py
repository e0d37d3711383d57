"""Email slates: five items for each reader at night, one file, and the value of another layout from last week's clicks.

Run it with ``python examples/email_slates.py``.
"""

import numpy as np
import pandas as pd

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.ope import Evaluation, evaluate
from blob_pyro.policies import SessionPopularity, Softmax
from blob_pyro.simulation import RecoGym


def main(num_items: int = 40, num_users: int = 400, slots: int = 5, epochs: int = 200) -> Evaluation:
    """Log slates of a warm softmax, and value a colder one by position."""
    environment = RecoGym(num_items=num_items, num_flips=num_items // 4, seed=202)
    log = environment.simulate(SessionPopularity(num_items, epsilon=0.3), num_users, num_organic_users=num_users)
    blo = BLO(num_items, embedding_dim=10)
    blo.fit(log, num_epochs=epochs, progress=False)
    blob = BLOB(blo, guide="laplace")
    blob.fit(log, progress=False)

    readers = log.contexts[: min(300, len(log.contexts))]
    sent = Softmax(blob, temperature=1.0).decide(readers, time=10**6, slots=slots, seed=0)
    # Readers look at the first positions more often: an examination probability of 1 / position, invented here.
    chance = blob.click_probabilities(readers).numpy()[np.repeat(np.arange(len(readers)), slots), sent["action"]]
    sent["reward"] = (np.random.default_rng(0).random(len(sent)) < 20 * chance / sent["position"]).astype(int)

    week = EventLog.from_tables(impressions=sent, items=log.items.ids)
    print(pd.Series(sent.groupby("position")["reward"].mean(), name="click rate").to_string())
    values = evaluate(week, Softmax(blob, temperature=0.7))
    print(values)
    return values


if __name__ == "__main__":
    main()
