"""Policies: a view history in, a distribution over actions, with exact propensities, out."""

from blob_pyro.policies.base import Policy, Scorer
from blob_pyro.policies.logistic_regression import BayesianLogisticRegression
from blob_pyro.policies.logistic_thompson import LogisticThompsonSampling
from blob_pyro.policies.mixture import Mixture
from blob_pyro.policies.normal_scores import NormalScores
from blob_pyro.policies.posterior_draws import PosteriorDraws
from blob_pyro.policies.registry import POLICIES, register_policy
from blob_pyro.policies.scored import EpsilonGreedy, Greedy, Softmax
from blob_pyro.policies.session_popularity import SessionPopularity
from blob_pyro.policies.thompson import ThompsonSampling
from blob_pyro.policies.top_two_thompson import TopTwoThompsonSampling
from blob_pyro.policies.uniform import Uniform

__all__ = [
    "POLICIES",
    "BayesianLogisticRegression",
    "EpsilonGreedy",
    "Greedy",
    "LogisticThompsonSampling",
    "Mixture",
    "NormalScores",
    "Policy",
    "PosteriorDraws",
    "Scorer",
    "SessionPopularity",
    "Softmax",
    "ThompsonSampling",
    "TopTwoThompsonSampling",
    "Uniform",
    "register_policy",
]
