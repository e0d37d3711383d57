"""Ids and their numbers: refusals of what is outside, and of ids that come twice."""

import numpy as np
import pytest
import torch

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


def test_decode_takes_any_shape():
    items = Vocabulary([("a", 1), ("b", 2), ("c", 3)])
    numbers = np.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]], [[1, 0], [2, 0]]])
    expected = [[[items.ids[n] for n in row] for row in rows] for rows in numbers.tolist()]
    for shaped in (numbers, torch.from_numpy(numbers), numbers.tolist()):
        assert items.decode(shaped) == expected
    assert items.decode(torch.tensor(2)) == items.decode(2) == items.decode(np.int32(2)) == ("c", 3)
    assert items.decode(np.zeros((2, 0), dtype=int)) == [[], []]
    assert items.decode([]) == []


@pytest.mark.parametrize("bad", [-1, 3])
def test_decode_names_the_place_of_a_number_that_stands_for_nothing(bad):
    with pytest.raises(ValueError, match=rf"^numbers\[1, 0\]: .*outside 0\.\.2, got {bad};"):
        Vocabulary(["a", "b", "c"]).decode(torch.tensor([[0, 1], [bad, 2]]))
