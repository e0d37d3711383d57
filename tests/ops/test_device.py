"""The device asked for, or the best there is; what cannot be used is named."""

import pytest
import torch

from blob_pyro.ops.device import default_device


def test_what_is_asked_for():
    assert default_device("cpu") == default_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("there_is_one", [True, False])
def test_cuda_where_there_is_one(there_is_one, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    assert default_device(None).type == ("cuda" if there_is_one else "cpu")


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        (3, TypeError, r"where: expected a torch.device or its name, got 3 \(a int\)"),
        ("gpu", ValueError, "where: 'gpu' cannot be used here"),
        ("meta", ValueError, "where: 'meta' tensors hold no numbers"),
    ],
)
def test_what_cannot_be_used_is_named(device, error, message):
    with pytest.raises(error, match=message):
        default_device(device, "where")
