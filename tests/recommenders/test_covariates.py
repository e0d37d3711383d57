"""Users who have viewed nothing have the same history and different covariates."""

import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.models import UserCovariates


def test_users_without_views_keep_their_own_covariates():
    log = EventLog.from_tables(
        views={"user": ["ann", "ann", "bob"], "time": [0, 1, 0], "item": [0, 1, 2]},
        impressions={
            "user": ["ann", "cat", "dan", "cat", "eve"],
            "time": [2, 0, 0, 1, 0],
            "action": [0, 1, 2, 0, 1],
            "reward": [1, 0, 1, 0, 0],
        },
        num_items=3,
    )
    blo = BLO(3, embedding_dim=2)
    blo.fit(log, num_epochs=1, progress=False, device="cpu")
    covariates = torch.arange(log.num_users, dtype=torch.float32).unsqueeze(-1)
    batch = BLOB(blo, priors=BanditPriors(terms=(UserCovariates(1),))).batch(log, covariates)
    assert torch.equal(batch.covariates[batch.context].squeeze(-1), log.user.float())
