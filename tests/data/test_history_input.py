"""Histories that nobody should pass: they mean what they say, or an error names the history and the position."""

import decimal
import re
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from hypothesis import strategies as st

from blob_pyro.data import Histories, Vocabulary, as_histories
from tests.fuzzing import fuzz

CATALOGUES = {
    "numbered": Vocabulary.numbered(4),
    "integers": Vocabulary([7, 0, 2**70, -1]),
    "text": Vocabulary(["b", "", "a", "7"]),
    "UUIDs": Vocabulary([uuid.UUID(int=n) for n in range(4)]),
    "tuples": Vocabulary([(1, 2), (1, "a"), (), (0,)]),
    "mixed": Vocabulary([7, "7", ("7",), b"7"]),
}
STRANGERS = [
    9,
    2**80,
    "z",
    True,
    False,
    np.bool_(True),
    1.5,
    float("inf"),
    float("nan"),
    None,
    pd.NA,
    pd.NaT,
    b"b",
    [1],
]
STRANGERS += [
    {},
    {1},
    decimal.Decimal(7),
    7 + 0j,
    np.datetime64(7, "D"),
    "\ud800",
    torch.zeros(2),
    np.zeros(1),
    object(),
]


def arrays(ids):
    """An array of objects, one for each id."""
    array = np.empty(len(ids), dtype=object)
    for n, id_ in enumerate(ids):
        array[n] = id_
    return array


HISTORY = [
    list,
    tuple,
    arrays,
    pd.Series,
    lambda ids: pd.Series(ids, dtype=object),
    np.array,
    pa.array,
    pl.Series,
    torch.tensor,
]
OUTER = [
    list,
    tuple,
    arrays,
    lambda h: pd.Series(arrays(h), dtype=object),
    pa.array,
    lambda h: pa.chunked_array([h[:1], h[1:]]),
]
OUTER += [pl.Series, lambda h: pa.array(h, pa.large_list(pa.array(h).type.value_type))]
CANNOT = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    AttributeError,
    UserWarning,
    pl.exceptions.PanicException,
)


def hold(values, container):
    """The values in this container, or as they are where it cannot hold just these."""
    try:
        held = container(values)
        back = (
            held.to_pylist() if hasattr(held, "to_pylist") else held.tolist() if hasattr(held, "tolist") else list(held)
        )
        same = _is_same(back, values)
        return held if same or container in OUTER[:4] else values
    except CANNOT:
        return values


def _is_same(found, given):
    """Whether two lists (of lists) hold the same values of the same types."""
    if isinstance(found, list) and isinstance(given, list):
        return len(found) == len(given) and all(map(_is_same, found, given))
    return type(found) is type(given) and bool(found == given)


@st.composite
def histories(draw):
    """A catalogue, histories of its ids in some form, the same as plain lists, and where one was spoilt."""
    name = draw(st.sampled_from(sorted(CATALOGUES)))
    items = CATALOGUES[name]
    plain = draw(st.lists(st.lists(st.sampled_from(list(items.ids)), max_size=4), max_size=4))
    spoilt = None
    if any(plain) and draw(st.booleans()):
        row = draw(st.sampled_from([n for n, history in enumerate(plain) if history]))
        position = draw(st.integers(0, len(plain[row]) - 1))
        stranger = draw(st.sampled_from([s for s in STRANGERS if type(s) is not bytes or name != "mixed"]))
        plain[row][position] = stranger
        spoilt = (row, position)
    form = [hold(history, draw(st.sampled_from(HISTORY))) for history in plain]
    outer = draw(st.sampled_from(OUTER))
    if outer not in OUTER[:4]:
        form = hold(plain, outer)
    else:
        form = outer(form)
    return items, form, plain, spoilt


@fuzz(case=histories())
def test_sequences(case):
    items, form, plain, spoilt = case
    if spoilt is None:
        found = as_histories(form, items)
        assert found.to_sequences() == [[list(items.ids).index(id_) for id_ in history] for history in plain]
        assert (found.num_items, found.views.dtype, found.lengths.dtype) == (len(items), torch.int64, torch.int64)
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        as_histories(form, items)
    if isinstance(form, (pa.Array, pa.ChunkedArray, pl.Series)) and str(caught.value).startswith("histories has type "):
        return  # a typed column that is wrong as a whole
    row, position = spoilt
    where = re.match(r"histories\[(\d+)\](?:\[(\d+)\])?:? ", str(caught.value))
    assert where, str(caught.value)
    # where the very first id is of another type than the rest, it is the second that differs from it
    first = (row, position) == next((n, 0) for n, history in enumerate(plain) if history)
    named = (int(where[1]), int(where[2])) if where[2] else (int(where[1]), position)
    assert named == (row, position) or first, str(caught.value)


# --- count matrices -------------------------------------------------------------------------------------------------

NUMPY_TYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">i4", ">f8"]
TORCH_TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64]
TORCH_TYPES += [torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
SPARSE = [
    scipy.sparse.csr_matrix,
    scipy.sparse.csc_array,
    scipy.sparse.coo_array,
    scipy.sparse.lil_matrix,
    scipy.sparse.dok_array,
]
MATRICES = {
    **{f"numpy {t}": lambda counts, t=t: np.array(counts).reshape(-1, 3).astype(t) for t in NUMPY_TYPES},
    **{str(t): lambda counts, t=t: torch.tensor(counts, dtype=torch.float64).reshape(-1, 3).to(t) for t in TORCH_TYPES},
    **{kind.__name__: lambda counts, kind=kind: kind(np.array(counts).reshape(-1, 3)) for kind in SPARSE},
    "sparse": lambda counts: torch.tensor(counts).reshape(-1, 3).to_sparse(),
    "duplicates": lambda counts: torch.sparse_coo_tensor(
        *(lambda t: (t.nonzero().T.repeat(1, 2), torch.cat([t[t != 0] - 1, torch.ones_like(t[t != 0])])))(
            torch.tensor(counts).reshape(-1, 3)
        ),
        (len(counts), 3),
        check_invariants=True,
    ),
    "transposed": lambda counts: torch.tensor(counts).reshape(-1, 3).T.contiguous().T,
    "requires grad": lambda counts: torch.tensor(counts, dtype=torch.float64).reshape(-1, 3).requires_grad_(),
    "read only": lambda counts: np.broadcast_to(np.array(counts).reshape(-1, 3), (len(counts), 3)),
}
ROW = st.lists(st.integers(0, 3), min_size=3, max_size=3)


@fuzz(counts=st.lists(ROW, max_size=4), form=st.sampled_from(sorted(MATRICES)))
def test_count_matrices(counts, form):
    if form in ("numpy ?", "torch.bool"):
        counts = [[min(count, 1) for count in row] for row in counts]
    found = as_histories(MATRICES[form](counts), Vocabulary.numbered(3))
    assert found.to_sequences() == [[i for i in range(3) for _ in range(row[i])] for row in counts]


@fuzz(
    ordinary=100,
    slow=1000,
    counts=st.lists(ROW, min_size=1, max_size=3),
    bad=st.sampled_from([-1, 0.5, float("nan"), float("inf"), -float("inf"), 2.0**31, 1e300]),
    form=st.sampled_from(["numpy f8", "torch.float64", "csr_matrix", "coo_array", "sparse"]),
    data=st.data(),
)
def test_counts_that_are_none(counts, bad, form, data):
    row, column = data.draw(st.integers(0, len(counts) - 1)), data.draw(st.integers(0, 2))
    counts = [[float(count) for count in row] for row in counts]
    counts[row][column] = bad
    with pytest.raises(ValueError, match=rf"histories: counts must be whole .* at row {row}, column {column}"):
        as_histories(MATRICES[form](counts), Vocabulary.numbered(3))


NEITHER = {
    "None": (None, "histories: expected Histories, a list"),
    "a number": (3, "histories: expected Histories"),
    "text": ("abc", "histories: expected Histories"),
    "one history": (["a"], r"histories\[0\]: expected a sequence of item ids, got 'a'; wrap one history in a list"),
    "one history of numbers": ([1, 2], r"histories\[0\]: expected a sequence of item ids, got 1; wrap"),
    "one tensor": (torch.tensor([1, 2]), r"histories: a count matrix must be N x 4 .*got \(2,\)"),
    "one Series": (pd.Series(["a"]), r"histories\[0\]: expected a sequence"),
    "one Series of polars": (
        pl.Series(["a"]),
        "histories: expected lists of item ids, got an Arrow column of large_string",
    ),
    "three dimensions": (torch.zeros(2, 4, 1), r"histories: a count matrix must be N x 4 .*got \(2, 4, 1\)"),
    "other width": (np.zeros((2, 3)), "histories: a count matrix must be N x 4"),
    "objects": (np.zeros((2, 4), object), "histories: a count matrix holds numbers, got object values"),
    "texts": (np.array([["a"] * 4]), "histories: a count matrix holds numbers, got <U1 values"),
    "complex": (torch.zeros(1, 4, dtype=torch.complex64), "histories: a count matrix holds numbers"),
    "dates": (np.zeros((1, 4), "datetime64[s]"), "histories: a count matrix holds numbers"),
    "a matrix as a history": ([torch.zeros(2, 2)], r"histories\[0\]: expected one dimension, got shape \(2, 2\)"),
    "no dimension as a history": ([[1], np.array(1)], r"histories\[1\]: expected one dimension, got shape \(\)"),
    "nested lists": ([[1], [[1]]], r"histories\[1\]\[0\]: an id must be hashable|ids have different types"),
    "nested Arrow": (pa.array([[[1]]]), "histories has type list<.*>, which is not one of ids"),
    "a set": ([{1}], r"histories\[0\]: expected a sequence of item ids"),
    "a dict": ({1: 2}, "histories: expected Histories, .* got dict"),
    "a generator": ((h for h in [[1]]), "histories: expected Histories, .* got generator"),
    "a frame": (pd.DataFrame([[1, 2, 3, 4]]), "histories: expected Histories, .* got DataFrame"),
    "no history": ([[1], None], r"histories\[1\]: is missing, got None; .*empty history"),
    "no history, NaN": (pd.Series([[1], float("nan")]), r"histories\[1\]: is missing, got nan"),
    "no history in Arrow": (pa.array([[1], None]), r"histories\[1\]: is missing"),
    "no id in Arrow": (pa.array([[1], [2, None]]), r"histories\[1\]\[1\]: a value is missing"),
    "other catalogue": (Histories.from_sequences([[1]], 3), "histories: come from a catalogue of 3 items, expected 4"),
}


@pytest.mark.parametrize(("value", "message"), NEITHER.values(), ids=NEITHER.keys())
def test_what_is_neither(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_histories(value, Vocabulary.numbered(4))


# --- vocabularies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ids: there are none"),
        ("abc", "ids: expected a column of values, got str"),
        ([1, True], r"ids\[1\]: an id is not a boolean"),
        ([1, 2.0], r"ids\[1\]: an id is not a boolean, a float among others"),
        ([1, None], r"ids\[1\]: a value is missing"),
        ([float("nan")], r"ids\[0\]: a value is missing"),
        ([[1]], r"ids\[0\]: an id must be hashable"),
        ([3, 1, 3], "ids: 3 occurs more than once"),
        ([3, 1, decimal.Decimal(3)], "ids: 3 occurs more than once"),
        ({1, "a"}, "ids: a set of these ids has no order"),
        ({1: 2}, "ids: expected a list of ids, got a dict"),
    ],
    ids=lambda value: "a set" if isinstance(value, set) else str(value),  # its order is another in every process
)
def test_ids_that_are_none(ids, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Vocabulary(ids)


def test_a_range_that_does_not_start_at_zero_is_no_numbering():
    items = Vocabulary(range(5, 8))
    assert items.encode([7, 5]).tolist() == [2, 0]
    assert items.decode([0]) == [5]
    assert Vocabulary(range(3)).is_numbered


@pytest.mark.parametrize("numbers", [[-1], [3], [1.5], ["a"], [True]], ids=str)
def test_numbers_that_are_none_have_no_id(numbers):
    with pytest.raises(ValueError, match=r"numbers\[0\]: "):
        Vocabulary(["a", "b", "c"]).decode(numbers)


@pytest.mark.parametrize("sequences", [[[1.5]], [[True]], [[3]], [[-1]], [["a"]]], ids=str)
def test_item_numbers_that_are_none(sequences):
    with pytest.raises(ValueError, match=r"histories\[0\]\[0\]: "):
        Histories.from_sequences(sequences, num_items=3)


def test_the_order_of_a_catalogue_is_the_one_given():
    categories = pd.Categorical(["b", "a"], categories=["a", "b", "c"])
    for ids in (
        ["b", "a"],
        np.array(["b", "a"]),
        categories,
        pa.array(["b", "a"]),
        iter(["b", "a"]),
        pl.Series(["b", "a"]),
    ):
        assert Vocabulary(ids).ids == ("b", "a")
