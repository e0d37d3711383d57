"""Ids and their numbers: refusals of what is outside, and of ids that come twice."""

import pytest

from blob_pyro.data import Vocabulary


def test_numbered_vocabulary_refuses_what_is_outside():
    items = Vocabulary.numbered(3)
    assert items.encode([2, 0]).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"ids\[1\]: an id is outside 0..2 \(num_items=3\), got 3"):
        items.encode([0, 3])
    with pytest.raises(ValueError, match=r"ids\[0\]: ids are integers 0..2, and ids holds text"):
        items.encode(["a"])


def test_vocabulary_refuses_duplicates():
    with pytest.raises(ValueError, match="'b' occurs more than once"):
        Vocabulary(["a", "b", "b"])
