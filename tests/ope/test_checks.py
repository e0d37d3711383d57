"""Arguments of estimators: arrays of all kinds, and refusals that name them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from blob_pyro.ope import beta_ips, ips
from tests.ope.estimators import GOOD

KINDS = {
    "numpy": np.asarray,
    "list": list,
    "torch": torch.as_tensor,
    "arrow": pa.array,
    "chunked arrow": lambda v: pa.chunked_array([v[:5], v[5:]]),
    "pandas": lambda v: pd.Series(v, index=np.arange(len(v))[::-1]),
    "polars": pl.Series,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_arrays_of_all_kinds(kind, sample):
    expected = beta_ips(sample.reward, sample.target, sample.logging, groups=sample.user)
    user = kind(np.array([f"u{u}" for u in sample.user])) if kind is not torch.as_tensor else kind(sample.user)
    found = beta_ips(kind(sample.reward.astype(int)), kind(sample.target), kind(sample.logging), groups=user)
    assert float(found.value) == pytest.approx(expected.value, rel=1e-14)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-13)
    assert isinstance(found.value, torch.Tensor) == (kind is torch.as_tensor)


def test_single_precision_is_computed_in_double(sample):
    single = ips(*(torch.from_numpy(v).float() for v in (sample.reward, sample.target, sample.logging)))
    assert single.value.dtype == torch.float64
    rounded = (v.astype(np.float32).astype(np.float64) for v in (sample.reward, sample.target, sample.logging))
    assert single.value.item() == pytest.approx(ips(*rounded).value, rel=1e-14)


HALVES = np.full((3, 2), 0.5)


BAD = {
    "zero propensity": ({"logging_propensity": [0.5, 0, 0.7]}, r"logging_propensity, row 1: .*\(0, 1\], got 0\. .*own"),
    "negative": ({"logging_propensity": [0.5, 0.5, -0.7]}, "logging_propensity, row 2: .*got -0.7"),
    "NaN": ({"logging_propensity": [np.nan, 0.5, 0.7]}, "logging_propensity, row 0: .*got nan"),
    "above one": ({"logging_propensity": [0.5, 1.5, 1.7]}, r"row 1: .*got 1.5 \(2 such entries\)"),
    "missing": ({"logging_propensity": pa.array([0.5, None, 0.7])}, "logging_propensity, row 1: a value is missing"),
    "target above one": ({"target_propensity": [0.5, 1.5, 0.7]}, r"target_propensity, row 1: .*\[0, 1\], got 1.5"),
    "target NaN": ({"target_propensity": [0.5, 0.5, np.nan]}, "target_propensity, row 2: .*got nan.*not its logarithm"),
    "infinite reward": ({"reward": [0, np.inf, 1]}, "reward, row 1: a reward must be finite, got inf.*drop it"),
    "lengths": ({"reward": [0, 1]}, "misaligned: reward has 2, target_propensity has 3, logging_propensity has 3"),
    "text": ({"reward": ["a", "b", "c"]}, "reward: expected numbers, got an array of <U1"),
    "matrix": ({"reward": [[0], [1], [1]]}, r"reward: expected one number per row .*shape \(3, 1\)"),
    "no rows": ({k: [] for k in GOOD}, "reward: has no rows"),
    "clip": ({"clip": 0.0}, "clip: the largest weight to keep is positive, got 0.0"),
    "group missing": ({"groups": ["a", None, "b"]}, "groups, row 1: is missing"),
    "group lengths": ({"groups": ["a", "b"]}, "groups has 2"),
    "sums": (
        {"target_probs": [[0.5, 0.5], [0.5, 0.4], [1, 0]], "logging_probs": HALVES},
        "target_probs, row 1: probabilities of one row must sum to one, got 0.9",
    ),
    "logits": ({"logging_probs": [[0.5, 0.5], [0.5, 0.5], [-2, 3]]}, "logging_probs, row 2, column 0: a probability"),
    "actions differ": (
        {"target_probs": HALVES, "logging_probs": np.full((3, 4), 0.25)},
        "has 4 actions where target_p",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        ips(**{**GOOD, **change})


@pytest.mark.parametrize("other", ["logging_propensity", "groups"])
def test_rows_of_another_order_are_not_mixed(other):
    """A frame that was sorted has the same numbers in another order: by place they belong to other rows."""
    given = {name: pd.Series(values) for name, values in {**GOOD, "groups": [1, 2, 3]}.items()}
    plain = ips(**given).value
    assert plain == pytest.approx(ips(**GOOD).value)
    given[other] = given[other].iloc[[0, 2, 1]]
    with pytest.raises(ValueError, match=rf"^{other}: row 1 has the index 2 where reward has 1, .*\.reindex"):
        ips(**given)
    assert ips(**{**given, other: given[other].sort_index()}).value == plain
    ips(**{**given, other: given[other].to_numpy()})
