r"""The normal scores, of very many, that may be among the best, and a bound on the probability that another one is.

Let ``B`` be some of the scores (the core), dealt into as many groups as there are ranks. With
:math:`F_g(t) = \prod_{j \in g} \Phi((t - \mu_j) / \sigma_j)` the L-th best score of the core is at most ``t`` with
probability at most :math:`H(t) = \min(1, \sum_g F_g(t))`: otherwise each group has a score above ``t``. For one rank H
is exact. A score ``e`` that is not in the core is among the best L only if it exceeds that L-th best, so for any
:math:`t_0 < t_1 < \dots < t_n` (and ``H`` after the last one)

.. math:: P(\text{any } e \in E \text{ among the best}) \le H(t_0) + \sum_{e \in E} \sum_k (H(t_{k+1}) - H(t_k))
    \,\Phi\left(\frac{\mu_e - t_k}{\sigma_e}\right),

a union bound over E of integrals with steps from above, since the last factor falls in t. No quadrature error is in it.
E is what costs least. If none of E is among the best L, the best L of all are the best L of the others: every rank
probability that is computed without E is off by at most the bound, and all those of a rank together by twice that.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Contenders", "contenders"]

_SQRT_HALF = math.sqrt(0.5)
_STEPS, _COARSE = 32, 8  # steps, and how many of them are one where a rough bound does
_FEWEST, _MOST = 16, 512  # of the core
_REACH = 3.0  # the core has the highest loc + 3 scale
_PAIRS = 1 << 17
_GROUP, _GROUPED_FROM, _KEYS = 16, 1 << 14, 1 << 18  # neighbours that are looked at together; keys, in cache
_TINY = 1e-300


class Contenders(NamedTuple):
    """Scores that may be among the best.

    Attributes:
        number: of each, increasing in each row: rows x C, int64.
        valid: which entries of number are any, rows x C; rows of fewer contenders are filled up.
        left_out: at least the probability that another one is among the best, rows, float64.
    """

    number: Tensor
    valid: Tensor
    left_out: Tensor


@torch.no_grad()
def contenders(
    loc: Tensor,
    scale: Tensor,
    mass: float,
    num_ranks: int = 1,
    *,
    allowed: Tensor | None = None,
    slack: Tensor | float = 0.0,
) -> Contenders:
    """Find scores without which the best few change with probability ``mass`` at most.

    Args:
        loc: rows x A, means.
        scale: rows x A, or what expands to it, standard deviations; 0 is allowed.
        mass: greater than 0.
        num_ranks: L, how many of the best count.
        allowed: which scores count, rows x A; None for all.
        slack: by how much a mean may be wrong, a number or rows.

    >>> found = contenders(torch.arange(100.0)[None] / 10, torch.full((1, 100), 0.5), 1e-9)
    >>> int(found.valid.sum()) < 60, bool(found.left_out <= 1e-9)
    (True, True)
    """
    rows, arms = loc.shape
    if not rows:
        none = torch.zeros(0, 0, dtype=torch.int64, device=loc.device)
        return Contenders(none, none.bool(), torch.zeros(0, dtype=torch.float64, device=loc.device))
    seen = _Grouped(loc, scale.expand_as(loc), allowed)
    slack = torch.as_tensor(slack, dtype=torch.float64, device=loc.device).expand(rows)[:, None]
    core, key = seen.highest(min(arms, max(_FEWEST, num_ranks + 1, min(_MOST, math.isqrt(arms)))), _REACH)
    mean, width = seen.at(core)
    step, height = _steps((mean - slack).masked_fill(key == -torch.inf, -torch.inf), width, mass, num_ranks)

    # What even the lowest step has nearly surely below it goes unseen: a quarter of the mass together, at most.
    far = -float(torch.special.ndtri(torch.tensor(mass / 4 / arms, dtype=torch.float64)))
    far = far if math.isfinite(far) else 38.0
    index, valid, in_core = seen.above(step[:, :1] - slack, far * (1 + 1e-5), core)
    unseen = (arms - valid.sum(-1)).double() * (0.5 * math.erfc(far * _SQRT_HALF))

    # What few steps, from above, say costs hardly anything goes without more: another quarter.
    mean, width = seen.at(index)
    few = torch.arange(0, step.shape[1], _COARSE, device=step.device)
    cost = _costs(mean + slack, width, step[:, few], height[:, few]).masked_fill_(~valid | in_core, 1.0)
    cheap = cost <= mass / 4 / arms
    unseen = unseen + torch.where(cheap, cost, 0.0).sum(-1)
    keep = valid & ~cheap
    index, valid, in_core = (_packed(part, keep)[0] for part in (index, valid, in_core))
    valid, in_core = valid.bool(), in_core.bool()

    mean, width = seen.at(index)
    cost = _costs(mean + slack, width, step, height).masked_fill_(~valid | in_core, 1.0)
    ordered = cost.sort(-1)
    total = ordered.values.cumsum(-1)
    dropped = total <= mass / 4
    left_out = height[:, 0] + unseen + torch.where(dropped, total, 0.0).amax(-1)
    valid = valid & ~torch.zeros_like(valid).scatter_(1, ordered.indices, dropped)
    left_out = torch.where(valid.sum(-1) == arms, 0.0, left_out)
    return Contenders(*_packed(index, valid), left_out)


class _Grouped:
    """Scores of which some are looked for: neighbours in the catalogue are looked at together, by their largest."""

    def __init__(self, loc: Tensor, scale: Tensor, allowed: Tensor | None) -> None:
        self.loc, self.scale, self.allowed, self.arms = loc, scale, allowed, loc.shape[-1]
        self.size = 1 if self.arms <= _GROUPED_FROM else _GROUP

    def key(self, reach: float, part: slice) -> Tensor:
        """Means and so many standard deviations; minus infinity for what does not count."""
        key = torch.add(self.loc[:, part], self.scale[:, part], alpha=reach)
        return key if self.allowed is None else key.masked_fill_(~self.allowed[:, part], -torch.inf)

    def maxima(self, reach: float) -> Tensor:
        """The largest key of each group."""
        parts, columns = [], _GROUP * max(1, _KEYS // _GROUP // len(self.loc))
        for start in range(0, self.arms, columns):
            key = self.key(reach, slice(start, start + columns))
            if rest := -key.shape[-1] % self.size:
                key = torch.nn.functional.pad(key, (0, rest), value=-torch.inf)
            parts.append(key.view(len(key), -1, self.size).amax(-1) if self.size > 1 else key)
        return torch.cat(parts, -1)

    def members(self, groups: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        """The scores of groups, and their keys; minus infinity for what is beyond the last one."""
        index = (groups.unsqueeze(-1) * self.size + torch.arange(self.size, device=groups.device)).flatten(1)
        beyond = index >= self.arms
        index = index.clamp(max=self.arms - 1)
        key = torch.add(self.loc.gather(1, index), self.scale.gather(1, index), alpha=reach)
        if self.allowed is not None:
            beyond |= ~self.allowed.gather(1, index)
        return index, key.masked_fill_(beyond, -torch.inf)

    def highest(self, number: int, reach: float) -> tuple[Tensor, Tensor]:
        """The scores with the highest keys, and these."""
        maxima = self.maxima(reach)
        index, key = self.members(maxima.topk(min(number, maxima.shape[-1]), -1).indices, reach)
        best = key.topk(number, -1)
        return index.gather(1, best.indices), best.values

    def above(self, level: Tensor, reach: float, core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores with keys at a level or above, and the core; which entries are any; which are of the core."""
        # Low enough that the core is above it, too.
        own = torch.add(self.loc.gather(1, core), self.scale.gather(1, core), alpha=reach)
        if self.allowed is not None:
            own = own.masked_fill(~self.allowed.gather(1, core), torch.inf)
        level = torch.minimum(level.to(own.dtype), own.amin(-1, keepdim=True))
        # Pairs of context and group: rows differ in how many they have.
        row, group = (self.maxima(reach) >= level).nonzero(as_tuple=True)
        index = group.unsqueeze(-1) * self.size + torch.arange(self.size, device=group.device)
        beyond, row = index >= self.arms, row.unsqueeze(-1)
        index = index.clamp_(max=self.arms - 1)
        key = torch.add(self.loc[row, index], self.scale[row, index], alpha=reach)
        if self.allowed is not None:
            beyond |= ~self.allowed[row, index]
        there = (key >= level[row[:, 0]]) & (key > -torch.inf) & ~beyond
        index, valid = _in_rows(index[there], row.expand_as(there)[there], len(level))
        known = core.sort(-1).values
        in_core = known.gather(1, torch.searchsorted(known, index).clamp(max=known.shape[-1] - 1)) == index
        return index, valid, in_core

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of some scores, float64."""
        return self.loc.gather(1, index).double(), self.scale.gather(1, index).double()


def _steps(mean: Tensor, width: Tensor, mass: float, num_ranks: int) -> tuple[Tensor, Tensor]:
    """Steps and H there: rows x steps each, of which the first has a quarter of the mass below it at most."""
    width = width.clamp_min(_TINY)
    reach = -float(torch.special.ndtri(torch.tensor(mass / 4 / num_ranks, dtype=torch.float64)))
    groups = [slice(first, None, num_ranks) for first in range(num_ranks)]
    sure = mean - min(reach, 38.0) * width
    low = torch.stack([sure[:, group].amax(-1) for group in groups], -1).amin(-1, keepdim=True)
    low = low - 4 * torch.finfo(low.dtype).eps * low.abs() - _TINY  # certainly below a score without doubt
    high = torch.maximum((mean + 2 * width).amax(-1, keepdim=True), low)
    place = torch.linspace(0, 1, _STEPS, dtype=torch.float64, device=mean.device)
    step = low + (high - low) * place
    z = (step.unsqueeze(-1) - mean.unsqueeze(-2)) / width.unsqueeze(-2)
    log_cdf = torch.special.log_ndtr(z)
    height = sum(log_cdf[..., group].sum(-1).exp() for group in groups)
    height = torch.as_tensor(height).clamp(max=1.0)
    # Steps that are lower than the highest one below which there is so little are of no use: put them there.
    little = (height <= mass / 4).to(torch.int8)
    first = (little * torch.arange(1, _STEPS + 1, device=mean.device)).amax(-1, keepdim=True).clamp_min(1) - 1
    from_here = torch.arange(int(first.amin()) if len(first) else 0, _STEPS, device=mean.device)
    at = torch.maximum(from_here.expand(len(step), -1), first)
    return step.gather(1, at), height.gather(1, at)


def _costs(loc: Tensor, scale: Tensor, step: Tensor, height: Tensor) -> Tensor:
    """What leaving a score out adds to the bound, rows x C."""
    weight = torch.cat([height[:, 1:], torch.ones_like(height[:, :1])], -1) - height
    inverse = scale.clamp_min(_TINY).reciprocal() * _SQRT_HALF
    parts = []
    for mean, rate in zip(*(t.split(max(1, _PAIRS // max(1, len(loc))), -1) for t in (loc, inverse))):
        z = (step.unsqueeze(1) - mean.unsqueeze(-1)).mul_(rate.unsqueeze(-1))
        parts.append((z.erfc_().mul_(0.5) @ weight.unsqueeze(-1)).squeeze(-1))
    return torch.cat(parts, -1)


def _in_rows(values: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Values by row, in order, as rows x most of a row; and which of them are any: the rest are zeros."""
    sizes = torch.bincount(row, minlength=rows)
    valid = torch.arange(int(sizes.amax()), device=row.device) < sizes[:, None]
    packed = torch.zeros_like(valid, dtype=torch.int64)
    packed[valid] = values
    return packed, valid


def _packed(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept of each row, in its order, rows x most of a row; and which of it is any: the rest are zeros."""
    return _in_rows(values[keep].long(), keep.nonzero()[:, 0], len(keep))
