"""The generative stories, as plain Pyro models, and their priors."""

from blob_pyro.models.bandit import BanditBatch, BanditModel
from blob_pyro.models.organic import OrganicBatch, OrganicModel
from blob_pyro.models.priors.bandit_priors import BanditPriors
from blob_pyro.models.priors.covariates import EventCovariates, UserCovariates
from blob_pyro.models.priors.heavy_tails import HorseshoeKappa, RandomScaleKappa, StudentTKappa
from blob_pyro.models.priors.items import ItemCategories, ItemDeviations, ItemFeatures, KappaOnPopularity
from blob_pyro.models.priors.learned import Learned
from blob_pyro.models.priors.organic_priors import OrganicPriors
from blob_pyro.models.priors.positions import PositionEffects
from blob_pyro.models.priors.terms import Events, LogitTerm, register_term
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.models.priors.view import ModelView
from blob_pyro.models.streamed_batch import EventBuffer, StreamedBatch

__all__ = [
    "BanditBatch",
    "BanditModel",
    "BanditPriors",
    "EventBuffer",
    "EventCovariates",
    "Events",
    "HorseshoeKappa",
    "ItemCategories",
    "ItemDeviations",
    "ItemFeatures",
    "KappaOnPopularity",
    "Learned",
    "LogitTerm",
    "ModelView",
    "OrganicBatch",
    "OrganicModel",
    "OrganicPriors",
    "PositionEffects",
    "RandomScaleKappa",
    "StreamedBatch",
    "StudentTKappa",
    "UserCovariates",
    "VectorPrior",
    "register_term",
]
