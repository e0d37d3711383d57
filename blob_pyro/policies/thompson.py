"""Thompson sampling from a fitted bandit model, with its propensities."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch
from pyro.distributions import Categorical, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

from blob_pyro.data import Histories, Vocabulary
from blob_pyro.ops.arguments import whole_number
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks, slice_covariates
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.propensity import ArgmaxConditionallyNormal

__all__ = ["DrawnThompsonActions", "ThompsonActions", "ThompsonSampling"]


class BanditPosterior(Protocol):
    """What `ThompsonSampling` needs of a model: `blob_pyro.BLOB`, or one that knows as much."""

    @property
    def items(self) -> Vocabulary:
        """The catalogue."""

    def click_logits(self, histories: Histories | Any) -> ClickLogits | DrawnClickLogits:
        """Posterior of all items' click logits after each history."""


class ThompsonActions(ArgmaxConditionallyNormal):
    r"""The item with the largest click logit in one draw from the posterior.

    Items share ``w_a``, ``w_b`` and zeta, so their logits are correlated and the independent-normal formula of
    Jeunen (2025, eq. 6) does not apply to them. Given what they share they *are* independent normals, each with the
    variance of its own kappa: the shared numbers are integrated by randomised quasi-Monte Carlo, the rest exactly.
    `error_estimate` is the standard error of `probs`. ``w_c`` moves all items alike and cancels. `sample` draws
    parameters and takes the best item: it costs no propensities.

    Args:
        click_logits: posterior of the logits, for ``N`` contexts.
        num_points: quasi-random points of each replicate, a power of two.
        num_replicates: independent randomisations; their spread is the error estimate.
        seed: of the randomisation.
    """

    def __init__(self, click_logits: ClickLogits, num_points: int = 16, num_replicates: int = 8, seed: int = 0) -> None:
        self.click_logits = click_logits
        scale = click_logits.kappa_scale.to(torch.float64)
        super().__init__(
            lambda shared: self._given_shared(shared),
            scale.expand(*click_logits.batch_shape, -1),
            click_logits.num_factors,
            num_points=num_points,
            num_replicates=num_replicates,
            seed=seed,
        )

    def _given_shared(self, shared: Tensor) -> Tensor:
        shared = shared.to(self.click_logits.interest.dtype).unsqueeze(-2)  # the same draws in every context
        return self.click_logits.given_shared(shared).transpose(0, 1).to(torch.float64)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Play the best item of one posterior draw per context, ``sample_shape x N``."""
        return self.click_logits.best(sample_shape)


class DrawnThompsonActions(Categorical):
    """The item with the largest click logit in one of a fixed set of draws from the posterior.

    `probs` counts the draws in which an item is best: as propensities of what `sample` plays, they are exact. An item
    that is best in none of them is never played.

    Args:
        click_logits: the draws, for ``N`` contexts.
    """

    def __init__(self, click_logits: DrawnClickLogits) -> None:
        best = click_logits.best()
        counts = torch.zeros(*click_logits.batch_shape, *click_logits.event_shape, dtype=torch.float64).to(best.device)
        counts.scatter_add_(-1, best.mT, torch.ones_like(best.mT, dtype=torch.float64))
        self.num_draws = len(best)
        super().__init__(probs=counts / self.num_draws)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> DrawnThompsonActions:
        """See `pyro.distributions.TorchDistribution.expand`."""
        new = self._get_checked_instance(DrawnThompsonActions, _instance)
        new.num_draws = self.num_draws
        return super().expand(batch_shape, new)

    @property
    def error_estimate(self) -> Tensor:
        """Standard error of `probs` as an estimate of what the whole posterior would play, ``N x P``."""
        return (self.probs * (1 - self.probs) / self.num_draws).sqrt()


class ThompsonSampling(Policy):
    """Plays each item with the posterior probability that it is the best one.

    Args:
        model: a fitted `blob_pyro.BLOB`. Where its click logits are known by draws only, so is the policy:
            `DrawnThompsonActions`.
        num_points, num_replicates, seed: see `ThompsonActions`; more points, less error.

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
    """

    def __init__(self, model: BanditPosterior, num_points: int = 16, num_replicates: int = 8, seed: int = 0) -> None:
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

    def action_distribution(self, histories: Histories | Any, covariates: Any = None) -> TorchDistribution:
        """See `Policy.action_distribution`; ``covariates`` as `blob_pyro.BLOB.ranking_logits` takes them."""
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        return in_chunks(lambda part, where: self._actions(part, rows(where)), history, self.num_items, MAX_ELEMENTS)

    def _actions(self, histories: Histories, covariates: Any) -> ThompsonActions | DrawnThompsonActions:
        ask = getattr(self.model, "ranking_logits", self.model.click_logits)
        logits = ask(histories, *(() if covariates is None else (covariates,)))
        if logits.is_certain:
            warnings.warn(
                "ThompsonSampling: the posterior is a point mass, as guides 'delta' and AutoDelta leave it: the best "
                "item is always played, and the others' propensities are 0; use a guide with doubt, such as 'laplace'",
                stacklevel=3,
            )
        if isinstance(logits, DrawnClickLogits):
            return DrawnThompsonActions(logits)
        return ThompsonActions(logits, self.num_points, self.num_replicates, self.seed)
