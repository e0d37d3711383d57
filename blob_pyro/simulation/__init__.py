"""Simulated users: the vectorised RecoGym, the real one behind an adapter, and A/B tests of policies."""

from blob_pyro.simulation.ab_test import ABTest, Estimate, ab_test
from blob_pyro.simulation.decisions import InformedPolicy, Oracle
from blob_pyro.simulation.environment import Environment
from blob_pyro.simulation.recogym import RecoGym
from blob_pyro.simulation.recogym_reference import (
    AgentPolicy,
    RecoGymReference,
    agent_from_policy,
    session_popularity_agent,
)

__all__ = [
    "ABTest",
    "AgentPolicy",
    "Environment",
    "Estimate",
    "InformedPolicy",
    "Oracle",
    "RecoGym",
    "RecoGymReference",
    "ab_test",
    "agent_from_policy",
    "session_popularity_agent",
]
