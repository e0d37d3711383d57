"""Frames of RecoGym and arrays that nobody should pass: they mean what they say, or an error names what is odd."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import strategies as st

from blob_pyro import EventLog
from tests.data.log_errors import build, named
from tests.data.log_oracles import check_log
from tests.fuzzing import fuzz

RECOGYM = {
    "t": [0, 1, 2, 0, 1],
    "u": [0, 0, 0, 1, 1],
    "z": ["organic", "bandit", "bandit", "organic", "bandit"],
    "v": [1, None, None, 2, None],
    "a": [None, 0, 1, None, 2],
    "c": [None, 1, 0, None, 1],
    "ps": [None, 0.5, 0.25, None, 1.0],
}
RECOGYM_FAULTS = {
    "t": [None, float("inf"), "0", [1]],
    "u": [None, 0.5, [1], True],
    "z": [None, "buy", 1, ["organic"]],
    "v": [None, 3, -1, 0.5, "1", float("inf"), 2**70, [1]],
    "a": [None, 3, -1, 0.5, "1", float("inf"), 2**70, [1]],
    "c": [None, 2, 0.5, "1", [1]],
    "ps": [None, 0, 1.5, "1", [1]],
}


@st.composite
def spoilt_recogym(draw):
    name = draw(st.sampled_from(sorted(RECOGYM)))
    kind = {"v": "organic", "a": "bandit", "c": "bandit", "ps": "bandit"}.get(name)
    row = draw(st.sampled_from([n for n in range(5) if kind in (None, RECOGYM["z"][n])]))
    values = list(RECOGYM[name])
    values[row] = draw(st.sampled_from(RECOGYM_FAULTS[name]))
    library = draw(st.sampled_from(["dict", "pandas"]))
    columns = {**RECOGYM, name: values}
    if library == "pandas":
        columns = pd.DataFrame({key: pd.Series(column, dtype=object) for key, column in columns.items()})
    return columns, name, row


@fuzz(case=spoilt_recogym())
def test_one_fault_in_a_frame_of_recogym(case):
    columns, name, row = case
    log, error = build(lambda: EventLog.from_recogym(columns, num_items=3))
    assert log is None
    assert f"frame: column {name!r}, row " in str(error), str(error)
    assert named(error) == row or (row == 0 and named(error) == 1), str(error)


FORMS = {
    "lists": lambda columns: columns,
    "pandas": pd.DataFrame,
    "objects": lambda columns: pd.DataFrame(columns, dtype=object),
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
    "arrow": pa.table,
    "booleans": lambda columns: {**columns, "c": [None, True, False, None, True]},
    "booleans in pandas": lambda columns: pd.DataFrame({**columns, "c": [None, True, False, None, True]}),
    "categories": lambda columns: pd.DataFrame(columns).astype({"z": "category", "u": "category"}),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_recogym_in_every_form(form):
    log = EventLog.from_recogym(form(RECOGYM), num_items=3, drop_final_rows=False)
    assert log.action.tolist() == [0, 1, 2]
    assert log.reward.tolist() == [1, 0, 1]
    assert log.propensity.tolist() == [0.5, 0.25, 1.0]
    assert log.contexts[log.context].to_sequences() == [[1], [1], [2]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {**RECOGYM, "ps": [None] * 5},
            "frame: column 'ps', row 1: a value is missing.*Log with an agent that says ps",
        ),
        ({**RECOGYM, "ps": [float("nan")] * 5}, "frame: column 'ps', row 1: a value is missing"),
        ({k: v for k, v in RECOGYM.items() if k != "ps"}, "frame: missing column 'ps'; .*EventLog.from_tables"),
        ({**RECOGYM, "v": RECOGYM["v"][:4]}, "frame: column 'v' has 4 rows, but frame: column 't' has 5"),
    ],
    ids=["no propensities", "NaN", "no column", "short"],
)
def test_recogym_says_what_it_needs(frame, message):
    with pytest.raises(ValueError, match=message):
        EventLog.from_recogym(frame, num_items=3)


@pytest.mark.parametrize("num_items", [0, 2**70, 3.0, "3", True, None])
def test_recogym_has_a_number_of_items(num_items):
    with pytest.raises((ValueError, TypeError), match="num_items: must"):
        EventLog.from_recogym(RECOGYM, num_items)


ARRAYS = {
    "view_user": torch.tensor([0, 1]),
    "view_time": torch.tensor([0.0, 1.0]),
    "view_item": torch.tensor([0, 2]),
    "user": torch.tensor([0, 1, 0]),
    "time": torch.tensor([1, 2, 3]),
    "action": torch.tensor([0, 1, 2]),
    "reward": torch.tensor([0, 1, 0]),
    "propensity": torch.tensor([0.5, 0.5, 1.0]),
}
ARRAY_FAULTS = {
    "None": lambda t: None,
    "a list": lambda t: t.tolist(),
    "requires grad": lambda t: t.double().requires_grad_(),
    "two dimensions": lambda t: t[None],
    "no dimension": lambda t: t[0],
    "short": lambda t: t[1:],
    "empty": lambda t: t[:0],
    "NaN": lambda t: t.double().fill_(float("nan")),
    "negative": lambda t: -1.5 - t.double(),
    "fractions": lambda t: t.double() + 0.25,
    "complex": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.to_sparse(),
    "large": lambda t: t.double() + 2.0**70,
    "text": lambda t: np.array(["a"] * len(t)),
}
FINE = {("propensity", "None"), *(("time", f) for f in ("negative", "fractions", "large"))}
FINE |= {("view_time", f) for f in ("negative", "fractions", "large")}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("fault", ARRAY_FAULTS)
def test_arrays(name, fault):
    arrays = {**ARRAYS, name: ARRAY_FAULTS[fault](ARRAYS[name])}
    log, error = build(lambda: EventLog.from_arrays(3, **arrays))
    if (name, fault) in FINE:
        assert error is None
        assert log.num_impressions == 3
    elif (name, fault) == ("propensity", "fractions"):
        assert str(error).startswith("propensity[2]: ")
    else:
        firsts = {"view_user": ("view_time",), "user": ("time",)}  # whose length the others are held against
        assert str(error).startswith((name, *(firsts.get(name, ()) if fault in ("short", "empty") else ()))), str(error)


ROW = st.tuples(st.integers(-2, 2), st.integers(-3, 3), st.integers(0, 2), st.integers(0, 1))


@fuzz(ordinary=100, slow=2000, views=st.lists(ROW, max_size=6), played=st.lists(ROW, min_size=1, max_size=6))
def test_arrays_mean_what_they_say(views, played):
    columns = [torch.tensor(values, dtype=torch.int64) for values in zip(*views)] or [torch.tensor([])] * 4
    user, time, action, reward = (torch.tensor(values) for values in zip(*played))
    log, error = build(lambda: EventLog.from_arrays(3, *columns[:3], user, time, action, reward))
    assert error is None
    check_log(log, [row[:3] for row in views], played)
