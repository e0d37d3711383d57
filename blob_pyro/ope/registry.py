"""Estimators by name, for `blob_pyro.ope.evaluate`; a new one is one function and one line, here or outside."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from blob_pyro.ope.delta import delta_beta_ips, delta_ips, delta_snips
from blob_pyro.ope.doubly_robust import direct_method, doubly_robust, self_normalized_dr
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.importance import beta_ips, ips, snips
from blob_pyro.ope.logged_rows import LoggedRows

__all__ = ["ESTIMATORS", "RowEstimator", "register_estimator"]

RowEstimator = Callable[[LoggedRows], Estimate]

ESTIMATORS: dict[str, RowEstimator] = {
    "ips": lambda r: ips(r.reward, r.target, r.logging, groups=r.groups),
    "snips": lambda r: snips(r.reward, r.target, r.logging, groups=r.groups),
    "beta_ips": lambda r: beta_ips(r.reward, r.target, r.logging, groups=r.groups, cross_fit=r.folds),
    "direct_method": lambda r: direct_method(r.predicted_reward, r.target_probs, groups=r.groups),
    "doubly_robust": lambda r: doubly_robust(
        r.reward, r.target_probs, r.logging, action=r.action, predicted_reward=r.predicted_reward, groups=r.groups
    ),
    "self_normalized_dr": lambda r: self_normalized_dr(
        r.reward, r.target_probs, r.logging, action=r.action, predicted_reward=r.predicted_reward, groups=r.groups
    ),
    "delta_ips": lambda r: delta_ips(r.reward, r.target, _baseline(r), r.logging, groups=r.groups),
    "delta_snips": lambda r: delta_snips(r.reward, r.target, _baseline(r), r.logging, groups=r.groups),
    "delta_beta_ips": lambda r: delta_beta_ips(
        r.reward, r.target, _baseline(r), r.logging, groups=r.groups, cross_fit=r.folds
    ),
}


def register_estimator(name: str, estimator: RowEstimator) -> None:
    """Make an estimator known to `blob_pyro.ope.evaluate` by name.

    Args:
        name: not taken yet.
        estimator: from `LoggedRows` to an `Estimate`.

    Raises:
        ValueError: for a name that is taken.

    Example:
        >>> register_estimator("clipped_ips", lambda r: ips(r.reward, r.target, r.logging, groups=r.groups, clip=10))
        >>> _ = ESTIMATORS.pop("clipped_ips")
    """
    if name in ESTIMATORS:
        raise ValueError(f"name: an estimator {name!r} is known already; choose another name")
    ESTIMATORS[name] = estimator


def _baseline(rows: LoggedRows) -> Tensor:
    if rows.baseline is None:
        raise ValueError("baseline: is needed by this estimator; pass a policy, or 'logging' for the one that logged")
    return rows.baseline
