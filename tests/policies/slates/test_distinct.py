"""Contexts that are alike are found, and nothing else."""

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.policies.slates import (
    Contexts,
)
from blob_pyro.policies.slates.distinct import distinct_contexts


@pytest.mark.parametrize("shared", [True, False])
def test_contexts_that_are_alike_are_found(shared):
    sequences = [[0, 1], [1, 0], [], [0, 1], [], [0, 1, 1], [2], [0, 1]]
    kinds = [0, 1, 2, 0, 2, 3, 4, 0]
    allowed = torch.ones(1, 3, dtype=torch.bool).expand(8, -1)
    if not shared:
        allowed = allowed.clone()
        allowed[7, 2] = False
        kinds[7] = 5
    first, kind = distinct_contexts(Contexts(Histories.from_sequences(sequences, 3), allowed))
    renumbered = torch.tensor([kinds.index(k) for k in kinds])
    assert first[kind].tolist() == renumbered.tolist()
