"""Fingerprints: equal for equal contents, wherever they live; differences are named."""

import torch

from blob_pyro.ops.fingerprints import content_hash, describe, differences


def test_contents_types_and_shapes_count():
    x = torch.arange(6, dtype=torch.float32)
    same = content_hash(x)
    assert len(same) == 64
    assert int(same, 16) >= 0
    assert content_hash(x.clone()) == content_hash(torch.arange(12.0)[:6]) == same
    others = [x.double(), x.view(2, 3), x + 1, x.flip(0), x.to(torch.int32)]
    assert len({same, *map(content_hash, others)}) == 6


def test_two_tensors_are_not_one():
    a, b = torch.zeros(2), torch.zeros(3)
    assert content_hash([a, b]) != content_hash([torch.cat([a, b])])
    assert content_hash([a, b]) != content_hash([b, a])


def test_what_differs_is_named():
    one, other = describe({"lr": 0.1, "parts": [1, 2]}), describe({"lr": 0.2, "parts": [1, 2]})
    assert describe({"lr": 0.1, "parts": [1, 2]}) == one
    found = list(differences(one, other))
    assert found
    assert "lr" in str(found)
    assert "parts" not in str(found)
    assert not list(differences(one, one))
