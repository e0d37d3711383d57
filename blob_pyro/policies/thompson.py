"""Thompson sampling from a fitted bandit model, with its propensities."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.data import Histories, Vocabulary, as_candidates
from blob_pyro.data.covariates import slice_covariates
from blob_pyro.ops.arguments import one_of, positive_number, whole_number
from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import check_seed, derived_seed, generator, seeded
from blob_pyro.policies.base import Policy
from blob_pyro.policies.chunked import in_chunks, propensity_of
from blob_pyro.policies.restricted import among, over_candidates
from blob_pyro.policies.slates import Contexts, Slates
from blob_pyro.policies.slates.posterior import (
    ConditionalThompsonSlates,
    DrawnSlates,
    MixtureThompsonSlates,
    PosteriorActions,
)
from blob_pyro.policies.thompson_actions import (
    ConditionalThompsonActions,
    DrawnThompsonActions,
    MixtureThompsonActions,
    ThompsonActions,
)
from blob_pyro.policies.total_variation import TotalVariation, total_variation
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts

__all__ = [
    "ConditionalThompsonActions",
    "DrawnThompsonActions",
    "MixtureThompsonActions",
    "PlayedActions",
    "ThompsonActions",
    "ThompsonSampling",
    "TotalVariation",
]

_CONTENDING_AT_ONCE = 1 << 25  # contexts times items of a chunk, in single precision
_BY_DRAWS = (
    "propensity: 'conditional' needs a posterior in closed form, and this one is known by draws: given a draw every "
    "score is known, and one item always played; use shared_draws"
)
_OF_ACTIONS, _OF_REFERENCE = 1, 2  # what further seeds are derived for


class PlayedActions(NamedTuple):
    """The actions played in each of ``N`` contexts.

    Attributes:
        action: item numbers, int64.
        propensity: probabilities of these, float64.
        error: standard errors of the propensities, 0 where they are exact.
    """

    action: Tensor
    propensity: Tensor
    error: Tensor


class BanditPosterior(Protocol):
    """A model that `ThompsonSampling` can play: `blob_pyro.BLOB`, or one that knows as much."""

    @property
    def items(self) -> Vocabulary:
        """The catalogue that the logits are of."""

    def click_logits(self, histories: Histories | Any) -> LogitsOfContexts | DrawnClickLogits:
        """Return the posterior of all items' click logits after each history; by ``num_draws`` draws, if asked."""


class ThompsonSampling(Policy):
    """Plays each item with the posterior probability that it is the best one (Jeunen 2025, eq. 3).

    Items share parameters, so that the probability is an integral over these. There are three ways to have it:

    - By default what acts is Thompson sampling itself, and its propensities are *estimates*, by quasi-Monte Carlo:
      `ThompsonActions`, with ``error_estimate``. For rarely played items the error may be tens of percent of the
      probability; ``tolerance`` spends points until what is asked for is known as well as that.
    - With ``shared_draws=M`` what acts is a finite mixture: one of ``M`` fixed points of the shared parameters, drawn
      at random for each decision, then the best of scores that are independent given it. Its propensities are *exact*
      for what is played: `MixtureThompsonActions`. It tends to Thompson sampling as ``M`` grows; `total_variation` says
      how far it is from it.
    - With ``propensity="conditional"`` what acts is Thompson sampling itself, and what is logged by `decide` and
      `sample_with_propensity` is the *exact* probability of the action given this very decision's draw of the shared
      parameters: see `given_draw`.

    All three give unbiased importance weights, the first up to its error. Take the mixture where its distance from
    Thompson sampling does not matter: its propensities are marginal, and anybody can compute them again. Take the
    conditional ones where Thompson sampling itself has to act, or where ``M`` integrals are too many: they need one,
    whatever the posterior; but their weights vary more, because the draw's own luck is in them, and without the draw
    nobody can compute them again. What is rare given a draw is as rare as the item's *own* doubt makes it: where kappa
    is known well, an item that this draw (or each of few points) puts behind is next to never played, and weights have
    heavy tails; look at the effective sample size (`blob_pyro.ope.ips`), and take more points.

    Args:
        model: a fitted `blob_pyro.BLOB`. Where its click logits are known by draws only, so is the policy, a mixture
            over these draws (``shared_draws`` of them, or as many as the model gives): `DrawnThompsonActions`.
        num_points, num_replicates: see `ThompsonActions`; more points, less error.
        seed: of the points, here and with ``shared_draws``: the same seed is the same policy.
        shared_draws: ``M``, or None.
        propensity: "marginal", over everything that is random in a decision, or "conditional".
        tolerance: relative standard error of the estimated propensities of the actions that are asked for, or None.
        mass_left_out: for catalogues of 1e4 items and more, with conditional propensities: each decision is among the
            items that may be the best given its draw, and others, of which a bound says that one of them is the best
            with at most this probability, are not played. What is logged is the exact propensity among those, within
            this much of that among all. The bound is computed from every item's mean and standard deviation: see
            `blob_pyro.propensity.kernels.contenders`. None, the default, leaves no item out.
        max_points: the budget of it: integrals over the scores of one context for one action, at most. See
            `blob_pyro.propensity.ArgmaxConditionallyNormal`.

    Raises:
        TypeError: for a model that has no ``click_logits``, or an argument that is no whole number.
        ValueError: for ``num_points`` that is no power of two, fewer than two replicates, or a negative seed; for what
            does not go together: a tolerance where propensities are exact, conditional propensities of a mixture, or of
            a posterior that leaves items' own click rates no doubt, or is known by draws.

    Warns:
        PropensityToleranceWarning: where ``max_points`` do not bring a propensity to the tolerance.
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

    _catalogue_of = "model"

    def __init__(
        self,
        model: BanditPosterior,
        num_points: int = 16,
        num_replicates: int = 8,
        seed: int = 0,
        *,
        shared_draws: int | None = None,
        propensity: Literal["marginal", "conditional"] = "marginal",
        tolerance: float | None = None,
        max_points: int = 2**14,
        mass_left_out: float | None = None,
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
        self.propensity = one_of(propensity, "propensity", ("marginal", "conditional"))
        self.tolerance = None if tolerance is None else positive_number(tolerance, "tolerance")
        self.max_points = whole_number(max_points, "max_points")
        if self.propensity == "conditional" and self.shared_draws is not None:
            raise ValueError(
                "propensity: 'conditional' is of full Thompson sampling; leave shared_draws out, or propensity, as the "
                "mixture's are exact"
            )
        self.mass_left_out = None if mass_left_out is None else positive_number(mass_left_out, "mass_left_out")
        if self.mass_left_out is not None and (self.propensity != "conditional" or self.mass_left_out >= 1):
            raise ValueError(
                "mass_left_out: is a probability, below 1, and goes with propensity='conditional'; got "
                f"{mass_left_out} with {propensity!r}"
            )
        if self.tolerance is not None and (self.shared_draws is not None or self.propensity == "conditional"):
            raise ValueError("tolerance: is for estimated propensities, and these are exact; leave it out")
        least = self.num_points * self.num_replicates
        if self.tolerance is not None and self.max_points < least:
            raise ValueError(f"max_points: one round takes num_points x num_replicates = {least}, got {max_points}")

    def action_distribution(
        self, histories: Histories | Any, covariates: Any = None, candidates: Any = None
    ) -> TorchDistribution:
        """Return the distribution of the item played; probabilities are marginal, whatever ``propensity`` is.

        Args:
            histories: ``N`` of them.
            covariates: as `blob_pyro.BLOB.ranking_logits` takes them.
            candidates: see `Policy.decide`: the best of the candidates is played; asking for the probability of
                another item is an error.
        """
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        some = as_candidates(candidates, self.items, len(history))

        def actions(part: Histories, where: slice) -> TorchDistribution:
            return self._actions(part, rows(where))

        return among(in_chunks(over_candidates(actions, some), history, self.num_items, MAX_ELEMENTS), some)

    def _slates(self, contexts: Contexts, num_slots: int) -> Slates:
        logits = self._logits(contexts.histories, contexts.covariates)
        if isinstance(logits, DrawnClickLogits):
            if self.propensity == "conditional":
                raise ValueError(_BY_DRAWS)
            return DrawnSlates(logits, contexts, num_slots)
        if self.shared_draws is not None:
            mixture = MixtureThompsonActions(logits, self.shared_draws, self.seed)
            return MixtureThompsonSlates(mixture, contexts, num_slots)

        def actions_of() -> ThompsonActions:
            return ThompsonActions(
                logits, self.num_points, self.num_replicates, self.seed, self.tolerance, self.max_points
            )

        if self.propensity == "conditional":
            return ConditionalThompsonSlates(logits, actions_of, contexts, num_slots, self.mass_left_out)
        if num_slots > 1:
            raise ValueError(
                f"slots: got {num_slots}; items share parameters, and rank propensities are known only of a finite "
                "mixture over these, ThompsonSampling(model, shared_draws=32), or given the draw of each decision, "
                "propensity='conditional'"
            )
        return PosteriorActions(actions_of(), contexts)

    def _scores(self, contexts: Contexts) -> Tensor:
        return self._logits(contexts.histories, contexts.covariates).mean

    def _scores_of(self, contexts: Contexts, items: Tensor) -> Tensor | None:
        if self.mass_left_out is None:
            return super()._scores_of(contexts, items)
        logits = self._logits(contexts.histories, contexts.covariates)
        if isinstance(logits, DrawnClickLogits):
            raise ValueError(_BY_DRAWS)
        few, place = items.unique(return_inverse=True)  # of very many: only what is played is looked at
        return logits.of_items(few).mean.gather(1, place)

    @property
    def _numbers_at_once(self) -> int:  # type: ignore[override] # a product of more rows reads each item as often
        return Policy._numbers_at_once if self.mass_left_out is None else _CONTENDING_AT_ONCE

    def given_draw(self, histories: Histories | Any, covariates: Any = None, *, seed: int) -> TorchDistribution:
        """Return the actions after each history, given one draw of the shared parameters for each of these decisions.

        Items' scores are independent given the draw, so that every propensity is one exact integral; averaged over
        draws it is that of Thompson sampling. An action that is sampled from this distribution may be weighted by its
        probability under it: the draw knows nothing of the reward to come, and so
        ``E[reward target(action) / propensity] = E over draws of sum target(action) E[reward]``, for each draw alike.
        The weights are unbiased as the marginal ones are, and vary more.

        Args:
            histories: as `action_distribution`.
            covariates: as `action_distribution`.
            seed: of the draws. Give each batch of decisions a seed of its own, chosen without looking at rewards: a
                draw that comes back after the model has learnt from what was played under it is no longer independent.

        Returns:
            As `action_distribution`, of ``N`` contexts; the same seed and histories give the same distribution.

        Raises:
            ValueError: for a posterior that is known by draws, or without doubt about an item's own click rate: given a
                draw one item is always played, and what cannot be played has no weight.
        """
        if self.mass_left_out is not None:
            raise ValueError(
                "given_draw: with mass_left_out each decision has candidates of its own; use decide(), which logs what "
                "was played among them, or a policy without it"
            )
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        source = generator(check_seed(seed))
        drawn: list[Tensor] = []

        def actions(part: Histories, where: slice) -> ConditionalThompsonActions:
            logits = self._logits(part, rows(where))
            if isinstance(logits, DrawnClickLogits):
                raise ValueError(_BY_DRAWS)
            if not drawn:
                numbers = torch.randn(len(history), logits.num_factors, generator=source, dtype=torch.float64)
                drawn.append(numbers.to(logits.interest.device))
            return ConditionalThompsonActions(logits, drawn[0][where])

        return in_chunks(actions, history, self.num_items, MAX_ELEMENTS)

    def sample_with_propensity(self, histories: Histories | Any, covariates: Any = None, *, seed: int) -> PlayedActions:
        """Choose an item after each history, and say how probable that was.

        Args:
            histories: as `action_distribution`.
            covariates: as `action_distribution`.
            seed: of everything that is drawn; see `given_draw` for what to mind where propensities are conditional.

        Returns:
            Item numbers, their propensities (of the kind that the policy was made for) and the errors of these.

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
            >>> policy = ThompsonSampling(blob, propensity="conditional")
            >>> played = policy.sample_with_propensity([["a", "b"], []], seed=7)
            >>> played.action.shape, bool((played.propensity > 0).all()), played.error.tolist()
            (torch.Size([2]), True, [0.0, 0.0])
        """
        seed = check_seed(seed)
        if self.propensity == "conditional":
            actions = self.given_draw(histories, covariates, seed=seed)
        else:
            actions = self.action_distribution(histories, covariates)
        device = getattr(self.model, "device", "cpu")
        with torch.no_grad():
            with seeded(derived_seed(seed, _OF_ACTIONS), device):
                action = actions.sample()
            return PlayedActions(action, *propensity_of(actions, action))

    def total_variation(
        self, histories: Histories | Any, covariates: Any = None, *, shared_draws: int = 2**12
    ) -> TotalVariation:
        """Measure how far the mixture that acts is from Thompson sampling, in each context.

        Args:
            histories: as `action_distribution`.
            covariates: as `action_distribution`.
            shared_draws: of what it is compared with, a power of two, 16 or more: as many fresh points, in eight
                randomisations whose spread gives the error. Of a posterior that is known by draws, as many fresh draws.

        Returns:
            The distances and their errors, ``N`` each.

        Raises:
            ValueError: for a policy that is no mixture.
        """
        number = whole_number(shared_draws, "shared_draws", at_least=16)
        if number & (number - 1):
            raise ValueError(f"shared_draws: must be a power of two, got {number}; take 4096")
        history = self.histories(histories)
        rows = slice_covariates(covariates, len(history))
        seed, size, found = derived_seed(self.seed, _OF_REFERENCE), max(1, MAX_ELEMENTS // self.num_items), []
        with torch.no_grad():
            for start in range(0, max(1, len(history)), size):
                where = slice(start, start + size)
                some, covariate = history[where], rows(where)
                acting, reference = self._actions(some, covariate), self._logits(some, covariate, number, seed)
                whole: ThompsonActions | DrawnThompsonActions
                if isinstance(reference, DrawnClickLogits):
                    whole = DrawnThompsonActions(reference)
                elif self.shared_draws is None:
                    raise ValueError(
                        "total_variation: what acts is Thompson sampling itself; make the policy with shared_draws, or "
                        "look at action_distribution(histories).error_estimate"
                    )
                else:
                    whole = ThompsonActions(reference, number // 8, 8, seed)
                found.append(total_variation(acting.probs, whole.probs, whole.error_estimate))
        return TotalVariation(*(torch.cat(parts) for parts in zip(*found)))

    def _actions(
        self, histories: Histories, covariates: Any
    ) -> ThompsonActions | MixtureThompsonActions | DrawnThompsonActions:
        logits = self._logits(histories, covariates)
        if isinstance(logits, DrawnClickLogits):
            return DrawnThompsonActions(logits)
        if self.shared_draws is not None:
            return MixtureThompsonActions(logits, self.shared_draws, self.seed)
        return ThompsonActions(logits, self.num_points, self.num_replicates, self.seed, self.tolerance, self.max_points)

    def _logits(
        self, histories: Histories, covariates: Any, num_draws: int | None = None, seed: int | None = None
    ) -> LogitsOfContexts | DrawnClickLogits:
        """Posterior logits; where they are known by draws, as many as the policy has, or others."""
        ask = getattr(self.model, "ranking_logits", self.model.click_logits)
        num_draws, seed = num_draws or self.shared_draws, self.seed if seed is None else seed
        options = {}
        if num_draws is not None and "num_draws" in inspect.signature(ask).parameters:
            options = {"num_draws": num_draws, "seed": seed}
        logits = ask(histories, *(() if covariates is None else (covariates,)), **options)
        if logits.is_certain and num_draws != 1:  # one draw of a posterior looks like a point mass
            warnings.warn(
                "ThompsonSampling: the posterior is a point mass, as guides 'delta' and AutoDelta leave it: the best "
                "item is always played, and the others' propensities are 0; use a guide with doubt, such as 'laplace'",
                stacklevel=5,
            )
        return logits
