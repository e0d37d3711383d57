"""Fixtures of this folder."""

import pytest

from blob_pyro.experiments.figure1_report import Runs
from tests.experiments.figure1_runs import SMALL


@pytest.fixture(scope="module")
def runs():
    done = Runs(SMALL)
    assert list(done.complete(range(700, 760))) == list(range(700, 760))
    return done.frame
