"""BLOB in Pyro: Bayesian organic-and-bandit recommenders, and policies with exact propensities."""

from blob_pyro._version import __version__
from blob_pyro.data import EventLog, Histories
from blob_pyro.guides import register_guide
from blob_pyro.models import BanditPriors, Learned, register_term
from blob_pyro.recommenders.blo import BLO
from blob_pyro.recommenders.blob import BLOB
from blob_pyro.recommenders.joint_blob import JointBLOB

__all__ = [
    "BLO",
    "BLOB",
    "BanditPriors",
    "EventLog",
    "Histories",
    "JointBLOB",
    "Learned",
    "__version__",
    "register_guide",
    "register_term",
]
