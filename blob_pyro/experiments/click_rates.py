"""Tables 3 and 4 of Sakhi et al. (2020): click rates of agents in RecoGym, as published and as one would have them.

*As published*, an agent sees the views since its last recommendation, nine times in ten none, so that it plays one item
nearly always: the table says how often. The encoder is linear, kappa's scale 0.01, Psi has columns of norm one.
*Proper* agents see all of the user's views, and BLO and BLOB are as this package has them by default. Both learn from
the same log, of session popularity with epsilon 0.3, in RecoGym with ten latent interests, and meet the same users.

Every published repetition has the environment of seed 0: it is run beside the others, and left out of their means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.experiments.bounds_of_learning import BayesCeiling, Constant, EstimatedInterests, Link, best_item
from blob_pyro.models import BanditPriors
from blob_pyro.policies import Greedy, SessionPopularity
from blob_pyro.policies.baselines import BASELINES
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.decisions import AnyPolicy

__all__ = ["CEILINGS", "PAPER", "PUBLISHED_SEED", "SETTINGS", "TABLE_3", "TABLE_4", "ClickRates"]

SETTINGS: dict[str, Literal["all", "since_last_action"]] = {"as published": "since_last_action", "proper": "all"}
PUBLISHED_SEED = 0

PAPER: dict[tuple[int, int], dict[str, float]] = {
    (100, 0): {
        "BLO": 2.42, "BLOB-NQ": 2.42, "BLOB-MNQ": 2.40, "random": 1.09, "session ItemKNN": 1.39, "MultiVAE": 2.43,
        "logistic regression": 1.37, "contextual bandit": 1.37,
    },
    (100, 50): {
        "BLO": 0.76, "BLOB-NQ": 1.57, "BLOB-MNQ": 1.56, "random": 1.11, "session ItemKNN": 0.92, "MultiVAE": 0.76,
        "logistic regression": 1.21, "contextual bandit": 1.09,
    },
    (1000, 0): {"BLOB-NQ": 2.40},
    (1000, 500): {"BLOB-NQ": 1.62},
}  # fmt: skip
"""Click rates in %, as printed, by number of items and of flips; of Table 4 the rows that are known to us."""

CEILINGS: dict[str, Link] = {
    "Bayes, swaps unknown": "swaps",
    "Bayes, answers of some item": "some item",
    "Bayes, answers unrelated to views": "no link",
}
"""Rows that know what no agent does, by their `blob_pyro.experiments.bounds_of_learning.Link`."""

# Agents that ask for nothing that is not installed, in the order of the tables.
_BASELINES = [name for name in BASELINES if name != "ALS"]
_P_SQUARED = ("logistic regression", "contextual bandit")  # weights for every pair of items


@dataclass(frozen=True)
class ClickRates:
    """The experiment, by its settings.

    Args:
        num_items: catalogue.
        flips: numbers of pairs of products that are swapped.
        num_users, num_organic_users: of the log.
        test_users: of the A/B test, per agent.
        interests: latent interests of RecoGym's users; its default is 5, the paper's experiments have 10.
        embedding_dim: ``K`` of BLO.
        num_epochs: of BLO and BLOB; their own defaults if None.
        agents: names of baselines; by default all that need no extra.
        ceilings: names of `CEILINGS`.
    """

    num_items: int = 100
    flips: tuple[int, ...] = (0, 50)
    num_users: int = 1000
    num_organic_users: int = 20_000
    test_users: int = 2000
    interests: int = 10
    embedding_dim: int = 20
    num_epochs: int | None = None
    agents: tuple[str, ...] = tuple(_BASELINES)
    ceilings: tuple[str, ...] = tuple(CEILINGS)

    def run(self, seed: int, flips: int) -> pd.DataFrame:
        """Run one environment and log: a row per setting and agent, with its click rate in %."""
        environment = RecoGym(self.num_items, num_flips=flips, seed=seed, embedding_dim=self.interests)
        logging = SessionPopularity(self.num_items, epsilon=0.3)
        log = environment.simulate(logging, self.num_users, self.num_organic_users)
        alike: dict[str, AnyPolicy] = {name: BASELINES[name](log, seed) for name in ("random", *self.agents)}
        alike |= {"logging policy": logging, "best constant item": Constant(self.num_items, best_item(environment))}
        for name in self.ceilings:
            alike[name] = BayesCeiling(environment, log, CEILINGS[name])
        alike |= {"oracle, estimated interests": EstimatedInterests(environment), "oracle": environment.oracle()}
        rows = []
        for setting, history in SETTINGS.items():
            policies = {**alike, **self._ours(log, setting, seed)}
            result = ab_test(environment, policies, self.test_users, history=history, reference="BLO", seed=seed)
            rows += [
                {"setting": setting, "agent": name, "click_rate": 100 * row["click_rate"],
                 "top_item_share": row["top_item_share"]}
                for name, row in result.table().iterrows()
            ]  # fmt: skip
        return pd.DataFrame(rows)

    def _ours(self, log: EventLog, setting: str, seed: int) -> dict[str, AnyPolicy]:
        published = setting == "as published"
        blo = BLO(self.num_items, self.embedding_dim, encoder="linear" if published else "precision")
        options: dict[str, Any] = {"seed": seed, "progress": False, "device": "cpu"}
        options |= {} if self.num_epochs is None else {"num_epochs": self.num_epochs}
        blo.fit(log, **options)
        priors = replace(BanditPriors.paper(), normalize_embeddings=True) if published else BanditPriors()
        ours: dict[str, AnyPolicy] = {"BLO": Greedy(blo)}
        # The guides agree to three decimals on click rates: the one that takes longer is fitted where it was printed.
        for name, guide in (("BLOB-NQ", "normal"), ("BLOB-MNQ", "matrix_normal"))[: 2 if published else 1]:
            blob = BLOB(blo, guide=guide, priors=priors)
            blob.fit(log, **options)
            ours[name] = Greedy(blob)
        return ours


TABLE_3 = ClickRates()
TABLE_4 = ClickRates(
    num_items=1000, flips=(0, 500), agents=tuple(name for name in _BASELINES if name not in _P_SQUARED)
)
