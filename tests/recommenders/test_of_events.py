"""Each event gets its own entry of a matrix that never exists as a whole."""

import pytest
import torch

from blob_pyro.recommenders.covariates import DecisionPoints
from blob_pyro.recommenders.of_events import averaged_over_draws, picked_for_events


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


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_averages_over_draws_are_those_of_whole_matrices(at_once, blob, log, monkeypatch):
    monkeypatch.setattr("blob_pyro.recommenders.of_events.MAX_ELEMENTS", at_once)
    draws = blob.sample(7)
    some = torch.arange(0, log.num_impressions, 400)
    found = averaged_over_draws(blob.model, blob.batch(log)[some], draws)
    beta = torch.vmap(blob.model.coefficients)(draws)  # D x P x (K + 1)
    interest = blob.blo.embed(log.contexts)[log.context[some]]
    features = torch.cat([interest, torch.ones(len(some), 1)], -1)
    expected = torch.einsum("nf,dnf->dn", features, beta[:, log.action[some]]).sigmoid().mean(0)
    assert torch.allclose(found, expected, atol=1e-6)
    assert expected.max() > 1.5 * expected.min()
