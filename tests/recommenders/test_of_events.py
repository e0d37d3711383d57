"""Each event gets its own entry of a matrix that never exists as a whole."""

import pytest
import torch

from blob_pyro.recommenders.covariates import DecisionPoints
from blob_pyro.recommenders.of_events import picked_for_events


@pytest.mark.parametrize("at_once", [1, 30, 10**6])
def test_entries(at_once, log, monkeypatch):
    monkeypatch.setattr("blob_pyro.recommenders.of_events._AT_ONCE", at_once)
    shuffled = torch.randperm(len(log.contexts), generator=torch.Generator().manual_seed(0))
    points = DecisionPoints(shuffled.argsort()[log.context], shuffled, torch.arange(len(shuffled))[:, None].double())
    matrix = torch.rand(len(shuffled), log.num_items, generator=torch.Generator().manual_seed(1))
    asked = []

    def rows(histories, covariates):
        asked.append(len(histories))
        assert histories.lengths.equal(log.contexts.lengths[shuffled][covariates[:, 0].long()])
        return matrix[covariates[:, 0].long()]

    found = picked_for_events(log, points, rows)
    assert found.equal(matrix[points.context, log.action])
    assert sum(asked) == len(shuffled)
    assert max(asked) <= max(1, at_once // log.num_items)
