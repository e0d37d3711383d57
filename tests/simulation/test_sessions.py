"""Interests that drift too far, and clicks that do not send users back, are caught."""

import torch

from blob_pyro.simulation import process as process_module
from tests.simulation.stories import discrepancies, recogym_lives, simulated


def test_a_click_that_does_not_send_the_user_back_is_caught(monkeypatch):
    honest = process_module.recommend

    def without_return(*arguments):
        impressions, shown, clicked, omega = honest(*arguments)
        return impressions, shown, torch.zeros_like(clicked), omega

    monkeypatch.setattr(process_module, "recommend", without_return)
    found = discrepancies(simulated(), recogym_lives("random"))
    assert {"back after click", "mean impressions"} <= set(found)


def test_interests_that_drift_too_far_are_caught():
    """The third view, not the first, has another distribution."""
    found = discrepancies(simulated(sigma_omega=3.0), recogym_lives("random"))
    assert "view 2" in found
    assert "view 0" not in found
