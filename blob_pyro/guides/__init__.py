"""Variational families: encoders, the amortised guide over interests, guides over the bandit model's sites."""

from blob_pyro.guides.bandit import GUIDES, MatrixNormalGuide, NormalGuide
from blob_pyro.guides.encoders import ENCODERS, DeepEncoder, LinearEncoder, PrecisionEncoder
from blob_pyro.guides.offsets import OffsetNetwork
from blob_pyro.guides.organic import AmortizedGuide, ItemGuide

__all__ = [
    "ENCODERS",
    "GUIDES",
    "AmortizedGuide",
    "DeepEncoder",
    "ItemGuide",
    "LinearEncoder",
    "MatrixNormalGuide",
    "NormalGuide",
    "OffsetNetwork",
    "PrecisionEncoder",
]
