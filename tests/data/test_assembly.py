"""Rows are put in the order of user, time and row, whatever the times are."""

import numpy as np
import pytest

from blob_pyro.data.assembly import stable_order

RNG = np.random.default_rng(0)
TIMES = {
    "integers": (RNG.integers(-20, 20, 300), 1),
    "whole seconds as nanoseconds": (1_000_000_000 * RNG.integers(-20, 20, 300), 1_000_000_000),
    "floats": (RNG.integers(-20, 20, 300) / 8, 1),
    "a span that users do not fit beside": (RNG.integers(0, 2**61, 300), 1),
    "a span that does not fit": (RNG.integers(-(2**62), 2**62, 300, dtype=np.int64) * 2, 1),
    "unsigned": (RNG.integers(0, 20, 300).astype(np.uint64), 1),
}


@pytest.mark.parametrize(("time", "tick"), TIMES.values(), ids=TIMES.keys())
def test_the_order_is_that_of_sorted_tuples(time, tick):
    user = RNG.integers(0, 9, 300)
    expected = sorted(range(300), key=lambda row: (int(user[row]), time[row].item(), row))
    assert stable_order(user, time, tick).tolist() == expected
