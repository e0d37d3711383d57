"""Published experiments, run again; rounds: agents that log, learn and log again; and which settings to take."""

from blob_pyro.experiments.agents import AGENTS, Agent, AgentMaker, BLOBAgent, Start, register_agent
from blob_pyro.experiments.rounds import RoundsSettings, rounds
from blob_pyro.experiments.rounds_result import RoundsResult
from blob_pyro.experiments.selection import Selection, select

__all__ = [
    "AGENTS",
    "Agent",
    "AgentMaker",
    "BLOBAgent",
    "RoundsResult",
    "RoundsSettings",
    "Selection",
    "Start",
    "register_agent",
    "rounds",
    "select",
]
