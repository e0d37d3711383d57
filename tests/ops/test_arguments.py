"""Arguments are what they say, or an error names them."""

import numpy as np
import pytest
import torch

from blob_pyro.ops.arguments import number_between, one_of, positive_number, true_or_false, whole_number


@pytest.mark.parametrize("value", [3, np.int32(3), torch.tensor(3), np.array(3)], ids=repr)
def test_whole_numbers_of_any_library(value):
    found = whole_number(value, "n")
    assert (found, type(found)) == (3, int)


BAD = {
    "a fraction": (lambda: whole_number(2.5, "n"), TypeError, r"n: expected a whole number, got 2.5 \(a float\)"),
    "a whole float": (lambda: whole_number(2.0, "n"), TypeError, "n: expected a whole number"),
    "a boolean": (lambda: whole_number(True, "n"), TypeError, "n: expected a whole number"),
    "NumPy's boolean": (lambda: whole_number(np.True_, "n"), TypeError, "n: expected a whole number"),
    "several": (lambda: whole_number(torch.arange(2), "n"), TypeError, "n: expected a whole number"),
    "too small": (lambda: whole_number(0, "n"), ValueError, "n: must be 1 or more, got 0"),
    "too large": (lambda: whole_number(9, "n", at_most=8), ValueError, "n: must be between 1 and 8, got 9"),
    "text": (lambda: positive_number("1", "x"), TypeError, "x: expected a number"),
    "zero": (lambda: positive_number(0, "x"), ValueError, "x: must be positive and finite, got 0"),
    "infinity": (lambda: positive_number(float("inf"), "x"), ValueError, "x: must be positive and finite, got inf"),
    "outside": (lambda: number_between(1.5, "x", 0, 1), ValueError, "x: must lie between 0 and 1, got 1.5"),
    "NaN": (lambda: number_between(float("nan"), "x", 0, 1), ValueError, "x: must lie between 0 and 1, got nan"),
    "truth": (lambda: number_between(True, "x", 0, 1), TypeError, "x: expected a number"),
    "one": (lambda: true_or_false(1, "b"), TypeError, "b: expected True or False"),
    "unknown": (lambda: one_of("c", "s", ("a", "b")), ValueError, "s: expected 'a' or 'b', got 'c'"),
    "no name": (lambda: one_of(3, "s", ("a", "b")), TypeError, "s: expected 'a' or 'b'"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_refused_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_ends_are_included():
    assert [number_between(x, "x", 0, 1) for x in (0, 1, 0.5)] == [0.0, 1.0, 0.5]
    assert whole_number(0, "n", at_least=0) == 0
    assert positive_number(np.float32(0.5), "x") == 0.5
    assert true_or_false(False, "b") is False
    assert one_of("b", "s", ("a", "b")) == "b"
