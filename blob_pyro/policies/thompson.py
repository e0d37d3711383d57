"""Thompson sampling from a fitted bandit model, with its propensities."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Protocol

from pyro.distributions import TorchDistribution

from blob_pyro.data import Histories, Vocabulary
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks, slice_covariates
from blob_pyro.policies.thompson_actions import DrawnThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits

__all__ = ["DrawnThompsonActions", "MixtureThompsonActions", "ThompsonActions", "ThompsonSampling"]


class BanditPosterior(Protocol):
    """What `ThompsonSampling` needs of a model: `blob_pyro.BLOB`, or one that knows as much."""

    @property
    def items(self) -> Vocabulary:
        """The catalogue."""

    def click_logits(self, histories: Histories | Any) -> ClickLogits | DrawnClickLogits:
        """Posterior of all items' click logits after each history; by ``num_draws`` draws, if it takes that keyword."""


class ThompsonSampling(Policy):
    """Plays each item with the posterior probability that it is the best one.

    Items share parameters, so that the probability is an integral over these. There are two ways to have it:

    - By default what acts is Thompson sampling itself, and its propensities are *estimates*, by quasi-Monte Carlo:
      `ThompsonActions`, with ``error_estimate``.
    - With ``shared_draws=M`` what acts is a finite mixture: one of ``M`` fixed points of the shared parameters, drawn
      at random for each decision, then the best of scores that are independent given it. Its propensities are *exact*
      for what is played: `MixtureThompsonActions`. It tends to Thompson sampling as ``M`` grows.

    Args:
        model: a fitted `blob_pyro.BLOB`. Where its click logits are known by draws only, so is the policy, a mixture
            over these draws (``shared_draws`` of them, or as many as the model gives): `DrawnThompsonActions`.
        num_points, num_replicates: see `ThompsonActions`; more points, less error.
        seed: of the points, here and with ``shared_draws``: the same seed is the same policy.
        shared_draws: ``M``, or None.

    Raises:
        TypeError: for a model that has no ``click_logits``, or an argument that is no whole number.
        ValueError: for ``num_points`` that is no power of two, fewer than two replicates, or a negative seed.

    Warns:
        UserWarning: when it plays a posterior that is a point mass: that is `Greedy`.

    Example:
        >>> from blob_pyro import BLO, BLOB, EventLog
        >>> log = EventLog.from_tables(
        ...     views={"user": [1, 1, 2, 2], "time": [0, 1, 0, 1], "item": list("abbc")},
        ...     impressions={"user": [1, 2, 2], "time": [2, 3, 4], "action": list("cab"), "reward": [1, 0, 0]},
        ... )
        >>> blo = BLO(log.num_items, embedding_dim=2)
        >>> _ = blo.fit(log, num_epochs=5, progress=False)
        >>> blob = BLOB(blo)
        >>> _ = blob.fit(log, num_epochs=5, progress=False)
        >>> actions = ThompsonSampling(blob).action_distribution([["a", "b"], []])
        >>> actions.probs.shape, bool(actions.error_estimate.max() < 0.01)
        (torch.Size([2, 3]), True)
        >>> exact = ThompsonSampling(blob, shared_draws=32).action_distribution([["a", "b"], []])
        >>> bool(((exact.probs - actions.probs).abs() < 0.05).all())
        True
    """

    def __init__(
        self,
        model: BanditPosterior,
        num_points: int = 16,
        num_replicates: int = 8,
        seed: int = 0,
        *,
        shared_draws: int | None = None,
    ) -> None:
        if isinstance(model, type) or not callable(getattr(model, "click_logits", None)):
            raise TypeError(
                f"model: expected a posterior with click_logits(histories), such as BLOB, got {model!r} "
                f"(a {type(model).__name__})"
            )
        super().__init__(model.items)
        self.model = model
        self.num_points = whole_number(num_points, "num_points")
        if num_points & (num_points - 1):
            raise ValueError(f"num_points: must be a power of two, got {num_points}; take 16 or 64")
        self.num_replicates = whole_number(num_replicates, "num_replicates", at_least=2)
        self.seed = whole_number(seed, "seed", at_least=0, at_most=2**63 - 1)
        self.shared_draws = None if shared_draws is None else whole_number(shared_draws, "shared_draws")

    def action_distribution(self, histories: Histories | Any, covariates: Any = None) -> TorchDistribution:
        """See `Policy.action_distribution`; ``covariates`` as `blob_pyro.BLOB.ranking_logits` takes them."""
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        return in_chunks(lambda part, where: self._actions(part, rows(where)), history, self.num_items, MAX_ELEMENTS)

    def _actions(
        self, histories: Histories, covariates: Any
    ) -> ThompsonActions | MixtureThompsonActions | DrawnThompsonActions:
        logits = self._logits(histories, covariates)
        if isinstance(logits, DrawnClickLogits):
            return DrawnThompsonActions(logits)
        if self.shared_draws is not None:
            return MixtureThompsonActions(logits, self.shared_draws, self.seed)
        return ThompsonActions(logits, self.num_points, self.num_replicates, self.seed)

    def _logits(self, histories: Histories, covariates: Any) -> ClickLogits | DrawnClickLogits:
        ask = getattr(self.model, "ranking_logits", self.model.click_logits)
        options = {}
        if self.shared_draws is not None and "num_draws" in inspect.signature(ask).parameters:
            options = {"num_draws": self.shared_draws, "seed": self.seed}
        logits = ask(histories, *(() if covariates is None else (covariates,)), **options)
        if logits.is_certain and self.shared_draws != 1:  # one draw of a posterior looks like a point mass
            warnings.warn(
                "ThompsonSampling: the posterior is a point mass, as guides 'delta' and AutoDelta leave it: the best "
                "item is always played, and the others' propensities are 0; use a guide with doubt, such as 'laplace'",
                stacklevel=5,
            )
        return logits
