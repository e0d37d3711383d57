"""A device without the hardware, and what is fitted on it."""

from collections.abc import Iterator

import pytest
from pretend_device import Reads, pretend_device


@pytest.fixture
def reads() -> Iterator[Reads]:
    """The pretend device, for one test: what has been read off it so far."""
    with pretend_device() as reads:
        yield reads
