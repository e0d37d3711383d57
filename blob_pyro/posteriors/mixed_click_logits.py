"""Click logits where ``w_b`` has a density of its own, and all else is Gaussian given it: a mixture over its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions import MultivariatePart, NestedNormal
from blob_pyro.models.sites import W_B
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts

__all__ = ["AtNodes", "MixedClickLogits", "at_nodes"]

_LEAST_WEIGHT = 1e-5  # a node of less is left out


class AtNodes(NamedTuple):
    """Posteriors given each node of ``w_b``, as `ClickLogits` takes them, and the nodes' probabilities, ``K``."""

    posteriors: list[dict[str, TorchDistribution]]
    weights: Tensor


def at_nodes(posterior: dict[str, TorchDistribution]) -> AtNodes | None:
    """Split a posterior whose sites are parts of a `NestedNormal` at its nodes; None for any other.

    Nodes of a probability below 1e-5 are left out. Those that stay are a trapezoidal rule, which is exact to many
    digits for a smooth density whose nodes are a standard deviation apart.

    Args:
        posterior: of each site.
    """
    parts = {name: d for name, d in posterior.items() if isinstance(d, MultivariatePart)}
    vector = next((d.multivariate for d in parts.values() if isinstance(d.multivariate, NestedNormal)), None)
    if vector is None:
        return None
    weights = vector.node_weights
    keep = (weights > _LEAST_WEIGHT).nonzero().flatten()
    posteriors = []
    for number in keep.tolist():
        given = vector.at_node(number)
        here: dict[str, TorchDistribution] = {}
        for name, part in posterior.items():
            if name == W_B:
                here[name] = Delta(vector.density.nodes[number])
            elif name in parts:
                start = parts[name].start - (parts[name].start > vector.index)
                here[name] = MultivariatePart(given.loc, given, start, parts[name].part_shape)
            else:
                here[name] = part
        posteriors.append(here)
    return AtNodes(posteriors, weights[keep] / weights[keep].sum())


class MixedClickLogits(LogitsOfContexts):
    r"""Posterior of the click logits of all items, a mixture over the nodes of ``w_b``, for each of ``N`` contexts.

    Given the node it is `ClickLogits`, with ``w_b`` known; all nodes have one noise of items' own. The first of the
    standard normal numbers that items share says which node it is: below the normal quantile of the first node's
    probability the first, and so on. So a draw of what items share is one of all of it, and what is said of policies
    that integrate over it holds.

    Args:
        parts: given each node, over the same contexts.
        weights: the nodes' probabilities, ``K``.
        slopes: of the means as linear forms of the interest and one, ``P x (K + 1)``: see `mean_slopes`. None to
            compute means node by node.
    """

    def __init__(self, parts: list[ClickLogits], weights: Tensor, slopes: Tensor | None = None) -> None:
        super().__init__(parts[0].item_embedding, parts[0].interest)
        self.parts, self.mixture_weights, self.slopes = tuple(parts), weights, slopes
        self.is_certain = False

    def mean_slopes(self) -> Tensor:
        """Compute the means of the logits as linear forms of the interest and one, ``P x (K + 1)``."""
        size = self.interest.shape[-1]
        points = torch.cat([self.interest.new_zeros(1, size), torch.eye(size).to(self.interest)])
        at_zero, at_units = self.in_contexts(points)._mean().split([1, size])
        return torch.cat([at_units - at_zero, at_zero]).mT

    # --- contexts and items --------------------------------------------------------------------------------------

    def in_contexts(self, interest: Tensor) -> MixedClickLogits:
        """Return the same posterior in other contexts; see `LogitsOfContexts.in_contexts`."""
        parts = [part.in_contexts(interest) for part in self.parts]
        return MixedClickLogits(parts, self.mixture_weights, self.slopes)

    def of_items(self, index: Tensor) -> MixedClickLogits:
        """Return the logits of some of the items; see `LogitsOfContexts.of_items`."""
        parts = [part.of_items(index) for part in self.parts]
        return MixedClickLogits(parts, self.mixture_weights, None if self.slopes is None else self.slopes[index])

    def double(self) -> MixedClickLogits:
        """Return the same posterior in double precision; see `LogitsOfContexts.double`."""
        slopes = None if self.slopes is None else self.slopes.double()
        return MixedClickLogits([part.double() for part in self.parts], self.mixture_weights.double(), slopes)

    # --- what items share ----------------------------------------------------------------------------------------

    @property
    def own_scale(self) -> Tensor:
        """The standard deviation of what each item adds by itself, given what they share: ``P`` or ``N x P``."""
        return self.parts[0].own_scale

    @property
    def num_factors(self) -> int:
        """The number of standard normals that items share: that of the node, and those given the node."""
        return 1 + self.parts[0].num_factors

    def node(self, number: Tensor) -> Tensor:
        """Say which node standard normal numbers stand for, in their shape, int64."""
        ends = self.mixture_weights.double().cumsum(0)[:-1]
        return torch.bucketize(torch.special.ndtr(number.double()).contiguous(), ends)

    def given_shared(self, factors: Tensor) -> Tensor:
        """Return each logit's mean given what all items share, ``... x N x P``; see `LogitsOfContexts.given_shared`.

        Which node a number stands for is asked before the number is rounded: it is the same in every precision.
        """
        node, rest = self.node(factors[..., 0]), factors[..., 1:]
        (num_contexts,), (num_items,) = self.batch_shape, self.event_shape
        if node.dim() and node.shape[-1] == 1 and num_contexts != 1:  # one for all contexts
            flat, numbers = node.flatten(), rest.flatten(0, -3) if rest.dim() > 2 else rest.unsqueeze(0)
            found = self.interest.new_empty(len(flat), num_contexts, num_items)
            for k, part in enumerate(self.parts):
                if bool((here := flat == k).any()):
                    found[here] = part.given_shared(numbers[here])
            return found.view(*node.shape[:-1], num_contexts, num_items)
        node = node.expand(torch.broadcast_shapes(node.shape, self.batch_shape))
        numbers = rest.expand(*node.shape, -1).reshape(-1, rest.shape[-1])
        flat, found = node.flatten(), self.interest.new_empty(node.numel(), num_items)
        context = torch.arange(num_contexts, device=flat.device).expand(node.shape).flatten()
        for k, part in enumerate(self.parts):
            here = (flat == k).nonzero().squeeze(-1)
            if len(here):
                found[here] = part[context[here]].given_shared(numbers[here])
        return found.view(*node.shape, num_items)

    def rounding(self, shared: Tensor) -> Tensor:
        """Return a bound of the rounding of means, ``N``, whichever the node; see `LogitsOfContexts.rounding`."""
        return torch.stack([part.rounding(shared[..., 1:]) for part in self.parts]).amax(0)

    # --- draws ---------------------------------------------------------------------------------------------------

    def _rsample(self, sample_shape: Size) -> Tensor:
        shape = sample_shape + self.batch_shape
        node = torch.multinomial(self.mixture_weights, shape.numel(), replacement=True)
        context = torch.arange(shape[-1], device=node.device).expand(shape).flatten()
        found = self.interest.new_empty(len(node), *self.event_shape)
        for k, part in enumerate(self.parts):
            here = (node == k).nonzero().squeeze(-1)
            if len(here):
                found[here] = part[context[here]]._rsample(Size())
        return found.view(*shape, *self.event_shape)

    def best_each(self, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw the item with the highest logit ``counts[n]`` times; see `blob_pyro.posteriors.best_items.best_each`."""
        counts = counts.to(self.interest.device)
        context = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        best = torch.empty_like(context)
        if not len(best):
            return best
        node = torch.multinomial(self.mixture_weights, len(context), replacement=True)
        for k, part in enumerate(self.parts):
            here = node == k
            best[here] = part.best_each(torch.bincount(context[here], minlength=len(counts)), allowed)
        return best

    # --- moments -------------------------------------------------------------------------------------------------

    def _average(self, function: Callable[[ClickLogits], Tensor]) -> Tensor:
        total: Tensor | None = None
        for weight, part in zip(self.mixture_weights, self.parts):
            value = weight * function(part)
            total = value if total is None else total + value
        assert total is not None, "there is a node"
        return total

    def _mean(self) -> Tensor:
        return self._average(lambda part: part.mean)

    @property
    def mean(self) -> Tensor:
        """The mean of each logit, ``N x P``."""
        if self.slopes is None:
            return self._by_rows(lambda some, _: some._mean())
        slopes, base = self.slopes.split([self.slopes.shape[1] - 1, 1], -1)
        return self._by_rows(lambda some, _: torch.addmm(base.mT, some.interest, slopes.mT))

    @property
    def variance(self) -> Tensor:
        """The variance of each logit, ``N x P``: within nodes, and of the means between them."""
        return self._by_rows(lambda some, _: some._variance())

    def _variance(self) -> Tensor:
        center = self.mean
        return self._average(lambda part: part.variance + (part.mean - center).square())

    def _mixture(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return self._average(lambda part: part._mixture(function))
