"""The generative stories, as plain Pyro models, and their priors."""

from blob_pyro.models.bandit import BanditBatch, BanditModel
from blob_pyro.models.organic import OrganicBatch, OrganicModel
from blob_pyro.models.organic_priors import OrganicPriors
from blob_pyro.models.prior_covariates import UserCovariates
from blob_pyro.models.prior_heavy_tails import HorseshoeKappa, RandomScaleKappa, StudentTKappa
from blob_pyro.models.prior_items import ItemCategories, ItemDeviations, ItemFeatures, KappaOnPopularity
from blob_pyro.models.prior_vector import VectorPrior
from blob_pyro.models.priors import BanditPriors, Learned
from blob_pyro.models.terms import Events, LogitTerm

__all__ = [
    "BanditBatch",
    "BanditModel",
    "BanditPriors",
    "Events",
    "HorseshoeKappa",
    "ItemCategories",
    "ItemDeviations",
    "ItemFeatures",
    "KappaOnPopularity",
    "Learned",
    "LogitTerm",
    "OrganicBatch",
    "OrganicModel",
    "OrganicPriors",
    "RandomScaleKappa",
    "StudentTKappa",
    "UserCovariates",
    "VectorPrior",
]
