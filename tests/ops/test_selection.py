"""Picking without reading a device: against Python's own sets and lists."""

import pytest
import torch

from blob_pyro.ops.selection import _distinct_of_known_size, distinct, is_among, pick


@pytest.fixture
def numbers():
    return torch.randint(12, (40,), generator=torch.Generator().manual_seed(0))


def test_pick_is_boolean_indexing(numbers):
    mask = numbers > 5
    assert torch.equal(pick(numbers, mask, int(mask.sum())), numbers[mask])
    assert pick(numbers, torch.zeros_like(mask), 0).tolist() == []


@pytest.mark.parametrize("known_size", [False, True], ids=["as many as there are", "as many as there could be"])
def test_distinct_values_with_counts(numbers, known_size):
    found = _distinct_of_known_size(numbers, 12) if known_size else distinct(numbers, 12)
    assert torch.equal(found.values[found.inverse], numbers)
    kept = found.counts > 0
    assert found.values[kept].tolist() == sorted(set(numbers.tolist()))
    assert found.counts[kept].tolist() == [numbers.tolist().count(n) for n in sorted(set(numbers.tolist()))]
    assert len(found.values) == (12 if known_size else len(set(numbers.tolist())))


def test_membership(numbers):
    values = torch.tensor([1, 4, 11])
    assert is_among(numbers, values).tolist() == [n in (1, 4, 11) for n in numbers.tolist()]
    assert not is_among(numbers, values[:0]).any()
