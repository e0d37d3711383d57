"""Slates of the best few of independent scores, drawn once for a whole slate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from blob_pyro.ops.seeds import standard_normal
from blob_pyro.policies.slates.base import RepeatableSlates
from blob_pyro.propensity import ArgmaxBeta, ArgmaxNormal, RankBeta, RankNormal
from blob_pyro.propensity.argmax_beta import draw_beta_logits
from blob_pyro.propensity.kernels.normal_ranks import normal_rank_probs

__all__ = ["BetaSlates", "NormalSlates", "at_items", "best_few", "normal_ranks", "same_size"]


def best_few(scores: Tensor, mask: Tensor, num_slots: int) -> Tensor:
    """Find the items with the highest scores, the best first: ``n x P`` to ``n x L``.

    Args:
        scores: of all items.
        mask: which may be shown, ``n x P``.
        num_slots: ``L``.
    """
    return scores.masked_fill(~mask, -torch.inf).topk(num_slots, -1).indices


def normal_ranks(loc: Tensor, scale: Tensor, num_ranks: int) -> Tensor:
    """Compute rank probabilities of independent normal scores, ``n x A x num_ranks`` float64, to 1e-12.

    Args:
        loc: ``n x A``.
        scale: ``n x A``; with one rank 0 is allowed.
        num_ranks: 1 to ``A``.
    """
    if num_ranks == 1:
        return ArgmaxNormal(loc, scale).probs.unsqueeze(-1)
    if bool((scale <= 0).any()):
        raise ValueError(
            f"slots: {num_ranks} of scores without any doubt (a standard deviation of 0) have no rank propensities "
            "here; rank with Greedy, or fit a guide that leaves each item some doubt, such as 'laplace'"
        )
    probs, found = normal_rank_probs(loc, scale, num_ranks)
    if not bool(found.all()):
        probs[~found] = RankNormal(loc[~found], scale[~found], num_ranks).probs
    return probs


def same_size(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Group contexts with equally many candidates: their numbers, and those of the candidates, ``n' x A'``."""
    sizes = mask.sum(-1)
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero().squeeze(-1)
        yield rows, mask[rows].nonzero()[:, 1].view(len(rows), size)


def at_items(probs: Tensor, items: Tensor, mask: Tensor) -> Tensor:
    """Pick, of all candidates' probabilities, those of some items, ``n x C x L``; 0 for what is no candidate.

    Args:
        probs: ``n x A x L``, of the candidates in the order of their numbers.
        items: ``n x C`` item numbers.
        mask: ``n x P``, who the candidates are.
    """
    place = (mask.cumsum(-1) - 1).clamp(min=0).gather(1, items)
    found = probs.gather(1, place.unsqueeze(-1).expand(-1, -1, probs.shape[-1]))
    return found * mask.gather(1, items).unsqueeze(-1)


class _ScoreSlates(RepeatableSlates):
    def __init__(self, first: Tensor, second: Tensor, mask: Tensor, num_slots: int, minimum: bool = False) -> None:
        super().__init__(num_slots, first.shape[-1])
        self.parameters = first.to(torch.float64), second.to(torch.float64)
        self.mask, self.minimum = mask, minimum

    @abstractmethod
    def _scores(self, generator: torch.Generator) -> Tensor:
        """Scores of all items, ``n x P``."""

    @abstractmethod
    def _ranks(self, first: Tensor, second: Tensor) -> Tensor:
        """Rank probabilities of all items, ``n x A x L``."""

    def repeated(self, kind: Tensor) -> _ScoreSlates:
        """See `RepeatableSlates.repeated`."""
        first, second = (p[kind] for p in self.parameters)
        return type(self)(first, second, self.mask[kind], self.num_slots, self.minimum)

    def draw(self, generator: torch.Generator) -> Tensor:
        """See `Slates.draw`."""
        scores = self._scores(generator)
        return best_few(-scores if self.minimum else scores, self.mask, self.num_slots)

    def rank_probs(self, items: Tensor) -> Tensor:
        """See `Slates.rank_probs`."""
        found = torch.zeros(*items.shape, self.num_slots, dtype=torch.float64, device=items.device)
        for rows, columns in same_size(self.mask):
            probs = self._ranks(*(p[rows].gather(1, columns) for p in self.parameters))
            found[rows] = at_items(probs.to(torch.float64), items[rows], self.mask[rows])
        return found


class NormalSlates(_ScoreSlates):
    """The best few of independent normal scores, drawn once.

    Args:
        first, second: ``n x P`` means and standard deviations.
        mask: which items may be shown, ``n x P``.
        num_slots: ``L``.
        minimum: whether the lowest score is the best.
    """

    def _scores(self, generator: torch.Generator) -> Tensor:
        loc, scale = self.parameters
        return loc + scale * standard_normal(tuple(loc.shape), generator, loc)

    def propensities(self, slates: Tensor) -> Tensor:
        """Compute each item's probability to be where it is; of single actions, by one integral each."""
        if self.num_slots > 1:
            return super().propensities(slates)
        actions = ArgmaxNormal(*self.parameters, minimum=self.minimum)
        if not bool(self.mask.all()):
            actions = actions.restrict(self.mask)
        return actions.log_prob(slates[:, 0]).exp().unsqueeze(-1)

    def _ranks(self, first: Tensor, second: Tensor) -> Tensor:
        return normal_ranks(-first if self.minimum else first, second, self.num_slots)


class BetaSlates(_ScoreSlates):
    """The best few of independent Beta scores, drawn once.

    Args:
        first, second: ``n x P`` concentrations of clicks and of no clicks.
        mask: which items may be shown, ``n x P``.
        num_slots: ``L``.
        minimum: whether the lowest score is the best.
    """

    def _scores(self, generator: torch.Generator) -> Tensor:
        click, none = (p.to(generator.device) for p in self.parameters)
        return draw_beta_logits(click, none, torch.Size(), generator).to(self.mask.device)

    def _ranks(self, first: Tensor, second: Tensor) -> Tensor:
        if self.num_slots == 1:
            return ArgmaxBeta(first, second, minimum=self.minimum).probs.unsqueeze(-1)
        return RankBeta(first, second, self.num_slots, minimum=self.minimum).probs
