"""Variational families: encoders, the amortised guide over interests, guides over the bandit model's sites."""

from blob_pyro.guides.bandit import GUIDES, MatrixNormalGuide, NormalGuide
from blob_pyro.guides.encoders import ENCODERS, LinearEncoder, PrecisionEncoder
from blob_pyro.guides.organic import AmortizedGuide

__all__ = [
    "ENCODERS",
    "GUIDES",
    "AmortizedGuide",
    "LinearEncoder",
    "MatrixNormalGuide",
    "NormalGuide",
    "PrecisionEncoder",
]
