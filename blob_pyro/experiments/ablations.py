"""Ablations of BLOB in RecoGym: one choice at a time changed, the same users for all, paired by environment.

What is changed, and from what: `Variant`. All play against the same users; the share of the way is that from random
items, 0, to the oracle, 1.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.data import Histories, Vocabulary
from blob_pyro.models import BanditPriors
from blob_pyro.policies import Greedy, Policy, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.recommenders.joint_blob import JointBLOB
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.decisions import AnyPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DEFAULT", "VARIANTS", "Ablations", "Variant", "plot", "summarize"]

DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """A BLOB and the log that it learns from, by what differs from the default.

    Args:
        guide: of the bandit model.
        kappa_scale: standard deviation of items' own click logits; None learns it.
        normalize_embeddings: see `blob_pyro.BanditPriors`.
        centred: whether item embeddings have their mean taken off, which changes no view and what ``w_a`` and zeta
            multiply.
        omega: whether the bandit model takes interests at their posterior mean, or samples them.
        joint: whether clicks then teach embeddings and encoder, too.
        play: greedy by posterior mean of the logit, by expected click probability, or Thompson sampling.
        num_users, num_organic_users: of the log.
        embedding_dim: ``K``.
    """

    guide: str = "arrowhead_normal"
    kappa_scale: float | None = None
    normalize_embeddings: bool = False
    centred: bool = False
    omega: Literal["mean", "sample"] = "mean"
    joint: bool = False
    play: Literal["mean", "expected click", "Thompson"] = "mean"
    num_users: int = 1000
    num_organic_users: int = 20_000
    embedding_dim: int = 20


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    "play: greedy by expected click": Variant(play="expected click"),
    "play: Thompson sampling": Variant(play="Thompson"),
    "guide: normal": Variant(guide="normal"),
    "guide: matrix_normal": Variant(guide="matrix_normal"),
    "guide: laplace": Variant(guide="laplace"),
    "guide: low_rank": Variant(guide="low_rank"),
    "kappa scale: 0.01 (paper)": Variant(kappa_scale=0.01),
    "kappa scale: 0.3": Variant(kappa_scale=0.3),
    "kappa scale: 1": Variant(kappa_scale=1.0),
    "embeddings: columns of norm one": Variant(normalize_embeddings=True),
    "embeddings: centred": Variant(centred=True),
    "omega: sampled": Variant(omega="sample"),
    "training: joint": Variant(joint=True),
    "bandit users: 300": Variant(num_users=300),
    "bandit users: 3,000": Variant(num_users=3000),
    "organic users: 2,000": Variant(num_organic_users=2000),
    "organic users: 60,000": Variant(num_organic_users=60_000),
    "embedding_dim: 5": Variant(embedding_dim=5),
    "embedding_dim: 10": Variant(embedding_dim=10),
    "embedding_dim: 40": Variant(embedding_dim=40),
}
"""By name; every one but the default differs from it in one choice."""


class _ExpectedClick:
    """Scores items by the posterior mean of the click probability, not of its logit."""

    def __init__(self, blob: BLOB) -> None:
        self.blob = blob

    @property
    def items(self) -> Vocabulary:
        return self.blob.items

    def scores(self, histories: Histories | Any) -> Tensor:
        return self.blob.click_logits(histories).click_probability()


@dataclass(frozen=True)
class Ablations:
    """The experiment, by its settings.

    Args:
        num_items: catalogue.
        flips: pairs of products that are swapped.
        interests: latent interests of RecoGym's users.
        test_users: of an A/B test.
        num_epochs: of all fits; their own defaults if None.
        variants: names and what they stand for.
    """

    num_items: int = 100
    flips: int = 50
    interests: int = 10
    test_users: int = 1000
    num_epochs: int | None = None
    variants: tuple[tuple[str, Variant], ...] = tuple(VARIANTS.items())

    def run(self, seed: int, variant: str) -> pd.DataFrame:
        """Run one variant in one environment: a row with its click rate in %, and those of random items and the oracle.

        Args:
            seed: of the environment and of all fits.
            variant: its name.
        """
        environment = RecoGym(self.num_items, num_flips=self.flips, seed=seed, embedding_dim=self.interests)
        policy = self._policy(environment, dict(self.variants)[variant])
        policies: dict[str, AnyPolicy] = {
            "random": Uniform(self.num_items),
            "BLOB": policy,
            "oracle": environment.oracle(),
        }
        result = ab_test(environment, policies, self.test_users, seed=seed)
        rates = {name: 100 * result.click_rate(name).value for name in policies}
        way = (rates["BLOB"] - rates["random"]) / (rates["oracle"] - rates["random"])
        row = {"click_rate": rates["BLOB"], "random": rates["random"], "oracle": rates["oracle"], "of_the_way": way}
        return pd.DataFrame([row])

    def _policy(self, environment: RecoGym, variant: Variant) -> Policy:
        log, blo = _views(self, environment.seed, variant.num_users, variant.num_organic_users, variant.embedding_dim)
        if variant.centred:
            blo = deepcopy(blo)
            with torch.no_grad():
                blo.model.item_embedding.sub_(blo.model.item_embedding.mean(0))
        priors = BanditPriors(normalize_embeddings=variant.normalize_embeddings)
        if variant.kappa_scale is not None:
            priors = replace(priors, kappa_scale=variant.kappa_scale)
        blob = BLOB(blo, guide=variant.guide, priors=priors, omega=variant.omega)
        blob.fit(log, **self._options(environment.seed))
        if variant.joint:
            blob = JointBLOB(blob)
            blob.fit_jointly(log, **self._options(environment.seed))
        if variant.play == "Thompson":
            return ThompsonSampling(blob)
        return Greedy(_ExpectedClick(blob) if variant.play == "expected click" else blob)

    def _options(self, seed: int) -> dict[str, Any]:
        epochs = {} if self.num_epochs is None else {"num_epochs": self.num_epochs}
        return {"seed": seed, "progress": False, "device": "cpu", **epochs}


@lru_cache(maxsize=8)  # variants of one environment share most of this
def _views(
    experiment: Ablations, seed: int, num_users: int, num_organic_users: int, embedding_dim: int
) -> tuple[EventLog, BLO]:
    """Simulate a log of session popularity, and fit BLO to it."""
    environment = RecoGym(
        experiment.num_items, num_flips=experiment.flips, seed=seed, embedding_dim=experiment.interests
    )
    logging = SessionPopularity(experiment.num_items, epsilon=0.3)
    log = environment.simulate(logging, num_users, num_organic_users, propensities=False)
    blo = BLO(experiment.num_items, embedding_dim)
    blo.fit(log, **experiment._options(seed))
    return log, blo


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarise each variant over environments, and its paired difference to the default.

    Args:
        rows: of `Ablations.run`, with ``seed`` and ``variant``.

    Returns:
        A row per variant: ``environments``, ``click rate`` (%), ``of the way`` with its ``se`` over environments, and
        ``against default`` with ``low`` and ``high``: the difference of the shares with its 95 % interval (Student's
        t), NaN for one environment.
    """
    wide = rows.pivot(index="seed", columns="variant", values="of_the_way")
    rate = rows.groupby("variant")["click_rate"].mean()
    table = []
    for variant in dict.fromkeys(rows["variant"]):
        gain = (wide[variant] - wide[DEFAULT]).dropna()
        reach = stats.t.ppf(0.975, len(gain) - 1) * gain.sem() if len(gain) > 1 else float("nan")
        share = wide[variant].dropna()
        table.append(
            {"variant": variant, "environments": len(share), "click rate": rate[variant], "of the way": share.mean(),
             "se": share.sem(), "against default": gain.mean(), "low": gain.mean() - reach, "high": gain.mean() + reach}
        )  # fmt: skip
    return pd.DataFrame(table).set_index("variant")


def plot(table: pd.DataFrame) -> Figure:
    """Plot differences of `summarize` to the default with their intervals, in the order of the table."""
    from matplotlib.figure import Figure

    rows = table.drop(index=DEFAULT)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.25 * len(rows)), layout="constrained")
    ax = figure.subplots()
    reach = (rows["high"] - rows["against default"]).fillna(0)
    ax.errorbar(rows["against default"], range(len(rows)), xerr=reach, fmt="o", markersize=4, capsize=2)
    ax.axvline(0, color="k", linewidth=0.8)
    ax.set_yticks(range(len(rows)), rows.index)
    share = float(table["of the way"][DEFAULT])
    ax.set_xlabel(f"share of the way from random items to the oracle,\nless the default's ({share:.2f})")
    ax.grid(alpha=0.3)
    return figure
