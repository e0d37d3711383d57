"""The rows of a step that a worker has, and their weight."""

import torch

from blob_pyro.infer.training.shares import Share


def test_a_part_of_a_step():
    share = Share(torch.tensor([1, 4, 5]), 8)
    part = share.part(torch.tensor([5, 0, 1, 7]))
    assert (part.own.tolist(), part.where.positions.tolist(), part.weight) == ([2, 0], [0, 2], 0.5)
    everything = share.part(torch.arange(8))
    assert (everything.own.tolist(), everything.where.positions.tolist(), everything.weight) == (
        [0, 1, 2], [1, 4, 5], 3 / 8,
    )  # fmt: skip
    lent = share.part(torch.tensor([0, 2]))
    assert (lent.own.tolist(), lent.weight) == ([0], 0.0)
