"""Policies: a view history in, a distribution over actions, with exact propensities, out."""

from blob_pyro.policies.base import Policy, Scorer
from blob_pyro.policies.history import SessionPopularity, Uniform
from blob_pyro.policies.scored import EpsilonGreedy, Greedy, Softmax
from blob_pyro.policies.thompson import ThompsonSampling

__all__ = ["EpsilonGreedy", "Greedy", "Policy", "Scorer", "SessionPopularity", "Softmax", "ThompsonSampling", "Uniform"]
