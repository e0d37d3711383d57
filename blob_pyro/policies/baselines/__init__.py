"""What a model must beat."""

from blob_pyro.policies.baselines.gru import GRU
from blob_pyro.policies.baselines.item_knn import ItemKNN, SessionItemKNN
from blob_pyro.policies.baselines.popularity import Popularity
from blob_pyro.policies.baselines.session_frequency import SessionFrequency

__all__ = ["GRU", "ItemKNN", "Popularity", "SessionFrequency", "SessionItemKNN"]
