"""Baselines that a model must beat: scorers and policies behind the interface of `blob_pyro.policies`, by name."""

from blob_pyro.policies.baselines.als import ALS
from blob_pyro.policies.baselines.contextual_bandit import ContextualBandit
from blob_pyro.policies.baselines.ease import EASE
from blob_pyro.policies.baselines.factorization_machine import FactorizationMachine
from blob_pyro.policies.baselines.gru import GRU
from blob_pyro.policies.baselines.item_knn import ItemKNN, SessionItemKNN
from blob_pyro.policies.baselines.lin_ts import LinTS
from blob_pyro.policies.baselines.lin_ucb import LinUCB
from blob_pyro.policies.baselines.logistic_regression import LogisticRegression
from blob_pyro.policies.baselines.multi_vae import MultiVAE
from blob_pyro.policies.baselines.popularity import Popularity
from blob_pyro.policies.baselines.registry import BASELINES, register_baseline
from blob_pyro.policies.baselines.session_frequency import SessionFrequency
from blob_pyro.policies.baselines.view_factors import ViewFactors

__all__ = [
    "ALS",
    "BASELINES",
    "EASE",
    "GRU",
    "ContextualBandit",
    "FactorizationMachine",
    "ItemKNN",
    "LinTS",
    "LinUCB",
    "LogisticRegression",
    "MultiVAE",
    "Popularity",
    "SessionFrequency",
    "SessionItemKNN",
    "ViewFactors",
    "register_baseline",
]
