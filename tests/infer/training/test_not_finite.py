"""A fit that met NaN keeps its trace, which is empty where no epoch is kept."""

import pandas as pd

from blob_pyro.infer import NotFiniteError


def test_without_an_epoch_the_trace_is_empty():
    error = NotFiniteError("epoch 1, step 1")
    assert isinstance(error, FloatingPointError)
    assert isinstance(error.trace, pd.DataFrame)
    assert len(error.trace) == 0
