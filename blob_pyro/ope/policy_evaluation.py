"""`evaluate`: the value of a policy from the log of another, by several estimators at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.ope import checks
from blob_pyro.ope.evaluation import Evaluation
from blob_pyro.ope.folds import fold_of_users, only_users
from blob_pyro.ope.logged_rows import AnyRewardModel, Predict, RewardModel, read_rows
from blob_pyro.ope.registry import ESTIMATORS, RowEstimator
from blob_pyro.ope.reliability import OffPolicyWarning
from blob_pyro.policies import Policy

__all__ = ["evaluate"]


def evaluate(
    log: EventLog,
    policy: Policy,
    reward_model: AnyRewardModel | None = None,
    estimators: Sequence[str | RowEstimator] | None = None,
    *,
    baseline: Policy | str | None = None,
    fit: Callable[[EventLog], AnyRewardModel] | None = None,
    logging_policy: Policy | None = None,
    groups: Any = "user",
    folds: int = 5,
    seed: int = 0,
) -> Evaluation:
    """Estimate the reward per impression that a policy would have had in a log's contexts, and how far that is known.

    Policies and models are asked about histories alone: those that look at covariates of events, too, say that they
    miss them; wrap them in a policy that knows them. Each distinct context is asked about once, in chunks: no matrix of
    all contexts times all items is made. In a log of slates (a user has several positions at one time) a row counts
    with the probability that the target puts the item into that position, and a position with what the target puts
    there on average: rewards are taken to depend on item and position alone. Rows are taken in the order of time, so
    that ``method="anytime"`` intervals look at the log as it grew.

    Args:
        log: with ``propensity``: the probability with which what acted played what was logged.
        policy: to be valued, over the log's catalogue.
        reward_model: for the direct method and doubly robust estimates: a fitted `blob_pyro.BLOB` (its posterior mean
            click probability), anything with ``click_probabilities(histories)``, a function of histories, or an array:
            ``N x P`` in the log's order of impressions, or one row per entry of ``log.contexts``. A model that was
            fitted to this very log flatters itself: use ``fit``.
        estimators: names (see `blob_pyro.ope.registry.ESTIMATORS`) or functions of `LoggedRows`. Default: ips, snips
            and beta_ips, with a reward model also direct_method, doubly_robust and self_normalized_dr, with a baseline
            also delta_ips, delta_snips and delta_beta_ips.
        baseline: a policy that the target is compared with, or ``"logging"`` for the one that logged.
        fit: cross-fitting: from the log of some users to a reward model, which then predicts the others.
        logging_policy: the one that logged, if it is at hand: then the target's mass on what the log never shows is
            known (`Estimate.support`).
        groups: what rewards are correlated within: ``"user"``, an array of ``N`` in the log's order, or None for rows.
        folds: of cross-fitting, by user: the reward model's and beta-IPS's.
        seed: deals the users to folds.

    Returns:
        `Evaluation`: printed, a table; ``.table()``, ``.plot()``, ``.warnings``, and ``evaluation["snips"]``.

    Raises:
        ValueError: for a log without propensities, another catalogue, an unknown estimator, or one that lacks its
            reward model or baseline; for probabilities that do not sum to one.

    Warns:
        OffPolicyWarning: where a fitted reward model is passed that cannot be cross-fitted.
        MissingSupportWarning: where the target plays what the log never shows.

    Example:
        >>> from blob_pyro.policies import SessionPopularity, Uniform
        >>> from blob_pyro.simulation import RecoGym
        >>> log = RecoGym(num_items=10, seed=0).simulate(SessionPopularity(10), num_users=100)
        >>> evaluation = evaluate(log, Uniform(10))
        >>> evaluation["snips"].num_groups
        94
    """
    log.require_impressions()
    if log.propensity is None:
        raise ValueError("log: has no column 'propensity'; log the probability of each action that is played")
    for name, one in (("policy", policy), ("baseline", baseline), ("logging_policy", logging_policy)):
        if isinstance(one, Policy) and one.num_items != log.num_items:
            raise ValueError(f"{name}: chooses among {one.num_items} items, the log has {log.num_items}")
    if isinstance(baseline, str) and baseline != "logging":
        raise ValueError(f"baseline: expected a policy, 'logging' or None, got {baseline!r}")
    if reward_model is not None and fit is not None:
        raise ValueError("fit: pass either a reward_model or fit, which makes one for each fold")
    chosen = _choose(estimators, reward_model is not None or fit is not None, baseline is not None)
    clusters = log.user.cpu().numpy() if isinstance(groups, str) and groups == "user" else groups
    if clusters is not None:
        clusters = checks.group_codes(clusters, log.num_impressions)[0].numpy()
    predict = _predictors(log, reward_model, fit, folds, seed)
    rows = read_rows(log, policy, baseline, logging_policy, predict, clusters, folds)
    estimates = {}
    for name, estimator in chosen.items():
        estimate = estimator(rows)
        estimates[name] = estimate.with_support(rows.support) if not name.startswith("delta") else estimate
    return Evaluation(estimates, repr(policy), None if baseline is None else str(baseline), log.num_impressions)


def _choose(
    estimators: Sequence[str | RowEstimator] | None, with_model: bool, with_baseline: bool
) -> dict[str, RowEstimator]:
    if estimators is None:
        names = ["ips", "snips", "beta_ips"]
        names += ["direct_method", "doubly_robust", "self_normalized_dr"] if with_model else []
        names += ["delta_ips", "delta_snips", "delta_beta_ips"] if with_baseline else []
        return {name: ESTIMATORS[name] for name in names}
    if isinstance(estimators, str) or not len(estimators):
        raise ValueError(f"estimators: expected a sequence of names or functions, got {estimators!r}")
    chosen: dict[str, RowEstimator] = {}
    for one in estimators:
        if isinstance(one, str):
            if one not in ESTIMATORS:
                raise ValueError(f"estimators: unknown {one!r}; there are {', '.join(ESTIMATORS)}")
            chosen[one] = ESTIMATORS[one]
        else:
            chosen[getattr(one, "__name__", type(one).__name__)] = one
    return chosen


def _predictors(
    log: EventLog,
    reward_model: AnyRewardModel | None,
    fit: Callable[[EventLog], AnyRewardModel] | None,
    folds: int,
    seed: int,
) -> list[tuple[Tensor, Predict]]:
    """Which contexts each reward model predicts: all of them, or those of the users that it has not seen."""
    every = torch.ones(len(log.contexts), dtype=torch.bool)
    if reward_model is not None:
        if isinstance(reward_model, RewardModel):
            warnings.warn(
                "reward_model: was fitted before, on this log for all that is known; its predictions then know the "
                "rewards that they are to correct. Pass fit=... to fit it for each fold of users, without the others",
                OffPolicyWarning,
                stacklevel=3,
            )
        return [(every, _predictor(log, reward_model))]
    if fit is None:
        return []
    fold = fold_of_users(log.num_users, folds, seed)
    user_of_context = torch.zeros(len(log.contexts), dtype=torch.int64)
    user_of_context[log.context] = log.user
    models = []
    for k in range(folds):
        train = only_users(log, fold != k)
        models.append((fold[user_of_context] == k, _predictor(log, fit(train))))
    return models


def _predictor(log: EventLog, model: AnyRewardModel) -> Predict:
    if isinstance(model, (Tensor, np.ndarray)):
        matrix = checks.predictions("reward_model", model)
        if matrix.shape == (log.num_impressions, log.num_items) and len(log.contexts) != log.num_impressions:
            return _of_rows(log, matrix)
        if matrix.shape != (len(log.contexts), log.num_items):
            raise ValueError(
                f"reward_model: has shape {tuple(matrix.shape)}, expected one row per impression "
                f"{(log.num_impressions, log.num_items)} or per context {(len(log.contexts), log.num_items)}"
            )
        return lambda contexts: matrix[contexts]
    ask = model.click_probabilities if isinstance(model, RewardModel) else model
    if not callable(ask):
        raise TypeError(
            f"reward_model: expected a model with click_probabilities, a function of histories or an array, got "
            f"{type(model).__name__}"
        )

    def predict(contexts: Tensor) -> Tensor:
        with torch.no_grad():
            return checks.as_matrix("reward_model", ask(log.contexts[contexts]))

    return predict


def _of_rows(log: EventLog, matrix: Tensor) -> Predict:
    """Predictions given per impression; those of one context must agree, because contexts are asked about once."""
    first = torch.full((len(log.contexts),), log.num_impressions).scatter_reduce(
        0, log.context, torch.arange(log.num_impressions), "amin"
    )
    for rows in checks.row_slices(*matrix.shape):
        off = (matrix[rows] != matrix[first[log.context[rows]]]).any(-1)
        problem = "differs from the prediction of an earlier row of the same context"
        remedy = "Give the impressions of one context (log.context) one prediction"
        checks.refuse("reward_model", off, log.context[rows], problem, remedy, rows.start)
    return lambda contexts: matrix[first[contexts]]
