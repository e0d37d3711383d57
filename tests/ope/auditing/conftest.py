"""Fixtures of this folder."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from blob_pyro import EventLog
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym
from tests.ope.auditing.logs import ITEMS, WOMEN


@pytest.fixture(scope="module")
def healthy():
    """300 users at times of their own, one after another."""
    log = RecoGym(num_items=ITEMS, num_flips=6, seed=5).simulate(SessionPopularity(ITEMS, epsilon=0.3), num_users=300)
    return dataclasses.replace(log, time=log.user * 1000 + log.time)


@pytest.fixture(scope="module")
def women():
    table = pq.read_table(WOMEN).rename_columns(["time", "action", "position", "reward", "propensity"])
    return EventLog.from_tables(impressions=table.append_column("user", [np.arange(len(table))]), items=range(46))
