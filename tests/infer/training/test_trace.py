"""A training trace is a table."""

from blob_pyro.infer import Training
from tests.infer.training.conjugate import fit


def test_history_is_a_table(rows):
    _, history = fit(rows, Training(3, 16, 0.1))
    assert history.columns.tolist() == ["epoch", "elbo", "seconds", "learning_rate"]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.attrs["interrupted"] is False
