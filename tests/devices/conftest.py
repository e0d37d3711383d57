"""A device without the hardware, and what is fitted on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from blob_pyro.infer.elbo_estimate import rough_elbo

if TYPE_CHECKING:
    from tests.devices.pretend_device import Reads


# Torch has backends written in Python from 2.13 on; on older ones, which are allowed, there is nothing to pretend with.
# From there on their registration, which is private, has to be where `pretend_device` imports it from.
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _short_starts(monkeypatch):
    """Every operation takes a while here: what is looked at is what is read, not where it ends."""
    monkeypatch.setattr("blob_pyro.infer.start._STEPS", 4)
    monkeypatch.setattr("blob_pyro.infer.references._PRIOR_DRAWS", 2)
    monkeypatch.setitem(rough_elbo.__kwdefaults__, "num_draws", 2)


@pytest.fixture
def reads() -> Iterator[Reads]:
    """The pretend device, for one test: what has been read off it so far."""
    from tests.devices.pretend_device import pretend_device  # not above: an older torch has none

    with pretend_device() as reads:
        yield reads
