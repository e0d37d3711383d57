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

What a score costs grows with its mean. So for each of some intervals of standard deviations there is a mean below which
it costs at most so much, and a line below all of these, ``loc + reach * scale = level``, under which nearly all of a
million scores lie: those are not looked at one by one.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Contenders", "contenders"]

_SQRT_HALF = math.sqrt(0.5)
_STEPS = 32
_FEWEST, _MOST = 16, 128  # of the core
_REACH = 3.0  # the core has the highest loc + 3 scale
_PAIRS = 1 << 17
_GROUP, _GROUPED_FROM, _KEYS = 16, 1 << 14, 1 << 18  # neighbours that are looked at together; keys, in cache
_SCALES, _NARROWEST, _BISECTIONS = 32, 1e-3, 24  # standard deviations that a line is drawn by; relative to the largest
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
        loc: rows x A, means; of very many scores it is fastest where those of one score lie side by side.
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
    seen = _Grouped(loc, scale, allowed)
    slack = torch.as_tensor(slack, dtype=torch.float64, device=loc.device).expand(rows)[:, None]
    core, key = seen.highest(min(arms, max(_FEWEST, num_ranks + 1, min(_MOST, math.isqrt(arms)))), _REACH)
    counts = key > -torch.inf
    mean, width = seen.at(core)
    step, height = _steps((mean - slack).masked_fill(~counts, -torch.inf), width, mass, num_ranks)
    weight = torch.cat([height[:, 1:], torch.ones_like(height[:, :1])], -1) - height
    step = step - slack  # of means that are all the lower

    # What costs next to nothing goes unseen: a quarter of the mass together, at most.
    each = max(mass / 4 / arms, _TINY)
    reach, level = _line(step, weight, *seen.widths(), each)
    own = torch.where(counts, mean + reach * width, math.inf).amin(-1, keepdim=True)
    row, index = seen.above(reach, torch.minimum(level, own))  # the core, too
    unseen = (arms - torch.bincount(row, minlength=rows)).double() * each

    # Of the others what costs least is left out: half of the mass. The core stays.
    known = (core + arms * torch.arange(rows, device=core.device)[:, None])[counts].sort().values
    pair = row * arms + index
    loc, scale = seen.of_pairs(row, index)
    cost = _costs(row, loc, scale, step[:, -1:], weight.sum(-1, keepdim=True))  # at least
    near = (cost <= mass / 2).nonzero().squeeze(-1)
    cost[near] = _costs(row[near], loc[near], scale[near], step, weight)
    in_core = known[torch.searchsorted(known, pair).clamp(max=len(known) - 1)] == pair
    cheap = ((cost <= mass / 2) & ~in_core).nonzero().squeeze(-1)
    ordered, place = _in_rows(cost[cheap], row[cheap], rows, math.inf)[0].sort(-1)
    dropped = ordered.cumsum(-1) <= mass / 2
    left_out = height[:, 0] + unseen + ordered.masked_fill(~dropped, 0.0).sum(-1)
    sizes = torch.bincount(row[cheap], minlength=rows)
    first = (sizes.cumsum(0) - sizes)[:, None]
    keep = torch.ones_like(in_core)
    keep[cheap[(place + first)[dropped]]] = False
    found, valid = _in_rows(index[keep], row[keep], rows, 0)
    return Contenders(found, valid, torch.where(valid.sum(-1) == arms, 0.0, left_out))


class _Grouped:
    """Scores of which some are looked for: neighbours in the catalogue are looked at together, by their largest."""

    def __init__(self, loc: Tensor, scale: Tensor, allowed: Tensor | None) -> None:
        self.loc, self.allowed, self.arms = loc, allowed, loc.shape[-1]
        scale = scale.expand_as(loc)
        self.scale = scale[:1] if scale.stride(0) == 0 else scale
        self.size = 1 if self.arms <= _GROUPED_FROM else _GROUP

    def keys(self, reach: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Means and ``reach`` (rows x 1) standard deviations, some scores x rows at a time, and the first's number.

        Minus infinity for what does not count.
        """
        columns, reach = self.size * max(1, _KEYS // self.size // len(self.loc)), reach.to(self.loc).mT
        for first in range(0, self.arms, columns):
            part = slice(first, first + columns)
            key = torch.addcmul(self.loc[:, part].mT, self.scale[:, part].mT, reach)
            yield first, key if self.allowed is None else key.masked_fill_(~self.allowed[:, part].mT, -torch.inf)

    def highest(self, number: int, reach: float) -> tuple[Tensor, Tensor]:
        """The scores with the highest keys, and these: rows x number; minus infinity for what does not count."""
        each = self.loc.new_full((len(self.loc), 1), reach)
        maxima = torch.cat([self._groups(key).amax(1) for _, key in self.keys(each)])
        groups = maxima.mT.contiguous().topk(min(number, len(maxima)), -1, sorted=False).indices
        index = (groups.unsqueeze(-1) * self.size + torch.arange(self.size, device=groups.device)).flatten(1)
        beyond = index >= self.arms
        index = index.clamp_(max=self.arms - 1)
        if self.allowed is not None:
            beyond |= ~self.allowed.gather(1, index)
        key = torch.add(self.loc.gather(1, index), self.scale.expand_as(self.loc).gather(1, index), alpha=reach)
        best = key.masked_fill_(beyond, -torch.inf).topk(number, -1)
        return index.gather(1, best.indices), best.values

    def _groups(self, key: Tensor) -> Tensor:
        """Keys by groups of scores, groups x size x rows."""
        if rest := -len(key) % self.size:
            key = torch.nn.functional.pad(key, (0, 0, 0, rest), value=-torch.inf)
        groups: Tensor = key.unflatten(0, (-1, self.size))
        return groups

    def above(self, reach: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and numbers of scores with keys at a level or above, row by row; ``reach`` and level are rows x 1."""
        # What rounding does to a key that is near its level is less than this.
        slack = 4 * torch.finfo(self.loc.dtype).eps * (level.abs() + 2 * reach * self.widths()[1])
        level = (level - slack).to(self.loc).mT
        found = []
        for first, key in self.keys(reach):
            groups = self._groups(key)
            group, row = (groups.amax(1) >= level).nonzero(as_tuple=True)
            place, member = (groups[group, :, row] >= level[0, row, None]).nonzero(as_tuple=True)
            found.append(torch.stack([row[place], group[place] * self.size + member + first]))
        row, index = torch.cat(found, -1)
        row, order = row.sort(stable=True)
        return row, index[order]

    def widths(self) -> tuple[Tensor, Tensor]:
        """The least and the largest standard deviation, rows x 1 or 1 x 1, float64."""
        low, high = self.scale.aminmax(dim=-1, keepdim=True)
        return low.double(), high.double()

    def of_pairs(self, row: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of some scores of some rows, float64."""
        scale = self.scale[0, index] if len(self.scale) == 1 else self.scale[row, index]
        return self.loc[row, index].double(), scale.double()

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of some scores of each row, float64."""
        return self.loc.gather(1, index).double(), self.scale.expand_as(self.loc).gather(1, index).double()


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
    cdf = z.mul_(-_SQRT_HALF).erfc_().mul_(0.5)
    height = sum(cdf[..., group].prod(-1) for group in groups)
    height = torch.as_tensor(height).clamp(max=1.0)
    # Steps that are lower than the highest one below which there is so little are of no use: put them there.
    little = (height <= mass / 4).to(torch.int8)
    first = (little * torch.arange(1, _STEPS + 1, device=mean.device)).amax(-1, keepdim=True).clamp_min(1) - 1
    from_here = torch.arange(int(first.amin()) if len(first) else 0, _STEPS, device=mean.device)
    at = torch.maximum(from_here.expand(len(step), -1), first)
    return step.gather(1, at), height.gather(1, at)


def _line(step: Tensor, weight: Tensor, least: Tensor, largest: Tensor, each: float) -> tuple[Tensor, Tensor]:
    """Reach and level, rows x 1 each: scores with ``loc + reach * scale < level`` cost at most ``each``.

    Args:
        step: rows x steps.
        weight: rows x steps, which add up to 1 at most.
        least: rows x 1 or 1 x 1, standard deviations.
        largest: as ``least``.
        each: what a score may cost.
    """
    place = torch.linspace(0, 1, _SCALES, dtype=step.dtype, device=step.device)
    narrow = torch.maximum(least, largest * _NARROWEST)
    ratio = largest / narrow.clamp_min(_TINY)
    edge = torch.cat([least, narrow * ratio**place, narrow + (largest - narrow) * place], -1).sort(-1).values
    edge = torch.minimum(edge, largest)
    low, high = edge[:, :-1], edge[:, 1:]
    # A mean that is surely low enough, and one that is not; halve what is between.
    far = -float(torch.special.ndtri(torch.tensor(each, dtype=torch.float64)))
    below, above = step[:, :1] - far * high, step[:, -1:] + far * high
    slower, faster = (_SQRT_HALF / t.clamp_min(_TINY).unsqueeze(-1) for t in (high, low))
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        z = step.unsqueeze(1) - middle.unsqueeze(-1)
        cost = (torch.where(z > 0, z * slower, z * faster).erfc_() @ weight.unsqueeze(-1)).squeeze(-1) / 2
        below, above = torch.where(cost <= each, middle, below), torch.where(cost <= each, above, middle)
    across = (high[:, -1:] - high[:, :1]).clamp_min(_TINY)
    reach = ((below[:, :1] - below[:, -1:]) / across).clamp(0, far)
    return reach, (below + reach * low).amin(-1, keepdim=True)


def _costs(row: Tensor, loc: Tensor, scale: Tensor, step: Tensor, weight: Tensor) -> Tensor:
    """What leaving scores out, of these rows, adds to the bound."""
    rate = scale.clamp_min(_TINY).reciprocal() * _SQRT_HALF
    parts = []
    for where, middle, inverse in zip(*(t.split(max(1, _PAIRS // step.shape[-1])) for t in (row, loc, rate))):
        z = (step[where] - middle.unsqueeze(-1)).mul_(inverse.unsqueeze(-1))
        parts.append(z.erfc_().mul_(weight[where]).sum(-1) / 2)
    return torch.cat(parts)


def _in_rows(values: Tensor, row: Tensor, rows: int, fill: float) -> tuple[Tensor, Tensor]:
    """Values, which come row by row, as rows x most of a row; and which of them are any."""
    sizes = torch.bincount(row, minlength=rows)
    valid = torch.arange(int(sizes.amax()), device=row.device) < sizes[:, None]
    packed = values.new_full(valid.shape, fill)
    packed[valid] = values
    return packed, valid
