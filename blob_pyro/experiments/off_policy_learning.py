"""Learning from a log by gradient ascent on the off-policy estimate of a Thompson-sampling policy's value.

A click-through model is one way from a log to a better policy. Another needs no model of clicks: the value that the log
implies for a policy is differentiable in its propensities, and these, exact, in the parameters that it draws scores
from. In RecoGym:

1. a Bayesian logistic regression on what users viewed learns from a few users; its Thompson sampling is the start;
2. `SessionPopularity` logs many other users;
3. the means and variances of the regression's weights are moved by Adam along the gradient of the doubly robust
   estimate (or of SNIPS) of the policy's value in that log, a few contexts at a time.

True values are the environment's own: expected clicks of fresh users in an A/B test.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from blob_pyro.data import EventLog, Histories
from blob_pyro.ope import Estimate, doubly_robust, snips
from blob_pyro.ops.arguments import one_of
from blob_pyro.policies import (
    BayesianLogisticRegression,
    Greedy,
    LogisticThompsonSampling,
    NormalScores,
    Policy,
    SessionPopularity,
)
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.decisions import AnyPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LinearScores", "OffPolicyLearning", "improve", "plot", "summarize", "view_shares"]

_START_LOG, _LEARNING_LOG, _TEST_USERS = 1, 2, 3  # seeds of users
_FOLDS = 2


def view_shares(histories: Histories) -> Tensor:
    """Return a constant, and each item's share of the views with one more view of nothing; ``N x (1 + P)`` float64."""
    counts = histories.counts(torch.float64)
    return torch.cat([torch.ones_like(counts[:, :1]), counts / (1 + counts.sum(-1, keepdim=True))], -1)


class LinearScores(nn.Module):
    """Normal scores that are linear in features with independent normal weights, as a logistic regression has them.

    Args:
        regression: diagonal, with weights per item; its posterior is where training starts.

    Attributes:
        loc: ``P x D``, means of the weights.
        log_variance: ``P x D``, log-variances of the weights.
    """

    def __init__(self, regression: BayesianLogisticRegression) -> None:
        super().__init__()
        self.loc = nn.Parameter(regression.loc.clone())
        self.log_variance = nn.Parameter(-regression.precision.log())

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return locations and scales, ``N x P`` each."""
        x = view_shares(histories)
        return x @ self.loc.mT, (x.square() @ self.log_variance.exp().mT).sqrt()


def improve(
    policy: Policy,
    parameters: list[nn.Parameter],
    log: EventLog,
    *,
    objective: str = "doubly_robust",
    num_steps: int = 100,
    contexts_per_step: int = 500,
    learning_rate: float = 0.05,
    predicted_reward: Tensor | None = None,
    seed: int = 0,
) -> list[float]:
    """Move a policy's parameters along the gradient of the value that a log implies for it.

    Args:
        policy: whose propensities are differentiable in ``parameters``, which are changed in place.
        parameters: to be trained.
        log: with propensities.
        objective: ``"doubly_robust"`` or ``"snips"``.
        num_steps: of Adam.
        contexts_per_step: distinct contexts of a step, with all their impressions.
        learning_rate: of Adam.
        predicted_reward: one row per entry of ``log.contexts``, one column per item, by a model that has not seen the
            user; needed by ``"doubly_robust"``.
        seed: of the order of contexts.

    Returns:
        The estimate of each step's contexts before the step.
    """
    one_of(objective, "objective", ("doubly_robust", "snips"))
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    if objective == "doubly_robust" and predicted_reward is None:
        raise ValueError("predicted_reward: is needed by 'doubly_robust'; pass predictions, or objective='snips'")
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    contexts, values = len(log.contexts), []
    for _ in range(num_steps):
        chosen = torch.randperm(contexts, generator=generator)[:contexts_per_step]
        place = torch.full((contexts,), -1)
        place[chosen] = torch.arange(len(chosen))
        rows = (place[log.context] >= 0).nonzero().squeeze(-1)
        probs = policy.action_distribution(log.contexts[chosen]).probs[place[log.context[rows]]]
        predicted = None if predicted_reward is None else predicted_reward[log.context[rows]]
        estimate = _estimate(objective, log, rows, probs, predicted)
        gradients = torch.autograd.grad(estimate.value, parameters)
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = -gradient  # Adam descends
        optimizer.step()
        values.append(estimate.value.item())
    return values


def _estimate(objective: str, log: EventLog, rows: Tensor, probs: Tensor, predicted: Tensor | None) -> Estimate:
    assert log.propensity is not None
    reward, action, logging = log.reward[rows], log.action[rows], log.propensity[rows]
    if objective == "snips":
        return snips(reward, probs.gather(-1, action[:, None]).squeeze(-1), logging)
    return doubly_robust(reward, probs, logging, action=action, predicted_reward=predicted)


@dataclass(frozen=True)
class OffPolicyLearning:
    """The experiment on off-policy learning.

    Args:
        num_items: catalogue; half of the items have swapped click behaviour with another one.
        num_start_users: that the start learns from, logged by `SessionPopularity` like the others.
        num_users: of the log that the policy is improved with.
        num_test_users: of the A/B test.
        objective: see `improve`, as for what follows.
        num_steps: in all; true values are measured ``num_checks`` times on the way.
        num_checks: see above.
        contexts_per_step: see `improve`.
        learning_rate: see `improve`.
    """

    num_items: int = 10
    num_start_users: int = 100
    num_users: int = 2000
    num_test_users: int = 2000
    objective: str = "doubly_robust"
    num_steps: int = 100
    num_checks: int = 4
    contexts_per_step: int = 500
    learning_rate: float = 0.05

    def run(self, seed: int) -> pd.DataFrame:
        """Run one environment: the true click rate of each policy, and what it gains on the start.

        Returns:
            Columns ``seed``, ``policy``, ``step`` (of the policy being learned; the last step for the others),
            ``click_rate``, ``gain`` and ``gain_error`` (over fresh users, who are the same for all policies).
        """
        environment = RecoGym(num_items=self.num_items, num_flips=self.num_items // 2, seed=seed)
        logging = SessionPopularity(self.num_items)
        start = self._regression()
        thompson = LogisticThompsonSampling(self.num_items, view_shares, start)
        thompson.update(environment.simulate(logging, self.num_start_users, seed=_START_LOG))
        log = environment.simulate(logging, self.num_users, seed=_LEARNING_LOG)
        predicted = self.cross_fit(log)
        scores = LinearScores(start)
        stages = {0: copy.deepcopy(scores)}
        per_check = self.num_steps // self.num_checks
        for check in range(1, self.num_checks + 1):
            improve(
                NormalScores(self.num_items, scores),
                list(scores.parameters()),
                log,
                objective=self.objective,
                num_steps=per_check,
                contexts_per_step=self.contexts_per_step,
                learning_rate=self.learning_rate,
                predicted_reward=predicted if self.objective == "doubly_robust" else None,
                seed=check,
            )
            stages[check * per_check] = copy.deepcopy(scores)
        model = LogisticThompsonSampling(self.num_items, view_shares, self._regression())
        model.update(log)
        policies: dict[str, AnyPolicy] = {
            "logging policy": logging,
            "greedy on a model of the whole log": Greedy(model),
            **{f"learned {step}": NormalScores(self.num_items, stage) for step, stage in stages.items()},
            "oracle": environment.oracle(),
        }
        with torch.no_grad():
            test = ab_test(environment, policies, self.num_test_users, seed=_TEST_USERS)
        rows = []
        for name in policies:
            gain = test.difference(name, "learned 0")
            other, _, step = name.partition("learned ")
            rows.append(
                {
                    "seed": seed,
                    "policy": other or "learned",
                    "step": int(step) if step else self.num_checks * per_check,
                    "click_rate": test.click_rate(name).value,
                    "gain": gain.value,
                    "gain_error": gain.standard_error,
                }
            )
        return pd.DataFrame(rows)

    def cross_fit(self, log: EventLog) -> Tensor:
        """Predict click probabilities by regressions on the other half of the users, ``contexts x P``."""
        x = view_shares(log.contexts)
        user = torch.zeros(len(log.contexts), dtype=torch.int64)
        user[log.context] = log.user
        predicted = torch.zeros(len(log.contexts), self.num_items, dtype=torch.float64)
        for fold in range(_FOLDS):
            mine, regression = user % _FOLDS == fold, self._regression()
            others = ~mine[log.context]
            regression.update(x[log.context[others]], log.reward[others], log.action[others])
            predicted[mine] = regression.click_probabilities(x[mine])
        return predicted

    def _regression(self) -> BayesianLogisticRegression:
        """Clicks are rare, some one in a hundred: the constant's prior mean says so."""
        prior = torch.zeros(self.num_items, 1 + self.num_items, dtype=torch.float64)
        prior[:, 0] = -4.5
        return BayesianLogisticRegression(1 + self.num_items, self.num_items, prior_loc=prior)


def summarize(runs: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Summarise over environments: click rate and gain on the start of each policy and step, with Student's interval.

    Args:
        runs: rows of `OffPolicyLearning.run`, of at least two seeds.
        confidence: of the interval of the mean gain.
    """
    groups = runs.groupby(["policy", "step"], sort=False)
    table = groups.agg(click_rate=("click_rate", "mean"), gain=("gain", "mean"), environments=("gain", "size"))
    reach = groups["gain"].sem() * stats.t.ppf(0.5 + confidence / 2, table["environments"] - 1)
    table.insert(2, "gain_low", table["gain"] - reach)
    table.insert(3, "gain_high", table["gain"] + reach)
    table["improved"] = groups["gain"].apply(lambda gain: (gain > 0).sum())
    return table.reset_index()


def plot(runs: pd.DataFrame) -> Figure:
    """Plot true click rate against steps of gradient ascent: each environment, and their mean between two bounds.

    Args:
        runs: rows of `OffPolicyLearning.run`.
    """
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    learned = runs[runs["policy"] == "learned"]
    for _, run in learned.groupby("seed"):
        ax.plot(run["step"], 100 * run["click_rate"], color="C0", alpha=0.25, linewidth=1)
    mean = 100 * learned.groupby("step")["click_rate"].mean()
    ax.plot(mean.index, mean, "o-", color="C0", label="learned, mean of environments")
    others = runs[runs["policy"] != "learned"].groupby("policy", sort=False)["click_rate"].mean()
    for (name, rate), style in zip(others.items(), (":", "-.", "--")):
        ax.axhline(100 * rate, color="0.4", linestyle=style, linewidth=1, label=str(name))
    ax.set_xlabel("steps of gradient ascent on the log's estimate")
    ax.set_ylabel("true click rate, %")
    ax.legend(fontsize="small")
    return figure
