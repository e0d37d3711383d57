"""Rounds of training are put in a row."""

import pandas as pd
import pytest

from blob_pyro.infer.svi import _in_a_row


def rounds_of(num_epochs, elbo=-1.0):
    rows = [{"epoch": n + 1, "elbo": elbo, "seconds": 1.0, "learning_rate": 0.1} for n in range(num_epochs)]
    trace = pd.DataFrame(rows, columns=["epoch", "elbo", "seconds", "learning_rate"]).astype({"epoch": int})
    trace.attrs["rounds"] = num_epochs
    return trace


@pytest.mark.parametrize("lengths", [(3, 0), (0, 2), (0, 0), (3, 0, 2), (3, 2)], ids=str)
def test_rounds_without_an_epoch_or_a_number_are_put_in_a_row(lengths, monkeypatch):
    """Pandas is about to change what types come of columns without rows, or without a number: it is not asked."""
    monkeypatch.setattr(pd, "concat", None)
    rounds = [rounds_of(n, float("nan") if at else -1.0) for at, n in enumerate(lengths)]
    whole = _in_a_row(rounds)
    assert len(whole) == sum(lengths)
    assert whole.epoch.tolist() == list(range(1, sum(lengths) + 1))
    assert whole.elbo.isna().sum() == sum(lengths[1:])
    assert whole.attrs == {"rounds": lengths[-1]}
    if sum(lengths):
        assert [str(kind) for kind in whole.dtypes] == ["int64", "float64", "float64", "float64"]
    assert rounds[-1].attrs == {"rounds": lengths[-1]}
