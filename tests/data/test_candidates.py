"""Candidates in whatever form: the same sets, or an error that names context and position."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import strategies as st

from blob_pyro.data import Candidates, Vocabulary, as_candidates
from tests.fuzzing import fuzz, require_named

ITEMS = Vocabulary(["tea", "mug", "pot", "cup"])
EACH = [["tea", "mug"], ["cup"], ["pot", "tea", "pot"]]
MASK = [[True, True, False, False], [False, False, False, True], [True, False, True, False]]
SHARED = ["mug", "cup"]
MASK_OF_ALL = [False, True, False, True]

FORMS = {
    "lists": EACH,
    "tuples": tuple(map(tuple, EACH)),
    "sets": list(map(set, EACH)),
    "arrays": [np.array(s) for s in EACH],
    "an object array": np.array([np.array(s) for s in EACH], dtype=object),
    "a Series of lists": pd.Series(EACH, index=[5, 5, 6]),
    "an Arrow list array": pa.array(EACH),
    "a chunked Arrow list array": pa.chunked_array([pa.array(EACH[:1]), pa.array(EACH[1:])]),
    "polars": pl.Series(EACH),
    "booleans": torch.tensor(MASK),
    "an array of booleans": np.array(MASK),
    "lists of booleans": MASK,
    "candidates": as_candidates(EACH, ITEMS, 3),
}
SHARED_FORMS = {
    "a list": SHARED,
    "a tuple": tuple(SHARED),
    "a set": set(SHARED),
    "twice": SHARED * 2,
    "an array": np.array(SHARED),
    "a Series": pd.Series(SHARED),
    "Arrow": pa.array(SHARED),
    "polars": pl.Series(SHARED),
    "booleans": torch.tensor(MASK_OF_ALL),
    "an array of booleans": np.array(MASK_OF_ALL),
    "a Series of booleans": pd.Series(MASK_OF_ALL),
    "a list of booleans": MASK_OF_ALL,
}


@pytest.mark.parametrize("given", FORMS.values(), ids=FORMS.keys())
def test_sets_of_each_context(given):
    candidates = as_candidates(given, ITEMS, 3)
    assert candidates.mask(slice(0, 3)).tolist() == MASK
    assert candidates.mask(slice(1, 3)).tolist() == MASK[1:]
    assert candidates.sizes.tolist() == [2, 1, 2]
    every = torch.arange(4)[:, None].expand(4, 3)
    assert (~candidates.outside(every)).mT.tolist() == MASK
    assert (~candidates.outside(every[:, 1:], slice(1, 3))).mT.tolist() == MASK[1:]


@pytest.mark.parametrize("given", SHARED_FORMS.values(), ids=SHARED_FORMS.keys())
def test_one_set_for_all(given):
    candidates = as_candidates(given, ITEMS, 3)
    assert candidates.mask(slice(0, 2)).tolist() == [MASK_OF_ALL] * 2
    assert candidates.shared
    assert candidates.outside(torch.tensor([0, 1, 3])).tolist() == [True, False, False]
    assert as_candidates(given, ITEMS, 0).mask(slice(0, 0)).shape == (0, 4)


@pytest.mark.parametrize("form", [np.array, torch.tensor, list], ids=["array", "tensor", "list"])
def test_numbers_are_ids(form):
    numbers = Vocabulary([30, 10, 20])
    assert as_candidates(form([10, 20]), numbers, 2).numbers.tolist() == [1, 2]
    assert as_candidates(form([[10, 20], [20, 30]]), numbers, 2).numbers.tolist() == [1, 2, 0, 2]


def test_tuples_may_be_ids():
    pairs = Vocabulary([("a", 1), ("b", 2), ("c", 3)])
    assert as_candidates([("a", 1), ("c", 3)], pairs, 2).shared
    assert as_candidates([[("a", 1)], [("c", 3)]], pairs, 2).numbers.tolist() == [0, 2]


def test_none_is_all():
    assert as_candidates(None, ITEMS, 3) is None


BAD = {
    "text": ("tea", TypeError, "candidates: expected ids that all contexts share, .* got a str"),
    "a dict": ({"tea": 1}, TypeError, "candidates: expected ids .* got a dict"),
    "a number": (3, TypeError, "candidates: expected"),
    "a frame": (pd.DataFrame({"a": EACH}), TypeError, "candidates: expected ids .* got a DataFrame"),
    "an unknown id": (["tea", "beer"], ValueError, r"candidates\[1\]: unknown id, got 'beer'"),
    "an unknown id of a context": ([["tea"], ["mug", "beer"], ["cup"]], ValueError, r"candidates\[1\]\[1\]: unknown"),
    "an id of another type": ([["tea"], ["mug"], [3]], ValueError, r"candidates\[2\]\[0\]: ids"),
    "a missing id": (["tea", None], ValueError, r"candidates\[1\]: a value is missing"),
    "a missing set": ([["tea"], None, ["cup"]], ValueError, r"candidates\[1\]: is missing, got None; give it at least"),
    "no items": ([], ValueError, "candidates: there are none"),
    "an empty set": ([["tea"], [], ["cup"]], ValueError, r"candidates\[1\]: is empty, and nothing can be chosen"),
    "an empty row": (torch.tensor([MASK[0], [False] * 4, MASK[2]]), ValueError, r"candidates\[1\]: is empty"),
    "nothing allowed": ([False] * 4, ValueError, "candidates: there are none"),
    "too few sets": (EACH[:2], ValueError, "candidates: there are 2 sets of them for 3 histories"),
    "too few rows": (torch.tensor(MASK[:2]), ValueError, "candidates: there are 2 sets of them for 3 histories"),
    "too few booleans": ([True, False], ValueError, r"candidates: booleans must be 4 \(num_items\) or 3 x 4"),
    "ragged booleans": ([[True], [True, False], [True]], ValueError, "candidates: rows of booleans have 1 to 2"),
    "three dimensions": (torch.ones(3, 4, 1, dtype=torch.bool), ValueError, "candidates: booleans must be 4"),
    "of another catalogue": (as_candidates([0], Vocabulary.numbered(9), 3), ValueError, "a catalogue of 9 items, exp"),
    "of other contexts": (as_candidates(EACH[:2], ITEMS, 2), ValueError, "candidates: there are 2 sets of them for 3"),
    "mixed": ([["tea"], "mug", ["cup"]], TypeError, r"candidates\[1\]: expected a sequence of item ids, got 'mug'"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(given, kind, message):
    with pytest.raises(kind, match=message):
        as_candidates(given, ITEMS, 3)


ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-1, 5), st.floats(), st.just(np.float32(0.5)),
    st.sampled_from([*ITEMS.ids]), st.just(torch.tensor(1)), st.just({}), st.just({"tea"}), st.just(np.zeros((0,))),
    st.just(torch.zeros(2, 3)), st.just(np.zeros((2, 4), bool)), st.just(b"tea"), st.just(1j),
)  # fmt: skip
SETS = st.lists(st.sampled_from([*ITEMS.ids]), max_size=4)
GIVEN = st.one_of(ODD, SETS, st.lists(SETS, max_size=4), st.lists(ODD, max_size=4), st.lists(st.lists(ODD, max_size=2)))


@fuzz(given_=GIVEN, num_contexts=st.integers(0, 3))
def test_whatever_is_given(given_, num_contexts):
    try:
        candidates = as_candidates(given_, ITEMS, num_contexts)
    except (ValueError, TypeError) as error:
        require_named(error, ["candidates", "ids"])
        return
    if candidates is None:
        assert given_ is None
        return
    assert isinstance(candidates, Candidates)
    mask = candidates.mask(slice(0, num_contexts))
    assert mask.shape == (num_contexts, 4)
    assert mask.any(-1).all()
    assert (candidates.outside(mask.to(torch.int64).argmax(-1)) == 0).all()
    if isinstance(given_, list) and given_ and all(isinstance(one, str) for one in given_):
        assert mask.tolist() == [[id_ in given_ for id_ in ITEMS.ids]] * num_contexts
