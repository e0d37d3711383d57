"""Gaussian vectors with further numbers, independent of the others, whose distribution stays what it is to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions.arrowhead_normal import ArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import BlockArrowheadNormal, to_blocks
from blob_pyro.distributions.nested_normal import NestedNormal

__all__ = ["Insertion", "inserted"]

Shapes = Mapping[str, Size]


@dataclass(frozen=True)
class Insertion:
    """The place of a vector's numbers in a longer one, and what is known of the numbers beside them.

    A vector is sites side by side. A site that has grown has done so at the end of its first dimension.

    Attributes:
        before: shape of each site as it was, in the order of the vector.
        after: shape of each site now; sites may have come to it.
        loc: means of all numbers, by site, in its new shape; those of old numbers are not looked at.
        scale: standard deviations, likewise.

    Example:
        >>> before, after = {"kappa": Size([1])}, {"kappa": Size([2])}
        >>> known = dist.MultivariateNormal(torch.tensor([5.0]), torch.tensor([[4.0]]))
        >>> new = Insertion(before, after, {"kappa": torch.zeros(2)}, {"kappa": torch.ones(2)})
        >>> inserted(known, new).mean, inserted(known, new).variance
        (tensor([5., 0.]), tensor([4., 1.]))
    """

    before: Shapes
    after: Shapes
    loc: Mapping[str, Tensor]
    scale: Mapping[str, Tensor]

    @staticmethod
    def starts(shapes: Shapes) -> dict[str, int]:
        """Return where each site's numbers begin, side by side."""
        starts, start = {}, 0
        for name, shape in shapes.items():
            starts[name] = start
            start += shape.numel()
        return starts

    @property
    def place(self) -> Tensor:
        """The new position of each old number, ``D``, increasing where sites keep their order."""
        starts = self.starts(self.after)
        return torch.cat([starts[name] + torch.arange(shape.numel()) for name, shape in self.before.items()])

    def numbers(self, values: Mapping[str, Tensor]) -> Tensor:
        """Join the values of all sites side by side, in the new order."""
        return torch.cat([values[name].flatten() for name in self.after])

    def vector(self, old: Tensor, new: Tensor) -> Tensor:
        """Put old numbers, ``D x ...``, in their places among the new ones."""
        result = new.to(old).clone()
        result[self.place.to(old.device)] = old
        return result

    def num_own(self, num_own: int) -> int:
        """Count the numbers now that belong to the sites whose ``num_own`` numbers were the vector's last."""
        found, now = 0, 0
        for name in reversed(list(self.before)):
            if found >= num_own:
                break
            found, now = found + self.before[name].numel(), now + self.after[name].numel()
        if found != num_own:
            raise ValueError(f"num_own: {num_own} numbers are not those of the last sites of {dict(self.before)}")
        return now


@singledispatch
def inserted(distribution: TorchDistribution, new: Insertion) -> TorchDistribution:
    """Put the numbers of a Gaussian vector into a longer one, in the same family.

    Args:
        distribution: of the old numbers; dispatched on its type.
        new: where they come to lie, and what the others are.

    Raises:
        TypeError: for a family that has not been registered.
    """
    raise TypeError(f"inserted: {type(distribution).__name__} is not a known Gaussian vector; use inserted.register")


@inserted.register
def _(distribution: dist.MultivariateNormal, new: Insertion) -> TorchDistribution:
    tril = _square(distribution.scale_tril, new)
    loc = new.vector(distribution.loc, new.numbers(new.loc))
    return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


@inserted.register
def _(distribution: dist.LowRankMultivariateNormal, new: Insertion) -> TorchDistribution:
    loc, scale = new.numbers(new.loc), new.numbers(new.scale)
    factor = distribution.cov_factor
    return dist.LowRankMultivariateNormal(
        new.vector(distribution.loc, loc),
        new.vector(factor, factor.new_zeros(len(loc), factor.shape[-1])),
        new.vector(distribution.cov_diag, scale.square()),
        validate_args=False,
    )


@inserted.register
def _(distribution: ArrowheadNormal, new: Insertion) -> TorchDistribution:
    num_own, loading = new.num_own(len(distribution.scale)), distribution.loading
    scale, place = new.numbers(new.scale).to(loading), new.place.to(loading.device)
    num_shared = len(scale) - num_own
    shared, own = place[: distribution.num_shared], place[distribution.num_shared :] - num_shared
    tril, slope, own_scale = scale[:num_shared].diag(), loading.new_zeros(num_own, num_shared), scale[num_shared:]
    tril[shared.unsqueeze(-1), shared] = distribution.shared_scale_tril
    slope[own.unsqueeze(-1), shared] = loading
    own_scale[own] = distribution.scale
    loc = new.vector(distribution.loc, new.numbers(new.loc))
    return ArrowheadNormal(loc, tril, slope, own_scale, validate_args=False)


@inserted.register
def _(distribution: BlockArrowheadNormal, new: Insertion) -> TorchDistribution:
    widths, loading = distribution.widths, distribution.loading
    num_blocks, size, _ = loading.shape
    num_own = new.num_own(num_blocks * size)
    scale, place = new.numbers(new.scale).to(loading), new.place.to(loading.device)
    num_shared, now = len(scale) - num_own, num_own // size
    shared = place[: distribution.num_shared]
    tril, slope = scale[:num_shared].diag(), loading.new_zeros(now, size, num_shared)
    tril[shared.unsqueeze(-1), shared] = distribution.shared_scale_tril
    slope[:num_blocks, :, shared] = loading
    own = to_blocks(scale[num_shared:], now, widths).diag_embed()
    own[:num_blocks] = distribution.own_scale_tril
    loc = new.vector(distribution.loc, new.numbers(new.loc))
    return BlockArrowheadNormal(loc, tril, slope, own, widths, validate_args=False)


@inserted.register
def _(distribution: NestedNormal, new: Insertion) -> TorchDistribution:
    starts = new.starts(new.before)
    here = [n for n, start in starts.items() if start == distribution.index and new.before[n].numel() == 1]
    if len(here) != 1:
        raise ValueError(f"NestedNormal: number {distribution.index} is no site of its own in {dict(new.before)}")
    (site,) = here
    of_others: Any = ({n: v for n, v in m.items() if n != site} for m in (new.before, new.after, new.loc, new.scale))
    rest = Insertion(*of_others)
    at_nodes: list[Any] = [inserted(distribution.at_node(number), rest) for number in range(distribution.num_nodes)]
    first, num_shared = at_nodes[0], at_nodes[0].num_shared
    place = rest.place.to(distribution.loc.device)
    shared, own = place[: distribution.num_shared], place[distribution.num_shared :] - num_shared
    stretch, slope = distribution.stretch.new_ones(len(at_nodes), num_shared), torch.zeros_like(first.loading)
    stretch[:, shared] = distribution.stretch
    if distribution.widths is None:
        slope[own.unsqueeze(-1), shared] = distribution.slope
    else:
        slope[: len(distribution.slope), :, shared] = distribution.slope
    return NestedNormal(
        new.starts(new.after)[site],
        distribution.density,
        torch.stack([d.loc for d in at_nodes]),
        torch.stack([d.shared_scale_tril for d in at_nodes]),
        stretch,
        slope,
        first.scale if distribution.widths is None else first.own_scale_tril,
        distribution.widths,
        validate_args=False,
    )


def _square(tril: Tensor, new: Insertion) -> Tensor:
    """A triangular factor among further numbers; it stays one, because old numbers keep their order."""
    result, place = new.numbers(new.scale).to(tril).diag(), new.place.to(tril.device)
    result[place.unsqueeze(-1), place] = tril
    return result
