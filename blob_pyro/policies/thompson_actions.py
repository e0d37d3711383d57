"""Thompson sampling's actions: the best item of a draw from the posterior, and how probable each item is."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from pyro.distributions import Categorical
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.policies.repeated import log_prob_in_a_rectangle
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.propensity import ArgmaxConditionallyNormal, ArgmaxNormal, ArgmaxNormalMixture, Propensity
from blob_pyro.propensity._index import IndexDistribution
from blob_pyro.propensity._types import checked_mask
from blob_pyro.propensity.kernels.played_mixture import played_mixture_log_probs
from blob_pyro.propensity.kernels.played_pairs import log_probs_of_pairs
from blob_pyro.propensity.kernels.qmc import normal_replicates

__all__ = [
    "ConditionalThompsonActions",
    "DrawnThompsonActions",
    "MixtureThompsonActions",
    "ThompsonActions",
    "require_own_doubt",
]


def _means(click_logits: LogitsOfContexts, points: Tensor) -> Tensor:
    """Means of the logits given points, ``n x D`` or ``... x N x n x D``: ``... x N x n x P`` in double precision."""
    points = points.unsqueeze(-2) if points.dim() == 2 else points.movedim(-2, 0)
    return click_logits.given_shared(points).movedim(0, -2).to(torch.float64)


def _distinct(interest: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """A context for each distinct one, and which of these each context is; None where nearly all are distinct."""
    if len(interest) < 2 or (allowed is not None and allowed.stride(0) != 0):
        return None
    different, which = torch.unique(interest, dim=0, return_inverse=True)
    if len(different) > 0.9 * len(interest):
        return None
    numbers = torch.arange(len(interest), device=interest.device)
    return torch.zeros_like(numbers[: len(different)]).index_copy(0, which, numbers), which


class _OfClickLogits(IndexDistribution):
    """What distributions given click logits do alike: each distinct context is integrated over once."""

    click_logits: LogitsOfContexts
    location: Callable[[Tensor], Tensor]

    def _in(self, contexts: Tensor) -> Any:
        """The same distribution in some of the contexts; one may come several times."""
        new = copy(self)
        logits = new.click_logits = self.click_logits[contexts]
        new.location = lambda points: _means(logits, points)
        new.scale = logits.own_scale.to(torch.float64).expand(*logits.batch_shape, -1)
        new._batch_shape = logits.batch_shape
        new.allowed = None if self.allowed is None else self.allowed[contexts]
        new._source = new._cached_log_probs = None
        return new

    def _repeats(self) -> tuple[Tensor, Tensor] | None:
        if len(self.batch_shape) != 1 or self.click_logits.batch_shape != self.batch_shape:
            return None
        return _distinct(self.click_logits.interest, self.allowed)

    def _copy_attributes(self, new: Any) -> None:
        super()._copy_attributes(new)
        new.click_logits = self.click_logits

    def _log_prob_each(self, points: Tensor, counts: Tensor, actions: Tensor) -> Tensor:
        """Log-propensities of ``counts[n]`` actions in context ``n``, as averages over points of the shared numbers.

        Each action of a distinct context is integrated over once, all of a context's together.
        """
        repeats, num_contexts = self._repeats(), len(counts)
        context = torch.arange(num_contexts, device=actions.device).repeat_interleave(counts)
        first = torch.arange(num_contexts, device=actions.device)
        if repeats is not None:
            first, which = repeats
            context = which[context]

        def log_probs(some: Tensor, action: Tensor) -> Tensor:
            logits = self.click_logits[first[some]]
            loc, scale = _means(logits, points), logits.own_scale.to(torch.float64)
            return played_mixture_log_probs(loc, scale, action).squeeze(1)

        at_once = MAX_ELEMENTS // (len(points) * self.num_actions)
        return log_probs_of_pairs(context, actions, len(first), self.num_actions, at_once, log_probs)


class ThompsonActions(_OfClickLogits, ArgmaxConditionallyNormal):
    r"""The item with the largest click logit in one draw from the posterior.

    Items share ``w_a``, ``w_b`` and zeta, so their logits are correlated and the independent-normal formula of
    Jeunen (2025, eq. 6) does not apply to them. Given what they share they *are* independent normals, each with the
    variance of its own kappa: the shared parameters are integrated by randomised quasi-Monte Carlo, the rest exactly.
    `error_estimate` is the standard error of `probs`. ``w_c`` moves all items alike and cancels. `sample` draws
    parameters and takes the best item: it costs no propensities.

    Args:
        click_logits: posterior of the logits, for ``N`` contexts.
        num_points: quasi-random points of each replicate, a power of two.
        num_replicates: independent randomisations; their spread is the error estimate.
        seed: of the randomisation.
        tolerance: see `blob_pyro.propensity.ArgmaxConditionallyNormal`.
        max_points: as tolerance.
    """

    def __init__(
        self,
        click_logits: LogitsOfContexts,
        num_points: int = 16,
        num_replicates: int = 8,
        seed: int = 0,
        tolerance: float | None = None,
        max_points: int = 2**14,
    ) -> None:
        self.click_logits = click_logits
        super().__init__(
            lambda points: _means(click_logits, points),
            click_logits.own_scale.to(torch.float64),
            click_logits.num_factors,
            num_points=num_points,
            num_replicates=num_replicates,
            seed=seed,
            tolerance=tolerance,
            max_points=max_points,
        )

    def _location_shape(
        self, location: Callable[[Tensor], Tensor], num_shared: int, scale: Tensor, validates: bool
    ) -> Size:
        # Logits say what shape they have. All items in one context, and all contexts' interests: where these are finite
        # every logit is, and looking at each would take as long as drawing some of them.
        logits = self.click_logits
        if validates and bool(logits.interest.isfinite().all()) and len(logits.interest):
            super()._location_shape(lambda points: _means(logits[:1], points), num_shared, scale, validates)
        elif validates:
            super()._location_shape(location, num_shared, scale, validates)
        shape: Size = logits.batch_shape
        return shape

    def _estimate(self) -> tuple[Tensor, Tensor]:
        repeats = self._repeats()
        if repeats is None:
            return super()._estimate()
        probs, error = super(ThompsonActions, self._in(repeats[0]))._estimate()
        return probs[repeats[1]], error[repeats[1]]

    def _alike(self, contexts: Tensor) -> Tensor:
        repeats = self._repeats()
        return contexts if repeats is None else repeats[0][repeats[1]][contexts]

    def _locations_in(self, contexts: Tensor) -> Callable[[Tensor], Tensor]:
        logits = self.click_logits[contexts % len(self.click_logits.interest)]
        return lambda points: _means(logits, points)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Play the best item of one posterior draw per context, ``sample_shape x batch_shape``."""
        *repeats, num_contexts = self.batch_shape
        if repeats and self.allowed is not None:
            return super().sample(sample_shape)
        logits = self.click_logits
        logits = logits if logits.batch_shape == (num_contexts,) else logits.expand(Size((num_contexts,)))
        return logits.best((*sample_shape, *repeats), self.allowed)

    def sample_each(self, counts: Tensor) -> Tensor:
        """Draw ``counts[n]`` independent times for each context; see `repeated.sample_each`."""
        return self.click_logits.best_each(counts, self.allowed)

    def log_prob_each(self, counts: Tensor, actions: Tensor) -> Tensor:
        """Return the log-propensities of each context's actions; see `blob_pyro.policies.repeated.log_prob_each`."""
        if self.allowed is not None or self.tolerance is not None or self._cached_log_probs is not None:
            return log_prob_in_a_rectangle(self, counts, actions)
        device = self.click_logits.interest.device
        points = normal_replicates(self.num_replicates, self.num_points, self.num_shared, self.seed, device)
        return self._log_prob_each(points.flatten(0, 1), counts.to(device), actions.to(device))


class MixtureThompsonActions(_OfClickLogits, ArgmaxNormalMixture):
    """The item with the largest click logit given one of ``M`` fixed points of what the items share.

    The points stand for ``w_a``, ``w_b`` and what zeta says of the context (and the numbers behind a guide that is one
    Gaussian vector): ``M`` quasi-random draws, the same in every context. `sample` picks one of them at random and
    plays the best of the logits that are independent normals given it; `probs` is the probability of exactly that, to
    1e-12 of the logits' means and scales as they are in double precision. Contexts that are equal are computed once.

    Args:
        click_logits: posterior of the logits, for ``N`` contexts.
        num_points: ``M``.
        seed: of the points.
    """

    def __init__(self, click_logits: LogitsOfContexts, num_points: int, seed: int = 0) -> None:
        self.click_logits = logits = click_logits.double()
        super().__init__(
            lambda points: _means(logits, points),
            logits.own_scale.expand(*logits.batch_shape, -1),
            normal_replicates(1, num_points, logits.num_factors, seed, logits.interest.device)[0],
        )

    def _compute_log_probs(self) -> Tensor:
        repeats = self._repeats()
        if repeats is None:
            return super()._compute_log_probs()
        return super(MixtureThompsonActions, self._in(repeats[0]))._compute_log_probs()[repeats[1]]

    def _log_prob_of_few(self, index: Tensor) -> Tensor:
        repeats = self._repeats()
        if repeats is None:
            return super()._log_prob_of_few(index)
        first, which = repeats
        pair, place = torch.unique(which * self.num_actions + index, return_inverse=True)
        some = self._in(first[pair // self.num_actions])
        return super(MixtureThompsonActions, some)._log_prob_of_few(pair % self.num_actions)[place]

    def sample_each(self, counts: Tensor) -> Tensor:
        """Draw ``counts[n]`` independent times for each context; see `repeated.sample_each`."""
        contexts = torch.arange(len(counts), device=self._device).repeat_interleave(counts.to(self._device))
        parts = contexts.split(max(1, MAX_ELEMENTS // self.num_actions))
        return torch.cat([self._in(part).sample() for part in parts])

    def log_prob_each(self, counts: Tensor, actions: Tensor) -> Tensor:
        """Return the log-propensities of each context's actions; see `blob_pyro.policies.repeated.log_prob_each`."""
        if self.allowed is not None or self._cached_log_probs is not None:
            return log_prob_in_a_rectangle(self, counts, actions)
        device = self.points.device
        return self._log_prob_each(self.points, counts.to(device), actions.to(device))


def require_own_doubt(own_scale: Tensor) -> None:
    """Raise a ValueError if an item's own logit is known for sure: given what items share it has no propensity.

    Args:
        own_scale: standard deviations of what each item adds by itself, ``... x P``.
    """
    known = ~(own_scale > 0)
    if bool(known.any()):
        item = int(known.nonzero()[0, -1])
        raise ValueError(
            f"propensity: 'conditional' needs doubt about each item's own click rate, and the posterior has none "
            f"about item number {item}: given a draw of the shared parameters it may never be "
            "played, and what is never played has no weight; give kappa a scale, or use shared_draws"
        )


class ConditionalThompsonActions(ArgmaxNormal):
    """The item with the largest click logit given one draw, for each context, of what the items share.

    Given these numbers the logits are independent normals, so that a propensity is one exact integral: the probability
    of the action *given the draw*. See `ThompsonSampling.given_draw` for what it is good for.

    Args:
        click_logits: posterior of the logits, for ``N`` contexts.
        shared: the draw, ``N x D`` standard normal numbers, as `LogitsOfContexts.given_shared` takes them.

    Raises:
        ValueError: for a posterior that leaves an item's own logit no doubt: given the draw it would be played always
            or never, and what is never played has no weight.
    """

    def __init__(self, click_logits: LogitsOfContexts, shared: Tensor) -> None:
        require_own_doubt(click_logits.own_scale)
        logits = click_logits.double()
        loc = _means(logits, shared.unsqueeze(-2)).squeeze(-2)
        super().__init__(loc, logits.own_scale.expand(*logits.batch_shape, -1))


class DrawnThompsonActions(Categorical):
    """The item with the largest click logit in one of a fixed set of draws from the posterior.

    `probs` counts the draws in which an item is best: as propensities of what `sample` plays, they are exact. An item
    that is best in none of them is never played.

    Args:
        click_logits: the draws, for ``N`` contexts.
    """

    def __init__(self, click_logits: DrawnClickLogits, allowed: Tensor | None = None) -> None:
        self.click_logits, self.allowed, self.num_draws = click_logits, allowed, click_logits.num_draws
        best = click_logits.best(allowed)
        counts = torch.zeros(*click_logits.batch_shape, *click_logits.event_shape, dtype=torch.float64).to(best.device)
        counts.scatter_add_(-1, best.mT, torch.ones_like(best.mT, dtype=torch.float64))
        # By logits: what is best in no draw has probability 0, and not that of a rounding unit.
        super().__init__(logits=(counts / self.num_draws).log(), validate_args=None if len(counts) else False)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> DrawnThompsonActions:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        new = self._get_checked_instance(DrawnThompsonActions, _instance)
        new.click_logits, new.allowed, new.num_draws = self.click_logits, self.allowed, self.num_draws
        result: DrawnThompsonActions = super().expand(batch_shape, new)
        return result

    def restrict(self, mask: Tensor) -> DrawnThompsonActions:
        """Return the distribution over the best of some of the items only: see `ArgmaxNormal.restrict`.

        Args:
            mask: booleans, ``P`` for all contexts alike, or ``N x P``.
        """
        allowed = checked_mask(type(self).__name__, mask, self.allowed, self.probs.shape, self.probs.device)
        if len(self.batch_shape) == 1:
            return DrawnThompsonActions(self.click_logits, allowed)
        raise ValueError(f"{type(self).__name__}: restrict it before it is expanded to {tuple(self.batch_shape)}.")

    def propensity(self, value: Tensor) -> Propensity:
        """Return the probability of the actions ``value``, and its error: 0."""
        probability = self.log_prob(value).exp()
        return Propensity(probability, torch.zeros_like(probability))

    @property
    def error_estimate(self) -> Tensor:
        """The standard error of `probs` as an estimate of what the whole posterior would play, ``N x P``."""
        error: Tensor = (self.probs * (1 - self.probs) / self.num_draws).sqrt()
        return error
