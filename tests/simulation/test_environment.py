"""A wrong response of clicks is caught."""

from blob_pyro.simulation import environment as environment_module
from tests.simulation.stories import discrepancies, recogym_lives, simulated


def test_a_wrong_response_is_caught(monkeypatch):
    response = environment_module.click_response
    monkeypatch.setattr(environment_module, "click_response", lambda logit: 1.3 * response(logit))
    assert "click rate" in discrepancies(simulated(), recogym_lives("random"))
