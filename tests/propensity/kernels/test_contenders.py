"""Scores that may be among the best: what is left out is less than the bound, which is less than what is asked for."""

import mpmath
import pytest
import torch
from scipy.special import ndtr, ndtri

from blob_pyro.propensity import ArgmaxNormal, RankNormal
from blob_pyro.propensity.kernels import contenders as module
from blob_pyro.propensity.kernels.contenders import contenders


def unequal(rows: int, arms: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means, and scales of which some are those of items that nobody has been shown."""
    source = torch.Generator().manual_seed(seed)
    loc = torch.randn(rows, arms, generator=source, dtype=torch.float64)
    scale = 0.02 + 0.4 * torch.rand(rows, arms, generator=source, dtype=torch.float64)
    scale[:, ::7] = 1.0
    return loc, scale


def marked(found: module.Contenders, arms: int) -> torch.Tensor:
    mask = torch.zeros(len(found.number), arms, dtype=torch.bool)
    for row, (index, valid) in enumerate(zip(found.number, found.valid)):
        mask[row, index[valid]] = True
    return mask


@pytest.mark.parametrize("mass", [1e-2, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("grouped_from", [1 << 14, 100], ids=["one by one", "in groups"])
def test_what_is_left_out_is_less_than_the_bound(mass, grouped_from, monkeypatch):
    monkeypatch.setattr(module, "_GROUPED_FROM", grouped_from)
    monkeypatch.setattr(module, "_KEYS", 1024)
    loc, scale = unequal(3, 2000, 1)
    found = contenders(loc, scale, mass)
    mask = marked(found, 2000)
    whole = ArgmaxNormal(loc, scale).probs
    left_out = whole.masked_fill(mask, 0.0).sum(-1)
    assert bool((left_out <= found.left_out + 1e-14).all())
    assert bool((found.left_out <= mass).all())
    assert int(mask.sum(-1).max()) < 1000
    assert bool((found.number.diff(dim=-1)[found.valid[:, 1:]] > 0).all())
    some = ArgmaxNormal(loc, scale).restrict(mask).probs
    assert bool(((some - whole).abs() <= mass).all())
    assert bool((left_out > 1e-5 * mass).all()) or mass < 1e-11  # and it is worth its name


def test_fifty_digits():
    mpmath.mp.dps = 50
    loc, scale = unequal(1, 24, 3)
    found = contenders(loc, scale, 1e-9)
    mask = marked(found, 24)[0]
    assert 0 < int((~mask).sum()) < 24
    pairs = [(mpmath.mpf(m), mpmath.mpf(s), k) for m, s, k in zip(loc[0].tolist(), scale[0].tolist(), mask.tolist())]

    def product(y, kept):
        return mpmath.fprod(mpmath.ncdf((y - m) / s) for m, s, k in pairs if k is kept)

    def density(y):
        return mpmath.fsum(
            mpmath.npdf(y, m, s) / mpmath.ncdf((y - m) / s) for m, s, k in pairs if k
        ) * product(y, True)  # fmt: skip

    mpmath.mp.dps = 25
    exact = mpmath.quad(lambda y: (1 - product(y, False)) * density(y), [-1, 0, 1, 2, 3, 4, 6, 9], maxdegree=4)
    assert exact > 0
    assert exact <= float(found.left_out) <= 1e-9


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_best_few(ranks):
    loc, scale = unequal(2, 60, 5)
    found = contenders(loc, scale, 1e-4, ranks)
    mask = marked(found, 60)
    whole = RankNormal(loc, scale, ranks).probs
    assert int((~mask).sum()) > 0
    # Expected number of those left out among the best, which is no less than the probability of any.
    assert bool((whole.sum(-1).masked_fill(mask, 0.0).sum(-1) <= ranks * found.left_out).all())
    assert bool((found.left_out <= 1e-4).all())
    assert int(contenders(loc, scale, 1e-4, 1).valid.sum()) < int(found.valid.sum())


def test_the_allowed_alone():
    loc, scale = unequal(2, 500, 7)
    allowed = torch.zeros(2, 500, dtype=torch.bool)
    allowed[0, :5] = allowed[1, 100:400] = True
    mask = marked(contenders(loc, scale, 1e-9, allowed=allowed), 500)
    assert bool((mask <= allowed).all())
    assert bool((mask.sum(-1) > 0).all())
    loc[1, 450] = 50.0  # who may not, does not count
    assert torch.equal(mask, marked(contenders(loc, scale, 1e-9, allowed=allowed), 500))


@pytest.mark.parametrize("scales", [(0.1, 0.1), (0.02, 1.4), (0.0, 0.5), (1e-6, 2.0)])
@pytest.mark.parametrize("each", [1e-3, 1e-15, 1e-200])
def test_what_lies_under_the_line_costs_less_than_it_may(scales, each):
    """By SciPy's normal distribution function, on the line and under it; and it is not much lower than it may be."""
    source = torch.Generator().manual_seed(11)
    step = (2 * torch.rand(2, 30, generator=source, dtype=torch.float64)).sort(-1).values
    weight = torch.rand(2, 30, generator=source, dtype=torch.float64) ** 8
    weight[:, :3] *= 1e-9
    weight /= weight.sum(-1, keepdim=True)
    low, high = (torch.tensor([[s]], dtype=torch.float64) for s in scales)
    reach, level = module._line(step, weight, low, high, each)
    scale = torch.cat([low + (high - low) * torch.rand(1, 200, generator=source, dtype=torch.float64), low, high], -1)
    loc = level - reach * scale - 1e-9

    def cost(loc):
        z = (loc.unsqueeze(-1) - step.unsqueeze(1)).numpy() / scale.clamp_min(1e-300).unsqueeze(-1).numpy()
        return (ndtr(z) * weight.unsqueeze(1).numpy()).sum(-1)

    assert (cost(loc) <= each * (1 + 1e-9)).all()
    assert (cost(loc - 0.3) <= each * (1 + 1e-9)).all()
    assert (cost(loc - 0.07 * ndtri(each) * high).max(-1) > each).all()


def test_the_order_of_numbers_in_memory_does_not_matter(monkeypatch):
    monkeypatch.setattr(module, "_GROUPED_FROM", 100)
    loc, scale = unequal(3, 1003, 13)
    plain, turned = (contenders(mean, scale[:1], 1e-9) for mean in (loc, loc.mT.contiguous().mT))
    assert torch.equal(plain.number, turned.number)
    assert torch.equal(plain.left_out, turned.left_out)


def test_scores_without_doubt():
    loc = torch.arange(100.0)[None]
    found = contenders(loc, torch.zeros(1, 100), 1e-9)
    assert 99 in found.number[found.valid].tolist()
    assert float(found.left_out) <= 1e-9


def test_means_that_may_be_wrong():
    loc, scale = unequal(2, 2000, 9)
    found = contenders(loc, scale, 1e-9, slack=0.05)
    mask = marked(found, 2000)
    wrong = loc + 0.05 * torch.where(mask, -1.0, 1.0)
    left_out = ArgmaxNormal(wrong, scale).probs.masked_fill(mask, 0.0).sum(-1)
    assert bool((left_out <= found.left_out).all())
    assert int(mask.sum()) > int(contenders(loc, scale, 1e-9).valid.sum())


def test_no_rows():
    found = contenders(torch.zeros(0, 5), torch.ones(0, 5), 1e-9)
    assert found.number.shape[0] == len(found.left_out) == 0
