"""Numbers put among others: the dense mean and covariance of the old ones stay, the new ones are independent."""

import pyro.distributions as dist
import pytest
import torch
from torch import Size

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal
from blob_pyro.distributions.insertion import Insertion, inserted

BEFORE = {"w_c": Size([]), "category": Size([2]), "deviation": Size([3, 2]), "kappa": Size([3])}
AFTER = {
    "position": Size([1]), "w_c": Size([]), "category": Size([4]), "deviation": Size([5, 2]), "kappa": Size([5])
}  # fmt: skip
OLD, NEW = 12, 21


def tril(*shape):
    lower = torch.randn(*shape).tril(-1)
    return lower + (torch.rand(shape[:-1]) + 0.5).diag_embed()


def block(num_shared, blocks, widths):
    size = sum(widths)
    own = tril(blocks, size, size)
    return BlockArrowheadNormal(
        torch.randn(num_shared + blocks * size), tril(num_shared, num_shared),
        torch.randn(blocks, size, num_shared), own, widths,
    )  # fmt: skip


FAMILIES = {
    "full": lambda: dist.MultivariateNormal(torch.randn(OLD), scale_tril=tril(OLD, OLD)),
    "low rank": lambda: dist.LowRankMultivariateNormal(torch.randn(OLD), torch.randn(OLD, 3), torch.rand(OLD) + 0.5),
    "arrowhead": lambda: ArrowheadNormal(torch.randn(OLD), tril(9, 9), torch.randn(3, 9), torch.rand(3) + 0.5),
    "arrowhead, all shared": lambda: ArrowheadNormal(
        torch.randn(OLD), tril(OLD, OLD), torch.zeros(0, OLD), torch.zeros(0)
    ),
    "blocks": lambda: block(3, 3, (2, 1)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_old_numbers_keep_their_distribution(family):
    known = FAMILIES[family]()
    moments = [{name: torch.rand(shape) + 0.1 for name, shape in AFTER.items()} for _ in range(2)]
    new = Insertion(BEFORE, AFTER, *moments)
    found = inserted(known, new)
    assert type(found) is type(known)
    # by hand: position; w_c; two old and two new categories; three old and two new rows of two; three old kappas
    place = [1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 17, 18]
    assert new.place.tolist() == place
    rest = [n for n in range(NEW) if n not in place]
    loc, scale = (torch.cat([values[name].flatten() for name in AFTER]) for values in moments)
    covariance = torch.zeros(NEW, NEW)
    covariance[torch.tensor(place).unsqueeze(-1), place] = known.covariance_matrix
    covariance[rest, rest] = scale[rest].square()
    assert torch.allclose(found.covariance_matrix, covariance, atol=1e-5)
    assert torch.equal(found.mean[place], known.mean)
    assert torch.equal(found.mean[rest], loc[rest])


def test_what_is_no_gaussian_vector_is_refused():
    new = Insertion({}, {}, {}, {})
    with pytest.raises(TypeError, match="Laplace is not a known Gaussian vector"):
        inserted(dist.Laplace(torch.zeros(2), torch.ones(2)), new)
    with pytest.raises(ValueError, match="5 numbers are not those of the last sites"):
        Insertion(BEFORE, AFTER, {}, {}).num_own(5)
