"""Distributions over slates: ordered selections of distinct items, one for each context, and who stands where."""

from blob_pyro.policies.slates.base import Contexts, SequentialSlates, Slates
from blob_pyro.policies.slates.epsilon_greedy import EpsilonGreedySlates
from blob_pyro.policies.slates.mixture import MixtureSlates
from blob_pyro.policies.slates.of_distributions import slates_of
from blob_pyro.policies.slates.plackett_luce import PlackettLuceSlates
from blob_pyro.policies.slates.two_classes import TwoClassSlates

__all__ = [
    "Contexts",
    "EpsilonGreedySlates",
    "MixtureSlates",
    "PlackettLuceSlates",
    "SequentialSlates",
    "Slates",
    "TwoClassSlates",
    "slates_of",
]
