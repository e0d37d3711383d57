"""Off-policy evaluation: from the log of one policy to the value of another, with intervals that say when they hold."""

from blob_pyro.ope.auditing import AuditReport, audit
from blob_pyro.ope.delta import delta_beta_ips, delta_ips, delta_snips
from blob_pyro.ope.distribution import RewardDistribution, reward_distribution
from blob_pyro.ope.doubly_robust import direct_method, doubly_robust, dr_shrinkage, self_normalized_dr, switch_dr
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.evaluation import Evaluation
from blob_pyro.ope.importance import beta_ips, ips, snips
from blob_pyro.ope.interoperability import to_obp, to_vowpal_wabbit
from blob_pyro.ope.intervals import Interval
from blob_pyro.ope.logged_rows import LoggedRows
from blob_pyro.ope.marginalized import marginalized_ips
from blob_pyro.ope.policy_evaluation import evaluate
from blob_pyro.ope.registry import register_estimator
from blob_pyro.ope.reliability import MissingSupportWarning, OffPolicyWarning, UnreliableIntervalWarning
from blob_pyro.ope.replay_method import replay
from blob_pyro.ope.slates import cascade_dr, reward_interaction_ips

__all__ = [
    "AuditReport",
    "Estimate",
    "Evaluation",
    "Interval",
    "LoggedRows",
    "MissingSupportWarning",
    "OffPolicyWarning",
    "RewardDistribution",
    "UnreliableIntervalWarning",
    "audit",
    "beta_ips",
    "cascade_dr",
    "delta_beta_ips",
    "delta_ips",
    "delta_snips",
    "direct_method",
    "doubly_robust",
    "dr_shrinkage",
    "evaluate",
    "ips",
    "marginalized_ips",
    "register_estimator",
    "replay",
    "reward_distribution",
    "reward_interaction_ips",
    "self_normalized_dr",
    "snips",
    "switch_dr",
    "to_obp",
    "to_vowpal_wabbit",
]
