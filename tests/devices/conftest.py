"""A device without the hardware, and what is fitted on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.devices.pretend_device import Reads


@pytest.fixture(autouse=True)
def _short_starts(monkeypatch):
    """Every operation takes a while here: what is looked at is what is read, not where it ends."""
    monkeypatch.setattr("blob_pyro.infer.start._STEPS", 4)


@pytest.fixture
def reads() -> Iterator[Reads]:
    """The pretend device, for one test: what has been read off it so far."""
    from tests.devices.pretend_device import (
        pretend_device,  # here, because an older torch has none: its tests are skipped
    )

    with pretend_device() as reads:
        yield reads
