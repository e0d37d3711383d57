"""Slates of Thompson sampling: the best few of one draw from a posterior whose scores share parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from blob_pyro.ops.row_chunks import MAX_ELEMENTS
from blob_pyro.ops.seeds import standard_normal
from blob_pyro.policies.slates.base import Contexts, Slates
from blob_pyro.policies.slates.contending import ContendingSlates
from blob_pyro.policies.slates.scores import NormalSlates, at_items, best_few, normal_ranks, same_size
from blob_pyro.policies.thompson_actions import ConditionalThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts

__all__ = ["ConditionalThompsonSlates", "DrawnSlates", "MixtureThompsonSlates", "PosteriorActions"]


class PosteriorActions(Slates):
    """Single actions, each the best of a draw from the whole posterior; their propensities are estimates.

    Args:
        actions: over all items, for ``n`` contexts.
        contexts: these.
    """

    def __init__(self, actions: ThompsonActions, contexts: Contexts) -> None:
        super().__init__(1, actions.num_actions)
        shared = contexts.allowed is None or contexts.allowed.stride(0) == 0
        self.knows_alike_contexts = shared or actions.tolerance is not None
        self.logits, self.mask = actions.click_logits, contexts.mask
        self.actions = actions if contexts.allowed is None else actions.restrict(contexts.allowed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`; what moves all items alike is left out."""
        logits, (size,) = self.logits, self.logits.batch_shape
        shared = standard_normal((size, logits.num_factors), generator, logits.interest)
        own = standard_normal((size, self.num_items), generator, logits.interest)
        return best_few(logits.given_shared(shared) + logits.own_scale * own, self.mask, 1)

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        return self.actions.log_prob(items.mT).mT.exp().to(torch.float64).unsqueeze(-1)

    def rank_errors(self, items: Tensor) -> Tensor:
        """Return the standard errors of `rank_probs`; see `Slates.rank_errors`."""
        return self.actions.error_estimate.to(torch.float64).gather(1, items).unsqueeze(-1)

    def draw_known(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slates, with propensities of what was drawn alone, where there is a tolerance."""
        slates = self.draw(generator)
        probability, error = self.actions.propensity(slates[:, 0])
        return slates, probability.to(torch.float64)[:, None], error.to(torch.float64)[:, None]


class ConditionalThompsonSlates(Slates):
    """The best few of one draw from the whole posterior; what is logged is the probability given the shared parameters.

    Given those numbers, drawn for each decision, the logits are independent normals. `rank_probs` are marginal.

    Args:
        logits: of all items, in ``n`` contexts.
        actions_of: makes the actions over all items, for the marginal probabilities; where items are left out only if
            these are asked for.
        contexts: these.
        num_slots: ``L``.
        mass_left_out: of items that are left out, see `ContendingSlates`; None to leave none out.
    """

    knows_alike_contexts = True  # there are none: each decision has a draw of its own

    def __init__(
        self,
        logits: LogitsOfContexts,
        actions_of: Callable[[], ThompsonActions],
        contexts: Contexts,
        num_slots: int,
        mass_left_out: float | None = None,
    ) -> None:
        super().__init__(num_slots, logits.event_shape[0])
        self.logits, self.contexts, self.mass_left_out = logits, contexts, mass_left_out
        self._actions_of = actions_of
        if mass_left_out is None:
            self.marginal  # noqa: B018 - it says what is wrong with the posterior

    @cached_property
    def marginal(self) -> PosteriorActions:
        """The same actions, whatever the draw is."""
        return PosteriorActions(self._actions_of(), self.contexts)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`."""
        return self._given(generator).draw(generator)

    def draw_known(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slates, with propensities and their errors; see `Slates.draw_known`: exact, given the draw."""
        return self._given(generator).draw_known(generator)

    def _given(self, generator: torch.Generator) -> NormalSlates | ContendingSlates:
        shape = (*self.logits.batch_shape, self.logits.num_factors)
        shared = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.logits.interest.device)
        if self.mass_left_out is not None:
            return ContendingSlates(self.logits, shared, self.mass_left_out, self.num_slots, self.contexts.allowed)
        given = ConditionalThompsonActions(self.logits, shared)
        return NormalSlates(given.loc, given.scale, self.contexts.mask, self.num_slots)

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        self._require_one_slot()
        return self.marginal.rank_probs(items)

    def rank_errors(self, items: Tensor) -> Tensor:
        """Return the standard errors of `rank_probs`; see `Slates.rank_errors`."""
        self._require_one_slot()
        return self.marginal.rank_errors(items)

    def _require_one_slot(self) -> None:
        if self.num_slots > 1:
            raise ValueError(
                f"slots: got {self.num_slots}; of a slate this policy knows the propensities given the draw of each "
                "decision, which decide() logs; for marginal ones use ThompsonSampling(model, shared_draws=32)"
            )


class MixtureThompsonSlates(Slates):
    """The best few of scores that are independent normals given one of finitely many points, picked at random.

    Args:
        actions: the best of them, for ``n`` contexts.
        contexts: these.
        num_slots: ``L``.
    """

    def __init__(self, actions: MixtureThompsonActions, contexts: Contexts, num_slots: int) -> None:
        super().__init__(num_slots, actions.num_actions)
        self.actions, self.mask, self.allowed = actions, contexts.mask, contexts.allowed

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`."""
        actions, (size,) = self.actions, self.actions.batch_shape
        which = torch.randint(actions.num_points, (size,), generator=generator).to(actions.scale.device)
        loc = actions.location(actions.points[which].unsqueeze(1)).squeeze(1)
        scores = loc + actions.scale * standard_normal(tuple(loc.shape), generator, loc)
        return best_few(scores, self.mask, self.num_slots)

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        if self.num_slots == 1:
            actions = self.actions if self.allowed is None else self.actions.restrict(self.allowed)
            return actions.log_prob(items.mT).mT.exp().to(torch.float64).unsqueeze(-1)
        found = torch.zeros(*items.shape, self.num_slots, dtype=torch.float64, device=items.device)
        at_once = max(1, MAX_ELEMENTS // max(1, self.mask.numel()))
        for points in self.actions.points.split(at_once):
            loc = self.actions.location(points)
            for rows, columns in same_size(self.mask):
                some = columns.unsqueeze(1).expand(-1, len(points), -1)
                mean = loc[rows].gather(-1, some)
                scale = self.actions.scale[rows].unsqueeze(1).expand_as(loc[rows]).gather(-1, some)
                probs = normal_ranks(mean.flatten(0, 1), scale.flatten(0, 1), self.num_slots)
                found[rows] += at_items(probs.unflatten(0, mean.shape[:2]).sum(1), items[rows], self.mask[rows])
        return found / self.actions.num_points


class DrawnSlates(Slates):
    """The best few of the logits of one of finitely many draws, picked at random: counted to the last draw.

    Args:
        logits: the draws, for ``n`` contexts.
        contexts: these.
        num_slots: ``L``.
    """

    def __init__(self, logits: DrawnClickLogits, contexts: Contexts, num_slots: int) -> None:
        (num_items,) = logits.event_shape
        super().__init__(num_slots, num_items)
        mask, size = contexts.mask, len(contexts)
        rows = max(1, MAX_ELEMENTS // (logits.num_draws * num_items))
        parts = [slice(start, start + rows) for start in range(0, size, rows)] or [slice(0, 0)]
        self.slates = torch.cat([best_few(logits[part].logits, mask[part], num_slots) for part in parts], 1)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`."""
        draws, size, _ = self.slates.shape
        which = torch.randint(draws, (size,), generator=generator).to(self.slates.device)
        return self.slates[which, torch.arange(size, device=which.device)]

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        draws, size, _ = self.slates.shape
        counts = torch.zeros(size, self.num_items, self.num_slots, dtype=torch.float64, device=items.device)
        shown = self.slates.permute(1, 0, 2)
        counts.scatter_add_(1, shown, torch.ones_like(shown, dtype=torch.float64))
        return counts.gather(1, items.unsqueeze(-1).expand(-1, -1, self.num_slots)) / draws
