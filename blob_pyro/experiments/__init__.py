"""Published experiments, run again, and rounds: agents that log, learn and log again."""

from blob_pyro.experiments.agents import AGENTS, Agent, AgentMaker, BLOBAgent, Start, register_agent
from blob_pyro.experiments.rounds import RoundsSettings, rounds
from blob_pyro.experiments.rounds_result import RoundsResult

__all__ = [
    "AGENTS",
    "Agent",
    "AgentMaker",
    "BLOBAgent",
    "RoundsResult",
    "RoundsSettings",
    "Start",
    "register_agent",
    "rounds",
]
