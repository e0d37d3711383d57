"""Variational families: encoders, the amortised guide over interests, guides over the bandit model's sites."""

from blob_pyro.guides.arrowhead import ArrowheadNormalGuide
from blob_pyro.guides.bandit import DeltaGuide, MatrixNormalFullGuide, MatrixNormalGuide, NormalGuide
from blob_pyro.guides.draws import DrawsGuide
from blob_pyro.guides.encoders import ENCODERS, DeepEncoder, LinearEncoder, PrecisionEncoder
from blob_pyro.guides.multivariate import FullGuide, LaplaceGuide, LowRankGuide, MultivariateGuide
from blob_pyro.guides.offsets import OffsetNetwork
from blob_pyro.guides.organic import AmortizedGuide, ItemGuide
from blob_pyro.guides.recipes import FunctionGuide, check_sites, make_guide
from blob_pyro.guides.registry import GUIDES, RegisteredGuide, register_guide
from blob_pyro.guides.training_defaults import TrainingDefaults

__all__ = [
    "ENCODERS",
    "GUIDES",
    "AmortizedGuide",
    "ArrowheadNormalGuide",
    "DeepEncoder",
    "DeltaGuide",
    "DrawsGuide",
    "FullGuide",
    "FunctionGuide",
    "ItemGuide",
    "LaplaceGuide",
    "LinearEncoder",
    "LowRankGuide",
    "MatrixNormalFullGuide",
    "MatrixNormalGuide",
    "MultivariateGuide",
    "NormalGuide",
    "OffsetNetwork",
    "PrecisionEncoder",
    "RegisteredGuide",
    "TrainingDefaults",
    "check_sites",
    "make_guide",
    "register_guide",
]
