"""Logs in, tensors out."""

from blob_pyro.data.candidates import Candidates, as_candidates
from blob_pyro.data.covariates import Covariate
from blob_pyro.data.event_log import EventLog
from blob_pyro.data.histories import Histories, as_histories
from blob_pyro.data.log_warnings import LogWarning
from blob_pyro.data.scanned_log import ScannedLog
from blob_pyro.data.shards import Shard, WholeLog
from blob_pyro.data.view_history import ViewHistory
from blob_pyro.data.vocabulary import Vocabulary

__all__ = [
    "Candidates",
    "Covariate",
    "EventLog",
    "Histories",
    "LogWarning",
    "ScannedLog",
    "Shard",
    "ViewHistory",
    "Vocabulary",
    "WholeLog",
    "as_candidates",
    "as_histories",
]
