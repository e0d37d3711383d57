"""What a model must beat."""

from blob_pyro.baselines.popularity import Popularity

__all__ = ["Popularity"]
