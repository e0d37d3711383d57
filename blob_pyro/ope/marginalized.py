r"""Marginalised importance sampling: weights of what an action *is*, not of which action it is.

Where an action acts through its embedding ``e`` alone (no direct effect), rewards may be weighed by

.. math:: w(x, e) = \frac{\sum_a p(e \mid a) \pi(a \mid x)}{\sum_a p(e \mid a) \pi_0(a \mid x)}

(Saito and Joachims 2022, equation 7). Many actions share an embedding, so these weights vary far less. Clusters of
actions are the case in which the embedding is a function of the action.

References:
    Y. Saito, T. Joachims. "Off-policy evaluation for large action spaces via embeddings". ICML (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.bounded_terms import WeightedTerms
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.moments import Moments
from blob_pyro.ope.weights import importance_weights

__all__ = ["marginalized_ips"]


@checks.one_row_order
def marginalized_ips(
    reward: Any,
    target_probs: Any,
    logging_probs: Any,
    *,
    action: Any = None,
    clusters: Any = None,
    embedding: Any = None,
    embedding_probs: Any = None,
    clip: float | None = None,
    groups: Any = None,
    self_normalized: bool = False,
) -> Estimate:
    """Estimate by IPS with the weights of clusters or embeddings of actions.

    Pass ``action`` and ``clusters``; or ``embedding`` and ``embedding_probs``, where the embedding of an action is
    random.

    Args:
        reward: ``N`` rewards.
        target_probs: ``N x A`` probabilities of the policy to be valued; the value is differentiable in them.
        logging_probs: ``N x A`` probabilities of the logging policy: those of the logged actions do not suffice.
        action: ``N`` logged actions, columns of the matrices.
        clusters: ``A`` clusters, one of each action, of any kind.
        embedding: ``N`` observed categories of embedding, 0 to ``E - 1``.
        embedding_probs: ``A x E``, the probability of each category given the action.
        clip: cut weights to this; the estimate is then biased, and says so.
        groups: ``N`` users that standard errors and resampling go by.
        self_normalized: divide by the sum of weights instead of by ``N``.

    Returns:
        An `Estimate`; biased where actions of one embedding differ in their effect, which no log can tell.
        `Estimate.support` counts the mass on *embeddings* that the log never shows.

    Raises:
        ValueError: naming argument, row and remedy; also for an embedding that the logging policy cannot have shown.

    Example:
        >>> estimate = marginalized_ips(
        ...     [1, 0], [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], [[0.2, 0.3, 0.5]] * 2, action=[0, 2], clusters=list("xxy")
        ... )
        >>> round(estimate.value, 4)  # half of 0.9 / 0.5
        0.9
    """
    device = checks.device_of(reward, target_probs, logging_probs)
    gain = checks.rewards("reward", reward, device)
    target = checks.probabilities("target_probs", target_probs, device)
    logging = checks.probabilities("logging_probs", logging_probs, device)
    checks.same_length(reward=gain, target_probs=target, logging_probs=logging, groups=groups)
    if target.shape != logging.shape:
        raise ValueError(
            f"logging_probs: has {logging.shape[1]} actions where target_probs has {target.shape[1]}; both need one "
            "column per action"
        )
    shown, kernel = _embedding(action, clusters, embedding, embedding_probs, target.shape[1], gain.device)
    checks.same_length(reward=gain, **{"action" if clusters is not None else "embedding": shown})
    of_target, of_logging, missing = _marginals(target, logging, kernel, shown)
    problem = "the logging policy could not have shown this embedding"
    remedy = "Check that actions are numbered as the columns are"
    checks.refuse("embedding" if clusters is None else "action", of_logging == 0, shown, problem, remedy)
    weights = importance_weights(of_target, of_logging, clip)
    weight = weights.values
    weighted = weight * gain
    moments = Moments.ratio(weighted, weight) if self_normalized else Moments.mean(weighted)
    return Estimate.build(
        "marginalized_ips",
        moments,
        tensor=checks.has_torch(reward, target_probs, logging_probs),
        weights=weight,
        support=missing,
        groups=groups,
        clip=weights.clip,
        clipped_share=weights.clipped_share,
        bounded=None if self_normalized else WeightedTerms(gain.detach(), weight.detach()),
        notes=("self-normalised",) if self_normalized else (),
    )


def _embedding(
    action: Any, clusters: Any, embedding: Any, embedding_probs: Any, num_actions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The category that each row showed, and the ``A x E`` probabilities of categories."""
    by_cluster, by_embedding = (clusters, action), (embedding, embedding_probs)
    if any(v is None for v in by_cluster) == any(v is None for v in by_embedding):
        raise ValueError("clusters: pass action and clusters, or embedding and embedding_probs; one pair and not both")
    if clusters is not None:
        codes, count = checks.group_codes(clusters, num_actions, device, "clusters")
        played = checks.actions("action", action, num_actions, device)
        kernel = torch.zeros(num_actions, count, dtype=torch.float64, device=device)
        return codes[played], kernel.scatter_(1, codes[:, None], 1.0)
    kernel = checks.probabilities("embedding_probs", embedding_probs, device).to(torch.float64)
    if kernel.shape[0] != num_actions:
        raise ValueError(f"embedding_probs: has {kernel.shape[0]} rows where there are {num_actions} actions")
    return checks.actions("embedding", embedding, kernel.shape[1], device), kernel


def _marginals(target: Tensor, logging: Tensor, kernel: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, float]:
    """Both policies' probabilities of what was shown, and the target's mass on what the log never shows."""
    of_target, of_logging, missing = [], [], 0.0
    for rows in checks.row_slices(len(target), max(target.shape[1], kernel.shape[1])):
        wanted, had = (probs[rows].to(torch.float64) @ kernel for probs in (target, logging))
        missing += float(wanted.detach().masked_fill(had > 0, 0.0).sum())
        seen = shown[rows, None]
        of_target.append(wanted.gather(-1, seen).squeeze(-1))
        of_logging.append(had.gather(-1, seen).squeeze(-1))
    return torch.cat(of_target), torch.cat(of_logging), missing / len(target)
