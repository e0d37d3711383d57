"""An ad slot with stock: only what is in stock may be shown, and an advertiser's share is known before it is bought.

Run it with ``python examples/ad_slot.py``.
"""

import numpy as np
import pandas as pd

from blob_pyro import BLO, BLOB
from blob_pyro.policies import Mixture, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.simulation import RecoGym


def main(num_items: int = 40, num_users: int = 400, epochs: int = 200) -> pd.Series:
    """Decide for contexts whose stock differs, and add up what each ad can expect."""
    environment = RecoGym(num_items=num_items, num_flips=num_items // 4, seed=201)
    log = environment.simulate(SessionPopularity(num_items, epsilon=0.3), num_users, num_organic_users=num_users)
    blo = BLO(num_items, embedding_dim=10)
    blo.fit(log, num_epochs=epochs, progress=False)
    blob = BLOB(blo, guide="laplace")
    blob.fit(log, progress=False)

    # One decision in ten is uniform over the stock: everything keeps a chance, and so every policy can be valued later.
    policy = Mixture([ThompsonSampling(blob, shared_draws=16), Uniform(log.items)], weights=[0.9, 0.1])
    contexts = log.contexts[:60]
    stock = np.random.default_rng(0).random((len(contexts), num_items)) < 0.5
    stock[:, 0] = True  # the house ad is always there
    shown = policy.decide(contexts, candidates=stock, time=10**6, seed=0)
    assert stock[np.arange(len(contexts)), shown["action"]].all()
    print(shown.head().to_string(index=False))

    chances = policy.slate_distribution(contexts, candidates=stock).probs[..., 0]
    expected = pd.Series(chances.sum(0).numpy(), index=pd.Index(log.items.ids, name="ad"), name="expected impressions")
    print(expected.sort_values(ascending=False).head().to_string())
    return expected


if __name__ == "__main__":
    main()
