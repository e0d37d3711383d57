import pytest
import torch

from blob_pyro.ops.memory import available_memory, require_memory


def test_what_fits_passes_and_what_does_not_is_refused_before_it_is_allocated():
    free = available_memory()
    assert free is not None
    require_memory(free // 2, "half", "nothing")
    with pytest.raises(MemoryError, match=r"^twice would take [\d,]+ bytes \([\d,.]+ GiB\), and .* on cpu; take less"):
        require_memory(2 * free, "twice", "take less")


def test_a_device_that_nobody_knows_is_not_judged():
    assert available_memory(torch.device("meta")) is None
    require_memory(10**30, "much", "take less", "meta")
