"""Categories of items pool what they know."""

import pytest
import torch

from blob_pyro import BLOB, BanditPriors
from blob_pyro.models import (
    ItemCategories,
)


def test_categories_pool(blo, log):
    """An item that was never shown leans to its category."""
    categories = tuple(int(p >= 6) for p in range(12))
    keep = log.action != 11
    reward = torch.where(log.action >= 6, torch.rand(len(keep)) < 0.4, torch.rand(len(keep)) < 0.02).float()
    seen = type(log).from_arrays(
        12, log.view_user, log.view_time, log.view_item, log.user[keep], log.time[keep], log.action[keep], reward[keep]
    )
    blob = BLOB(blo, priors=BanditPriors(terms=(ItemCategories(categories, 1.0, 0.1),), kappa_scale=0.3))
    with pytest.warns(UserWarning, match="1 of 12 items were never shown"):
        blob.fit(seen, num_epochs=60, batch_size=1024, progress=False, device="cpu")
    scores = blob.scores([[]])[0]
    assert scores[11] > scores[:6].max() + 1
