"""Tables 3 and 4 of Sakhi et al. (2020): click rates of agents in RecoGym, as published and as one would have them.

*As published*, an agent sees the views since its last recommendation, nine times in ten none, so that it plays one item
nearly always: the table says which. The encoder is linear, kappa's scale 0.01, Psi has columns of norm one. *Proper*
agents see all of the user's views, and BLO and BLOB are as this package has them by default. Both learn from the same
log, of session popularity with epsilon 0.3, in RecoGym with ten latent interests, and meet the same users.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro._version import __version__
from blob_pyro.data import Histories
from blob_pyro.models import BanditPriors
from blob_pyro.policies import Greedy, Policy, SessionPopularity
from blob_pyro.policies.base import categorical
from blob_pyro.policies.baselines import BASELINES
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.decisions import AnyPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAPER", "TABLE_3", "TABLE_4", "ClickRates", "EstimatedInterests", "plot", "run_all", "summarize"]

SETTINGS: dict[str, Literal["all", "since_last_action"]] = {"as published": "since_last_action", "proper": "all"}

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

    def run(self, flips: int, seed: int) -> pd.DataFrame:
        """Run one environment and log: a row per setting and agent, with its click rate in %."""
        environment = RecoGym(self.num_items, num_flips=flips, seed=seed, embedding_dim=self.interests)
        logging = SessionPopularity(self.num_items, epsilon=0.3)
        log = environment.simulate(logging, self.num_users, self.num_organic_users)
        learned: dict[str, AnyPolicy] = {name: BASELINES[name](log, seed) for name in self.agents}
        rows = []
        for setting, history in SETTINGS.items():
            policies = {"random": BASELINES["random"](log, seed), **learned, **self._ours(log, setting, seed)}
            policies["best constant item"] = Constant(self.num_items, best_item(environment))
            policies["oracle, estimated interests"] = EstimatedInterests(environment)
            policies["oracle"] = environment.oracle()
            result = ab_test(environment, policies, self.test_users, history=history, seed=seed)
            rows += [
                {"flips": flips, "seed": seed, "setting": setting, "agent": name, "click_rate": 100 * row["click_rate"],
                 "top_item_share": row["top_item_share"]}
                for name, row in result.table().iterrows()
            ]  # fmt: skip
        return pd.DataFrame(rows)

    def _ours(self, log: EventLog, setting: str, seed: int) -> dict[str, Policy]:
        published = setting == "as published"
        blo = BLO(self.num_items, self.embedding_dim, encoder="linear" if published else "precision")
        options: dict[str, Any] = {"seed": seed, "progress": False, "device": "cpu"}
        options |= {} if self.num_epochs is None else {"num_epochs": self.num_epochs}
        blo.fit(log, **options)
        priors = replace(BanditPriors.paper(), normalize_embeddings=True) if published else BanditPriors()
        ours: dict[str, Policy] = {"BLO": Greedy(blo)}
        for name, guide in (("BLOB-NQ", "normal"), ("BLOB-MNQ", "matrix_normal")):
            blob = BLOB(blo, guide=guide, priors=priors)
            blob.fit(log, **options)
            ours[name] = Greedy(blob)
        return ours


TABLE_3 = ClickRates()
TABLE_4 = ClickRates(
    num_items=1000, flips=(0, 500), agents=tuple(name for name in _BASELINES if name not in _P_SQUARED)
)


class Constant(Policy):
    """The same item after every history."""

    def __init__(self, num_items: int, item: int) -> None:
        super().__init__(num_items)
        self.item = item

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`."""
        history = self.histories(histories)
        return categorical(torch.nn.functional.one_hot(torch.tensor(self.item), self.num_items).float()).expand(
            (len(history),)
        )


def best_item(environment: RecoGym, num_draws: int = 20_000) -> int:
    """Find the item with the highest click rate over users as they arrive."""
    generator = torch.Generator().manual_seed(environment.seed)
    omega = torch.randn(num_draws, environment.embedding_dim, dtype=torch.float64, generator=generator)
    return int(environment.click_probability(environment.sigma_omega_initial * omega).mean(0).argmax())


class EstimatedInterests(Policy):
    """Knows both catalogues' parameters, and of users what they viewed: greedy at the posterior mode of omega.

    Args:
        environment: whose ``gamma``, ``mu_organic``, ``beta`` and ``mu_bandit`` it knows.
        num_steps: of Newton's method, each no longer than 2.
    """

    def __init__(self, environment: RecoGym, num_steps: int = 25) -> None:
        super().__init__(environment.num_items)
        self.environment, self.num_steps = environment, num_steps

    def interests(self, histories: Histories | Any) -> Tensor:
        """Return the posterior modes of omega, as if it had stood still, ``N x embedding_dim``."""
        counts = self.histories(histories).counts(torch.float64)
        gamma, total = self.environment.gamma, counts.sum(-1, keepdim=True)
        omega = gamma.new_zeros(len(counts), gamma.shape[1])
        prior = torch.eye(gamma.shape[1], dtype=gamma.dtype) / self.environment.sigma_omega_initial**2
        for _ in range(self.num_steps):
            probs = self.environment.organic_probability(omega)
            mean = probs @ gamma
            second = torch.einsum("np,pi,pj->nij", probs, gamma, gamma) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
            slope = counts @ gamma - total * mean - omega @ prior
            step = torch.linalg.solve(total.unsqueeze(-1) * second + prior, slope)
            omega = omega + step * (2 / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
        return omega

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`."""
        best = self.environment.click_probability(self.interests(histories)).argmax(-1)
        return categorical(torch.nn.functional.one_hot(best, self.num_items).float())


def run_all(experiment: ClickRates, seeds: range, output: Path) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Run every environment that ``output`` does not hold yet; the settings stand beside the results.

    Yields:
        Flips, seed and all rows so far, after each environment.

    Raises:
        ValueError: if ``output`` holds results of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(asdict(experiment)))
    about = {"settings": settings, "blob_pyro": __version__, "torch": torch.__version__, "pyro": pyro.__version__,
             "python": platform.python_version(), "machine": platform.platform()}  # fmt: skip
    record, table = output / "settings.json", output / "runs.csv"
    if record.exists() and json.loads(record.read_text())["settings"] != settings:
        raise ValueError(f"output: {record} is of other settings; name another folder, or remove this one")
    record.write_text(json.dumps(about, indent=2) + "\n")
    rows = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["flips", "seed"])
    for seed in seeds:
        for flips in experiment.flips:
            if not ((rows["seed"] == seed) & (rows["flips"] == flips)).any():
                new = experiment.run(flips, seed)
                rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
                part = table.with_suffix(".part")  # a kill leaves the old file or the new one
                rows.round(6).to_csv(part, index=False)
                part.replace(table)
            yield flips, seed, rows


def summarize(rows: pd.DataFrame, num_items: int) -> pd.DataFrame:
    """Summarise per flips, setting and agent: mean over environments, against the paper, random items and BLO.

    Returns:
        Columns ``click rate`` (%) with its ``se`` over environments, ``paper``, ``of the way`` from random items to the
        oracle, ``top item``, and ``against BLO`` with ``low`` and ``high``: the paired difference in % with its 95 %
        interval (Student's t), NaN for one environment.
    """
    table = []
    for (flips, setting), part in rows.groupby(["flips", "setting"], sort=False):
        wide = part.pivot(index="seed", columns="agent", values="click_rate")
        top = part.groupby("agent")["top_item_share"].mean()
        size, way = len(wide), wide["oracle"] - wide["random"]
        paper = PAPER.get((num_items, int(str(flips))), {})
        quantile = stats.t.ppf(0.975, size - 1) if size > 1 else float("nan")
        for agent in wide.mean().sort_values(ascending=False).index:
            gain = wide[agent] - wide["BLO"]
            reach = quantile * gain.sem() if size > 1 else float("nan")
            table.append(
                {"flips": flips, "setting": setting, "agent": agent, "click rate": wide[agent].mean(),
                 "se": wide[agent].sem(), "paper": paper.get(str(agent), float("nan")),
                 "of the way": ((wide[agent] - wide["random"]) / way).mean(), "top item": top[agent],
                 "against BLO": gain.mean(), "low": gain.mean() - reach, "high": gain.mean() + reach}
            )  # fmt: skip
    return pd.DataFrame(table).set_index(["flips", "setting", "agent"])


def plot(table: pd.DataFrame) -> Figure:
    """Plot click rates of `summarize` with a standard error to either side, a panel per flips; crosses: the paper's."""
    from matplotlib.figure import Figure

    flips = list(dict.fromkeys(table.index.get_level_values("flips")))
    figure = Figure(figsize=(5.2 * len(flips), 5), layout="constrained")
    for ax, number in zip(figure.subplots(1, len(flips), squeeze=False)[0], flips):
        part = table.loc[number]
        agents = list(part.loc["proper"].index)[::-1]
        place = {agent: at for at, agent in enumerate(agents)}
        for setting, shift in (("as published", -0.15), ("proper", 0.15)):
            rows = part.loc[setting]
            at = [place[agent] + shift for agent in rows.index]
            ax.errorbar(rows["click rate"], at, xerr=rows["se"].fillna(0), fmt="o", markersize=4, label=setting)
        paper = part.loc["as published"]["paper"].dropna()
        ax.plot(paper, [place[agent] - 0.15 for agent in paper.index], "kx", label="printed")
        ax.set_yticks(range(len(agents)), agents)
        ax.set_title(f"{number} flips")
        ax.set_xlabel("click rate, %")
        ax.grid(axis="x", alpha=0.3)
    ax.legend(loc="lower right")
    return figure
