"""The generative stories, as plain Pyro models, and their priors."""

from blob_pyro.models.bandit import BanditBatch, BanditModel
from blob_pyro.models.organic import OrganicBatch, OrganicModel
from blob_pyro.models.organic_priors import OrganicPriors
from blob_pyro.models.priors import BanditPriors, Learned

__all__ = ["BanditBatch", "BanditModel", "BanditPriors", "Learned", "OrganicBatch", "OrganicModel", "OrganicPriors"]
